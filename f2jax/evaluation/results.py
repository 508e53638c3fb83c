"""Result files in mteb's layout → scores by model, task, language and dimension."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import mteb
import numpy as np

from f2jax.errors import UserError
from f2jax.evaluation import local, published
from f2jax.evaluation.variants import Variant

ALL = "mean of tasks"


@dataclass(frozen=True)
class Entry:
    """The main score of one subset, 0 to 1."""

    task: str
    split: str
    subset: str
    languages: tuple[str, ...]  # tags: deu-Latn
    score: float


@dataclass(frozen=True)
class ModelResults:
    """All scores of a model at one dimension and precision."""

    model: str
    revision: str
    parameters: int | None
    variant: Variant
    whole: bool  # all dimensions, in float32
    entries: tuple[Entry, ...]

    def tasks(self) -> dict[str, float]:
        """{task: mean of its subsets and splits}, of the splits that mteb evaluates on."""
        return _means((entry.task, entry.score) for entry in self.entries if entry.split in eval_splits(entry.task))

    def languages(self) -> dict[str, float]:
        """{tag: mean of its tasks}; a subset in English and another language counts for the other."""
        scores = defaultdict(list)
        for entry in self.entries:
            others = [tag for tag in entry.languages if tag != "eng-Latn"]
            for tag in others or entry.languages:
                scores[tag, entry.task].append(entry.score)
        return _means((tag, float(np.mean(values))) for (tag, _), values in scores.items())

    def types(self, tasks: Iterable[str] | None = None) -> dict[str, float]:
        """{task type: mean of its tasks}, of the given ones alone; ALL stands for the mean of all of these."""
        scores = self.tasks()
        kept = {task: scores[task] for task in (scores if tasks is None else tasks) if task in scores}
        everything = ((ALL, score) for score in kept.values())
        return _means([*((task_type(task), score) for task, score in kept.items()), *everything])


def read_results(folders: Iterable[str | Path]) -> list[ModelResults]:
    """The runs in folders of results: those of `f2jax evaluate`, or a copy of mteb's own collection.

    Raises:
        UserError: a folder is missing or has no results, or a file is no JSON.
    """
    found: dict[tuple, list[Entry]] = defaultdict(list)
    metas: dict[tuple, dict] = {}
    for folder in folders:
        paths = [path for path in sorted(Path(folder).rglob("*.json")) if path.name != "model_meta.json"]
        results = [(path, content) for path in paths if "task_name" in (content := _json(path))]
        if not results:
            raise UserError(f"There are no results in {folder}; give the --output of f2jax evaluate.")
        for path, content in results:
            meta = _meta(path)
            key = (meta["name"], meta["revision"], json.dumps(meta["experiment_kwargs"] or {}, sort_keys=True))
            metas[key] = meta
            found[key] += _entries(content)
    return _distinct([_run(metas[key], entries) for key, entries in found.items()])


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); delete it and evaluate again.") from error
    return content if isinstance(content, dict) else {}


def _meta(path: Path) -> dict:
    """What mteb wrote beside the results; else what the folders' names say."""
    unknown = {"n_parameters": None, "embed_dim": None, "experiment_kwargs": None}
    beside = path.with_name("model_meta.json")
    if beside.exists():
        return unknown | _json(beside)
    model, revision = path.parts[-3:-1] if len(path.parts) > 2 else ("unknown", "unknown")
    return unknown | {"name": model.replace("__", "/"), "revision": revision}


def _entries(content: dict) -> list[Entry]:
    return [
        Entry(content["task_name"], split, one["hf_subset"], tuple(one["languages"]), one["main_score"])
        for split, scores in content["scores"].items()
        for one in scores
    ]


def _run(meta: dict, entries: Sequence[Entry]) -> ModelResults:
    experiment = meta["experiment_kwargs"] or {}
    variant = Variant(experiment.get("embed_dim") or meta["embed_dim"] or 0, experiment.get("output_dtypes", "float32"))
    model = meta["name"] + (f" (prompts {experiment['prompts']})" if "prompts" in experiment else "")
    whole = not {"embed_dim", "output_dtypes"} & set(experiment)
    distinct = {(entry.task, entry.split, entry.subset): entry for entry in entries}
    return ModelResults(model, meta["revision"] or "", meta["n_parameters"], variant, whole, tuple(distinct.values()))


def _distinct(runs: list[ModelResults]) -> list[ModelResults]:
    """Two revisions of one name are told apart by the first digits of these."""
    revisions = defaultdict(set)
    for run in runs:
        revisions[run.model].add(run.revision)
    named = [replace(r, model=f"{r.model}@{r.revision[:8]}") if len(revisions[r.model]) > 1 else r for r in runs]
    return sorted(
        named, key=lambda run: (run.model, not run.whole, run.variant.precision != "float32", -run.variant.dim)
    )


def shared_tasks(runs: Sequence[ModelResults]) -> set[str]:
    """The tasks that every run has: means over these compare."""
    return set.intersection(*(set(run.tasks()) for run in runs)) if runs else set()


def with_dimensions(runs: Sequence[ModelResults]) -> list[ModelResults]:
    """The runs of the models that were scored at more than one dimension or precision."""
    return [run for run in runs if sum(other.model == run.model for other in runs) > 1]


def _means(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    values = defaultdict(list)
    for name, value in pairs:
        values[name].append(value)
    return {name: float(np.mean(values[name])) for name in values}


@cache
def _task(name: str):
    if name in local.TASKS:
        return local.TASKS[name]
    try:
        return mteb.get_task(name)
    except KeyError:
        return None


def task_type(name: str) -> str:
    """`Retrieval`, `STS` …; `other` for a task that neither mteb nor f2jax knows."""
    task = _task(name)
    return task.metadata.type if task else "other"


def eval_splits(name: str) -> "Sequence[str] | AnySplit":
    """The splits that count."""
    task = _task(name)
    return task.metadata.eval_splits if task else AnySplit()


class AnySplit:
    """Holds every split, for tasks that nobody knows."""

    def __contains__(self, split: str) -> bool:
        return True


def benchmark_mean(run: ModelResults, tasks: Sequence) -> tuple[float, int]:
    """(mean over those tasks of a benchmark that the run has, how many these are); its subsets and splits alone."""
    scores = []
    for task in tasks:
        values = [
            entry.score
            for entry in run.entries
            if entry.task == task.metadata.name
            and entry.split in task.eval_splits
            and (entry.subset in task.hf_subsets or entry.subset == "default")
        ]
        if values:
            scores.append(float(np.mean(values)))
    return (float(np.mean(scores)) if scores else float("nan")), len(scores)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of which at least one task has a score: {model: (mean, number of its tasks that are there)}."""

    short: str
    name: str
    tasks: int
    means: dict[str, tuple[float, int]]


def covered(runs: Sequence[ModelResults]) -> list[Benchmark]:
    """The paper's benchmarks that the runs have tasks of."""
    there = {entry.task for run in runs for entry in run.entries}
    found = []
    for short, name in published.load_published()["benchmarks"].items():
        tasks = mteb.get_benchmark(name).tasks
        if there & {task.metadata.name for task in tasks}:
            means = {run.model: benchmark_mean(run, tasks) for run in runs if run.whole}
            found.append(Benchmark(short, name, len(tasks), {model: one for model, one in means.items() if one[1]}))
    return found
