"""`f2jax plan`: compile a training for a TPU slice, without one."""

import os
from contextlib import nullcontext
from dataclasses import dataclass

from f2jax.commands.options import Arguments
from f2jax.errors import UserError


@dataclass(frozen=True)
class PlanOptions:
    """What is planned."""

    config: str  # name or file of a config, with options: stage2:size=8b
    topology: tuple[str, ...]  # chips and shapes: v5e:16x16
    tokens_per_text: int | None = None  # mean length of a text; None: the worst case, data.max_length
    lengths: str | None = None  # instead: a file with the tokens of a text in each line, or a prepared corpus
    rows: float | None = None  # training rows of the stage; None: the recipe's 27e6 or 18e6
    # US dollars of a chip-hour in your zone and capacity; None: the list price on demand, in f2jax/parallel/chips.py
    price: float | None = None
    search: bool = False  # choose mesh and remat: the fastest of the first that fit
    compiler_option: tuple[str, ...] = ()  # NAME=VALUE of XLA, added to the chip's; NAME= removes one
    json: str | None = None  # file for all figures


def main(argv: list[str]) -> None:
    arguments = Arguments(
        "plan",
        "Compile the train step for TPU slices, without a TPU: does it fit, and how fast is it?",
        "--config stage2:size=8b --topology v5e:16x16 --search",
        argv,
        PlanOptions,
        config=True,
    )
    options = arguments.read(PlanOptions)

    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # whatever this machine has: nothing runs here
    from f2jax import config
    from f2jax.outputs import output_file
    from f2jax.plan.report import plan_topologies

    if options.price is not None and not options.price > 0:
        raise UserError(f"--price {options.price} should be above 0: US dollars of a chip-hour.")
    loaded = config.load(options.config, arguments.overrides)
    loaded.model.compiler_options += options.compiler_option
    with output_file(options.json, "file of plans") if options.json else nullcontext():
        values = options.tokens_per_text, options.rows, options.search, options.json, options.lengths, options.price
        print(plan_topologies(loaded, options.topology, *values))
