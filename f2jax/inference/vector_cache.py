"""A cache of vectors on disk, by prompt and text, so that a model encodes no text twice."""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from f2jax import files
from f2jax.errors import UserError

PIECE = 4_096  # texts encoded between two writes, which is the most that an interruption loses
SELECTED = 900  # keys in one SELECT; old builds of SQLite take at most 999 variables


class VectorCache:
    """A SQLite file with a float32 vector for each (prompt, text) of one model.

    Writes are atomic, even if the process is killed; several processes may share the file.

    Raises:
        UserError: the file cannot be opened, or is not such a cache.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with files.clear_errors(self.path, "written"), self._clear_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(self.path, timeout=600)
            self.database.execute("PRAGMA journal_mode=WAL")
            self.database.execute("PRAGMA synchronous=NORMAL")
            self.database.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL)")

    def vectors(
        self,
        prompt: str,
        texts: Sequence[str],
        encode: Callable[[list[str]], np.ndarray],
        progress: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Returns float32 [i, dim] in the order of `texts`.

        Args:
            encode: returns float32 vectors for a list of strings, prompt + text, that are not in the file yet.
            progress: called after each piece with the number of texts encoded.

        Raises:
            UserError: the file can no longer be read or written.
        """
        self.fill(prompt, texts, encode, progress)
        with self._clear_errors():
            return self._read([_key(prompt, text) for text in texts])

    def fill(
        self,
        prompt: str,
        texts: Sequence[str],
        encode: Callable[[list[str]], np.ndarray],
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Encodes and stores missing texts as `vectors` does, but returns nothing."""
        with self._clear_errors():
            self._fill({_key(prompt, text): prompt + text for text in texts}, encode, progress)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path} cannot keep vectors ({error}); free space, make its folder writable, or delete the file."
            ) from error

    def _fill(self, text_of: dict[bytes, str], encode: Callable, progress: Callable[[int], None]) -> None:
        keys = list(text_of)
        present = {key for piece in _pieces(keys, SELECTED) for (key,) in self._select("key", piece)}
        missing = sorted((key for key in keys if key not in present), key=lambda key: len(text_of[key]))
        for piece in _pieces(missing, PIECE):
            vectors = encode([text_of[key] for key in piece]).astype(np.float32)
            rows = [(key, vector.tobytes()) for key, vector in zip(piece, vectors, strict=True)]
            with self.database:
                self.database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
            progress(len(piece))

    def _read(self, keys: list[bytes]) -> np.ndarray:
        places: dict[bytes, list[int]] = {}
        for i, key in enumerate(keys):
            places.setdefault(key, []).append(i)
        out = None
        for piece in _pieces(list(places), SELECTED):
            for key, blob in self._select("key, vector", piece):
                vector = np.frombuffer(blob, np.float32)
                if out is None:
                    out = np.empty((len(keys), len(vector)), np.float32)
                out[places[key]] = vector
        return np.empty((0, 0), np.float32) if out is None else out

    def _select(self, columns: str, keys: list[bytes]):
        marks = ",".join("?" * len(keys))
        return self.database.execute(f"SELECT {columns} FROM vectors WHERE key IN ({marks})", keys)


def _key(prompt: str, text: str) -> bytes:
    digest = hashlib.blake2b(digest_size=16, person=b"f2jax-vectors")
    digest.update(f"{len(prompt)}:".encode() + (prompt + text).encode("utf-8", "surrogatepass"))
    return digest.digest()


def _pieces(items: list, size: int):
    return (items[i : i + size] for i in range(0, len(items), size))
