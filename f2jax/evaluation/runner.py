"""Runs models on tasks, at several dimensions and precisions, and writes result files in mteb's own layout."""

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
from f2jax.evaluation.encoder import Encoder, task_settings, write_settings
from f2jax.evaluation.local import LocalTask
from f2jax.files import Mirror
from f2jax.tables import text_table

TEXTS = 1_024  # texts in a batch of mteb's data loader
RESULTS = "results"  # mteb's name for the folder of results
UNTRAINED = "-untrained"  # suffix for the name of a model with random weights


class ResultFolder(mteb.ResultCache):
    """mteb's folder of results, in which files that a killed process left incomplete count as missing."""

    def load_task_result(self, *args, **kwargs) -> TaskResult | None:
        with contextlib.suppress(ValueError):
            return super().load_task_result(*args, **kwargs)
        return None


@dataclass(frozen=True)
class TaskScore:
    """The main score of a task, as mteb's mean over its splits and subsets, from 0 to 1."""

    model: str
    variant: str
    task: str
    metric: str
    value: float
    majority: float | None = None  # in classification, the accuracy of the best constant prediction


def run_tasks(
    encoders: Sequence[Encoder], tasks: Sequence[AbsTask], output: str | Path | Mirror, bar: tqdm | None = None
) -> list[TaskScore]:
    """Scores every encoder on every task, except where `output` already has the result.

    Results are written to `output/results/MODEL/REVISION/TASK.json`, and those of smaller vectors to
    `experiments/NAME/TASK.json` in the same folder. Next to them, `settings.jsonl` records dtype, length, dimension,
    precision, revision and prompts.

    Args:
        output: a local folder, or the mirror of a remote one, which is updated after each task.
        bar: advances by one for each encoder and task.

    Raises:
        UserError: `output` cannot be written; or, after all other tasks are done, the data of some could not be loaded.
        Restart: the data of a task are temporarily unavailable.
        Interrupted: Ctrl-C was pressed; the same call continues.
    """
    mirror = output if isinstance(output, Mirror) else Mirror(Path(output), None)
    output = mirror.remote or mirror.folder
    results = ResultFolder(_make_folder(mirror.folder))
    scores: list[TaskScore] = []
    failures: list[_Unloadable] = []
    try:
        for task in tasks:
            try:
                scores += list(_evaluate_task(encoders, task, results, bar))
                mirror.save(RESULTS)
            except _Unloadable as error:
                failures.append(error)
    except KeyboardInterrupt as stop:
        raise Interrupted(f"interrupted; the same command continues from the results in {output}.") from stop
    if failures:
        missing = f"{len(failures)} of {len(tasks)} tasks have no data: {'; '.join(map(str, failures))}"
        missing += f"; the scores of the others are in {output}"
        if any(map(errors.is_transient, failures)):
            raise Restart(f"{missing}; run the same command again.")
        raise UserError(f"{missing}.")
    return scores


class _Unloadable(Exception):
    """The data of a task cannot be loaded: there is no network, or the data set is private, has moved or needs code."""


# What mteb and `datasets` raise then; RuntimeError for a data set with a script, ImportError for an extra of mteb.
UNLOADABLE = (OSError, ValueError, DatasetsError, RuntimeError, ImportError)


