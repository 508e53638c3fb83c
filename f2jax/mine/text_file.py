"""Files of texts by number: written one after another, with equal ones sharing a number, and read on demand."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np

from f2jax.data.record import stable_id

READ_TOGETHER = 1_024  # texts in memory when all are read
NUMBERED_TOGETHER = 1 << 20  # numbers of a file in memory


class TextWriter(ExitStack):
    """A context manager that writes texts to `path`, and the end and a hash of each text to files next to it."""

    def __init__(self, path: Path):
        super().__init__()
        self._texts, self._ends, self._keys = (
            self.enter_context(name.open("wb")) for name in (path, _part(path, "ends"), _part(path, "keys"))
        )
        self._size, self._digest = 0, hashlib.sha256()

    def add(self, text: str) -> None:
        raw, key = text.encode(), stable_id(text)
        self._size += len(raw)
        self._texts.write(raw)
        self._ends.write(self._size.to_bytes(8, "little"))
        self._keys.write(key.to_bytes(8, "little"))
        self._digest.update(key.to_bytes(8, "little"))

    @property
    def digest(self) -> str:
        """Returns a hash of all texts so far, in order."""
        return self._digest.hexdigest()


def number_texts(path: Path) -> None:
    """Numbers the distinct texts in `path` in the order of their first occurrence, a few at a time."""
    keys = map_numbers(_part(path, "keys"))
    numbers = new_numbers(_part(path, "numbers"), len(keys))  # at first the place where each text came first
    for places in places_by_range(keys, 1 << 63):
        _, first, inverse = np.unique(keys[places], return_index=True, return_inverse=True)
        numbers[places] = places[first][inverse]
    count = 0
    with _part(path, "first").open("wb") as firsts:
        for start, place_of_first in slices(numbers):
            first = start + np.flatnonzero(place_of_first == np.arange(start, start + len(place_of_first)))
            numbers[first] = np.arange(count, count + len(first))
            numbers[start : start + len(place_of_first)] = numbers[place_of_first]
            firsts.write(first.tobytes())
            count += len(first)


def number_distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers distinct keys from 0 by first occurrence; returns the index of each first occurrence, and all numbers.

    >>> number_distinct(np.array([7, 5, 7]))
    (array([0, 1]), array([0, 1, 0]))
    """
    _, first, numbers = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return first[order], rank[numbers]


class TextFile(Sequence[str]):
    """The distinct texts in a file, as numbered by `number_texts`; they stay on disk."""

    def __init__(self, path: Path):
        self._file = path.open("rb")
        self._ends, self._keys, self._first = (map_numbers(_part(path, part)) for part in ("ends", "keys", "first"))
        self.number_of_each = map_numbers(_part(path, "numbers"))  # of each text that was written, in order

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, index):
        if isinstance(index, int | np.integer):
            return self[[index]][0]
        places = self._first[index]
        starts, ends = np.where(places > 0, self._ends[places - 1], 0).tolist(), self._ends[places].tolist()
        descriptor = self._file.fileno()
        return [os.pread(descriptor, end - start, start).decode() for start, end in zip(starts, ends, strict=True)]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), READ_TOGETHER):
            yield from self[start : start + READ_TOGETHER]

    def keys(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the stable ids of texts."""
        return self._keys[self._first[numbers]]


def _part(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name}.{name}")


# Files of numbers, int64


def map_numbers(path: Path) -> np.ndarray:
    """Returns the numbers in a file, read on demand."""
    return np.memmap(path, np.int64, "r") if path.stat().st_size else np.zeros(0, np.int64)


def new_numbers(path: Path, count: int) -> np.ndarray:
    """Creates a file of at least one number, as an array to write to."""
    return np.memmap(path, np.int64, "w+", shape=count)


def slices(numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index of the first, some of the numbers) in order, with their current values."""
    for start in range(0, len(numbers), NUMBERED_TOGETHER):
        yield start, np.array(numbers[start : start + NUMBERED_TOGETHER])


def places_by_range(numbers: np.ndarray, stop: int) -> Iterator[np.ndarray]:
    """Yields, for each of several ranges from 0 to `stop` in order, the ascending indices of the numbers in it."""
    count = -(-len(numbers) // NUMBERED_TOGETHER)
    for low, high in pairwise(stop * i // count for i in range(count + 1)):
        found = [start + np.flatnonzero((low <= some) & (some < high)) for start, some in slices(numbers)]
        yield np.concatenate(found)
