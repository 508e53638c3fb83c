"""Options of all commands that take a model."""

from dataclasses import dataclass
from typing import Literal

Dtype = Literal["float32", "bfloat16"]
Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]


@dataclass(frozen=True)
class ModelOptions:
    """The model."""

    model: str  # a folder, hub id, gs:// path or workdir (RUN, RUN@STEP, RUN@best), or mini
    dtype: Dtype = "float32"  # precision of the weights and the computation


@dataclass(frozen=True)
class ReadOptions:
    """How the model is loaded."""

    revision: str | None = None  # branch, tag or commit of a hub model
    max_length: int | None = None  # maximum tokens of a text, including the end token; None: the model's own limit
