"""Checks and conversions of the arguments of `Embedder`, and conversion of its results to PyTorch tensors."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from f2jax.errors import UserError, did_you_mean
from f2jax.inference.vectors import scale_to_unit
from f2jax.model.sizes import Qwen3Config


def check_length(max_length: int, architecture: Qwen3Config) -> int:
    """Returns `max_length`.

    Raises:
        UserError: the model has fewer positions.
    """
    if not 1 <= max_length <= architecture.max_length:
        raise UserError(
            f"max_length={max_length} is out of range; this model has 1 to {architecture.max_length} positions."
        )
    return max_length


def check_dims(dims: Sequence[int], width: int) -> tuple[int, ...]:
    """Returns Matryoshka dimensions in descending order, starting with the full width.

    Raises:
        UserError: one is not in 1 … width.
    """
    if wrong := [dim for dim in dims if not 1 <= dim <= width]:
        raise UserError(f"matryoshka_dims={wrong[0]} is out of range; this model has 1 to {width} dimensions.")
    return tuple(sorted({*dims, width}, reverse=True))


def named_prompt(prompts: Mapping[str, str], name: str) -> str:
    """Returns a prompt of a model by its name.

    As in sentence-transformers, every model knows the names `query` and `document`; they stand for no prompt if it has
    none of that name.

    Raises:
        UserError: the model has no prompt of another name.
    """
    known = {"query": "", "document": ""} | dict(prompts)
    if not isinstance(name, str) or name not in known:
        raise UserError(f"The model has no prompt named '{name}'{did_you_mean(str(name), known)}")
    return known[name]


def to_comparable(a, b, similarity: str) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Returns both arrays of embeddings, float32 [i, dim], and the order of the norm if the similarity is a distance.

    They are normalized for the cosine.

    Raises:
        UserError: the embeddings are quantized.
    """
    a, b = np.asarray(a), np.asarray(b)
    if quantized := {"int8", "uint8"} & {str(a.dtype), str(b.dtype)}:
        raise UserError(f"Embeddings in {quantized.pop()} have no similarity; compare them in float32.")
    a, b = (np.atleast_2d(x.astype(np.float32)) for x in (a, b))
    if similarity == "cosine":
        a, b = scale_to_unit(a), scale_to_unit(b)
    return a, b, {"euclidean": 2, "manhattan": 1}.get(similarity)


def to_tensors(found: Any, stacked: bool) -> Any:
    """Returns PyTorch tensors that share the memory of arrays: one if `stacked`, else a list with one per item."""
    import torch

    return torch.from_numpy(found) if stacked else [torch.from_numpy(one) for one in found]


def check_texts(texts) -> list[str]:
    """Returns a string, or an ordered collection of strings, as a list.

    Raises:
        UserError: the argument is anything else, such as a dict, a set, a table, or a list with other items.
    """
    if isinstance(texts, str):
        return [texts]
    try:
        items = list(texts)
    except TypeError:
        items = None
    if items is None or isinstance(texts, (Mapping, Set, bytes)) or hasattr(texts, "columns"):  # a table
        raise UserError(f"The texts are of type {type(texts).__name__}; give a string or a list of strings.")
    invalid = next((i for i, text in enumerate(items) if not isinstance(text, str)), None)
    if invalid is not None:
        raise UserError(f"Text number {invalid} is of type {type(items[invalid]).__name__}; give strings.")
    return items
