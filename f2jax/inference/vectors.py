"""Arrays of vectors: normalization, .npy files, and .npy files that are filled piece by piece and can be resumed."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from f2jax import files
from f2jax.errors import UserError
from f2jax.inference.truncation import Truncation

PIECE = 8_192  # texts that are encoded and written together; an interrupted run continues after the last piece


class Vectors(Protocol):
    """Vectors [i, e] of any float type: an array, an `np.memmap`, or a view of some of its rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: slice | np.ndarray, /) -> np.ndarray: ...


def scale_to_unit(x_ie: np.ndarray) -> np.ndarray:
    """Returns the vectors scaled to length 1; a zero vector stays zero."""
    return x_ie / np.maximum(np.linalg.norm(x_ie, axis=1, keepdims=True), 1e-12)


def unit_vectors(vectors: Vectors, index: slice | np.ndarray, kind: str, dims: int | None = None) -> np.ndarray:
    """Returns some of the vectors, float32 [i, e], truncated to `dims` and normalized; a zero vector stays zero.

    Raises:
        UserError: one is not finite.
    """
    x_ie = np.asarray(vectors[index][:, :dims], np.float32)
    length_i = np.sqrt(np.einsum("ie,ie->i", x_ie, x_ie))
    odd = np.flatnonzero(~((length_i > 1e-12) & np.isfinite(length_i)))
    if len(odd):  # zero, not finite, or so large or small that their squares overflow or underflow
        largest_o1 = np.abs(x_ie[odd]).max(axis=1, keepdims=True)
        if len(invalid := odd[~np.isfinite(largest_o1[:, 0])]):
            rows = np.arange(vectors.shape[0])[index] if isinstance(index, slice) else index
            row = f", first in row {rows[invalid[0]]}" if isinstance(vectors, np.ndarray) else ""  # not of a view
            raise UserError(f"The vectors of the {kind} hold values that are not finite{row}; embed them again.")
        x_ie = x_ie.copy()
        x_ie[odd] /= np.where(largest_o1 > 0, largest_o1, 1)
        length_i[odd] = np.linalg.norm(x_ie[odd], axis=1)
    return x_ie / np.maximum(length_i, 1e-12)[:, None]


def open_vectors(path: str | Path) -> np.ndarray:
    """Returns the vectors [i, e] of a .npy file, which stays on disk.

    Raises:
        UserError: it cannot be read, is not a two-dimensional array of floats, or `embed_into` has not finished it.
    """
    try:
        vectors = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is no .npy file of numbers"
        raise UserError(f"{path} cannot be read: {reason}.") from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind != "f" or not vectors.shape[1]:
        raise UserError(f"{path} should be a .npy file of floats, with a row for each text.")
    state = files.read_json(progress_path(path)) if progress_path(path).exists() else {}
    done = state.get("done") if isinstance(state, dict) else None  # another tool may have written such a file
    if isinstance(done, int) and done < len(vectors):  # the remaining rows are zeros
        part = f"{done:,} of {len(vectors):,}"
        raise UserError(f"{path} is only embedded up to text {part}; run the command that makes it to the end.")
    return vectors


def load_vectors(path: str, count: int, kind: str) -> np.ndarray:
    """Returns the array of a .npy file, which stays on disk.

    Raises:
        UserError: it cannot be read, or is not an array of floats with `count` rows.
    """
    vectors = open_vectors(path)
    if len(vectors) != count:
        raise UserError(
            f"{path} has {len(vectors):,} vectors, but the input has {count:,} distinct {kind}; "
            f"embed the texts that --list-{kind} writes."
        )
    return vectors


def texts_digest(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def progress_path(path: str | Path) -> Path:
    """Returns the path of the file that records the call of a `ResumableArray` and the number of finished rows."""
    return Path(f"{path}.json")


def create_array(path: Path, dtype, shape: tuple[int, ...]) -> np.memmap:
    """Creates a .npy file as an array, with its space reserved, because a full disk would later kill the process."""
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


class ResumableArray:
    """A .npy file that is filled piece by piece; after an interruption, the same call continues where it stopped.

    Args:
        call: everything that the content depends on.
        renew: overwrite the finished content of another call.

    Raises:
        UserError: the file belongs to another call.
    """

    def __init__(self, path: Path, call: dict, renew: bool = False):
        self.path, self.call = path, call
        self.done = 0  # rows
        self.facts: dict[str, Any] = {}  # recorded with the last rows
        progress = progress_path(path)
        if not (path.exists() and progress.exists()):
            progress.unlink(missing_ok=True)  # it may belong to an earlier file
            return
        state = files.read_json_object(progress, {"call": dict, "done": int})
        if state["done"] and state["call"] != call:
            if renew and state["done"] == len(np.load(path, mmap_mode="r")):
                return
            raise UserError(f"{path} belongs to another model, other texts or other options; delete it to start over.")
        self.done = state.pop("done")
        self.facts = {name: value for name, value in state.items() if name != "call"}

    def open(self, dtype, shape: tuple[int, ...]) -> np.memmap:
        """Returns the array, created if no row is done; raises UserError if it is damaged."""
        if self.done:
            try:
                np.load(self.path, mmap_mode="r")  # refuses a truncated file, which r+ would fill with zeros
                self._array = np.lib.format.open_memmap(self.path, "r+")
            except (ValueError, EOFError) as error:
                raise UserError(f"{self.path} is damaged; delete it to start over.") from error
        else:
            self._record()  # first: without a record, an array of zeros would pass for another tool's vectors
            self._array = create_array(self.path, dtype, shape)
        return self._array

    def append(self, rows: np.ndarray, **facts) -> None:
        """Writes the next rows, and records any facts that are needed to continue."""
        self._array[self.done : self.done + len(rows)] = rows
        self._array.flush()
        self.done += len(rows)
        self.facts |= facts
        self._record()

    def _record(self) -> None:
        files.write_atomically(
            progress_path(self.path), json.dumps({"call": self.call, "done": self.done} | self.facts)
        )


def embed_into(
    path: Path,
    texts: Sequence[str],
    embed: Callable[[list[str]], np.ndarray],
    call: dict,
    name: str | None = None,
    renew: bool = False,
    truncation: Truncation | None = None,
) -> np.ndarray:
    """Embeds texts into the .npy file `path` piece by piece, and returns the vectors, float32 [i, e].

    After an interruption, the same call continues after the last complete piece.

    Args:
        call: everything that the vectors depend on.
        name: label of the progress bar.
        renew: overwrite the finished vectors of another call.
        truncation: the counts that `embed` updates; those of earlier runs are added.

    Raises:
        UserError: `path` belongs to another call, or a vector is not finite.
    """
    array = ResumableArray(path, call, renew)
    if truncation is not None:
        truncation.add(Truncation(**array.facts.get("truncation", {})))
    vectors = array.open(np.float32, ()) if array.done else None
    shown: dict[str, Any] = {"desc": name, "unit": "text", "unit_scale": True, "dynamic_ncols": True, "delay": 1}
    with tqdm(total=len(texts), initial=array.done, **shown) as bar:
        for start in range(array.done, len(texts), PIECE):
            x_ie = embed(list(texts[start : start + PIECE]))
            if vectors is None:
                vectors = array.open(np.float32, (len(texts), x_ie.shape[1]))
            array.append(x_ie, **({} if truncation is None else {"truncation": asdict(truncation)}))
            bar.update(len(x_ie))
    return np.empty((0, 0), np.float32) if vectors is None else vectors
