"""`f2jax export`: a package with its golden set, and the model in the formats of other runtimes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from f2jax.checkpoints import package
from f2jax.checkpoints.model_card import NOTHING, RunHistory
from f2jax.errors import UserError, did_you_mean, require_extra
from f2jax.inference.embedder import Embedder
from f2jax.release import gguf, golden, onnx

FORMATS = ("onnx", "onnx-int8", "gguf", "gguf-q8")


def export_package(
    embedder: Embedder, folder: str | Path, formats: Sequence[str] = (), about: RunHistory = NOTHING
) -> None:
    """Write the package, its golden set, then each of the formats.

    Args:
        about: for the model card; the formats are added to it.

    Raises:
        UserError: a format is unknown, lacks its library or does not fit the model, and nothing is written; or the
            folder cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"There is no format '{name}'{did_you_mean(name, FORMATS)}")
    for name in formats:
        _check(name, embedder)
    architecture, params = embedder.architecture, embedder.params
    about = replace(about, formats=tuple(formats))
    package.write_package(folder, architecture, params, embedder.tokenizer, embedder.card, about)
    golden.write_golden(folder, embedder)
    for name in formats:
        if name.startswith("onnx"):
            onnx.write_onnx(folder, architecture, params, "int8" if name == "onnx-int8" else "float32")
        else:
            kind = "q8_0" if name == "gguf-q8" else "whole"
            gguf.write_gguf(folder, architecture, params, embedder.tokenizer, embedder.max_length, kind)


def _check(name: str, embedder: Embedder) -> None:
    if name.startswith("onnx"):
        require_extra("onnx", "An ONNX format")
    else:
        gguf.vocabulary(embedder.tokenizer, embedder.architecture.vocab_size)
        gguf.check_blocks(embedder.architecture, "q8_0" if name == "gguf-q8" else "whole")
