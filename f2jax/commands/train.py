"""`f2jax train`: train a model as a config says."""

from f2jax.commands.options import parser_of
from f2jax.errors import UserError


def main(argv: list[str]) -> None:
    parser = parser_of("train", "Train a model; the same command resumes an interrupted run.")
    parser.add_argument("--config", required=True, help="config file with options: configs/nano.py:stage=1")
    parser.add_argument("--workdir", required=True, help="folder of the run, local or gs://: checkpoints, metrics")
    parser.epilog = "Any field of the config: --config.optim.peak_lr=4e-5"
    args, overrides = parser.parse_known_args(argv)
    unknown = [text for text in overrides if not text.startswith("--config.")]
    if unknown:
        raise UserError(f"train has no option '{unknown[0]}'; fields of the config are set by --config.NAME=VALUE.")

    from f2jax import config
    from f2jax.parallel import hosts
    from f2jax.train import loop

    hosts.start()
    with hosts.leave_on_error():
        loop.train(config.load(args.config, overrides), args.workdir)
