"""A prepared corpus on disk: tokenized data sets with random access, and the data card that describes them.

Only `corpus.json` is read at the start; the files of a data set are opened when a batch first needs them.
"""

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tensorflow_datasets.proto import tf_example_pb2  # the message alone: TensorFlow is not loaded

from f2jax import errors, files
from f2jax.data.corpus_index import (
    INDEX,
    CorpusIndex,
    has_index,
    index_folder,
    padded,
    remake,
)
from f2jax.data.dataset import Row, RowTexts, padded_scores, text_key, texts_of
from f2jax.data.local_copy import LocalCopy
from f2jax.errors import Restart, UserError

VERSION = "1.0.0"  # of the layout, and of the TFDS data sets inside
CARD, TOKENIZER = "corpus.json", "tokenizer"
SCORES = "document_scores"  # field of a row; alphabetically before the tokens, which must be the last field
OPEN_FILES = 256  # most files to keep open, for all data sets together
READ_TOGETHER = 4_096  # records to read at once


@dataclass(frozen=True)
class Shards:
    """The ArrayRecord files of a TFDS split, in order."""

    prefix: str  # path up to the number of the file
    lengths: tuple[int, ...]  # number of records in each file

    def paths(self) -> list[str]:
        count = len(self.lengths)
        return [f"{self.prefix}-{i:05d}-of-{count:05d}" for i in range(count)]

    def read(self, numbers: np.ndarray, reader: "Reader") -> list[bytes]:
        """Returns the records with these numbers, in this order."""
        ends = np.cumsum(self.lengths)
        file_of_each = np.searchsorted(ends, numbers, side="right")
        records: list[bytes] = [b""] * len(numbers)
        for file in np.unique(file_of_each):
            places = np.flatnonzero(file_of_each == file)
            numbers_in_file = numbers[places] - (ends[file] - self.lengths[file])
            for place, record in zip(places, reader.read(self.paths()[file], numbers_in_file.tolist()), strict=True):
                records[place] = record
        return records

    def read_all(self, reader: "Reader") -> Iterator[bytes]:
        """Yields all records in order."""
        total = sum(self.lengths)
        for start in range(0, total, READ_TOGETHER):
            yield from self.read(np.arange(start, min(start + READ_TOGETHER, total)), reader)


def shards_of(folder: str | Path, card: dict, part: str) -> Shards:
    """Returns the files of a data set's `train` rows, `validation` rows or `documents`, given its entry in the card."""
    kind, split = ("documents", "train") if part == "documents" else ("rows", part)
    lengths = card["shards"]["documents"] if part == "documents" else card["shards"]["rows"][split]
    return Shards(f"{folder}/{kind}/{card['folder']}/{VERSION}/{kind}-{split}.array_record", tuple(lengths))


def has_texts(card: dict) -> bool:
    """Returns whether the original texts of a data set are stored, given its entry in the card."""
    return bool(card["shards"].get("texts"))


def text_shards_of(folder: str | Path, card: dict, part: str) -> Shards:
    """Returns the files of the original texts of a part: its documents, or the queries of its rows.

    Their records have the same numbers as those of the part.
    """
    lengths = card["shards"]["texts"].get(part, [])
    return Shards(f"{folder}/texts/{card['folder']}/{VERSION}/texts-{part}.array_record", tuple(lengths))


def files_of(card: dict, texts: bool) -> dict[str, list[str]]:
    """Returns the files of a data set by part, relative to the corpus folder, with or without its original texts."""
    parts = ("documents", "train", "validation")
    found = {part: shards_of("", card, part).paths() for part in parts}
    if texts and has_texts(card):
        found |= {f"texts of {part}": text_shards_of("", card, part).paths() for part in parts}
    return {part: [path.lstrip("/") for path in paths] for part, paths in found.items()}


class Reader:
    """Reads records by number, and keeps a limited number of files open. It is safe to use in several threads."""

    def __init__(self, open_files: int = OPEN_FILES):
        self._limit, self._lock = open_files, threading.Lock()
        self._open: OrderedDict[str, Any] = OrderedDict()

    def read(self, path: str, numbers: list[int]) -> list[bytes]:
        """Returns the records with these numbers in a file.

        Raises:
            UserError: the file is missing, damaged or truncated.
            Restart: it temporarily cannot be read.
        """
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
        if len(self._open) > self._limit:
            self._open.popitem(last=False)[1].close()
        return self._open[path]


