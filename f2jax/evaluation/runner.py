"""Models x tasks x dimensions and precisions → result files in mteb's own layout."""

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import mteb
import numpy as np
from datasets.exceptions import DatasetsError
from mteb.abstasks import AbsTask
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.results import TaskResult
from tqdm import tqdm

from f2jax import errors
from f2jax.errors import Interrupted, Restart, UserError
from f2jax.evaluation.encoder import Encoder, settings, write_settings

TEXTS = 1_024  # texts that mteb's loader hands over at a time


class Results(mteb.ResultCache):
    """mteb's folder of results; a file that a killed process left half written counts as none."""

    def load_task_result(self, *args, **kwargs) -> TaskResult | None:
        with contextlib.suppress(ValueError):
            return super().load_task_result(*args, **kwargs)
        return None


@dataclass(frozen=True)
class Score:
    """The mean main score of a task's splits and subsets, 0 to 1 (as mteb has it), and each subset's own."""

    model: str
    variant: str
    task: str
    metric: str
    value: float


def run_tasks(
    encoders: Sequence[Encoder], tasks: Sequence[AbsTask], output: str | Path, bar: tqdm | None = None
) -> list[Score]:
    """Score every encoder on every task; what lies in `output` already is not scored again.

    Results go to `output/results/MODEL/REVISION/TASK.json`, those of smaller vectors to `…/experiments/NAME/TASK.json`
    beside them; `settings.jsonl` in each folder has dtype, length, dimension, precision, revision and prompts.

    Args:
        bar: is moved on by one for each encoder and task.

    Raises:
        UserError: `output` cannot be written, or the data of tasks could not be loaded: after all other tasks.
        Restart: that of one of them could not be loaded for a moment.
        Interrupted: by Ctrl-C; the same call goes on.
    """
    results = Results(_folder(output))
    scores, failures = [], []
    try:
        for task in tasks:
            try:
                scores += list(_evaluate_task(encoders, task, results, bar))
            except _Unloadable as error:
                failures.append(error)
    except KeyboardInterrupt as stop:
        raise Interrupted(f"interrupted; the same command goes on from what lies in {output}.") from stop
    if failures:
        missing = f"{len(failures)} of {len(tasks)} tasks have no data: {'; '.join(map(str, failures))}"
        missing += f"; the scores of the others lie in {output}"
        if any(map(errors.is_transient, failures)):
            raise Restart(f"{missing}; run the same command again.")
        raise UserError(f"{missing}.")
    return scores


class _Unloadable(Exception):
    """The data of a task cannot be had: no network, a private or a moved data set."""


def _evaluate_task(encoders: Sequence[Encoder], task: AbsTask, results: Results, bar: tqdm | None) -> Iterator[Score]:
    random = copy.deepcopy((task.rng_state, task.np_rng))
    for encoder in encoders:
        if bar is not None:
            bar.set_description(f"{task.metadata.name} {encoder.variant}")
        meta = encoder.mteb_model_meta
        old = results.load_task_result(task.metadata.name, meta)
        fits = old is None or old.is_mergeable(task)  # else the data has changed since
        if old is None or not fits or old.get_missing_evaluations(task):
            with _quiet():
                _load(task)
                task.rng_state, task.np_rng = copy.deepcopy(random)  # each encoder is given the same samples
                encoder.used.clear()
                mteb.evaluate(
                    encoder,
                    task,
                    cache=results,
                    overwrite_strategy="only-missing" if fits else "always",
                    co2_tracker=False,
                    encode_kwargs={"batch_size": TEXTS, "show_progress_bar": False},
                    show_progress_bar=False,
                )
            path = results.get_task_result_path(task.metadata.name, meta)
            write_settings(path.with_name("settings.jsonl"), settings(encoder, task.metadata.name))
        if bar is not None:
            bar.update(1)
        yield _score(encoder, task, results.load_task_result(task.metadata.name, meta))
    task.dataset, task.data_loaded = None, False


def _load(task: AbsTask) -> None:
    if isinstance(task, AbsTaskAggregate) or task.data_loaded:  # the parts of an aggregate are loaded one by one
        return
    try:
        task.load_data()
    except Exception as error:
        if not isinstance(error, (OSError, ValueError, DatasetsError)) and not errors.is_transient(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _Unloadable(f"{task.metadata.name} ({reason})") from error


def _score(encoder: Encoder, task: AbsTask, result: TaskResult) -> Score:
    values = [
        entry["main_score"]
        for split in task.eval_splits
        for entry in result.scores[split]
        if entry["hf_subset"] in task.hf_subsets or isinstance(task, AbsTaskAggregate)
    ]
    meta, metric = encoder.mteb_model_meta, task.metadata.main_score
    return Score(meta.name, str(encoder.variant), task.metadata.name, metric, float(np.mean(values)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """mteb and datasets show a bar for each subset and warn a lot; our own bar keeps the stream it was made with."""
    datasets.disable_progress_bars()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def _folder(output: str | Path) -> Path:
    try:
        Path(output, "results").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}.") from error
    return Path(output)


def table(scores: Sequence[Score]) -> str:
    """A block for each model: a line for each task, a column for each variant, in percent."""
    blocks = []
    for model in dict.fromkeys(score.model for score in scores):
        own = [score for score in scores if score.model == model]
        value = {(score.task, score.variant): score.value for score in own}
        columns = list(dict.fromkeys(score.variant for score in own))
        metric = {score.task: score.metric for score in own}
        width = max(len(task) for task in [model, *metric]) + 2
        head = f"{model:<{width}}{'metric':<17}" + "".join(f"{name:>12}" for name in columns)
        lines = [head, "-" * len(head)]
        for task, name in metric.items():
            cells = "".join(f"{100 * value[task, column]:>12.2f}" for column in columns)
            lines.append(f"{task:<{width}}{name:<17}{cells}")
        means = [np.mean([value[task, column] for task in metric]) for column in columns]
        lines.append(f"{'mean':<{width}}{'':<17}" + "".join(f"{100 * mean:>12.2f}" for mean in means))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def progress(bar: tqdm) -> Callable[[int], None]:
    """Counts the texts that are encoded beside the bar."""
    total = 0

    def more(texts: int) -> None:
        nonlocal total
        total += texts
        bar.set_postfix_str(f"{total:,} texts encoded")

    return more
