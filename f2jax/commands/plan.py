"""`f2jax plan`: compile a training for a TPU slice, without one."""

import os

from f2jax.commands.options import parser_of
from f2jax.errors import UserError


def main(argv: list[str]) -> None:
    parser = parser_of("plan", "Compile the train step for TPU slices, without a TPU: does it fit, how fast is it?")
    parser.add_argument("--config", required=True, help="config file with options: configs/stage2.py:size=8b")
    parser.add_argument("--topology", action="append", required=True, help="chip and shape: v5e:16x16; may be repeated")
    parser.add_argument(
        "--tokens-per-text", type=int, help="mean length of a text; default: the worst, data.max_length"
    )
    parser.add_argument("--rows", type=float, help="training rows of the stage; default: the recipe's 27e6 or 18e6")
    parser.add_argument(
        "--search", action="store_true", help="choose mesh and remat: the fastest of the first that fit"
    )
    parser.add_argument("--json", help="file for all figures")
    parser.epilog = "Any field of the config: --config.mesh.fsdp=16 --config.model.remat=mlp"
    args, overrides = parser.parse_known_args(argv)
    unknown = [text for text in overrides if not text.startswith("--config.")]
    if unknown:
        raise UserError(f"plan has no option '{unknown[0]}'; fields of the config are set by --config.NAME=VALUE.")

    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # whatever this machine has: nothing runs here
    from f2jax import config
    from f2jax.plan import report as plan_report

    loaded = config.load(args.config, overrides)
    print(plan_report.report(loaded, args.topology, args.tokens_per_text, args.rows, args.search, args.json))
