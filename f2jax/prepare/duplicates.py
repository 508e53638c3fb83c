"""Which rows of all inputs are duplicates, found on disk by the keys that `intake.py` wrote.

What stays of a set of duplicates is decided by content alone (`curate.dedup.rank`), so neither the order of inputs nor
who read them matters. Equal rows have equal ranks: the first stays. Memory: `runs.AT_ONCE` entries of 24 bytes, and a
byte for each row of the corpus.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from tqdm import tqdm

from f2jax.prepare.curate import CurationOptions as Curation
from f2jax.prepare.curate.dedup import Sketch, near_duplicates
from f2jax.prepare.curate.steps import EXACT, NEAR
from f2jax.prepare.read_inputs import InputResult, mapped, sketch_type
from f2jax.prepare.runs import ranges

STAYS, IS_EXACT, IS_NEAR, OVER_CAP = range(4)  # what becomes of a row
OPEN_FILES = 64  # at most so many at once, of all inputs together
REASONS = {IS_EXACT: EXACT, IS_NEAR: NEAR}


def decide(taken: Sequence[InputResult], rows: Sequence[int], options: Curation | None) -> list[np.ndarray]:
    """What becomes of each row of each input, before any cap: an array of `STAYS`, `IS_EXACT` or `IS_NEAR`.

    Args:
        rows: of each input.
    """
    starts = np.cumsum([0, *rows])
    states = np.full(starts[-1], STAYS, np.uint8)
    if options and options.exact_duplicates:
        _mark_exact(taken, starts, states)
    if options and options.near_duplicates:
        _mark_near(taken, starts, states, options)
    return [states[start:stop] for start, stop in pairwise(starts)]


def _mark_exact(taken: Sequence[InputResult], starts: np.ndarray, states: np.ndarray) -> None:
    for keys, ranks, rows in _entries(taken, starts, "exact", 3):
        order = np.lexsort((rows, ranks, keys))
        again = keys[order][1:] == keys[order][:-1]
        states[rows[order][1:][again]] = IS_EXACT


def _mark_near(taken: Sequence[InputResult], starts: np.ndarray, states: np.ndarray, options: Curation) -> None:
    @lru_cache(OPEN_FILES)
    def sketches(number: int) -> np.ndarray:
        return mapped(taken[number].path("sketches"), sketch_type(options.permutations))

    def sketch(row: int) -> Sketch:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        found = sketches(number)[row - starts[number]]
        return Sketch(int(found["rank"]), int(row), found["values"].tobytes())

    for keys, rows in _entries(taken, starts, "near", 2):
        distinct = states[rows] != IS_EXACT
        keys, rows = keys[distinct], rows[distinct]
        order = np.argsort(keys, kind="stable")
        edges = np.flatnonzero(np.diff(keys[order], prepend=-1, append=-1))
        for start, stop in pairwise(edges):
            if stop - start > 1:
                group = map(sketch, rows[order[start:stop]])
                states[list(near_duplicates(group, options))] = IS_NEAR


def _entries(taken: Sequence[InputResult], starts: np.ndarray, name: str, columns: int) -> Iterator[np.ndarray]:
    """Entries by ranges of keys, [columns, n]; the last column is the row's number among all."""
    for found in tqdm(ranges([one.path(name) for one in taken], columns), f"{name} duplicates", disable=None):
        parts = []
        for number, part in found:
            part = part.astype(np.int64)  # keys, ranks and rows lie below 2^63
            part[-1] += starts[number]
            parts.append(part)
        yield np.concatenate(parts, 1) if parts else np.zeros((columns, 0), np.int64)
