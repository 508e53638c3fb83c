"""Finds and lists the duplicates among the rows of all inputs, by the keys that `read_inputs.py` wrote.

Which of several duplicates stays only depends on their content (`curate.dedup.rank`), so it does not matter in which
order inputs come, or which process reads them. Identical rows have equal ranks, and the first one stays. In memory are,
for each row, its key, its place in the order of keys, its sorted key and a byte for its state; during the search for
near duplicates, also the numbers of the distinct rows.
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

STAYS, IS_EXACT, IS_NEAR, OVER_CAP = range(4)  # states of a row
OPEN_INPUTS = 32  # largest number of inputs to open at once
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
    """Returns a value of each row of all inputs. Only one file is open at a time, since a process may not open all."""
    column = np.empty(starts[-1], np.uint64)
    for folder, start, stop in zip(inputs, starts, starts[1:], strict=False):
        column[start:stop] = read(folder)
    return column


def _repeated(keys: np.ndarray) -> np.ndarray:
    """Returns the indices of keys that occur more than once; those of equal keys are adjacent and in order."""
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
        return Sketch(int(rank) - (number < before) * 2**63, int(row), values.tobytes())  # ranks are below 2^63

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
        for number, record, where in read_again(source, duplicates, options, index):
            report.drop(record, REASONS[states[number]], where)
    return path
