"""A few texts of data sources, drawn evenly, for what looks at data without training on it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from f2jax.data.instructions import add_instruction
from f2jax.data.record import Record
from f2jax.data.sources import open_source


def texts_of(records: Iterable[Record]) -> Iterator[str]:
    """All texts of records: query (with the record's own instruction before it), positive, negatives."""
    for record in records:
        yield add_instruction(record.query, record.instruction)
        yield record.positive
        yield from record.negatives


def read_texts(sources: Sequence[str]) -> Iterator[str]:
    """The texts of all sources (see `f2jax.data.sources`).

    Raises:
        UserError: a source cannot be read.
    """
    for spec in sources:
        yield from texts_of(open_source(spec, "train", Counter(), bare=True))


def sample_texts(sources: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """`count` texts at random, as many from each source; fewer where a source has fewer. Each is read once, to its end.

    Raises:
        UserError: a source cannot be read.
    """
    rng, drawn = np.random.default_rng(seed), []
    for number, spec in enumerate(sources):
        share = count // len(sources) + (number < count % len(sources))
        drawn += reservoir_sample(read_texts([spec]), share, rng)
    return drawn


def reservoir_sample(texts: Iterable[str], count: int, rng: np.random.Generator) -> list[str]:
    """`count` of the texts, each with the same chance, in memory for `count` (Vitter's algorithm R)."""
    kept: list[str] = []
    for seen, text in enumerate(texts):
        if len(kept) < count:
            kept.append(text)
        elif count and (place := int(rng.integers(seen + 1))) < count:
            kept[place] = text
    return kept
