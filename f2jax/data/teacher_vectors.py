"""A teacher's cached vectors for a prepared corpus: one for each document and one for the query of each row.

`f2jax cache-teacher` writes them in pieces: ArrayRecord files in which each record is the bytes of a vector.
"""

import io
import json
import zipfile
from collections.abc import Collection
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

import ml_dtypes
import numpy as np

from f2jax import files
from f2jax.data.corpus import PreparedCorpus, Reader, Shards, parse_document, parse_row, shards_of
from f2jax.data.local_copy import LocalCopy
from f2jax.errors import UserError

CARD = "vectors.json"
PARTS = ("documents", "train", "validation")  # documents, and the queries of both splits
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
PIECE = 65_536  # vectors in a file
COMPONENTS = "components.npz"  # mean and axes of the PCA that reduced the vectors


@dataclass(frozen=True)
class TeacherVectorsInfo:
    """A description of the vectors in a folder."""

    teacher: str  # hash of the model, or of the origin of the vectors
    width: int  # number of dimensions
    dtype: str  # a name in DTYPES
    unit: bool = False  # whether the teacher's vectors were normalized, so that their lengths have no meaning
    centered: bool = False  # whether the mean over all distinct texts was subtracted
    reduced: str = ""  # how dimensions were reduced: `first`, `pca`, `like` the PCA of other vectors, or not at all
    explained: float = 1.0  # share of the variance that the PCA kept
    whitened: float = 0.0  # exponent of whitening
    pivot: str = ""  # language whose texts passed their vectors on to their translations
    pivoted: int = 0  # number of distinct texts that got such a vector

    def describe(self) -> str:
        """Returns a description of how the vectors were made."""
        parts = ["made of unit ones" if self.unit else "made of raw ones"]
        parts += ["less their mean"] if self.centered else []
        parts += [f"principal components with {self.explained:.1%} of the variance"] if self.reduced == "pca" else []
        parts += ["components of other vectors"] if self.reduced == "like" else []
        parts += [f"whitened by {self.whitened:g}"] if self.whitened else []
        parts += [f"{self.pivoted:,} texts with the vector of their side in {self.pivot}"] if self.pivot else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Piece:
    """Some texts of a corpus, and the file with their vectors."""

    path: str
    entry: dict  # entry of the data set in corpus.json
    source: Shards  # shards of the corpus
    part: str  # a name in PARTS
    start: int  # number of the first text within the part
    stop: int
    first: int  # number of the first text within the corpus

    def tokens(self, reader: Reader, numbers: np.ndarray | None = None) -> list[np.ndarray]:
        """Returns the token ids of all texts, or of those with these numbers; raises UserError if they are damaged."""
        numbers = np.arange(self.stop - self.start) if numbers is None else numbers
        raw = self.source.read(numbers + self.start, reader)
        return [parse_document(record)[1] if self.part == "documents" else parse_row(record)[0] for record in raw]

    def exists(self) -> bool:
        return Path(self.path).exists()

    def write(self, vectors: np.ndarray, dtype: str) -> None:
        """Writes the file atomically."""
        from array_record.python.array_record_module import ArrayRecordWriter

        with files.atomic_path(self.path) as part:
            # Vectors are read in random order, and do not compress.
            writer = ArrayRecordWriter(str(part), "group_size:1,uncompressed")
            for vector in vectors.astype(DTYPES[dtype]):
                writer.write(vector.tobytes())
            writer.close()


def write_components(folder: str | Path, mean_e: np.ndarray, axes_ee: np.ndarray) -> None:
    """Keeps the mean and the axes that turn a teacher's vectors into those of the folder."""
    buffer = io.BytesIO()
    np.savez(buffer, mean_e=mean_e, axes_ee=axes_ee)
    files.write_atomically(files.join(folder, COMPONENTS), buffer.getvalue())


