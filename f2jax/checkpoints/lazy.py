"""A weight that is read or made when it is written, so that a tree of them takes no memory."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LazyWeight:
    """Stands for an array in a tree of parameters that `hf.save_hf` writes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.make()).astype(dtype or self.dtype, copy=False)
