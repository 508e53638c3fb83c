"""The options of `f2jax compare`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CompareOptions:
    """Runs and the page."""

    runs: tuple[str, ...]  # workdirs of f2jax train, or folders of them, local or gs://
    output: str  # folder for index.html, the plots as PNG, runs.csv, curves.csv and law.csv
    metric: str = "validation/loss"  # metric of metrics.jsonl that the law predicts and the curves show
    leave_out: int = 0  # exclude this many of the largest sizes from the fit, and predict them
    bootstrap: int = 200  # resamples of the runs, for the 95 % intervals of the law
    plan: tuple[str, ...] = ()  # RUN=FILE with the plan of a run from f2jax plan --json, for times and chips; (): none
