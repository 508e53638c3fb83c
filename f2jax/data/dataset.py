"""A tokenized data set in memory with random access, in which each distinct text is stored once."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from tqdm import tqdm

from f2jax.data.instructions import Instructions
from f2jax.data.record import Kind, Record, in_share, stable_id
from f2jax.data.tokenizer import Tokenizer
from f2jax.errors import UserError

K = TypeVar("K", bound=str)
TOKENIZED_TOGETHER = 10_000  # texts; the results of a backend take many times the memory of the ids


@dataclass(frozen=True)
class RowTexts:
    """Some rows of a data set: what is needed to decide how to pack them, and functions that read the rest.

    Letters: b rows; i texts of a row (query, positive, negatives); k documents of a row; s texts, each given by its row
    b and its position i; e dimensions.
    """

    key_bi: np.ndarray  # uint64; equal for texts with the same tokens
    length_bi: np.ndarray  # int64, in tokens; 0: the row has no such text
    id_bi: np.ndarray  # int64, of documents
    label_b: np.ndarray  # int64 stable id of the label; -1: none
    tokens: Callable[[np.ndarray, np.ndarray], list[np.ndarray]]  # (b_s, i_s) → int32 ids of each text
    vectors: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None  # (b_s, i_s) → cached teacher vectors [s, e]
    score_bk: np.ndarray | None = None  # a reranker's float32 scores; NaN: none for a document; None: none at all

    def distinct(self) -> np.ndarray:
        """Returns the lengths of the distinct texts."""
        present_bi = self.length_bi > 0
        first_u = np.unique(self.key_bi[present_bi], return_index=True)[1]
        return self.length_bi[present_bi][first_u]


@dataclass(frozen=True, slots=True)
class Row:
    """A row with its tokens, as int32 ids that include the end token."""

    query: np.ndarray
    positive: np.ndarray | None  # None: a row of the kind `texts`
    negatives: list[np.ndarray]
    positive_id: int  # -1: none
    negative_ids: list[int]
    label_id: int = -1  # stable id of the label; -1: none
    vectors: np.ndarray | None = None  # cached teacher vectors of the query, then of the documents

    @property
    def texts(self) -> list[np.ndarray]:
        """The query, the positive, then the negatives."""
        return [self.query, *([] if self.positive is None else [self.positive]), *self.negatives]


def text_key(tokens: bytes) -> int:
    """Returns a 64-bit hash of a text; the probability of a collision within a batch is about 10⁻¹²."""
    return int.from_bytes(hashlib.blake2b(tokens, digest_size=8).digest(), "little")


def texts_of(rows: Sequence[Row]) -> RowTexts:
    """Returns `RowTexts` for rows whose tokens are in memory."""
    shape = len(rows), max(len(row.texts) for row in rows)
    key_bi, length_bi, id_bi = np.zeros(shape, np.uint64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for b, row in enumerate(rows):
        texts = row.texts
        key_bi[b, : len(texts)] = [text_key(ids.tobytes()) for ids in texts]
        length_bi[b, : len(texts)] = [len(ids) for ids in texts]
        id_bi[b, 1 : len(texts)] = [row.positive_id, *row.negative_ids][: len(texts) - 1]

    def vectors(b_s: np.ndarray, i_s: np.ndarray) -> np.ndarray:
        return np.array([rows[b].vectors[i] for b, i in zip(b_s, i_s, strict=True)])

    return RowTexts(
        key_bi,
        length_bi,
        id_bi,
        np.array([row.label_id for row in rows], np.int64),
        lambda b_s, i_s: [rows[b].texts[i] for b, i in zip(b_s, i_s, strict=True)],
        vectors if rows[0].vectors is not None else None,
    )


def padded_scores(scores: Sequence[Any], width: int) -> np.ndarray | None:
    """Returns the scores of rows, float32 [b, k], padded with NaN; None if no row has scores."""
    if not any(map(len, scores)):
        return None
    score_bk = np.full((len(scores), width), np.nan, np.float32)
    for b, found in enumerate(scores):
        score_bk[b, : len(found)] = found
    return score_bk


class AnyDataset(Protocol):
    """Tokenized rows of a source and kind, in memory (`Dataset`) or in a corpus (`corpus.StoredDataset`)."""

    name: str
    kind: Kind
    max_negatives: int
    languages: dict[str, int]  # training rows by language

    @property
    def is_indexed(self) -> bool:
        """Whether lengths and keys of texts are known without reading their tokens."""

    @property
    def is_scored(self) -> bool:
        """Whether rows have a reranker's scores."""

    def __len__(self) -> int: ...

    def fingerprint(self) -> str: ...

    def rows(self, indices: Sequence[int], columns: Sequence[int], negatives: int) -> RowTexts: ...


