"""`f2jax merge`: average checkpoints into one model."""

from dataclasses import dataclass
from typing import Literal

from f2jax.commands.options import Arguments
from f2jax.inference.options import Dtype


@dataclass(frozen=True)
class MergeOptions:
    """Which checkpoints, and how they are averaged."""

    models: tuple[str, ...]  # folders, hub ids, gs:// paths, workdirs, RUN@STEP or RUN@best
    output: str  # folder to write, as export does
    last: int | None = None  # take all kept checkpoints of a workdir's last steps: 2500; None: the newest
    method: Literal["average", "slerp"] = "average"  # slerp: along the arc between them
    weights: tuple[float, ...] = ()  # weights of the models, in their order; (): equal
    decay: float | None = None  # each model counts this times the one after it, such as 0.8; None: equal
    dtype: Dtype = "float32"  # type of the result


def main(argv: list[str]) -> None:
    options = Arguments(
        "merge",
        "Average checkpoints, weight by weight: of one run's tail, or of several runs.",
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
