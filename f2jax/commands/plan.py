"""`f2jax plan`: compile a training for a TPU slice, without having one."""

import os
from contextlib import nullcontext
from dataclasses import dataclass

from f2jax.commands.options import Arguments
from f2jax.errors import UserError


@dataclass(frozen=True)
class PlanOptions:
    """Plan."""

    config: str  # name or file of a config, with its options after a colon: stage2:size=8b
    topology: tuple[str, ...]  # slices to plan for, as chip and shape: v5e:16x16
    tokens_per_text: int | None = None  # mean length of a text in tokens; None: the worst case, data.max_length
    # file with the number of tokens of one text per line, or a prepared corpus, instead of a mean length
    lengths: str | None = None
    rows: float | None = None  # number of training rows; None: the recipe's 27e6 or 18e6
    # US dollars per chip-hour in your zone and capacity; None: the list price on demand, in f2jax/parallel/chips.py
    price: float | None = None
    search: bool = False  # search for a mesh and a remat policy that fit and are fast
    compiler_option: tuple[str, ...] = ()  # NAME=VALUE of XLA, in addition to those of the chip; NAME= removes one
    json: str | None = None  # write all figures to this file


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

    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing runs on this machine's accelerators
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
