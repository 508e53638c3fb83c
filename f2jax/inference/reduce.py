"""Principal components: fewer dimensions for vectors that were not trained to be truncated."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from f2jax.errors import UserError

NO_VARIANCE = 1e-9  # of the first axis's variance; below it, there is only rounding error


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of vectors, float64."""

    mean_e: np.ndarray
    covariance_ee: np.ndarray


def moments(blocks: Iterable[np.ndarray]) -> Moments:
    """Returns the moments of blocks of vectors [i, e], of any float type, in float64 and in one pass.

    Sums are taken around the first block's mean, so that vectors close together and far from 0 lose no digits. There
    must be at least one vector.
    """
    count, shift_e, sum_e, sum_ee = 0, np.zeros(0), np.zeros(0), np.zeros((0, 0))
    for block in blocks:
        x_ie = block.astype(np.float64)
        if not count:
            shift_e = x_ie.mean(axis=0)
            sum_e, sum_ee = np.zeros_like(shift_e), np.zeros((len(shift_e), len(shift_e)))
        x_ie -= shift_e
        count += len(x_ie)
        sum_e += x_ie.sum(axis=0)
        sum_ee += x_ie.T @ x_ie
    mean_e = sum_e / count
    return Moments(shift_e + mean_e, sum_ee / count - np.outer(mean_e, mean_e))


def components(covariance_ee: np.ndarray, width: int, whiten: float = 0.0) -> tuple[np.ndarray, float]:
    """Returns the axes of largest variance, float32 [e, width], and the share of the variance that they explain.

    The axes are eigenvectors of the covariance in descending order of variance, with signs that make the largest entry
    of each positive. Their length is 1; with `whiten`, it is the standard deviation relative to the first axis's, to
    the power of -`whiten`, so that at 1 all components have the same variance.

    Raises:
        UserError: vectors do not vary along an axis that is to be whitened.
    """
    value_e, axes_ee = np.linalg.eigh(covariance_ee)
    value_e, axes_ee = value_e[::-1], axes_ee[:, ::-1][:, :width]
    largest_e = axes_ee[np.abs(axes_ee).argmax(axis=0), np.arange(width)]
    total, kept_e = float(value_e.sum()), value_e[:width]
    explained = float(kept_e.sum()) / total if total > 0 else 1.0
    if whiten:
        if not kept_e.min() > kept_e[0] * NO_VARIANCE:
            raise UserError(f"The vectors vary along fewer than {width} axes; keep fewer dimensions to whiten them.")
        axes_ee = axes_ee * (kept_e / kept_e[0]) ** (-whiten / 2)
    return (axes_ee * np.sign(largest_e)).astype(np.float32), explained