class Dataset:
    """Tokenized rows of one source and kind."""

    is_indexed = True

    def __init__(self, name: str, kind: Kind, texts: "TokenizedTexts", rows: list[tuple]):
        self.name, self.kind = name, kind
        self._texts, self._rows = texts, rows
        self.max_negatives = max((len(row[2]) for row in rows), default=0)
        self.languages = dict(Counter(row[4] for row in rows))
        self.is_scored = any(row[5] for row in rows)

    def __len__(self) -> int:
        return len(self._rows)

    def fingerprint(self) -> str:
        """Returns a hash of the rows in order (tokens, documents, labels) and of their languages."""
        digest = hashlib.blake2b(json.dumps(self.languages).encode(), digest_size=16)
        numbers = (
            number
            for query, positive, negatives, label, *_ in self._rows
            for number in (query, positive, len(negatives), *negatives, label)
        )
        scores = [np.array([score for row in self._rows for score in (len(row[5]), *row[5])])] if self.is_scored else []
        for array in (*self._texts.arrays(), np.fromiter(numbers, np.int64), *scores):
            digest.update(array.size.to_bytes(8, "little"))
            digest.update(array.tobytes())
        return digest.hexdigest()

    def rows(self, indices: Sequence[int], columns: Sequence[int], negatives: int) -> RowTexts:
        """Returns the rows with these numbers.

        Args:
            columns: an order of all columns of negatives.
            negatives: number of negatives to take from each row, in that order, if the row has as many.
        """
        rows = [self._rows[i] for i in indices]
        number_bi, scores = np.full((len(rows), 2 + negatives), -1), list[list[float]]()
        for b, (query, positive, others, *_, of_row, _) in enumerate(rows):
            chosen = [c for c in columns if c < len(others)][:negatives]
            number_bi[b, : 2 + len(chosen)] = query, positive, *(others[c] for c in chosen)
            scores.append([of_row[0], *(of_row[1 + c] for c in chosen)] if of_row else [])
        texts = self._texts.of(number_bi, np.array([row[3] for row in rows], np.int64))
        return replace(texts, score_bk=padded_scores(scores, 1 + negatives))

    def split(self, share: float, seed: int) -> tuple["Dataset", "Dataset"]:
        """Returns training and held-out rows; a hash of the seed and `Record.split_id` holds out a `share` of them."""
        held = np.array([is_held_out(split_id, share, seed) for *_, split_id in self._rows], bool)
        return self._take(np.flatnonzero(~held)), self._take(np.flatnonzero(held))

    def _take(self, indices: np.ndarray) -> "Dataset":
        return Dataset(self.name, self.kind, self._texts, [self._rows[i] for i in indices])


