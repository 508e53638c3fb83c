"""A file → its rows as dicts: parquet, JSON lines, a table with tabs, or a text a line; local or remote, plain or .gz.

Lines end as on any system. A bad line is counted and skipped, a bad file is an error.
"""

import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from f2jax import files
from f2jax.data.skipped import skip
from f2jax.errors import UserError

ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz")
BATCH = 1_024  # rows of one read of a parquet file
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of it

Columns = Callable[[list[str]], list[str]]


def read_rows(path: str, skipped: Counter, columns: Columns) -> Iterator[tuple[int, dict]]:
    """(number, row) of each row of a file; lines are numbered from 1, rows of parquet files from 0.

    Args:
        skipped: counts bad lines by reason.
        columns: those to read, given those that the file has; asked once. It may raise a `UserError`.

    Raises:
        UserError: the file cannot be read, is cut short, or is of no known kind.
    """
    if path.endswith(".parquet"):
        return enumerate(_parquet(path, columns))
    for ending, parse in ((".jsonl", _jsonl), (".tsv", _tsv), (".txt", _txt)):
        if path.removesuffix(".gz").endswith(ending):
            return parse(path, skipped, columns)
    raise UserError(f"{path} is of no known kind; data files end in {', '.join(ENDINGS)}.")


def _parquet(path: str, columns: Columns) -> Iterator[dict]:
    with files.open_file(path) as file:
        try:
            table = pq.ParquetFile(file)
            for batch in table.iter_batches(BATCH, columns=columns(table.schema_arrow.names)):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is damaged, cut short or no parquet file ({reason}); fetch it again.") from error


def _jsonl(path: str, skipped: Counter, columns: Columns) -> Iterator[tuple[int, dict]]:
    checked = False
    for number, line in _lines(path, skipped):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            skip(skipped, "line is no JSON", f"{path}:{number}", line=line)
            continue
        if not isinstance(row, dict):
            skip(skipped, "line is no JSON object", f"{path}:{number}", line=line)
            continue
        if not checked:
            columns(list(row))
            checked = True
        yield number, row


def _tsv(path: str, skipped: Counter, columns: Columns) -> Iterator[tuple[int, dict]]:
    lines = _lines(path, skipped)
    _, head = next(lines, (0, ""))
    names = head.split("\t")
    columns(names)
    for number, line in lines:
        values = line.split("\t")
        if len(values) == len(names):
            yield number, dict(zip(names, values, strict=True))
        elif line.strip():
            skip(skipped, "line has other columns than the first", f"{path}:{number}", line=line)


def _txt(path: str, skipped: Counter, columns: Columns) -> Iterator[tuple[int, dict]]:
    columns(["text"])
    return ((number, {"text": line}) for number, line in _lines(path, skipped) if line.strip())


def _lines(path: str, skipped: Counter) -> Iterator[tuple[int, str]]:
    """(number, line without its end) of each line that is UTF-8."""
    with files.open_file(path) as raw:
        file = gzip.GzipFile(fileobj=raw) if path.endswith(".gz") else raw
        try:
            for number, line in enumerate(io.TextIOWrapper(file, "utf-8-sig", "surrogateescape"), 1):
                if _NOT_UTF8.search(line):
                    skip(skipped, "line is not UTF-8", f"{path}:{number}", line=line)
                else:
                    yield number, line.rstrip("\n")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path} is cut short or not gzip ({error}); fetch it again.") from error
