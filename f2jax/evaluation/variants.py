"""The vectors of one encoding at a smaller dimension or precision."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from f2jax.errors import UserError
from f2jax.inference.quantize import check_precision, int8_ranges, quantize


@dataclass(frozen=True)
class Variant:
    """How many dimensions are kept, and how each is stored."""

    dim: int
    precision: str = "float32"  # float32, int8, uint8, binary or ubinary

    def __str__(self) -> str:
        return f"{self.dim}" if self.precision == "float32" else f"{self.dim} {self.precision}"

    def of(self, e_se: np.ndarray) -> np.ndarray:
        """Raw embeddings [n, width] → float32 [n, dim]: truncated, normalized, quantized and read back as floats.

        int8 and uint8 become the smallest value of their step, so that texts quantized by other ranges compare with
        these. Bits become -1 and 1: their cosine is 1 - 2 x Hamming distance / dim.
        """
        e_se = e_se[:, : self.dim]
        e_se = e_se / np.maximum(np.linalg.norm(e_se, axis=1, keepdims=True), 1e-12)
        if self.precision == "float32" or not len(e_se):
            return e_se
        if self.precision.endswith("binary"):
            return np.unpackbits(quantize(e_se, "ubinary"), axis=1, count=self.dim) * np.float32(2) - 1
        starts, stops = ranges = int8_ranges(e_se)
        return starts + quantize(e_se, "uint8", ranges) * ((stops - starts) / 255)


def variants(
    width: int,
    trained: Sequence[int],
    dims: Sequence[int | str] = (),
    precisions: Sequence[str] = ("int8", "binary"),
) -> list[Variant]:
    """float32 at each of `dims`, then each of `precisions` at the largest of them.

    Args:
        width: of the model's embeddings.
        trained: the model's Matryoshka dimensions.
        dims: numbers, or "all" of `trained`; default: every second of these from the width down, since each is scored
            by itself, which takes longer than encoding where the model is small.

    Raises:
        UserError: a dimension is out of range, or there is no such precision.
    """
    known = sorted({width, *trained}, reverse=True)
    numbers = [dim for dim in dims if dim != "all"] + (known if "all" in dims else [])
    wrong = [dim for dim in numbers if not 1 <= dim <= width]
    if wrong:
        raise UserError(f"{wrong[0]} in --dims is out of range; this model has 1 to {width} dimensions.")
    for precision in precisions:
        check_precision(precision)
    chosen = sorted(set(numbers or known[::2]), reverse=True)
    smaller = [Variant(chosen[0], name) for name in dict.fromkeys(precisions) if name != "float32"]
    return [Variant(dim) for dim in chosen] + smaller
