"""Matrices in int8: each row consists of whole numbers from -127 to 127 and a scale.

The scale is a bfloat16, so its product with such a number is exact in float32. A file therefore gives the same weights
on every machine, and these weights give the same file again.
"""

from collections.abc import Iterator

import ml_dtypes
import numpy as np

LARGEST = 127
SCALE = ".scale"  # suffix for the name of a matrix's scales


def quantize_rows(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers, int8 [rows, columns], and the scales, bfloat16 [rows], of a matrix."""
    wide = np.asarray(matrix, np.float32)
    scale = (np.abs(wide).max(axis=1) / LARGEST).astype(ml_dtypes.bfloat16)
    scale[scale == 0] = 1
    return np.rint(wide / scale.astype(np.float32)[:, None]).astype(np.int8), scale


def dequantize_rows(numbers: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Returns the matrix, float32 [rows, columns].

    >>> dequantize_rows(*quantize_rows(np.float32([[1, -0.3]])))
    array([[ 0.9962769 , -0.29809952]], dtype=float32)
    """
    return numbers * scale.astype(np.float32)[:, None]


def quantized_tensors(tensors: Iterator[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields each matrix as numbers and scales, and each vector unchanged."""
    for name, array in tensors:
        if array.ndim == 2:
            numbers, scale = quantize_rows(array)
            yield name, numbers
            yield name + SCALE, scale
        else:
            yield name, array
