"""A tokenized data set in memory, with random access: each distinct text is stored once."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from f2jax.data.instructions import add_instruction
from f2jax.data.record import Record, in_share, stable_id
from f2jax.data.tokenizer import Tokenizer
from f2jax.errors import UserError


@dataclass(frozen=True, slots=True)
class Row:
    """One row as token ids (int32 arrays, end token included) and the ids of its documents."""

    query: np.ndarray
    positive: np.ndarray
    negatives: list[np.ndarray]
    positive_id: int
    negative_ids: list[int]
    label_id: int  # -1: none


@dataclass(frozen=True)
class Instructions:
    """Which texts carry a task's instruction (recipe 2.1): every query, and a share of symmetric tasks' documents."""

    enabled: bool = True
    by_name: dict[str, str] | None = None  # source or kind → task sentence
    symmetric_share: float = 0.3
    symmetric_sources: tuple[str, ...] = ()
    seed: int = 0

    def task(self, record: Record) -> str | None:
        names = self.by_name or {}
        return record.instruction or names.get(record.source) or names.get(record.kind)

    def query(self, record: Record) -> str:
        return add_instruction(record.query, self.task(record)) if self.enabled else record.query

    def document(self, text: str, record: Record) -> str:
        symmetric = record.symmetric or record.kind == "clustering" or record.source in self.symmetric_sources
        if self.enabled and symmetric and in_share(stable_id(text), self.symmetric_share, "instruction", self.seed):
            return add_instruction(text, self.task(record))
        return text


class Dataset:
    """Rows of one source and kind. `dataset.row(i)` costs no tokenization."""

    def __init__(self, name: str, kind: str, texts: "_Texts", rows: list[tuple], labels: np.ndarray):
        self.name, self.kind = name, kind
        self._texts, self._rows, self._labels = texts, rows, labels
        self.max_negatives = max((len(negatives) for _, _, negatives in rows), default=0)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, i: int) -> Row:
        query, positive, negatives = self._rows[i]
        texts = self._texts
        return Row(
            texts.tokens(query),
            texts.tokens(positive),
            [texts.tokens(n) for n in negatives],
            texts.ids[positive],
            [texts.ids[n] for n in negatives],
            int(self._labels[i]),
        )

    def split(self, share: float, seed: int) -> tuple["Dataset", "Dataset"]:
        """(training, held-out) rows: a `share` of the distinct queries, by a hash of seed and query, is held out."""
        ids = self._texts.ids
        held = np.array([in_share(ids[query], share, "held out", seed) for query, _, _ in self._rows], bool)
        return self._take(np.flatnonzero(~held)), self._take(np.flatnonzero(held))

    def _take(self, indices: np.ndarray) -> "Dataset":
        rows = [self._rows[i] for i in indices]
        return Dataset(self.name, self.kind, self._texts, rows, self._labels[indices])


class _Texts:
    """Distinct texts: tokens in one flat array, and the stable id of the text before its instruction."""

    def __init__(self):
        self.index: dict[str, int] = {}
        self.ids: list[int] = []
        self._flat = np.zeros(0, np.int32)
        self._ends = np.zeros(1, np.int64)

    def add(self, text: str, original: str) -> int:
        if text not in self.index:
            self.index[text] = len(self.ids)
            self.ids.append(stable_id(original))
        return self.index[text]

    def tokenize(self, tokenizer: Tokenizer, max_length: int) -> None:
        encoded = tokenizer.encode(list(self.index), max_length)
        self.index = {}  # the strings are not needed again
        self._flat = np.concatenate(encoded) if encoded else self._flat
        self._ends = np.concatenate([[0], np.cumsum([len(ids) for ids in encoded], dtype=np.int64)])

    def tokens(self, number: int) -> np.ndarray:
        return self._flat[self._ends[number] : self._ends[number + 1]]


def build(
    records: Iterable[Record], tokenizer: Tokenizer, max_length: int, instructions: Instructions
) -> list[Dataset]:
    """Tokenize records into one `Dataset` for each (source, kind), in the order in which they first come.

    Raises:
        UserError: there are no records.
    """
    groups: dict[tuple[str, str], tuple[_Texts, list, list, dict]] = {}
    for record in records:
        texts, rows, labels, label_ids = groups.setdefault((record.source, record.kind), (_Texts(), [], [], {}))
        query = texts.add(instructions.query(record), record.query)
        positive = texts.add(instructions.document(record.positive, record), record.positive)
        negatives = tuple(texts.add(instructions.document(text, record), text) for text in record.negatives)
        rows.append((query, positive, negatives))
        labels.append(-1 if record.label is None else label_ids.setdefault(record.label, len(label_ids)))
    if not groups:
        raise UserError("The data sources hold no rows; check data.sources.")
    kinds = Counter(source for source, _ in groups)
    datasets = []
    for (source, kind), (texts, rows, labels, _) in groups.items():
        texts.tokenize(tokenizer, max_length)
        name = source if kinds[source] == 1 else f"{source}-{kind}"
        datasets.append(Dataset(name, kind, texts, rows, np.array(labels, np.int64)))
    return datasets
