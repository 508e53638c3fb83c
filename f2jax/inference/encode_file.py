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
from f2jax.inference.vectors import create_array, embed_into, progress_path, texts_digest


def encode_file(
    embedder, source: str, output: str, column: str = "text", precision: str = "float32", **options
) -> tuple[int, ...]:
    """Embeds the texts of `source` into `output` (.npy, or .parquet with the columns text and embedding).

    The float32 vectors are in `output` + `.partial` until all are done; the same call after an interruption continues
    after the last complete piece. int8 ranges are those of the complete file. Returns the shape of the result.

    Args:
        options: of `Embedder.encode`.

    Raises:
        UserError: input or output cannot be used, `.partial` belongs to a call with another model, other texts or
            other options, or a vector is not finite.
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
        "model": embedder.vectors_key,
        "texts": texts_digest(texts),
        "options": {k: str(v) for k, v in options.items()},
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        vectors = embed_into(
            partial,
            texts,
            lambda piece: embedder.encode(piece, show_progress_bar=False, **options),
            call,
            truncation=embedder.truncation,
        )
        shape = _write_result(target, partial, vectors, texts, precision)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}.") from error
    progress_path(partial).unlink()
    partial.unlink(missing_ok=True)
    return shape


def _write_result(
    target: Path, partial: Path, vectors: np.ndarray, texts: list[str], precision: str
) -> tuple[int, ...]:
    """Quantizes and writes the result, one piece in memory at a time; it gets its name when it is complete."""
    if target.suffix == ".npy" and precision == "float32":
        partial.replace(target)
        return vectors.shape
    pieces = [slice(start, start + store.PIECE) for start in range(0, len(texts), store.PIECE)]
    ranges = None
    if precision.endswith("int8"):
        ranges = int8_ranges(np.concatenate([int8_ranges(vectors[piece]) for piece in pieces]))
    first = quantize(vectors[:1], precision, ranges)
    shape = len(texts), first.shape[1]
    complete = target.with_suffix(f"{target.suffix}.whole")
    if target.suffix == ".npy":
        result = create_array(complete, first.dtype, shape)
        for piece in pieces:
            result[piece] = quantize(vectors[piece], precision, ranges)
        result.flush()
    else:
        vector_type = pa.list_(pa.from_numpy_dtype(first.dtype), shape[1])
        with pq.ParquetWriter(complete, pa.schema({"text": pa.string(), "embedding": vector_type})) as writer:
            for piece in pieces:
                # parquet takes no half of a UTF-16 pair
                clean = pa.array([SURROGATES.sub("\ufffd", text) for text in texts[piece]], pa.string())
                values = pa.array(quantize(vectors[piece], precision, ranges).reshape(-1))
                embedding = pa.FixedSizeListArray.from_arrays(values, type=vector_type)
                writer.write_table(pa.table([clean, embedding], schema=writer.schema))
    complete.replace(target)
    return shape
