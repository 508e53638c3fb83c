"""Reads the texts in files, and samples texts from data sources."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from f2jax.data.instructions import add_instruction
from f2jax.data.record import Record
from f2jax.data.skip_list import NoneSkipped, SkipList
from f2jax.data.sources import open_source
from f2jax.data.sources.tables import is_text_file, read_rows
from f2jax.errors import UserError


def read_texts(path: str, column: str = "text") -> list[str]:
    """Returns the texts in a file of any format in `sources.tables`: its lines (.txt), or a column of its rows.

    Raises:
        UserError: the file cannot be read, or a row has no such field.
    """
    return list(iter_file_texts(path, column))


def iter_file_texts(path: str, column: str = "text") -> Iterator[str]:
    """Yields the texts that `read_texts` returns."""
    lines = is_text_file(path)

    def choose(present: list[str]) -> list[str]:
        if column not in present and not lines:
            raise UserError(f"{path} has no column '{column}'; it has {', '.join(present)}. Choose one with --column.")
        return [name for name in present if name == column]

    for number, row in enumerate(read_rows(path, NoneSkipped(), choose), 1):
        text = row.get("text" if lines else column)
        if not isinstance(text, str):
            raise UserError(f"{path}: row {number} has no text in '{column}'; fix it or choose another --column.")
        yield text


def texts_of(records: Iterable[Record]) -> Iterator[str]:
    """Yields all texts of records: the query with the record's own instruction, the positive and the negatives."""
    for record in records:
        yield add_instruction(record.query, record.instruction)
        yield from record.documents


def source_texts(sources: Sequence[str], kinds: Sequence[str] = ()) -> Iterator[str]:
    """Yields the texts of all sources (see `f2jax.data.sources`), whatever their kinds.

    Args:
        kinds: SOURCE=KIND, as for `--kinds`; required for files of single texts.

    Raises:
        UserError: a source cannot be read.
    """
    for spec in sources:
        yield from texts_of(open_source(spec, "train", SkipList(), (*kinds, "*=retrieval"), bare=True))


def sample_texts(sources: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Returns `count` random texts, the same number from each source if possible; reads each source completely.

    Raises:
        UserError: a source cannot be read.
    """
    rng, drawn = np.random.default_rng(seed), []
    for number, spec in enumerate(sources):
        share = count // len(sources) + (number < count % len(sources))
        drawn += reservoir_sample(source_texts([spec]), share, rng)
    return drawn


def reservoir_sample(texts: Iterable[str], count: int, rng: np.random.Generator) -> list[str]:
    """Returns `count` random texts in one pass (Vitter's algorithm R)."""
    kept: list[str] = []
    for seen, text in enumerate(texts):
        if len(kept) < count:
            kept.append(text)
        elif count and (place := int(rng.integers(seen + 1))) < count:
            kept[place] = text
    return kept