class RowVectors(Protocol):
    """A teacher's vectors for the texts of a corpus, such as `TeacherVectors`."""

    card: Any  # description of the vectors

    def read(self, entry: dict, part: str, numbers: np.ndarray) -> np.ndarray:
        """Returns the vectors [I, E] of the texts with these numbers in a part of the data set `entry`."""


class StoredDataset:
    """Rows of a source and kind in a corpus, with the interface of `dataset.Dataset`. Nothing is read until needed.

    Args:
        card: entry of the data set in corpus.json.
        split: train or validation.
        vectors: a teacher's vectors of the rows, if any.
    """

    def __init__(self, folder: str | Path, card: dict, split: str, reader: Reader, vectors: RowVectors | None = None):
        self.name, self.kind = card["name"], card["kind"]
        self.max_negatives = card["max_negatives"][split]
        self.languages: dict[str, int] = card["languages"] if split == "train" else {}
        self._rows, self._documents = (shards_of(folder, card, part) for part in (split, "documents"))
        self._reader, self._vectors, self._folder, self._card, self._split = reader, vectors, folder, card, split

    @property
    def is_indexed(self) -> bool:
        return has_index(self._folder, self._card)

    @property
    def is_scored(self) -> bool:
        return bool(self._card.get("scored", {}).get(self._split))

    def __len__(self) -> int:
        return sum(self._rows.lengths)

    def fingerprint(self) -> str:
        """Returns the hash of all records from `f2jax prepare`, and of the vectors' origin, without reading them."""
        teacher = f", vectors {self._vectors.card}" if self._vectors else ""
        return self._card["content"] + teacher

    @cached_property
    def _index(self) -> CorpusIndex | None:
        return CorpusIndex(self._folder, self._card, self._split) if self.is_indexed else None

    def rows(self, indices: Sequence[int], columns: Sequence[int], negatives: int) -> RowTexts:
        """Does what `dataset.Dataset.rows` does; without an index, it reads each document of the rows once.

        Raises:
            UserError: a file is missing, damaged or truncated.
        """
        number_b = np.asarray(indices, np.int64)
        if self._index:
            row_b = self._index.rows[number_b]
            document_bi, score_bi = self._index.documents_of(row_b)
            place_bi = chosen_places(document_bi, columns, negatives)
            document_bi = np.take_along_axis(document_bi, place_bi, axis=1)
            key_bi, length_bi, id_bi = self._index.texts(row_b, document_bi)
            tokens = partial(self._tokens, number_b, document_bi, key_bi, length_bi)
            texts = RowTexts(key_bi, length_bi, id_bi, row_b["label"], tokens)
        else:
            records = self._rows.read(number_b, self._reader)
            raw = [parse_row(raw) for raw in records]
            document_bi = padded([documents for _, documents, _ in raw])
            score_bi = padded_scores(list(map(parse_scores, records)), document_bi.shape[1])
            place_bi = chosen_places(document_bi, columns, negatives)
            document_bi = np.take_along_axis(document_bi, place_bi, axis=1)
            texts = self._read_all(raw, document_bi)
        vectors = partial(self._teacher, number_b, document_bi) if self._vectors else None
        score_bk = None if score_bi is None else np.take_along_axis(score_bi, place_bi, axis=1)
        return replace(texts, vectors=vectors, score_bk=score_bk)

    def _read_all(self, raw: Sequence[tuple[np.ndarray, np.ndarray, int]], document_bi: np.ndarray) -> RowTexts:
        """Returns `RowTexts` for rows with these records and documents."""
        numbers = np.unique(document_bi[document_bi >= 0])
        found = [parse_document(raw) for raw in self._documents.read(numbers, self._reader)]
        rows = []
        for (query, _, label), documents in zip(raw, document_bi, strict=True):
            own = [found[place] for place in np.searchsorted(numbers, documents[documents >= 0])]
            ids, tokens = [number for number, _ in own], [tokens for _, tokens in own]
            first = (tokens[0], ids[0]) if own else (None, -1)
            rows.append(Row(query, first[0], tokens[1:], first[1], ids[1:], label))
        return texts_of(rows)

    def _tokens(
        self,
        number_b: np.ndarray,
        document_bi: np.ndarray,
        key_bi: np.ndarray,
        length_bi: np.ndarray,
        b_s: np.ndarray,
        i_s: np.ndarray,
    ) -> list[np.ndarray]:
        """Returns the tokens of texts; see `RowTexts.tokens`.

        Raises:
            UserError: they do not match the index.
        """
        is_query_s = i_s == 0
        queries = iter(self._rows.read(number_b[b_s[is_query_s]], self._reader))
        documents = iter(self._documents.read(document_bi[b_s[~is_query_s], i_s[~is_query_s] - 1], self._reader))
        found = []
        for is_query, length, key in zip(
            is_query_s.tolist(), length_bi[b_s, i_s].tolist(), key_bi[b_s, i_s].tolist(), strict=True
        ):
            raw = next(queries if is_query else documents)
            tokens = raw[-4 * length :]  # the last field, since a record has them in alphabetical order
            if text_key(tokens) != key:
                path = index_folder(self._folder, self._card)
                raise UserError(f"The index of {self.name} belongs to other texts; {remake(path)}.")
            found.append(np.frombuffer(tokens, np.int32))
        return found

    def _teacher(self, number_b: np.ndarray, document_bi: np.ndarray, b_s: np.ndarray, i_s: np.ndarray) -> np.ndarray:
        """Returns the vectors of texts; see `RowTexts.vectors`."""
        assert self._vectors is not None
        is_query_s = i_s == 0
        query_se = self._vectors.read(self._card, self._split, number_b[b_s[is_query_s]])
        numbers, place_s = np.unique(document_bi[b_s[~is_query_s], i_s[~is_query_s] - 1], return_inverse=True)
        document_se = self._vectors.read(self._card, "documents", numbers)[place_s]
        vectors_se = np.empty((len(b_s), query_se.shape[1]), query_se.dtype)
        vectors_se[is_query_s], vectors_se[~is_query_s] = query_se, document_se
        return vectors_se


