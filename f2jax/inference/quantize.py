"""Quantization of vectors, with the names and layouts of sentence-transformers, which vector stores understand."""

import numpy as np

from f2jax.errors import UserError, did_you_mean

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


def int8_ranges(embeddings: np.ndarray) -> np.ndarray:
    """Returns the minimum and maximum of each dimension, float32 [2, dim], by which int8 and uint8 are scaled."""
    return np.stack([embeddings.min(axis=0), embeddings.max(axis=0)]).astype(np.float32)


def check_precision(precision: str, count: int | None = None) -> None:
    """Raises UserError if the name is not in PRECISIONS, or if `count` vectors are too few to scale by."""
    if precision not in PRECISIONS:
        raise UserError(f"There is no precision '{precision}'{did_you_mean(precision, PRECISIONS)}")
    if count == 1 and precision.endswith("int8"):
        raise UserError(f"A single text gives no range for {precision}; pass several at once, or choose ubinary.")


def quantize(embeddings: np.ndarray, precision: str, ranges: np.ndarray | None = None) -> np.ndarray:
    """Returns embeddings [i, dim] in another precision.

    int8 and uint8 have 256 equal steps between the minimum and maximum of each dimension. binary and ubinary have one
    bit per dimension, 1 for positive values, packed into bytes with the first dimension in the highest bit; binary is
    ubinary minus 128, as int8.

    Args:
        ranges: [2, dim], from `int8_ranges` of calibration vectors; default: of `embeddings` themselves.

    Raises:
        UserError: the precision is unknown, or is int8 for a single vector without ranges.
    """
    check_precision(precision, len(embeddings) if ranges is None else None)
    if precision == "float32":
        return embeddings.astype(np.float32)
    if precision.endswith("binary"):
        bits = np.packbits(embeddings > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if not len(embeddings):
        return embeddings.astype(precision)
    starts, stops = (int8_ranges(embeddings) if ranges is None else ranges).astype(np.float32)
    steps = (stops - starts) / 255
    buckets = np.clip(np.floor((embeddings - starts) / np.where(steps == 0, 1, steps)), 0, 255)
    return buckets.astype(np.uint8) if precision == "uint8" else (buckets - 128).astype(np.int8)
