"""The index of a prepared corpus: the length and a key of each text, and the texts of each row.

With it, every process of a run can decide how to pack a batch while it reads only the tokens of its own rows. `f2jax
prepare` writes it after the records. It takes 20 bytes per document, 32 per row, and 4 per document of a row, or 8 with
scores. A run maps it into memory, and reads only what its batches need.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from f2jax.errors import UserError

INDEX = "index"
SPLITS = ("train", "validation")
INDEXED_DOCUMENT = np.dtype([("key", "<u8"), ("id", "<i8"), ("length", "<i4")])
INDEXED_ROW = np.dtype([("key", "<u8"), ("label", "<i8"), ("start", "<i8"), ("length", "<i4"), ("count", "<i4")])
NUMBER = np.dtype("<u4")  # number of a document
SCORE = np.dtype("<f4")  # score of a reranker; NaN: none


class CorpusIndex:
    """The index of a split of a data set.

    Args:
        entry: entry of the data set in corpus.json.

    Attributes:
        documents: an `INDEXED_DOCUMENT` for each document.
        rows: an `INDEXED_ROW` for each row, with its query, its label, and the place of its documents in `numbers`.
        numbers: numbers of the documents of all rows; in each row, the positive comes first.
        scores: a `SCORE` for each of `numbers`, or None if the data set has no scores.

    Raises:
        UserError: it is damaged.
    """

    def __init__(self, folder: str | Path, entry: dict, split: str):
        path = index_folder(folder, entry)
        self.documents = _opened(path / "documents.npy", INDEXED_DOCUMENT)
        self.rows = _opened(path / f"{split}.npy", INDEXED_ROW)
        self.numbers = _opened(path / f"{split}-documents.npy", NUMBER)
        self.scores = _opened(path / f"{split}-scores.npy", SCORE) if has_scores(entry) else None
        counts = sum(entry["shards"]["documents"]), sum(entry["shards"]["rows"][split])
        numbers = int(self.rows[-1:]["start"].sum() + self.rows[-1:]["count"].sum())  # from the last row, if any
        scores = numbers if self.scores is None else len(self.scores)
        if (len(self.documents), len(self.rows), len(self.numbers), scores) != (*counts, numbers, numbers):
            raise UserError(f"{path} does not have all texts of its data set; {remake(path)}.")

    def documents_of(self, row_b: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the documents [b, i] of rows, the positive first, and their scores, padded with -1 and NaN."""
        column_i = np.arange(row_b["count"].max(initial=1))
        present_bi = column_i < row_b["count"][:, None]
        place_i = (row_b["start"][:, None] + column_i)[present_bi]
        document_bi = np.full(present_bi.shape, -1, np.int64)
        document_bi[present_bi] = self.numbers[place_i]
        if self.scores is None:
            return document_bi, None
        score_bi = np.full(present_bi.shape, np.nan, np.float32)
        score_bi[present_bi] = self.scores[place_i]
        return document_bi, score_bi

    def texts(self, row_b: np.ndarray, document_bi: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns keys, lengths and ids of the texts of rows with these documents, as in `dataset.RowTexts`."""
        found_bi = np.zeros(document_bi.shape, INDEXED_DOCUMENT)
        found_bi[document_bi >= 0] = self.documents[document_bi[document_bi >= 0]]
        key_bi, length_bi = (np.column_stack([row_b[name], found_bi[name]]) for name in ("key", "length"))
        id_bi = np.column_stack([np.zeros(len(row_b), np.int64), found_bi["id"]])
        return key_bi, length_bi.astype(np.int64), id_bi


def padded(numbers: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the documents [b, i] of rows, padded with -1 to at least one."""
    count_b = np.array([len(found) for found in numbers])
    document_bi = np.full((len(numbers), count_b.max(initial=1)), -1, np.int64)
    document_bi[np.arange(document_bi.shape[1]) < count_b[:, None]] = np.concatenate(numbers)
    return document_bi


def _opened(path: Path, dtype: np.dtype) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is missing or damaged; {remake(path.parent)}.") from error
    if array.dtype != dtype or array.ndim != 1:
        raise UserError(f"{path} is not an index; {remake(path.parent)}.")
    return array


def index_folder(folder: str | Path, entry: dict) -> Path:
    """Returns the folder of a data set's index, whose name contains the hash of the content."""
    return Path(folder) / INDEX / entry["folder"] / entry["content"]


def has_scores(entry: dict) -> bool:
    """Returns whether rows of a data set have a reranker's scores."""
    return any(entry.get("scored", {}).values())  # missing in corpora of earlier versions


def has_index(folder: str | Path, entry: dict) -> bool:
    """Returns whether a data set has an index."""
    return index_folder(folder, entry).exists()


def remake(path: Path) -> str:
    """Returns what to do about a damaged index: `f2jax prepare` does not replace an existing one."""
    return f"delete {path} and run `f2jax prepare --add --output CORPUS`, which writes it again"
