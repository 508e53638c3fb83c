"""Entries on disk by which `prepare` compares the rows of all inputs, grouped by a key in memory of a given size.

A file holds runs, one behind the other; a run is a uint64 array [columns, entries] in ascending order of its first
column, the key. Keys are hashes below 2^63, so equal ranges of keys hold about equally many entries.
"""

from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

RUN_ENTRIES = 1 << 20  # of a run; the last one of a file has fewer
RANGE_ENTRIES = 1 << 21  # in memory, of all files together


class RunWriter:
    """Writes entries to a file, in runs; a context."""

    def __init__(self, path: Path, columns: int):
        self._file = path.open("wb")
        self._columns = [array("Q") for _ in range(columns)]

    def add(self, *entry: int) -> None:
        for column, value in zip(self._columns, entry, strict=True):
            column.append(value)
        if len(self._columns[0]) == RUN_ENTRIES:
            self._flush()

    def _flush(self) -> None:
        run = np.array([np.frombuffer(column, np.uint64) for column in self._columns])
        self._file.write(np.ascontiguousarray(run[:, np.argsort(run[0], kind="stable")]).tobytes())
        self._columns = [array("Q") for _ in self._columns]

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *error) -> None:
        if self._columns[0]:
            self._flush()
        self._file.close()


def read_key_ranges(paths: Sequence[Path], columns: int) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Yields all entries by ranges of keys: equal keys come together.

    Each range is a list of (number of the file, entries [columns, n]). Files are opened one by one: there may be more
    of them than a process may hold open.
    """
    entries = sum(path.stat().st_size for path in paths) // (8 * columns)
    count = max(1, -(-entries // RANGE_ENTRIES))
    edges = np.array([(i << 63) // count for i in range(count + 1)], np.uint64)
    for low, high in pairwise(edges):
        yield [
            (number, np.array(run[:, slice(*np.searchsorted(run[0], [low, high]))]))
            for number, path in enumerate(paths)
            for run in _runs(path, columns)
        ]


def map_array(path: Path, dtype: np.dtype) -> np.ndarray:
    """The entries of a file, which are read where they are used."""
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)


def _runs(path: Path, columns: int) -> Iterator[np.ndarray]:
    entries = map_array(path, np.dtype(np.uint64))
    for start in range(0, len(entries), RUN_ENTRIES * columns):
        yield entries[start : start + RUN_ENTRIES * columns].reshape(columns, -1)
