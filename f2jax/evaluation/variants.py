"""Variants of a model's vectors: truncated to fewer dimensions, or stored in a lower precision."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from f2jax.errors import UserError
from f2jax.inference.quantize import check_precision, int8_ranges, quantize


@dataclass(frozen=True)
class Variant:
    """A number of dimensions and a precision."""

    dim: int
    precision: str = "float32"  # float32, int8, uint8, binary or ubinary

    def __str__(self) -> str:
        return f"{self.dim}" if self.precision == "float32" else f"{self.dim} {self.precision}"

    def of(self, x_ie: np.ndarray) -> np.ndarray:
        """Truncates, normalizes and quantizes embeddings [i, width], and returns them as float32 [i, dim].

        int8 and uint8 become the lowest value of their step, so that vectors with different ranges can be compared.
        Bits become -1 and 1, with cosines of 1 - 2 × Hamming distance / dim.
        """
        x_ie = x_ie[:, : self.dim]
        x_ie = x_ie / np.maximum(np.linalg.norm(x_ie, axis=1, keepdims=True), 1e-12)
        if self.precision == "float32" or not len(x_ie):
            return x_ie
        if self.precision.endswith("binary"):
            return np.unpackbits(quantize(x_ie, "ubinary"), axis=1, count=self.dim) * np.float32(2) - 1
        starts, stops = ranges = int8_ranges(x_ie)
        return starts + quantize(x_ie, "uint8", ranges) * ((stops - starts) / 255)


def variants(
    width: int,
    trained: Sequence[int],
    dims: Sequence[int | str] = (),
    precisions: Sequence[str] = ("int8", "binary"),
) -> list[Variant]:
    """Returns float32 at each of `dims`, and then each of `precisions` at the largest of them.

    Args:
        width: width of the model's embeddings.
        trained: the model's Matryoshka dimensions.
        dims: numbers, or "all" for `trained`; default: every second one of these, from the width down, because scoring
            takes longer than encoding with a small model.

    Raises:
        UserError: a dimension is out of range, or a precision is unknown.
    """
    matryoshka = sorted({width, *trained}, reverse=True)
    numbers = [dim for dim in dims if isinstance(dim, int)] + (matryoshka if "all" in dims else [])
    invalid = [dim for dim in numbers if not 1 <= dim <= width]
    if invalid:
        raise UserError(f"{invalid[0]} in --dims is out of range; this model has 1 to {width} dimensions.")
    for precision in precisions:
        check_precision(precision)
    chosen = sorted(set(numbers or matryoshka[::2]), reverse=True)
    smaller = [Variant(chosen[0], name) for name in dict.fromkeys(precisions) if name != "float32"]
    return [Variant(dim) for dim in chosen] + smaller