def chosen_places(document_bi: np.ndarray, columns: Sequence[int], negatives: int) -> np.ndarray:
    """Where the documents to take of each row stand among all of them: the positive, then the first `negatives` of
    `columns`. Where a row has fewer, the rest are places of no document.
    """
    places = np.append(0, np.asarray(columns, np.int64) + 1)
    places = places[places < document_bi.shape[1]]
    return places[np.argsort(document_bi[:, places] < 0, axis=1, kind="stable")[:, : 1 + negatives]]


def parse_row(raw: bytes) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns query tokens, document numbers and label of a record in `rows/`, a tf.train.Example."""
    feature = _features(raw)
    query = np.frombuffer(feature["query"].bytes_list.value[0], np.int32)
    documents = np.frombuffer(feature["documents"].bytes_list.value[0], np.int64)
    return query, documents, feature["label"].int64_list.value[0]


def parse_scores(raw: bytes) -> np.ndarray:
    """Returns the scores of the documents of a record in `rows/`, float32; empty if there are none."""
    return np.array(_features(raw)[SCORES].float_list.value, np.float32)


def parse_document(raw: bytes) -> tuple[int, np.ndarray]:
    """Returns id and tokens of a record in `documents/`."""
    feature = _features(raw)
    return feature["id"].int64_list.value[0], np.frombuffer(feature["tokens"].bytes_list.value[0], np.int32)


def row_details(raw: bytes) -> tuple[int, str, str]:
    """Returns the query's id, its language and that of the documents of a record in `rows/`."""
    feature = _features(raw)
    languages = (feature[name].bytes_list.value[0].decode("utf-8") for name in ("language", "positive_language"))
    return feature["id"].int64_list.value[0], *languages


def parse_text(raw: bytes) -> str:
    """Returns the text of a record in `texts/`."""
    return _features(raw)["text"].bytes_list.value[0].decode("utf-8", "surrogatepass")


def _features(raw: bytes):
    return tf_example_pb2.Example.FromString(raw).features.feature


ALIKE = ("curate", "instructions", "validation_share", "seed")  # options that all corpora of a run must share


