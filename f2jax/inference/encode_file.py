"""A file of texts → a file of vectors, in pieces that survive an interruption."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from f2jax import files
from f2jax.data.tokenizer import SURROGATES
from f2jax.errors import UserError
from f2jax.inference.quantize import check_precision, int8_ranges, quantize

PIECE = 8_192  # texts between two points from which an interrupted run goes on


def read_texts(path: str, column: str = "text") -> list[str]:
    """The texts of a file: one a line (.txt), or the field `column` of each row (.jsonl, .parquet).

    Raises:
        UserError: the file cannot be read, or a row has no such field.
    """
    kind = Path(path).suffix
    if kind == ".parquet":
        with files.open_file(path) as file:
            try:
                table = pq.ParquetFile(file)
                if column not in table.schema_arrow.names:
                    names = ", ".join(table.schema_arrow.names)
                    raise UserError(f"{path} has no column '{column}' but {names}; choose one with --column.")
                texts = table.read([column]).column(0).to_pylist()
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{path} is no readable parquet file ({reason}); restore it.") from error
    elif kind in (".txt", ".jsonl"):
        with files.open_file(path) as file:
            try:
                content = file.read().decode("utf-8-sig").replace("\r\n", "\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{path} is not UTF-8 at byte {error.start}; convert it.") from error
        lines = content.removesuffix("\n").split("\n") if content else []
        texts = lines
        if kind == ".jsonl":
            texts = [_field(path, i, line, column) for i, line in enumerate(lines, 1) if line.strip()]
    else:
        raise UserError(f"{path} should end in .txt, .jsonl or .parquet.")
    bad = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if bad is not None:
        raise UserError(f"{path}: row {bad + 1} has no text in '{column}'; mend it or choose another --column.")
    return texts


def _field(path: str, number: int, line: str, column: str) -> str | None:
    try:
        return json.loads(line)[column]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}, line {number}: no JSON object with the field '{column}'; mend it.") from error


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


def encode_file(
    embedder, source: str, output: str, column: str = "text", precision: str = "float32", **options
) -> tuple[int, int]:
    """Embed the texts of `source` into `output` (.npy, or .parquet with the columns text and embedding).

    The float32 vectors lie in `output` + `.partial` until all are there; the same call after an interruption goes on
    from the last whole piece. int8 ranges are those of the whole file. Returns the shape of the result.

    Args:
        options: of `Embedder.encode`.

    Raises:
        UserError: input or output cannot be used, or `.partial` belongs to a call with another model, other texts or
            other options.
    """
    target = Path(output)
    if target.suffix not in (".npy", ".parquet") or files.is_remote(output):
        raise UserError(f"{output} should be a local path that ends in .npy or .parquet.")
    texts = read_texts(source, column)
    if not texts:
        raise UserError(f"{source} holds no texts.")
    check_precision(precision, len(texts))
    partial = Path(f"{output}.partial")
    call = {"model": embedder.fingerprint, "texts": digest(texts), "options": {k: str(v) for k, v in options.items()}}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        vectors = embed_into(
            partial, texts, lambda some: embedder.encode(some, show_progress_bar=False, **options), call
        )
        shape = _finish(target, partial, vectors, texts, precision)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}.") from error
    progress_of(partial).unlink()
    partial.unlink(missing_ok=True)
    return shape


def _finish(target: Path, partial: Path, vectors: np.ndarray, texts: list[str], precision: str) -> tuple[int, int]:
    """Quantize and write the result, a piece in memory at a time; it gets its name when it is whole."""
    if target.suffix == ".npy" and precision == "float32":
        partial.replace(target)
        return vectors.shape
    pieces = [slice(start, start + PIECE) for start in range(0, len(texts), PIECE)]
    ranges = None
    if precision.endswith("int8"):
        ranges = int8_ranges(np.concatenate([int8_ranges(vectors[piece]) for piece in pieces]))
    first = quantize(vectors[:1], precision, ranges)
    shape = len(texts), first.shape[1]
    whole = target.with_suffix(f"{target.suffix}.whole")
    if target.suffix == ".npy":
        result = open_array(whole, first.dtype, shape, new=True)
        for piece in pieces:
            result[piece] = quantize(vectors[piece], precision, ranges)
        result.flush()
    else:
        of_text, of_vector = pa.string(), pa.list_(pa.from_numpy_dtype(first.dtype), shape[1])
        with pq.ParquetWriter(whole, pa.schema({"text": of_text, "embedding": of_vector})) as writer:
            for piece in pieces:
                # parquet takes no half of a UTF-16 pair
                clean = pa.array([SURROGATES.sub("\ufffd", text) for text in texts[piece]], of_text)
                values = pa.array(quantize(vectors[piece], precision, ranges).reshape(-1))
                embedding = pa.FixedSizeListArray.from_arrays(values, type=of_vector)
                writer.write_table(pa.table([clean, embedding], schema=writer.schema))
    whole.replace(target)
    return shape
