"""Arrays of vectors: their type, files that hold them, and a file that is filled in resumable pieces."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from f2jax import files
from f2jax.errors import UserError

PIECE = 8_192  # texts between two points from which an interrupted run goes on


class Vectors(Protocol):
    """Vectors by number, [n, e] of any float type: an array, a `np.memmap`, or a view of some of its rows."""

    shape: tuple[int, int]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray: ...


def unit_vectors(vectors: Vectors, index: slice | np.ndarray, kind: str) -> np.ndarray:
    """float32 vectors [n, e] of length 1; a zero vector stays zero.

    Raises:
        UserError: one is not finite.
    """
    x_ne = np.asarray(vectors[index], np.float32)
    length_n = np.sqrt(np.einsum("ne,ne->n", x_ne, x_ne))
    if not np.isfinite(length_n).all():
        raise UserError(f"The vectors of the {kind} hold a value that is not finite; embed them again.")
    return x_ne / np.maximum(length_n, 1e-12)[:, None]


def open_vectors(path: str | Path) -> np.ndarray:
    """The vectors [n, dim] of a .npy file, which stays on disk.

    Raises:
        UserError: it cannot be read, is no array of floats with a row for each text, or `embed_into` has not come to
            its end.
    """
    try:
        vectors = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is no .npy file of numbers"
        raise UserError(f"{path} cannot be read: {reason}.") from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise UserError(f"{path} should be a .npy file of floats, with a row for each text.")
    state = files.read_json(progress_of(path)) if progress_of(path).exists() else {}
    state = state if isinstance(state, dict) else {}  # a file of that name may be another tool's
    done = state.get("done", len(vectors))
    if done < len(vectors):  # the rest is zeros
        part = f"{done:,} of {len(vectors):,}"
        raise UserError(f"{path} is only embedded up to text {part}; run the command that makes it to the end.")
    return vectors


def load_vectors(path: str, count: int, kind: str) -> np.ndarray:
    """The array of a .npy file, which stays on disk.

    Raises:
        UserError: it cannot be read, or is no array of floats with `count` rows.
    """
    vectors = open_vectors(path)
    if len(vectors) != count:
        raise UserError(
            f"{path} has {len(vectors):,} vectors, but the input has {count:,} distinct {kind}; "
            f"embed the texts that --list-{kind} writes."
        )
    return vectors


def digest(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def progress_of(path: str | Path) -> Path:
    """The file that says whose work in `path` is, and how much of it is done."""
    return Path(f"{path}.json")


def read_progress(path: Path, call: dict, renew: bool = False) -> dict:
    """What is known of the work in `path`: `done` and more; empty where nothing is done.

    Args:
        renew: forget the finished vectors of another call.

    Raises:
        UserError: it was begun by another call.
    """
    if not (path.exists() and progress_of(path).exists()):
        progress_of(path).unlink(missing_ok=True)  # it may tell of another `path`
        return {}
    state = files.read_json(progress_of(path))
    if not state["done"]:
        return {}
    if state["call"] != call:
        if renew and state["done"] == len(np.load(path, mmap_mode="r")):
            return {}
        raise UserError(f"{path} belongs to another model, other texts or other options; delete it to start anew.")
    return state


def open_array(path: Path, dtype, shape: tuple[int, ...], new: bool) -> np.memmap:
    """A .npy file as an array; a new one reserves its place, since a disk that is full later kills the process."""
    array = np.lib.format.open_memmap(path, "w+" if new else "r+", dtype, shape)
    if new and hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def embed_into(
    path: Path,
    texts: list[str],
    embed: Callable[[list[str]], np.ndarray],
    call: dict,
    name: str | None = None,
    renew: bool = False,
) -> np.ndarray:
    """Vectors of texts in the .npy file `path`, float32 [n, dim], a piece after the other.

    The same call after an interruption goes on from the last whole piece.

    Args:
        call: what the vectors depend on.
        name: of the texts, for the progress bar.
        renew: write over the finished vectors of another call.

    Raises:
        UserError: `path` belongs to another call.
    """
    done = read_progress(path, call, renew).get("done", 0)
    shape = len(texts), embed(texts[:1]).shape[1]
    if not done:  # said before the array of zeros is there, which would else pass for vectors made elsewhere
        files.write_atomically(progress_of(path), json.dumps({"call": call, "done": 0}))
    vectors = open_array(path, np.float32, shape, new=not done)
    with tqdm(total=len(texts), initial=done, desc=name, unit="text", unit_scale=True, dynamic_ncols=True) as bar:
        for start in range(done, len(texts), PIECE):
            piece = texts[start : start + PIECE]
            vectors[start : start + len(piece)] = embed(piece)
            vectors.flush()
            files.write_atomically(progress_of(path), json.dumps({"call": call, "done": start + len(piece)}))
            bar.update(len(piece))
    return vectors
