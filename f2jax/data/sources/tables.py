"""The rows of a file of any kind, as dicts: what the readers of several files and evaluation sets are made of."""

from collections import Counter
from collections.abc import Callable, Iterator

from f2jax.data.sources import jsonl, parquet
from f2jax.errors import UserError

TABLES = (".parquet", ".jsonl", ".jsonl.gz", ".tsv", ".tsv.gz")  # rows with columns
ENDINGS = (*TABLES, ".txt", ".txt.gz")


def read_rows(path: str, skipped: Counter, columns: Callable[[list[str]], list[str]]) -> Iterator[dict]:
    """The rows of a parquet file, of JSON lines, of a table with tabs under a line of names, or of lines of text.

    Args:
        skipped: counts bad lines by reason.
        columns: those to read, given those that the file has; it may raise a `UserError`. Rows may hold others too.

    Raises:
        UserError: the file cannot be read, is cut short, or is of no known kind.
    """
    for ending, read in (
        (".parquet", parquet.parquet_rows),
        (".jsonl", jsonl.jsonl_rows),
        (".tsv", _tsv),
        (".txt", _txt),
    ):
        if path.removesuffix(".gz").endswith(ending):
            return read(path, skipped, columns)
    raise UserError(f"{path} is of no known kind; data files end in {', '.join(ENDINGS)}.")


def _tsv(path: str, skipped: Counter, columns: Callable[[list[str]], list[str]]) -> Iterator[dict]:
    lines = jsonl.lines(path, skipped)
    names = next(lines, "").split("\t")
    columns(names)
    for line in lines:
        values = line.split("\t")
        if len(values) == len(names):
            yield dict(zip(names, values, strict=True))
        elif line.strip():
            skipped["line has other columns than the first"] += 1


def _txt(path: str, skipped: Counter, columns: Callable[[list[str]], list[str]]) -> Iterator[dict]:
    columns(["text"])
    return ({"text": line} for line in jsonl.lines(path, skipped) if line.strip())
