"""Entries on disk that are grouped by a key, in memory that does not grow with them.

A file holds runs, one behind the other. A run is a uint64 array [columns, entries]; its first column, the key, rises.
Keys are hashes below 2^63, so equal ranges of keys hold about equally many entries.
"""

from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

RUN = 1 << 20  # entries of a run; the last of a file has fewer
AT_ONCE = 1 << 21  # entries in memory, of all files together


class RunWriter:
    """Writes entries to a file, in runs; a context."""

    def __init__(self, path: Path, columns: int):
        self._file = path.open("wb")
        self._columns = [array("Q") for _ in range(columns)]

    def add(self, *entry: int) -> None:
        for column, value in zip(self._columns, entry, strict=True):
            column.append(value)
        if len(self._columns[0]) == RUN:
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


def ranges(paths: Sequence[Path], columns: int) -> Iterator[list[tuple[int, np.ndarray]]]:
    """All entries, by ranges of keys: equal keys come together.

    Each range is a list of (number of the file, entries [columns, n]). Files are opened one by one: there may be more
    of them than a process may hold open.
    """
    entries = sum(path.stat().st_size for path in paths) // (8 * columns)
    count = max(1, -(-entries // AT_ONCE))
    edges = np.array([(i << 63) // count for i in range(count + 1)], np.uint64)
    for low, high in pairwise(edges):
        yield [
            (number, np.array(run[:, slice(*np.searchsorted(run[0], [low, high]))]))
            for number, path in enumerate(paths)
            for run in _runs(path, columns)
        ]


def _runs(path: Path, columns: int) -> Iterator[np.ndarray]:
    if not path.stat().st_size:
        return
    entries = np.memmap(path, np.uint64, "r")
    for start in range(0, len(entries), RUN * columns):
        yield entries[start : start + RUN * columns].reshape(columns, -1)
