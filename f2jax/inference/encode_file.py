"""Encodes a file of texts into a file of vectors, on one host or several, in pieces that survive an interruption.

A piece is a .npy file of float32 vectors in the folder `OUTPUT.partial`; a .json file next to it marks it as complete.
Each host reads the whole file, holds the texts of one piece in memory at a time, and encodes every n-th piece. The
first host puts the pieces together.
"""

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from f2jax import files
from f2jax.data.texts import iter_file_texts
from f2jax.data.tokenizer import SURROGATES
from f2jax.errors import UserError
from f2jax.inference import vectors as store
from f2jax.inference.quantize import check_precision, int8_ranges, quantize
from f2jax.inference.truncation import Truncation
from f2jax.inference.vectors import create_array
from f2jax.parallel import hosts

WAIT_SECONDS = 7 * 24 * 3_600  # to wait for the slowest host; if one dies, the others stop at once
FREE = ("batch_size",)  # options on which a vector does not depend; older versions recorded them too
CALL = "call.json"  # file in the folder of pieces: model, texts and options that they were made with


def encode_file(
    embedder, source: str, output: str, column: str = "text", precision: str = "float32", **options
) -> tuple[int, ...]:
    """Embeds the texts of `source` into `output` (.npy, or .parquet with the columns text and embedding).

    Both may be on gs://. After an interruption, the same call continues with the missing pieces, on any number of
    hosts. int8 is scaled by the ranges of all vectors. On the first host, `embedder.truncation` counts what was cut.

    Args:
        options: options of `Embedder.encode_each`.

    Returns:
        The shape of the result, on all hosts.

    Raises:
        UserError: the input or output cannot be used, the existing pieces were made with another model, other texts or
            other options, the hosts were given different inputs, or a vector is not finite.
    """
    if Path(output).suffix not in (".npy", ".parquet"):
        raise UserError(f"{output} should end in .npy or .parquet.")
    embedder.encode_each([], **options)  # a bad option is found before any work

    def texts() -> Iterator[str]:
        return iter_file_texts(source, column)

    with hosts.leave_on_error(all_stop=False):
        count, digest = _survey(texts())
        if not count:
            raise UserError(f"{source} holds no texts.")
        check_precision(precision, count)
        call = {
            "model": embedder.vectors_key,
            "texts": digest,
            "options": {name: str(value) for name, value in options.items() if name not in FREE},
            "piece": store.PIECE,
        }
        hosts.check_same_on_all_hosts({"texts and options": json.dumps(call)}, WAIT_SECONDS)
        pieces = _Pieces(f"{output}.partial", count)
        if hosts.is_first():
            pieces.begin(call)
        _wait("the beginning")
        if not files.exists(files.join(pieces.folder, CALL)):
            raise UserError(
                f"{output} is in a folder that only this host can see; give one that all hosts can, such as gs://…."
            )
        missing = pieces.missing()
        _wait(f"{len(missing)} pieces to encode")  # before one is written, so that all hosts divide the same list
        before = replace(embedder.truncation)
        own = missing if embedder.spans_hosts else missing[jax.process_index() :: jax.process_count()]
        _encode_own(embedder, texts(), pieces, own, options)
        _wait("the pieces")
        shape = pieces.shape(precision)
        _wait("their shape")  # before the first host deletes them
        if hosts.is_first():
            _write_result(output, pieces, texts, precision)
            embedder.truncation = before
            for number in range(pieces.count):
                embedder.truncation.add(pieces.cut(number))
            pieces.remove()
        _wait("the result")
    return shape


def _wait(reached: str) -> None:
    hosts.check_same_on_all_hosts({"encoding": reached}, WAIT_SECONDS)


def _survey(texts: Iterator[str]) -> tuple[int, str]:
    """Returns the number and a hash of the texts; this reads all of them, so a bad row is found before any work."""
    count, digest = 0, hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:".encode() + text.encode("utf-8", "surrogatepass"))
        count += 1
    return count, digest.hexdigest()


def _encode_own(embedder, texts: Iterator[str], pieces: "_Pieces", own: list[int], options: dict) -> None:
    """Encodes the pieces numbered `own`; if the hosts encode together, only the first one writes."""
    shown = {"unit": "text", "unit_scale": True, "dynamic_ncols": True, "delay": 1, "disable": not hosts.is_first()}
    wanted, last = set(own), max(own, default=-1)  # reading stops after the last
    numbered = itertools.islice(enumerate(batches(texts, store.PIECE)), last + 1)
    counted = replace(embedder.truncation)
    with tqdm(total=sum(map(pieces.size, own)), **shown) as bar:
        found = embedder.encode_each((piece for n, piece in numbered if n in wanted), **options)
        for number, x_ie in zip(own, found, strict=True):
            if hosts.is_first() or not embedder.spans_hosts:
                pieces.write(number, x_ie, embedder.truncation.since(counted))
            counted = replace(embedder.truncation)
            bar.update(len(x_ie))