def check_alike(corpora: Sequence["PreparedCorpus"]) -> None:
    """Raises UserError if corpora cannot be used in the same run.

    They need different names of data sets, the same tokenizer and the same `ALIKE` options, so that a query that is
    held out in one corpus is held out in all.
    """
    first, owners = corpora[0], dict[str, Path]()
    for corpus in corpora:
        different = [name for name in ALIKE if corpus.card["options"][name] != first.card["options"][name]]
        different += ["tokenizer"] * (corpus.card["tokenizer"] != first.card["tokenizer"])
        if different:
            raise UserError(
                f"{first.folder} and {corpus.folder} were prepared with different options ({', '.join(different)}); "
                "prepare one of them again, like the other."
            )
        for card in corpus.card["datasets"]:
            if (owner := owners.setdefault(card["name"], corpus.folder)) != corpus.folder:
                raise UserError(
                    f"{owner} and {corpus.folder} both have a data set {card['name']}; give one of them another source."
                )


class PreparedCorpus:
    """A corpus that `f2jax prepare` wrote, in a local folder or copied to gs://.

    From gs://, the card and the tokenizer are copied to this host at once, and the rest by `fetch`.

    Attributes:
        folder: the local folder.

    Raises:
        UserError: the folder does not contain a complete corpus, or has one of another version.
    """

    def __init__(self, folder: str | Path):
        self.copy = LocalCopy(folder)
        self.folder = self.copy.folder
        path = self.folder / CARD
        if not self.copy.exists(CARD):
            here = f"run `f2jax prepare --output {folder}` to the end first"
            fix = "copy there what f2jax prepare wrote" if self.copy.is_remote else here
            raise UserError(f"{folder} holds no {CARD}; {fix}.")
        if self.copy.is_remote:
            self.copy.fetch([CARD, *self.copy.names(TOKENIZER)])
        self.card = files.read_json_object(path)
        if (version := self.card.get("version")) != VERSION:
            raise UserError(f"{folder} has the corpus version {version}, but this is {VERSION}; prepare it again.")
        options = {"max_length": int, "instructions": dict}
        files.check_object(self.card, path, {"options": dict, "datasets": list[dict], "tokenizer": str})
        files.check_object(self.card["options"], f"{path}, options,", options | dict.fromkeys(ALIKE, object))
        self.tokenizer_folder = self.folder / TOKENIZER
        self._reader = Reader()

    def fetch(self, names: Collection[str] | None = None, texts: bool = False) -> None:
        """Copies missing data sets of a corpus on gs:// to this host.

        Args:
            names: names of the data sets; None: all.
            texts: whether their original texts are needed too.

        Raises:
            UserError: a file is missing or does not match the card, or the disk is full.
            Restart: a file temporarily cannot be copied.
        """
        if not self.copy.is_remote:
            return
        needed, sizes = list[str](), dict[str, int]()
        for card in self.card["datasets"]:
            if names is not None and card["name"] not in names:
                continue
            for part, found in files_of(card, texts).items():
                sizes |= dict(zip(found, card["bytes"][part], strict=True))
            needed += self.copy.names(f"{INDEX}/{card['folder']}/{card['content']}")
        self.copy.fetch([*sizes, *needed], sizes)

    def check(self, max_length: int, use_instructions: bool) -> None:
        """Raises UserError if a run with these options cannot use this corpus."""
        options = self.card["options"]
        if options["max_length"] > max_length:
            raise UserError(
                f"{self.folder} has texts of up to {options['max_length']} tokens, above data.max_length={max_length}; "
                "raise it, or prepare with a lower --max-length."
            )
        if options["instructions"]["enabled"] != use_instructions:
            have, wanted = ("with", "--no-instructions") if not use_instructions else ("without", "--instructions")
            raise UserError(
                f"{self.folder} was prepared {have} instructions and data.use_instructions={use_instructions}; "
                f"change that field, or prepare with {wanted}."
            )

    def splits(self, vectors: RowVectors | None = None) -> list[tuple[StoredDataset, StoredDataset]]:
        """Returns training and held-out rows of each data set, with a teacher's vectors if given."""
        return [
            (
                StoredDataset(self.folder, card, "train", self._reader, vectors),
                StoredDataset(self.folder, card, "validation", self._reader, vectors),
            )
            for card in self.card["datasets"]
        ]
