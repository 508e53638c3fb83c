"""Which rows of all inputs are duplicates, found on disk by the keys that `read_inputs.py` wrote, and their list.

Which one of a set of duplicates stays depends on its content alone (`curate.dedup.rank`), so neither the order of
inputs nor who reads them matters. Equal rows have equal ranks: the first stays. Memory: `scratch.RANGE_ENTRIES` entries
of 24 bytes, and a byte for each row of the corpus.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from f2jax.data.skip_list import SkipList
from f2jax.prepare.curate import CurationOptions, CurationReport
from f2jax.prepare.curate.dedup import Sketch, near_duplicates
from f2jax.prepare.curate.steps import EXACT, NEAR
from f2jax.prepare.options import PrepareOptions
from f2jax.prepare.read_inputs import InputFolder, read_again, sketch_dtype
from f2jax.prepare.scratch import map_array, read_key_ranges

STAYS, IS_EXACT, IS_NEAR, OVER_CAP = range(4)  # what becomes of a row
OPEN_FILES = 64  # at most so many at once, of all inputs together
REASONS = {IS_EXACT: EXACT, IS_NEAR: NEAR}


def find_duplicates(
    inputs: Sequence[InputFolder], row_counts: Sequence[int], options: CurationOptions | None, before: int = 0
) -> list[np.ndarray]:
    """What becomes of each row of each input, before any cap: an array of `STAYS`, `IS_EXACT` or `IS_NEAR`.

    Args:
        row_counts: rows of each input.
        before: number of first inputs whose rows stay against those of the others, whatever these are.
    """
    starts = np.cumsum([0, *row_counts])
    states = np.full(starts[-1], STAYS, np.uint8)
    if options and options.exact_duplicates:
        _mark_exact(inputs, starts, states, before)
    if options and options.near_duplicates:
        _mark_near(inputs, starts, states, options, before)
    return [states[start:stop] for start, stop in pairwise(starts)]


def _mark_exact(inputs: Sequence[InputFolder], starts: np.ndarray, states: np.ndarray, before: int) -> None:
    for keys, ranks, rows in _entries(inputs, starts, "exact", 3):
        order = np.lexsort((rows, ranks, rows >= starts[before], keys))
        repeated = keys[order][1:] == keys[order][:-1]
        states[rows[order][1:][repeated]] = IS_EXACT


def _mark_near(
    inputs: Sequence[InputFolder], starts: np.ndarray, states: np.ndarray, options: CurationOptions, before: int
) -> None:
    @lru_cache(OPEN_FILES)
    def sketches(number: int) -> np.ndarray:
        return map_array(inputs[number].path("sketches"), sketch_dtype(options.permutations))

    def sketch(row: int) -> Sketch:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        stored = sketches(number)[row - starts[number]]
        rank = int(stored["rank"]) - (number < before) * 2**63  # ranks lie below 2^63
        return Sketch(rank, int(row), stored["values"].tobytes())

    for keys, rows in _entries(inputs, starts, "near", 2):
        distinct = states[rows] != IS_EXACT
        keys, rows = keys[distinct], rows[distinct]
        order = np.argsort(keys, kind="stable")
        edges = np.flatnonzero(np.diff(keys[order], prepend=-1, append=-1))
        for start, stop in pairwise(edges):
            if stop - start > 1:
                group = map(sketch, rows[order[start:stop]])
                states[list(near_duplicates(group, options))] = IS_NEAR


def _entries(inputs: Sequence[InputFolder], starts: np.ndarray, name: str, columns: int) -> Iterator[np.ndarray]:
    """Yields entries by ranges of keys, [columns, n]; the last column is the row's number among all."""
    paths = [folder.path(name) for folder in inputs]
    for key_range in tqdm(read_key_ranges(paths, columns), f"{name} duplicates", disable=None):
        parts = []
        for number, part in key_range:
            part = part.astype(np.int64)  # keys, ranks and rows lie below 2^63
            part[-1] += starts[number]
            parts.append(part)
        yield np.concatenate(parts, 1) if parts else np.zeros((columns, 0), np.int64)


def list_duplicates(item: tuple[InputFolder, np.ndarray], options: PrepareOptions, index: Path | None) -> Path:
    """Writes the duplicates of one input, given with what becomes of its rows, as lines of JSON; returns the file."""
    source, states = item
    duplicates = np.isin(states, list(REASONS))
    with (path := source.path("duplicates.jsonl")).open("w") as file:
        report = CurationReport(skipped=SkipList(file))
        for number, record, where in read_again(source, duplicates, options, index) if duplicates.any() else ():
            report.drop(record, REASONS[states[number]], where)
    return path
