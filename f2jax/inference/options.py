"""Options that every command with a model has."""

from dataclasses import dataclass
from typing import Literal

Dtype = Literal["float32", "bfloat16"]
Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]


@dataclass(frozen=True)
class ModelOptions:
    """The model."""

    model: str  # folder, hub id, gs:// path, workdir (RUN, RUN@STEP or RUN@best), or the built-in mini
    dtype: Dtype = "float32"  # type of weights and matmuls


@dataclass(frozen=True)
class ReadOptions:
    """How it is read."""

    revision: str | None = None  # branch, tag or commit of a hub id
    max_length: int | None = None  # tokens that are read of a text, end token included; None: the model's own limit
