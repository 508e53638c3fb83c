"""`f2jax merge`: average checkpoints into one model."""

from dataclasses import dataclass
from shlex import quote
from typing import Literal

from f2jax.commands.options import Arguments
from f2jax.inference.options import Dtype


@dataclass(frozen=True)
class MergeOptions:
    """Models, and how they are averaged."""

    models: tuple[str, ...]  # folders, hub ids, gs:// paths, workdirs, RUN@STEP or RUN@best
    output: str  # folder for the merged model, as export writes it
    last: int | None = None  # take all checkpoints of a workdir's last steps, such as 2500; None: only the newest
    method: Literal["average", "slerp"] = "average"  # average the weights, or follow the arc between them
    weights: tuple[float, ...] = ()  # weights of the models, in the same order; (): equal
    decay: float | None = None  # factor by which each model counts less than the next, such as 0.8; None: equal
    dtype: Dtype = "float32"  # precision of the result


def main(argv: list[str]) -> None:
    options = Arguments(
        "merge",
        "Average the weights of several models, or of the last checkpoints of one run.",
        "runs/80m --last 2500 --output merged",
        argv,
        MergeOptions,
        positional="models",
    ).read(MergeOptions)

    from f2jax.outputs import PACKAGE, PACKAGE_FILES, output_folder
    from f2jax.release import merge as lib

    models = lib.sources(options.models, options.last)
    with output_folder(options.output, PACKAGE, PACKAGE_FILES):
        merged, shares = lib.merge_models(
            models, options.output, options.method, options.weights, options.decay, options.dtype
        )
    for model, share in zip(models, shares, strict=True):
        print(f"{share:7.1%}  {model}")
    print(f"{options.output}: {merged.parameters:,} parameters, {options.method} of {len(models)}.")
    print(f"Next: f2jax evaluate --model {quote(options.output)}")
