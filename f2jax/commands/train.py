"""`f2jax train`: train a model as a config says."""

from dataclasses import dataclass

from f2jax.commands.options import Arguments


@dataclass(frozen=True)
class TrainOptions:
    """The run."""

    config: str  # name or file of a config, with options: nano:stage=1
    workdir: str  # folder of the run, local or gs://: checkpoints, metrics


def main(argv: list[str]) -> None:
    arguments = Arguments(
        "train",
        "Train a model; run again, the same command resumes.",
        "--config stage2:size=80m,teacher=0.6b --workdir runs/80m --config.init_from=80m-pruned",
        argv,
        TrainOptions,
        config=True,
    )
    options = arguments.read(TrainOptions)

    from f2jax import config
    from f2jax.parallel import hosts
    from f2jax.train import loop

    hosts.start()
    with hosts.leave_on_error():
        loop.train(config.load(options.config, arguments.overrides), options.workdir)