def batches(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    """Yields lists of `size` texts; the last one may be shorter."""
    while piece := list(itertools.islice(texts, size)):
        yield piece


@dataclass(frozen=True)
class _Pieces:
    """The folder of pieces for a file with this many texts."""

    folder: str
    texts: int

    @property
    def count(self) -> int:
        return -(-self.texts // store.PIECE)

    def size(self, number: int) -> int:
        return min(store.PIECE, self.texts - number * store.PIECE)

    def begin(self, call: dict) -> None:
        """Records the call; raises UserError if the folder has pieces of another one."""
        path = files.join(self.folder, CALL)
        if files.exists(path):
            before = files.read_json_object(path, optional={"options": dict})
            for name in FREE:
                before.get("options", {}).pop(name, None)
            if before != call:
                raise UserError(
                    f"{self.folder} belongs to another model, other texts or other options; delete it to start over."
                )
        files.write_atomically(path, json.dumps(call))

    def missing(self) -> list[int]:
        names = set(files.list_names(self.folder))
        return [n for n in range(self.count) if not names >= {_name(n, "npy"), _name(n, "json")}]

    def write(self, number: int, x_ie: np.ndarray, cut: Truncation) -> None:
        content = io.BytesIO()
        np.save(content, x_ie)
        files.write_atomically(files.join(self.folder, _name(number, "npy")), content.getvalue())
        files.write_atomically(files.join(self.folder, _name(number, "json")), json.dumps(asdict(cut)))

    def read(self, number: int) -> np.ndarray:
        path = files.join(self.folder, _name(number, "npy"))
        try:
            return np.load(io.BytesIO(files.read_bytes(path)))
        except (ValueError, EOFError) as error:
            raise UserError(f"{path} is damaged; delete it, and run the same command again.") from error

    def cut(self, number: int) -> Truncation:
        fields = dict.fromkeys(asdict(Truncation()), int)
        return Truncation(**files.read_json_object(files.join(self.folder, _name(number, "json")), fields))

    def shape(self, precision: str) -> tuple[int, int]:
        return self.texts, quantize(self.read(0)[:1], precision, np.zeros((2, 1))).shape[1]

    def remove(self) -> None:
        """Deletes the folder; the record of the call goes last."""
        names = [name for name in files.list_names(self.folder) if name.endswith((".npy", ".json"))]
        for name in sorted(names, key=lambda name: name == CALL):
            files.remove_file(files.join(self.folder, name))
        if not files.is_remote(self.folder):
            with suppress(OSError):  # somebody else has put files there
                Path(self.folder).rmdir()


def _name(number: int, kind: str) -> str:
    return f"{number:08}.{kind}"


def _write_result(output: str, pieces: _Pieces, texts: Callable[[], Iterator[str]], precision: str) -> None:
    """Quantizes the pieces and writes them one after another; the file gets its name once it is complete."""
    ranges = None
    if precision.endswith("int8"):
        ranges = int8_ranges(np.concatenate([int8_ranges(pieces.read(n)) for n in range(pieces.count)]))
    first = quantize(pieces.read(0)[:1], precision, ranges)
    quantized = (quantize(pieces.read(n), precision, ranges) for n in range(pieces.count))
    with files.atomic_path(output) as part, files.clear_errors(output, "written"):
        if output.endswith(".npy"):
            result, start = create_array(part, first.dtype, (pieces.texts, first.shape[1])), 0
            for x_ie in quantized:
                result[start : start + len(x_ie)], start = x_ie, start + len(x_ie)
            result.flush()
            return
        vector_type = pa.list_(pa.from_numpy_dtype(first.dtype), first.shape[1])
        with pq.ParquetWriter(part, pa.schema({"text": pa.string(), "embedding": vector_type})) as writer:
            for piece, x_ie in zip(batches(texts(), store.PIECE), quantized, strict=True):
                # Parquet does not accept unpaired surrogates.
                clean = pa.array([SURROGATES.sub("\ufffd", text) for text in piece], pa.string())
                embedding = pa.FixedSizeListArray.from_arrays(pa.array(x_ie.reshape(-1)), type=vector_type)
                writer.write_table(pa.table([clean, embedding], schema=writer.schema))
