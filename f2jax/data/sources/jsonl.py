"""JSON lines, plain or gzipped: one object a row, in either schema of `schema.py`."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from f2jax import files
from f2jax.data.record import Record
from f2jax.data.skip_list import located
from f2jax.data.sources import schema
from f2jax.errors import UserError


def read_jsonl(path: str, skipped: Counter, kinds: Iterable[str] = (), bare: bool = False) -> Iterator[Record]:
    """Records of a .jsonl or .jsonl.gz file; a line that is no JSON object is counted in `skipped`.

    Raises:
        UserError: the file cannot be read, lacks a column, or has no good row.
    """
    return schema.to_records(path, jsonl_rows(path, skipped, partial(schema.columns, path)), skipped, kinds, bare)


def jsonl_rows(path: str, skipped: Counter, columns: Callable[[list[str]], list[str]]) -> Iterator[dict]:
    """The JSON objects of a file. `columns` sees the fields of the first one, and may raise a `UserError`."""
    checked = False
    for line in lines(path, skipped):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            skipped["line is no JSON"] += 1
            continue
        if not isinstance(row, dict):
            skipped["line is no JSON object"] += 1
            continue
        if not checked:
            columns(list(row))
            checked = True
        yield row


def lines(path: str, skipped: Counter) -> Iterator[str]:
    """Each line of a plain or gzipped file that is UTF-8, whatever system it was written on.

    Raises:
        UserError: the file cannot be read, or is cut short.
    """
    with files.open_file(path) as raw, files.clear_errors(path, "read"):
        file = gzip.GzipFile(fileobj=raw) if path.endswith(".gz") else raw
        try:
            for number, line in enumerate(file, 1):
                located(skipped, f"{path}:{number}", {"line": line})
                try:
                    text = line.decode("utf-8-sig")
                except UnicodeDecodeError:
                    skipped["line is not UTF-8"] += 1
                else:
                    yield from text.rstrip("\r\n").split("\r")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path} is cut short or not gzip ({error}); fetch it again.") from error
