"""A file of texts → a file of vectors, in pieces that survive an interruption."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from f2jax import files
from f2jax.data.texts import read_texts
from f2jax.data.tokenizer import SURROGATES
from f2jax.errors import UserError
from f2jax.inference import vectors as store
from f2jax.inference.quantize import check_precision, int8_ranges, quantize
from f2jax.inference.vectors import digest, embed_into, open_array, progress_of


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
    call = {
        "model": embedder.fingerprint,
        "texts": digest(texts),
        "options": {k: str(v) for k, v in options.items()},
    }
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
    pieces = [slice(start, start + store.PIECE) for start in range(0, len(texts), store.PIECE)]
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