def read_components(folder: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns what `write_components` kept, mean [e] and axes [e, width].

    Raises:
        UserError: the folder has none, or the file is damaged.
    """
    path = files.join(folder, COMPONENTS)
    if not files.exists(path):
        raise UserError(f"{path} is missing; f2jax cache-teacher writes it with --reduce pca.")
    try:
        with np.load(io.BytesIO(files.read_bytes(path)), allow_pickle=False) as kept:
            return kept["mean_e"], kept["axes_ee"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); write these vectors again.") from error


def pieces(folder: str | Path, corpus: PreparedCorpus) -> list[Piece]:
    """Returns all pieces in the order of the texts: the documents of each data set, then the queries of its rows."""
    result, first = [], 0
    for entry in corpus.card["datasets"]:
        for part in PARTS:
            source = shards_of(corpus.folder, entry, part)
            start = 0
            for path, length in zip(_shards(folder, entry, part).paths(), _lengths(sum(source.lengths)), strict=True):
                result.append(Piece(path, entry, source, part, start, start + length, first + start))
                start += length
            first += start
    return result


class TeacherVectors:
    """The vectors that `f2jax cache-teacher` wrote for a corpus, in a local folder or copied to gs://.

    Raises:
        UserError: the folder does not contain the vectors of all texts of this corpus.
    """

    def __init__(self, folder: str | Path, corpus: PreparedCorpus):
        self.copy, self.card = LocalCopy(folder), read_info(folder)
        self.folder, self._corpus = self.copy.folder, corpus
        missing = next((name for name in self._names() if not self.copy.exists(name)), None)
        if missing:
            raise UserError(
                f"{files.join(folder, missing)} is missing: {folder} does not hold the vectors of all texts of "
                f"{corpus.copy.source} as it is now; run f2jax cache-teacher to the end."
            )
        self._reader = Reader()

    def _names(self, datasets: Collection[str] | None = None) -> list[str]:
        """Returns the file names of these data sets, or of all."""
        found = pieces("", self._corpus)
        return [piece.path.lstrip("/") for piece in found if datasets is None or piece.entry["name"] in datasets]

    def fetch(self, datasets: Collection[str] | None = None) -> None:
        """Copies the vectors of these data sets, or of all, from gs:// to this host; see `LocalCopy.fetch`."""
        self.copy.fetch(self._names(datasets))

    def read(self, entry: dict, part: str, numbers: np.ndarray) -> np.ndarray:
        """Returns the vectors [n, width] of the texts with these numbers in a part of a data set."""
        raw = _shards(self.folder, entry, part).read(numbers, self._reader)
        return np.frombuffer(b"".join(raw), DTYPES[self.card.dtype]).reshape(len(numbers), self.card.width)


def sample_texts_and_vectors(
    folder: str | Path, corpus: PreparedCorpus, count: int, seed: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns token ids and vectors, float32 [i, e], of at most `count` random texts of a corpus.

    Raises:
        UserError: the folder does not contain the vectors of all texts, or a file is damaged.
    """
    stored, reader = TeacherVectors(folder, corpus), Reader()
    stored.fetch()
    card, parts = stored.card, pieces(stored.folder, corpus)
    total = sum(piece.stop - piece.start for piece in parts)
    drawn = np.sort(np.random.default_rng(seed).permutation(total)[:count])
    tokens, vectors, first = [], [np.zeros((0, card.width), np.float32)], 0
    for piece in parts:
        stop = first + piece.stop - piece.start
        numbers = drawn[np.searchsorted(drawn, first) : np.searchsorted(drawn, stop)] - first
        if len(numbers):
            tokens += piece.tokens(reader, numbers)
            raw = b"".join(reader.read(piece.path, numbers.tolist()))
            vectors.append(np.frombuffer(raw, DTYPES[card.dtype]).reshape(-1, card.width).astype(np.float32))
        first = stop
    return tokens, np.concatenate(vectors)


def read_info(folder: str | Path) -> TeacherVectorsInfo:
    """Returns the description of the vectors in a folder; raises UserError if there are none."""
    path = files.join(folder, CARD)
    if not files.exists(path):
        raise UserError(f"{folder} holds no {CARD}; give a folder that f2jax cache-teacher wrote.")
    known: dict[bool, dict] = {True: {}, False: {}}
    for field in fields(TeacherVectorsInfo):
        known[field.default is MISSING][field.name] = field.type
    content = files.read_json_object(path, known[True], known[False])
    if differ := content.keys() ^ {field.name for field in fields(TeacherVectorsInfo)}:
        raise UserError(f"{path} is of another version, by its {', '.join(sorted(differ))}; make the vectors again.")
    return TeacherVectorsInfo(**content)


def begin(folder: str | Path, card: TeacherVectorsInfo) -> None:
    """Writes the description to the folder.

    Raises:
        UserError: the folder contains other vectors.
    """
    if (Path(folder) / CARD).exists() and read_info(folder) != card:
        raise UserError(
            f"{folder} holds vectors of another teacher, width or dtype, or with another reduction; delete it or name "
            "another folder."
        )
    files.write_atomically(Path(folder) / CARD, json.dumps(asdict(card), indent=1) + "\n")


def _shards(folder: str | Path, entry: dict, part: str) -> Shards:
    """Returns the files of a part. Their folder is named after the hash of the data set, so new data get new files."""
    count = entry["documents"] if part == "documents" else entry["rows"][part]
    return Shards(f"{folder}/{entry['folder']}/{entry['content']}/{part}", tuple(_lengths(count)))


def _lengths(count: int) -> list[int]:
    return [min(PIECE, count - start) for start in range(0, count, PIECE)]