def _evaluate_task(
    encoders: Sequence[Encoder], task: AbsTask, results: ResultFolder, bar: tqdm | None
) -> Iterator[TaskScore]:
    random = copy.deepcopy((task.rng_state, task.np_rng))
    for encoder in encoders:
        if bar is not None:
            bar.set_description(f"{task.metadata.name} {encoder.variant}")
        meta = encoder.mteb_model_meta
        old = results.load_task_result(task.metadata.name, meta)
        fits = old is None or old.is_mergeable(task)  # if not, the data have changed since
        if old is None or not fits or old.get_missing_evaluations(task):
            with _quiet():
                _load(task)
                task.rng_state, task.np_rng = copy.deepcopy(random)  # each encoder gets the same samples
                encoder.used_prompts.clear()
                if isinstance(task, LocalTask):
                    encoder.encode_ahead(task)
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
            write_settings(path.with_name("settings.jsonl"), task_settings(encoder, task.metadata.name))
        if bar is not None:
            bar.update(1)
        result = results.load_task_result(task.metadata.name, meta)
        if result is None:
            raise UserError(
                f"The results of {task.metadata.name} are missing from {results.cache_path}; evaluate it again."
            )
        yield _score(encoder, task, result)
    task.dataset, task.data_loaded = None, False


def _load(task: AbsTask) -> None:
    if isinstance(task, AbsTaskAggregate) or task.data_loaded:  # an aggregate loads its parts one by one
        return
    try:
        task.load_data()
    except Exception as error:
        if not isinstance(error, UNLOADABLE) and not errors.is_transient(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _Unloadable(f"{task.metadata.name} ({reason})") from error


def _score(encoder: Encoder, task: AbsTask, result: TaskResult) -> TaskScore:
    entries = [
        entry
        for split in task.eval_splits
        for entry in result.scores[split]
        if entry["hf_subset"] in task.hf_subsets or isinstance(task, AbsTaskAggregate)
    ]
    meta, metric = encoder.mteb_model_meta, task.metadata.main_score
    value = float(np.mean([entry["main_score"] for entry in entries]))
    rates = [entry["majority"] for entry in entries if "majority" in entry]
    majority = float(np.mean(rates)) if rates else None
    return TaskScore(meta.name or "unknown", str(encoder.variant), task.metadata.name, metric, value, majority)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the progress bars and warnings of mteb and datasets; our own bar keeps its stream."""
    datasets.disable_progress_bars()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def _make_folder(output: str | Path) -> Path:
    try:
        Path(output, RESULTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}.") from error
    return Path(output)


def scores_table(scores: Sequence[TaskScore]) -> str:
    """Returns a table with a row for each task, in percent: the model's variants, baselines, and the majority rate.

    Each variant but the first also shows, in brackets, its share of the first one's score.
    """
    value = {(score.model, score.variant, score.task): score.value for score in scores}
    columns = list(dict.fromkeys((score.model, score.variant) for score in scores))
    metric = {score.task: score.metric for score in scores}
    majority = {score.task: score.majority for score in scores if score.majority is not None}
    models = [column for column in columns if not _title(column[0])]
    name = models[0][0] if models else "task"
    rows = [
        (name, "metric", *(_title(model) or variant for model, variant in columns), *(["majority"] * bool(majority)))
    ]

    def cells(tasks: Sequence[str]) -> Iterator[str]:
        mean = {column: float(np.mean([value[*column, task] for task in tasks])) for column in columns}
        for column in columns:
            kept = column in models[1:] and mean[models[0]] > 0
            yield f"{100 * mean[column]:.2f}" + (f" ({mean[column] / mean[models[0]]:.0%})" if kept else "")

    for task, measure in metric.items():
        rate = [f"{100 * majority[task]:.2f}" if task in majority else ""] * bool(majority)
        rows.append((task, measure, *cells([task]), *rate))
    rows.append(("mean", "", *cells(list(metric)), *([""] * bool(majority))))
    return text_table(rows, left=2)


def _title(model: str) -> str:
    """Returns the column title of a baseline; empty for the model itself."""
    return {"f2jax/tfidf": "TF-IDF", "f2jax/random": "random"}.get(model, "untrained" * model.endswith(UNTRAINED))


def count_texts(bar: tqdm) -> Callable[[int], None]:
    """Returns a function that adds to the number of encoded texts shown next to the bar."""
    total = 0

    def add(texts: int) -> None:
        nonlocal total
        total += texts
        bar.set_postfix_str(f"{total:,} texts encoded")

    return add
