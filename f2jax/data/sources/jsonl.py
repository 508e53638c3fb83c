"""JSON lines, plain or gzipped: one object a row, in either schema of `schema.py`."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator

from f2jax import files
from f2jax.data.record import Record
from f2jax.data.sources import schema
from f2jax.errors import UserError


def read(path: str, skipped: Counter, kinds: Iterable[str] = ()) -> Iterator[Record]:
    """Records of a .jsonl or .jsonl.gz file; a line that is no JSON object is counted in `skipped`.

    Raises:
        UserError: the file cannot be read, lacks a column, or has no good row.
    """
    return schema.to_records(path, _rows(path, skipped), skipped, kinds)


def _rows(path: str, skipped: Counter) -> Iterator[dict]:
    with files.open_file(path) as raw:
        file = gzip.GzipFile(fileobj=raw) if path.endswith(".gz") else raw
        checked = False
        try:
            for line in file:
                if not line.strip():
                    continue
                try:
                    row = json.loads(line.decode("utf-8-sig"))
                except UnicodeDecodeError:
                    skipped["line is not UTF-8"] += 1
                    continue
                except ValueError:
                    skipped["line is no JSON"] += 1
                    continue
                if not isinstance(row, dict):
                    skipped["line is no JSON object"] += 1
                    continue
                if not checked:
                    schema.columns(path, row)
                    checked = True
                yield row
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path} is cut short or not gzip ({error}); fetch it again.") from error
