"""A prepared corpus on disk: tokenized data sets with random access, and the data card that describes them.

`corpus.json` is all that is read at the start; the files of a data set are opened when a batch first needs them.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tensorflow_datasets.proto import tf_example_pb2  # the message alone: TensorFlow is not loaded

from f2jax import errors, files
from f2jax.data.dataset import Row
from f2jax.errors import Restart, UserError

VERSION = "1.0.0"  # of the layout, and of the TFDS data sets inside
CARD, TOKENIZER = "corpus.json", "tokenizer"
OPEN_FILES = 256  # at most so many at once, of all data sets together


@dataclass(frozen=True)
class Shards:
    """The ArrayRecord files of one TFDS split, in order."""

    prefix: str  # path up to the number of the file
    lengths: tuple[int, ...]  # records of each

    def paths(self) -> list[str]:
        count = len(self.lengths)
        return [f"{self.prefix}-{i:05d}-of-{count:05d}" for i in range(count)]

    def read(self, numbers: np.ndarray, reader: "Reader") -> list[bytes]:
        """The records of the given numbers, in their order."""
        ends = np.cumsum(self.lengths)
        files_of = np.searchsorted(ends, numbers, side="right")
        found: list[bytes] = [b""] * len(numbers)
        for file in np.unique(files_of):
            places = np.flatnonzero(files_of == file)
            local = numbers[places] - (ends[file] - self.lengths[file])
            for place, record in zip(places, reader.read(self.paths()[file], local.tolist()), strict=True):
                found[place] = record
        return found


def shards_of(folder: str | Path, card: dict, part: str) -> Shards:
    """Of one data set: the files of its `train` rows, its `validation` rows, or its `documents`."""
    kind, split = ("documents", "train") if part == "documents" else ("rows", part)
    lengths = card["shards"]["documents"] if part == "documents" else card["shards"]["rows"][split]
    return Shards(f"{folder}/{kind}/{card['folder']}/{VERSION}/{kind}-{split}.array_record", tuple(lengths))


class Reader:
    """Reads records by number; keeps the files that were used last open, so that neither handles nor memory grow.

    Training and validation read in threads of their own, and no file is closed under either.
    """

    def __init__(self, most: int = OPEN_FILES):
        self._most, self._lock = most, threading.Lock()
        self._open: OrderedDict[str, object] = OrderedDict()

    def read(self, path: str, numbers: list[int]) -> list[bytes]:
        """Raises UserError where the file is missing, damaged or cut short, Restart where a disk fails for a moment."""
        try:
            with self._lock:
                return self._file(path).read(numbers)
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            self._open.pop(path, None)
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            if errors.is_transient(error):
                raise Restart(f"{path} could not be read just now ({reason}); run the same command again.") from error
            raise UserError(f"{path} is missing, damaged or cut short ({reason}); prepare the corpus again.") from error

    def _file(self, path: str):
        from array_record.python.array_record_module import ArrayRecordReader

        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        # No read-ahead, as records come at random. The index of an open file takes 8 bytes for each record.
        self._open[path] = ArrayRecordReader(path, options="readahead_buffer_size:0", file_reader_buffer_size=32_768)
        if len(self._open) > self._most:
            self._open.popitem(last=False)[1].close()
        return self._open[path]


class StoredDataset:
    """Rows of one source and kind in a corpus, with the interface of `dataset.Dataset`. Opening it reads nothing.

    Args:
        card: its entry in corpus.json.
        split: train or validation.
        vectors: of a teacher, that come with the rows (`vectors.Vectors`).
    """

    def __init__(self, folder: str | Path, card: dict, split: str, reader: Reader, vectors=None):
        self.name, self.kind = card["name"], card["kind"]
        self.max_negatives = card["max_negatives"][split]
        self.languages = card["languages"] if split == "train" else {}
        self._rows, self._documents = (shards_of(folder, card, part) for part in (split, "documents"))
        self._reader, self._vectors, self._card, self._split = reader, vectors, card, split

    def __len__(self) -> int:
        return sum(self._rows.lengths)

    def fingerprint(self) -> str:
        """Of all records, as `f2jax prepare` hashed them, and of whose vectors come with them; nothing is read."""
        teacher = f", vectors {self._vectors.card}" if self._vectors else ""
        return self._card["content"] + teacher

    def rows(self, indices: Sequence[int], columns: Sequence[int], negatives: int) -> list[Row]:
        """As `dataset.Dataset.rows`: only the documents that these rows use are read, each once.

        Raises:
            UserError: a file is missing, damaged or cut short.
        """
        rows = [parse_row(raw) for raw in self._rows.read(np.asarray(indices, np.int64), self._reader)]
        used = [chosen_documents(documents, columns, negatives) for _, documents, _ in rows]
        numbers = np.unique(np.concatenate([np.zeros(0, np.int64), *used]))
        found = [parse_document(raw) for raw in self._documents.read(numbers, self._reader)]
        places = [np.searchsorted(numbers, documents).tolist() for documents in used]
        vectors = self._teacher(indices, numbers, places)
        return [
            Row(
                query,
                found[positive][1],
                [found[place][1] for place in others],
                found[positive][0],
                [found[place][0] for place in others],
                label,
                of_teacher,
            )
            for (query, _, label), (positive, *others), of_teacher in zip(rows, places, vectors, strict=True)
        ]

    def _teacher(self, indices: Sequence[int], numbers: np.ndarray, places: list[list[int]]) -> list:
        """The vectors of each row: of its query, and of its documents at `places` among the `numbers`."""
        if self._vectors is None:
            return [None] * len(places)
        query_be = self._vectors.read(self._card, self._split, np.asarray(indices, np.int64))
        document_ue = self._vectors.read(self._card, "documents", numbers)
        return [np.concatenate([q_e[None], document_ue[place]]) for q_e, place in zip(query_be, places, strict=True)]


def chosen_documents(documents: np.ndarray, columns: Sequence[int], negatives: int) -> np.ndarray:
    """Of a row's document numbers (positive, negatives): the positive, and the first `negatives` of `columns` that the
    row has.
    """
    columns = np.asarray(columns, np.int64) + 1
    return documents[np.append(0, columns[columns < len(documents)][:negatives])]


def parse_row(raw: bytes) -> tuple[np.ndarray, np.ndarray, int]:
    """(query tokens, document numbers, label) of a record of `prepare.builder.Rows`, a tf.train.Example."""
    feature = _features(raw)
    query = np.frombuffer(feature["query"].bytes_list.value[0], np.int32)
    documents = np.frombuffer(feature["documents"].bytes_list.value[0], np.int64)
    return query, documents, feature["label"].int64_list.value[0]


def parse_document(raw: bytes) -> tuple[int, np.ndarray]:
    """(id, tokens) of a record of `prepare.builder.Documents`."""
    feature = _features(raw)
    return feature["id"].int64_list.value[0], np.frombuffer(feature["tokens"].bytes_list.value[0], np.int32)


def row_details(raw: bytes) -> tuple[int, str]:
    """(id of the query, language) of a record of `prepare.builder.Rows`."""
    feature = _features(raw)
    return feature["id"].int64_list.value[0], feature["language"].bytes_list.value[0].decode("utf-8")


def _features(raw: bytes):
    return tf_example_pb2.Example.FromString(raw).features.feature


class PreparedCorpus:
    """What `f2jax prepare` wrote.

    Raises:
        UserError: the folder holds no whole corpus, or one of another version.
    """

    def __init__(self, folder: str | Path):
        if files.is_remote(folder):
            raise UserError(f"{folder}: a corpus is read from a local folder; copy it to a disk of this machine.")
        path = Path(folder) / CARD
        if not path.exists():
            raise UserError(f"{folder} holds no {CARD}; run `f2jax prepare --output {folder}` to the end first.")
        self.folder, self.card = Path(folder), files.read_json(path)
        if self.card.get("version") != VERSION:
            found = self.card.get("version")
            raise UserError(f"{folder} is a corpus of version {found}, this is {VERSION}; prepare it again.")
        self.tokenizer_folder = self.folder / TOKENIZER
        self._reader = Reader()

    def check(self, max_length: int, use_instructions: bool) -> None:
        """Raises UserError where a run with these options cannot use what was prepared with others."""
        made = self.card["options"]
        if made["max_length"] > max_length:
            raise UserError(
                f"{self.folder} has texts of up to {made['max_length']} tokens, above data.max_length={max_length}; "
                "raise it, or prepare with a lower --max_length."
            )
        if made["instructions"]["enabled"] != use_instructions:
            have, wanted = ("with", "--no-instructions") if not use_instructions else ("without", "--instructions")
            raise UserError(
                f"{self.folder} was prepared {have} instructions and data.use_instructions={use_instructions}; "
                f"change that field, or prepare with {wanted}."
            )

    def splits(self, vectors=None) -> list[tuple[StoredDataset, StoredDataset]]:
        """(training, held-out) rows of each data set, with a teacher's `vectors.Vectors` where they are given."""
        return [
            tuple(StoredDataset(self.folder, card, split, self._reader, vectors) for split in ("train", "validation"))
            for card in self.card["datasets"]
        ]
