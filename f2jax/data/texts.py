"""The texts of a file, and random texts of data sources."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from f2jax.data.instructions import add_instruction
from f2jax.data.record import Record
from f2jax.data.skip_list import NoneSkipped, SkipList
from f2jax.data.sources import open_source
from f2jax.data.sources.tables import is_text_file, read_rows
from f2jax.errors import UserError


def read_texts(path: str, column: str = "text") -> list[str]:
    """The texts of a file in any format of `sources.tables`: its lines (.txt), or the field `column` of each row.

    Raises:
        UserError: the file cannot be read, or a row has no such field.
    """
    return list(iter_file_texts(path, column))


def iter_file_texts(path: str, column: str = "text") -> Iterator[str]:
    """Yields what `read_texts` returns."""
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
    """Yields all texts of records: query (after the record's own instruction), positive, negatives."""
    for record in records:
        yield add_instruction(record.query, record.instruction)
        yield from record.documents


def source_texts(sources: Sequence[str], kinds: Sequence[str] = ()) -> Iterator[str]:
    """Yields the texts of all sources (see `f2jax.data.sources`), of whatever kind they are.

    Args:
        kinds: SOURCE=KIND, as `--kinds`: files of texts alone have to say that they are.

    Raises:
        UserError: a source cannot be read.
    """
    for spec in sources:
        yield from texts_of(open_source(spec, "train", SkipList(), (*kinds, "*=retrieval"), bare=True))


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
