"""Which rows of all inputs are duplicates, found by the keys that `read_inputs.py` wrote, and their list.

Which one of a set of duplicates stays depends on its content alone (`curate.dedup.rank`), so neither the order of
inputs nor who reads them matters. Equal rows have equal ranks: the first stays. Memory for each row of the corpus: 27
to 37 bytes, the more the more keys are repeated (the keys, their order, the keys in order, and a byte for what becomes
of the row), and 35 to 45 while near duplicates are looked for (also the numbers of the distinct rows).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from f2jax.data.skip_list import SkipList
from f2jax.prepare.curate import CurationOptions, CurationReport
from f2jax.prepare.curate.dedup import Sketch, near_duplicates
from f2jax.prepare.curate.steps import EXACT, NEAR
from f2jax.prepare.options import PrepareOptions
from f2jax.prepare.read_inputs import InputFolder, read_again

STAYS, IS_EXACT, IS_NEAR, OVER_CAP = range(4)  # what becomes of a row
OPEN_INPUTS = 32  # at most so many at once
REASONS = {IS_EXACT: EXACT, IS_NEAR: NEAR}


def find_duplicates(
    inputs: Sequence[InputFolder], options: CurationOptions | None, before: int = 0
) -> list[np.ndarray]:
    """Returns the state of each row of each input before any cap: arrays of `STAYS`, `IS_EXACT` or `IS_NEAR`.

    Args:
        before: number of leading inputs whose rows always take precedence over those of the others.
    """
    starts = np.cumsum([0, *(len(folder.rows()) for folder in inputs)])
    states = np.full(starts[-1], STAYS, np.uint8)
    if options and options.exact_duplicates:
        keys = _column(inputs, starts, lambda folder: folder.rows()["exact"])
        rows = _repeated(keys)
        keys, ranks = keys[rows], _column(inputs, starts, lambda folder: folder.rows()["rank"])[rows]
        order = np.lexsort((rows, ranks, rows >= starts[before], keys))
        states[rows[order][1:][keys[order][1:] == keys[order][:-1]]] = IS_EXACT
    if options and options.near_duplicates:
        _mark_near(inputs, starts, states, options, before)
    return [states[start:stop] for start, stop in pairwise(starts)]


def _column(inputs: Sequence[InputFolder], starts: np.ndarray, read: Callable[[InputFolder], np.ndarray]) -> np.ndarray:
    """A number of each row of all inputs. Files are opened one by one: a process may hold fewer open than there are."""
    column = np.empty(starts[-1], np.uint64)
    for folder, start, stop in zip(inputs, starts, starts[1:], strict=False):
        column[start:stop] = read(folder)
    return column


def _repeated(keys: np.ndarray) -> np.ndarray:
    """The places of the keys that occur more than once, those of one key in order and side by side."""
    order = np.argsort(keys, kind="stable")
    keys, same = keys[order], np.zeros(len(keys) + 1, bool)
    same[1:-1] = keys[1:] == keys[:-1]
    return order[same[1:] | same[:-1]]


def _mark_near(
    inputs: Sequence[InputFolder], starts: np.ndarray, states: np.ndarray, options: CurationOptions, before: int
) -> None:
    @lru_cache(OPEN_INPUTS)
    def opened(number: int) -> tuple[np.ndarray, np.ndarray]:
        return inputs[number].rows()["rank"], inputs[number].sketches(options)

    def sketch(row: int) -> Sketch:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        rank, values = (array[row - starts[number]] for array in opened(number))
        return Sketch(int(rank) - (number < before) * 2**63, int(row), values.tobytes())  # ranks lie below 2^63

    distinct = np.flatnonzero(states == STAYS)
    for band in tqdm(range(options.permutations // options.band), "near duplicates", disable=None):
        keys = _column(inputs, starts, partial(InputFolder.band, number=band))[distinct]
        places = _repeated(keys)
        rows, edges = distinct[places], np.flatnonzero(np.diff(keys[places])) + 1
        for start, stop in pairwise(chain([0], edges, [len(rows)])):
            states[list(near_duplicates(map(sketch, rows[start:stop]), options))] = IS_NEAR


def list_duplicates(item: tuple[InputFolder, np.ndarray], options: PrepareOptions, index: Path | None) -> Path:
    """Writes the duplicates of an input, given the states of its rows, as lines of JSON; returns the file."""
    source, states = item
    duplicates = np.isin(states, list(REASONS))
    with (path := source.path("duplicates.jsonl")).open("w") as file:
        report = CurationReport(skipped=SkipList(file))
        for number, record, where in read_again(source, duplicates, options, index) if duplicates.any() else ():
            report.drop(record, REASONS[states[number]], where)
    return path
