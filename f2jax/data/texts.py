"""The texts of a file, and random texts of data sources."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from f2jax import files
from f2jax.data.instructions import add_instruction
from f2jax.data.record import Record
from f2jax.data.sources import open_source
from f2jax.errors import UserError


def read_texts(path: str, column: str = "text") -> list[str]:
    """The texts of a file: one a line (.txt), or the field `column` of each row (.jsonl, .parquet).

    Raises:
        UserError: the file cannot be read, or a row has no such field.
    """
    kind = Path(path).suffix
    if kind == ".parquet":
        with files.open_file(path) as file:
            try:
                table = pq.ParquetFile(file)
                if column not in table.schema_arrow.names:
                    names = ", ".join(table.schema_arrow.names)
                    raise UserError(f"{path} has no column '{column}' but {names}; choose one with --column.")
                texts = table.read([column]).column(0).to_pylist()
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{path} is no readable parquet file ({reason}); restore it.") from error
    elif kind in (".txt", ".jsonl"):
        with files.open_file(path) as file:
            try:
                content = file.read().decode("utf-8-sig").replace("\r\n", "\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{path} is not UTF-8 at byte {error.start}; convert it.") from error
        lines = content.removesuffix("\n").split("\n") if content else []
        texts = lines
        if kind == ".jsonl":
            texts = [_field(path, i, line, column) for i, line in enumerate(lines, 1) if line.strip()]
    else:
        raise UserError(f"{path} should end in .txt, .jsonl or .parquet.")
    bad = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if bad is not None:
        raise UserError(f"{path}: row {bad + 1} has no text in '{column}'; mend it or choose another --column.")
    return texts


def _field(path: str, number: int, line: str, column: str) -> str | None:
    try:
        return json.loads(line)[column]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}, line {number}: no JSON object with the field '{column}'; mend it.") from error


def texts_of(records: Iterable[Record]) -> Iterator[str]:
    """Yields all texts of records: query (after the record's own instruction), positive, negatives."""
    for record in records:
        yield add_instruction(record.query, record.instruction)
        yield record.positive
        yield from record.negatives


def source_texts(sources: Sequence[str]) -> Iterator[str]:
    """Yields the texts of all sources (see `f2jax.data.sources`).

    Raises:
        UserError: a source cannot be read.
    """
    for spec in sources:
        yield from texts_of(open_source(spec, "train", Counter(), bare=True))


def sample_texts(sources: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """`count` random texts, equally many from each source if it has so many. Reads each source once, to its end.

    Raises:
        UserError: a source cannot be read.
    """
    rng, drawn = np.random.default_rng(seed), []
    for number, spec in enumerate(sources):
        share = count // len(sources) + (number < count % len(sources))
        drawn += reservoir_sample(source_texts([spec]), share, rng)
    return drawn


def reservoir_sample(texts: Iterable[str], count: int, rng: np.random.Generator) -> list[str]:
    """`count` random texts, all equally likely, in memory for `count` (Vitter's algorithm R)."""
    kept: list[str] = []
    for seen, text in enumerate(texts):
        if len(kept) < count:
            kept.append(text)
        elif count and (place := int(rng.integers(seen + 1))) < count:
            kept[place] = text
    return kept