class TokenizedTexts:
    """Distinct texts: their tokens in a flat array, and the stable id of each text without its instruction."""

    def __init__(self):
        self.index: dict[str, int] = {}
        self.ids: list[int] = []
        self._flat = np.zeros(0, np.int32)
        self._ends = np.zeros(1, np.int64)
        self._ids = np.zeros(0, np.int64)
        self._keys = np.zeros(0, np.uint64)  # see `text_key`

    def add(self, text: str, original: str) -> int:
        if text not in self.index:
            self.index[text] = len(self.ids)
            self.ids.append(stable_id(original))
        return self.index[text]

    def tokenize(self, tokenizer: Tokenizer, max_length: int) -> None:
        texts, self.index = list(self.index), {}  # the strings are not needed again
        flat, lengths = [self._flat], []
        with tqdm(total=len(texts), desc="tokenizing", unit="text", leave=False, delay=2) as bar:
            for start in range(0, len(texts), TOKENIZED_TOGETHER):
                encoded = tokenizer.encode(texts[start : start + TOKENIZED_TOGETHER], max_length)
                flat.append(np.concatenate(encoded))
                lengths += [len(ids) for ids in encoded]
                bar.update(len(encoded))
        self._flat = np.concatenate(flat)
        self._ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._ids = np.array(self.ids, np.int64)
        self._keys = np.array([text_key(self.tokens(number).tobytes()) for number in range(len(texts))], np.uint64)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the tokens of all texts, the end of each text, and the ids."""
        return self._flat, self._ends, self._ids

    def tokens(self, number: int) -> np.ndarray:
        return self._flat[self._ends[number] : self._ends[number + 1]]

    def of(self, number_bi: np.ndarray, label_b: np.ndarray) -> RowTexts:
        """Returns the rows with the texts of these numbers; -1 stands for no text."""
        return RowTexts(
            self._keys[number_bi],
            np.where(number_bi >= 0, self._ends[number_bi + 1] - self._ends[number_bi], 0),
            self._ids[number_bi],
            label_b,
            lambda b_s, i_s: [self.tokens(number) for number in number_bi[b_s, i_s].tolist()],
        )


def is_held_out(split_id: int, share: float, seed: int) -> bool:
    """Returns whether a run with this share and seed holds out the rows with this `Record.split_id`."""
    return in_share(split_id, share, "held out", seed)


def build_datasets(
    records: Iterable[Record], tokenizer: Tokenizer, max_length: int, instructions: Instructions
) -> list[Dataset]:
    """Tokenizes records into a `Dataset` for each source and kind, in the order of their first records.

    Raises:
        UserError: there are no records.
    """
    groups: dict[tuple[str, Kind], tuple[TokenizedTexts, list]] = {}
    for record in records:
        texts, rows = groups.setdefault((record.source, record.kind), (TokenizedTexts(), []))
        query = texts.add(instructions.query(record), record.query)
        documents = [texts.add(instructions.document(text, record), text) for text in record.documents]
        positive, negatives = (documents[0], tuple(documents[1:])) if documents else (-1, ())
        row = (query, positive, negatives, label_id(record), record.language, record.scores, record.split_id)
        rows.append(row)
    if not groups:
        raise UserError("The data sources hold no rows; check data.sources.")
    for texts, _ in groups.values():
        texts.tokenize(tokenizer, max_length)
    names = dataset_names(groups)
    return [Dataset(names[key], key[1], texts, rows) for key, (texts, rows) in groups.items()]


def label_id(record: Record) -> int:
    """Returns the stable id of a record's label, or -1 if it has none."""
    return -1 if record.label is None else stable_id(record.label)


def dataset_names(groups: Iterable[tuple[str, K]]) -> dict[tuple[str, K], str]:
    """Returns a name for each (source, kind): the source, followed by the kind if the source has several.

    >>> dataset_names([("a", "retrieval"), ("b", "retrieval"), ("b", "clustering")])
    {('a', 'retrieval'): 'a', ('b', 'retrieval'): 'b-retrieval', ('b', 'clustering'): 'b-clustering'}
    """
    groups = list(groups)
    kinds = Counter(source for source, _ in groups)
    return {(source, kind): source if kinds[source] == 1 else f"{source}-{kind}" for source, kind in groups}
