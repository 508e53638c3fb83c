"""`f2jax train`: train a model from a config."""

from dataclasses import dataclass
from shlex import quote

from f2jax.commands.options import Arguments
from f2jax.errors import UserError, require_extra


@dataclass(frozen=True)
class TrainOptions:
    """The run."""

    config: str  # name or file of a config, with its options after a colon: nano:stage=1
    workdir: str  # folder for checkpoints and metrics, local or gs://


def main(argv: list[str]) -> None:
    arguments = Arguments(
        "train",
        "Train a model. The same command resumes after an interruption.",
        "--config stage2:size=80m,teacher=0.6b --workdir runs/80m --config.init_from=80m-pruned",
        argv,
        TrainOptions,
        config=True,
    )
    options = arguments.read(TrainOptions)

    from f2jax import config as configs
    from f2jax.parallel import hosts
    from f2jax.train import loop

    hosts.start()
    with hosts.leave_on_error():
        config = configs.load(options.config, arguments.overrides)
        if config.log.compare:
            _check_comparable(config)
        loop.train(config, options.workdir, _tasks(config))
    if config.log.compare:
        _compare(config, options.workdir)
    run = quote(options.workdir)
    hosts.print_once(f"Next: f2jax evaluate --model {run}\n      f2jax export --model {run} --output PACKAGE")


def _tasks(config):
    """Returns a function that scores the model during the run, or None."""
    if not config.log.evaluate_every:
        return None
    from f2jax.evaluation.during_training import open_tasks

    return open_tasks(config.log.evaluate_tasks, config.log.evaluate_data)


def _check_comparable(config) -> None:
    """Raises UserError if there would be nothing to compare at the end."""
    import jax

    require_extra("eval", "log.compare", "sklearn")
    if jax.process_count() > 1:
        raise UserError("log.compare is for a single process; set --config.log.compare=False.")
    if not config.init_from or any(spec.startswith("corpus:") for spec in config.data.sources):
        raise UserError("log.compare needs init_from and files in data.sources; set --config.log.compare=False.")


def _compare(config, workdir: str) -> None:
    """Prints the scores on the held-out rows of TF-IDF and of the model before and after training."""
    from f2jax.data.loader import read_records
    from f2jax.data.skip_list import SkipList
    from f2jax.evaluation import held_out
    from f2jax.inference.embedder import Embedder

    data, records = config.data, read_records(config, SkipList())
    sets, empty = held_out.held_out_sets(records, data.validation_share, config.seed, data.include, data.exclude)
    if empty:
        print(f"No row is held out of {', '.join(empty)}: give more rows, or a larger data.validation_share.")
    if not sets:
        return
    before, after = Embedder.from_pretrained(config.init_from), Embedder.from_pretrained(workdir)
    scorers = {"TF-IDF": held_out.tfidf, "before": held_out.model_scorer(before), "after": held_out.model_scorer(after)}
    print(held_out.comparison(sets, scorers))
