"""The options of `f2jax compare`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CompareOptions:
    """Runs and the page."""

    runs: tuple[str, ...]  # workdirs of f2jax train, or folders of them, local or gs://
    output: str  # folder for index.html, the plots as PNG, runs.csv, curves.csv and law.csv
    metric: str = "validation/loss"  # of metrics.jsonl: what the law is of, and what the curves show
    leave_out: int = 0  # number of the largest sizes that the law is not fitted on, but predicts
    bootstrap: int = 200  # samples of the runs, for the 95 % intervals of the law
    plan: tuple[str, ...] = ()  # RUN=FILE: the plan of a run, by f2jax plan --json, for times and chips; (): none
