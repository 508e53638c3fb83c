"""What `prepare` keeps on disk of an input: its records in order, and entries by which rows of all inputs are compared.

Memory does not grow with either.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from f2jax.data.record import Record

BATCH_BYTES = 16 << 20  # of text in memory at once
RECORD_BYTES = 300  # of a record in memory, besides its text
RUN_ENTRIES = 1 << 20  # of a run; the last one of a file has fewer
RANGE_ENTRIES = 1 << 21  # in memory, of all files together
FIELD_NAMES = [field.name for field in fields(Record)]
_BYTES = pa.large_binary()  # texts may hold lone surrogates, which no Arrow string does
_TYPES = {"symmetric": pa.bool_(), "negatives": pa.list_(_BYTES)}
SCHEMA = pa.schema([(name, _TYPES.get(name, _BYTES)) for name in (*FIELD_NAMES, "where")])


# Records, each with its place in its source: a stream of Arrow batches


class RecordWriter:
    """Writes records to a file; a context."""

    def __init__(self, path: Path):
        self._stream = pa.ipc.new_stream(str(path), SCHEMA, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        self._rows: list[list] = []
        self._size = 0

    def add(self, record: Record, where: str) -> None:
        self._rows.append([_stored(value) for value in (*(getattr(record, name) for name in FIELD_NAMES), where)])
        self._size += RECORD_BYTES + len(record.query) + len(record.positive) + sum(map(len, record.negatives))
        if self._size > BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)]
        self._stream.write_batch(pa.record_batch(arrays, schema=SCHEMA))
        self._rows, self._size = [], 0

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, *error) -> None:
        if self._rows:
            self._flush()
        self._stream.close()


def read_scratch_records(path: Path) -> Iterator[tuple[Record, str]]:
    """Yields (record, place) of all that `RecordWriter` wrote, in order."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:  # given a path it would map the whole file
        for batch in stream:
            columns = (column.to_pylist() for column in batch.columns)
            for *values, where in zip(*columns, strict=True):
                yield Record(*map(_restored, values)), _restored(where)


def _stored(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return [_stored(text) for text in value] if isinstance(value, tuple) else value


def _restored(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogatepass")
    return tuple(map(_restored, value)) if isinstance(value, list) else value


# Entries that are grouped by a key. A file holds runs, one behind the other; a run is a uint64 array [columns, entries]
# in ascending order of its first column, the key. Keys are hashes below 2^63, so equal ranges of keys hold about
# equally many entries.


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
