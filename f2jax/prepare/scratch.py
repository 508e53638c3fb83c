"""Records on disk, in order, each with the place that it comes from: a stream of Arrow batches."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pyarrow as pa

from f2jax.data.record import Record

BATCH_BYTES = 16 << 20  # of text in memory at once
RECORD_BYTES = 300  # of a record in memory, besides its text
NAMES = [field.name for field in fields(Record)]
_BYTES = pa.large_binary()  # texts may hold lone surrogates, which no Arrow string does
_TYPES = {bool: pa.bool_(), tuple[str, ...]: pa.list_(_BYTES)}
SCHEMA = pa.schema([(f.name, _TYPES.get(f.type, _BYTES)) for f in fields(Record)] + [("where", _BYTES)])


class RecordWriter:
    """Writes records to a file; a context."""

    def __init__(self, path: Path):
        self._stream = pa.ipc.new_stream(str(path), SCHEMA, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        self._rows, self._size = [], 0

    def add(self, record: Record, where: str) -> None:
        self._rows.append([_stored(getattr(record, name)) for name in NAMES] + [_stored(where)])
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


def read_records(path: Path) -> Iterator[tuple[Record, str]]:
    """(record, place) of all that `RecordWriter` wrote, in order."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:  # of a path it would map the whole file
        for batch in stream:
            columns = (column.to_pylist() for column in batch.columns)
            for *values, where in zip(*columns, strict=True):
                yield Record(*map(_restored, values)), _restored(where)


def _stored(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return [_stored(text) for text in value] if isinstance(value, tuple) else value


def _restored(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogatepass")
    return tuple(map(_restored, value)) if isinstance(value, list) else value
