"""Stores texts on disk between inputs and corpus, in buckets by the hash of the document.

The records of an input are spilled together for all its data sets, and each bucket is small enough to sort in memory.
Files are streams of Arrow batches, one stream per flush, so that few files are open and memory is bounded.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from f2jax.data.corpus_index import SPLITS
from f2jax.data.dataset import label_id
from f2jax.data.record import Record, in_share, stable_id
from f2jax.prepare.datasets import DatasetPlan
from f2jax.prepare.duplicates import STAYS
from f2jax.prepare.options import Key, PrepareOptions
from f2jax.prepare.read_inputs import InputFolder, read_again

FLUSH = 64 << 20  # bytes of text in memory before they go to disk
RECORD_BYTES = 300  # of a row or a document in memory, besides its text
REMEMBERED = 1 << 20  # documents that are not written again, 8 bytes each: negatives come in many rows
ROWS_TOGETHER = 4_096  # rows that are no longer Arrow's at once
WORK = "work"  # folder of a corpus for temporary files
COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")
DOCUMENT_FIELDS = pa.schema({"key": pa.int64(), "id": pa.int64(), "text": pa.large_binary(), "start": pa.int64()})
ROW_FIELDS = pa.schema(
    {
        "query": pa.large_binary(),
        "start": pa.int64(),  # byte of the query at which it begins, after its instruction
        "documents": pa.list_(pa.int64()),  # keys: the positive, then the negatives
        "label": pa.int64(),
        "id": pa.int64(),
        "language": pa.string(),
        "positive_language": pa.string(),
        "scores": pa.list_(pa.float32()),  # of the documents; []: none
    }
)


def document_key(text: str) -> int:
    """Returns the key of a document, from its text as tokenized; a corpus stores documents in order of their keys."""
    return stable_id(text)


def bucket_of(key: int, buckets: int) -> int:
    """Returns the bucket of a key; buckets are consecutive ranges of keys."""
    return key * buckets >> 63


def spill(
    source: InputFolder,
    states: np.ndarray,
    folder: Path,
    wanted: dict[Key, DatasetPlan],
    options: PrepareOptions,
    index: Path | None,
) -> None:
    """Writes the texts of an input's kept rows in the wanted data sets to a new folder.

    Args:
        states: state of each row.
        index: folder of the index of the evaluation texts; None: there are none.
    """
    writer = _Writer(folder)
    parts = [number for number, key in enumerate(source.summary().parts) if key in wanted]
    chosen = (states == STAYS) & np.isin(source.rows()["part"], parts)
    for _, record, _ in read_again(source, chosen, options, index):
        plan = wanted[record.source, record.kind]
        split, row, documents = texts_of_row(record, options)
        for document in documents:
            if not writer.has_document(plan.key, document.key):
                path = documents_path(plan.key, bucket_of(document.key, plan.buckets))
                writer.add(path, DOCUMENT_FIELDS, document, len(document.text))
        writer.add(rows_path(plan.key, split), ROW_FIELDS, row, len(row[0]))
    writer.flush()


class Document(NamedTuple):
    """A document of a row, with the fields of `DOCUMENT_FIELDS`."""

    key: int
    id: int  # of the text before its instruction
    text: bytes  # after its instruction
    start: int  # byte at which the text begins, after the instruction


def texts_of_row(record: Record, options: PrepareOptions) -> tuple[str, tuple, list[Document]]:
    """Returns split, fields of `ROW_FIELDS` and documents of a record, with its texts as tokenized."""
    documents = []
    for original in record.documents:
        text = options.instructions.document(original, record)
        documents.append(Document(document_key(text), stable_id(original), *_text_and_start(text, original)))
    query = options.instructions.query(record)
    split = SPLITS[in_share(record.split_id, options.validation_share, "held out", options.seed)]
    languages = (_readable(record.language), _readable(record.positive_language or record.language))
    keys = [document.key for document in documents]
    row = (*_text_and_start(query, record.query), keys, label_id(record), record.query_id, *languages, record.scores)
    return split, row, documents


def documents_path(folder: str, bucket: int) -> str:
    return f"{folder}/documents-{bucket:05d}.arrow"


def rows_path(folder: str, split: str) -> str:
    return f"{folder}/rows-{split}.arrow"


def _text_and_start(text: str, original: str) -> tuple[bytes, int]:
    """Returns a text as bytes, and the position where its original begins after an instruction, if any."""
    whole = text.encode("utf-8", "surrogatepass")
    return whole, len(whole) - len(original.encode("utf-8", "surrogatepass"))


def _readable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


class _Writer:
    """Collects rows of many files in memory, and appends them in bulk."""

    def __init__(self, folder: Path):
        self.folder, self.size = folder, 0
        self.waiting: dict[tuple[str, pa.Schema], list[tuple]] = defaultdict(list)
        self._known = array("q", bytes(8 * REMEMBERED))
        folder.mkdir(parents=True)

    def has_document(self, dataset: str, key: int) -> bool:
        """Returns whether a document of a data set is among those that were written last; it counts as written now."""
        here = key ^ stable_id(dataset)
        known = self._known[here % REMEMBERED] == here
        self._known[here % REMEMBERED] = here
        return known

    def add(self, path: str, schema: pa.Schema, row: tuple, size: int) -> None:
        self.waiting[path, schema].append(row)
        self.size += size + RECORD_BYTES
        if self.size > FLUSH:
            self.flush()

    def flush(self) -> None:
        for (name, schema), rows in self.waiting.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            columns = [pa.array(c, kind) for c, kind in zip(zip(*rows, strict=True), schema.types, strict=True)]
            with open(path, "ab") as file, pa.ipc.new_stream(file, schema, options=COMPRESSED) as stream:
                stream.write_batch(pa.record_batch(columns, schema=schema))
        self.waiting.clear()
        self.size = 0


def batches(paths: list[Path]) -> Iterator[pa.RecordBatch]:
    """Yields the batches of spilled files, in order; a missing file counts as empty."""
    for path in paths:
        if not path.exists():
            continue
        with pa.memory_map(str(path)) as file:
            while file.tell() < file.size():
                with pa.ipc.open_stream(file) as stream:
                    yield from stream


def spilled_documents(folders: Sequence[Path], dataset: str, bucket: int) -> list[Document]:
    """Returns a bucket's distinct documents in the order of their keys, given the folders of all inputs in order."""
    paths = [folder / documents_path(dataset, bucket) for folder in folders]
    table = pa.Table.from_batches(list(batches(paths)), DOCUMENT_FIELDS)
    _, first = np.unique(table["key"].to_numpy(), return_index=True)
    return list(map(Document._make, zip(*(column.to_pylist() for column in table.take(first).columns), strict=True)))


def spilled_rows(folders: Sequence[Path], dataset: str, split: str) -> tuple[int, Iterator[dict]]:
    """Returns the number of rows in a split, and its rows with the fields of `ROW_FIELDS`, in the inputs' order."""
    paths = [folder / rows_path(dataset, split) for folder in folders]
    count = sum(batch.num_rows for batch in batches(paths))
    pieces = (batch.slice(i, ROWS_TOGETHER) for batch in batches(paths) for i in range(0, len(batch), ROWS_TOGETHER))
    return count, (row for piece in pieces for row in piece.to_pylist())
