"""Matrices in 8 bits: each row as whole numbers from -127 to 127, times a scale of the row.

A scale is a bfloat16, and its product with such a number an exact float32. So a file gives the same weights on every
machine, and these give the same file again.
"""

from collections.abc import Iterator

import ml_dtypes
import numpy as np

LARGEST = 127
SCALE = ".scale"  # after the name of a matrix: the name of its scales


def quantize_rows(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the whole numbers int8 [rows, columns] and the scales bfloat16 [rows] of a matrix."""
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
    """Yields each matrix as whole numbers and its scales, and each vector as it is."""
    for name, array in tensors:
        if array.ndim == 2:
            numbers, scale = quantize_rows(array)
            yield name, numbers
            yield name + SCALE, scale
        else:
            yield name, array
