"""Reads result files, of mteb and of the built-in tasks, into scores by model, task, language and dimension."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import mteb
import numpy as np

from f2jax import files
from f2jax.errors import UserError
from f2jax.evaluation import builtin, local, own, published
from f2jax.evaluation.variants import Variant

ALL = "mean of tasks"


@dataclass(frozen=True)
class ScoreEntry:
    """The main score of a subset, from 0 to 1."""

    task: str
    split: str
    subset: str
    languages: tuple[str, ...]  # tags: deu-Latn
    score: float


@dataclass(frozen=True)
class ScoredVariant:
    """The scores of a model at one dimension and precision."""

    model: str
    revision: str
    parameters: int | None
    variant: Variant
    full: bool  # all dimensions, in float32
    entries: tuple[ScoreEntry, ...]

    def tasks(self) -> dict[str, float]:
        """Returns each task's mean over its subsets and the splits that mteb evaluates on."""
        return _means((entry.task, entry.score) for entry in self.entries if is_evaluated(entry))

    def languages(self) -> dict[str, float]:
        """Returns each language's mean over tasks; a subset in English and another language counts for the other."""
        scores = defaultdict(list)
        for entry in self.entries:
            others = [tag for tag in entry.languages if tag != "eng-Latn"]
            for tag in others or entry.languages:
                scores[tag, entry.task].append(entry.score)
        return _means((tag, float(np.mean(values))) for (tag, _), values in scores.items())

    def types(self, tasks: Iterable[str] | None = None) -> dict[str, float]:
        """Returns the mean over `tasks` (by default, all) for each task type, and over all of them as `ALL`."""
        scores = self.tasks()
        kept = {task: scores[task] for task in (scores if tasks is None else tasks) if task in scores}
        everything = ((ALL, score) for score in kept.values())
        return _means([*((task_type(task), score) for task, score in kept.items()), *everything])


def read_results(folders: Iterable[str | Path]) -> list[ScoredVariant]:
    """Reads folders of results, local or gs://: the output of `f2jax evaluate`, or a copy of mteb's own collection.

    Raises:
        UserError: a folder is missing or has no results, or a file is not a result file.
    """
    entries: dict[tuple, list[ScoreEntry]] = defaultdict(list)
    metas: dict[tuple, dict] = {}
    runs: list[ScoredVariant] = []
    for folder in folders:
        empty = True
        with files.mirrored(folder, "") as mirror:
            for path in sorted(mirror.folder.rglob("*.json")):
                shown = files.join(folder, str(path.relative_to(mirror.folder)))
                content = _json(path, shown)
                with _readable(shown):
                    if path.name == builtin.RESULTS and "tasks" in content:
                        runs += _builtin_runs(shown, content)
                    elif "task_name" in content:
                        meta = _meta(path, shown)
                        experiment = json.dumps(meta["experiment_kwargs"] or {}, sort_keys=True)
                        key = (meta["name"], meta["revision"], experiment)
                        metas[key] = meta
                        entries[key] += _entries(content)
                    else:
                        continue
                empty = False
        if empty:
            raise UserError(f"There are no results in {folder}; give the --output of f2jax evaluate.")
    return _distinct(_joined(runs) + [_run(metas[key], found) for key, found in entries.items()])


def _json(path: Path, shown: str) -> dict:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{shown} is no JSON ({error}); delete it and evaluate again.") from error
    return content if isinstance(content, dict) else {}


@contextmanager
def _readable(shown: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{shown} is not a result file ({error!r}); delete it and evaluate again.") from error


def _builtin_runs(shown: str, content: dict) -> Iterator[ScoredVariant]:
    """Yields the scores on built-in tasks at each dimension, then those of TF-IDF."""
    model = content.get("model") or Path(shown).resolve().parent.name
    revision, parameters, tasks = content["revision"], content.get("parameters"), content["tasks"]
    dims = sorted({int(dim) for task in tasks.values() for dim in task["dims"]}, reverse=True)
    for dim in dims:
        scores = {name: task["dims"][str(dim)] for name, task in tasks.items() if str(dim) in task["dims"]}
        yield ScoredVariant(model, revision, parameters, Variant(dim), dim == dims[0], _builtin_entries(scores))
    scores = {name: task["tfidf"] for name, task in tasks.items()}
    yield ScoredVariant("f2jax/tfidf", "built-in", None, Variant(0), True, _builtin_entries(scores))


def _builtin_entries(scores: dict[str, float]) -> tuple[ScoreEntry, ...]:
    return tuple(ScoreEntry(name, "test", "default", (), float(score)) for name, score in scores.items())


def _meta(path: Path, shown: str) -> dict:
    """Returns mteb's metadata next to the results, or else what the names of the folders tell."""
    *_, model, revision, _ = ("unknown", "unknown", *Path(shown).parts)
    meta: dict = dict.fromkeys(("n_parameters", "embed_dim", "experiment_kwargs"))
    meta |= {"name": model.replace("__", "/"), "revision": revision}
    neighbour = path.with_name("model_meta.json")
    return meta | (_json(neighbour, f"{shown}: its {neighbour.name}") if neighbour.exists() else {})


def _entries(content: dict) -> list[ScoreEntry]:
    return [
        ScoreEntry(
            content["task_name"], split, entry["hf_subset"], tuple(entry["languages"]), float(entry["main_score"])
        )
        for split, scores in content["scores"].items()
        for entry in scores
    ]


def _run(meta: dict, entries: Sequence[ScoreEntry]) -> ScoredVariant:
    experiment = meta["experiment_kwargs"] or {}
    variant = Variant(experiment.get("embed_dim") or meta["embed_dim"] or 0, experiment.get("output_dtypes", "float32"))
    model = meta["name"] + (f" (prompts {experiment['prompts']})" if "prompts" in experiment else "")
    full = not {"embed_dim", "output_dtypes"} & set(experiment)
    distinct = {(entry.task, entry.split, entry.subset): entry for entry in entries}
    return ScoredVariant(model, meta["revision"] or "", meta["n_parameters"], variant, full, tuple(distinct.values()))


def _joined(runs: Iterable[ScoredVariant]) -> list[ScoredVariant]:
    """Puts the tasks of each variant together, which may be in several files."""
    joined: dict[tuple, ScoredVariant] = {}
    for run in runs:
        first = joined.setdefault((run.model, run.revision, run.variant), run)
        entries = tuple(dict.fromkeys(first.entries + run.entries))
        joined[run.model, run.revision, run.variant] = replace(first, entries=entries)
    return list(joined.values())


def _distinct(runs: list[ScoredVariant]) -> list[ScoredVariant]:
    """Adds the first digits of the revision to names that have several, and drops runs that were read twice."""
    revisions = defaultdict(set)
    for run in runs:
        revisions[run.model].add(run.revision)
    named = [replace(r, model=f"{r.model}@{r.revision[:8]}") if len(revisions[r.model]) > 1 else r for r in runs]
    return sorted(
        dict.fromkeys(named),
        key=lambda run: (run.model, not run.full, run.variant.precision != "float32", -run.variant.dim),
    )


def shared_tasks(runs: Sequence[ScoredVariant]) -> set[str]:
    """Returns the tasks that all runs have, so that means over them can be compared."""
    return set.intersection(*(set(run.tasks()) for run in runs)) if runs else set()


def with_dimensions(runs: Sequence[ScoredVariant]) -> list[ScoredVariant]:
    """Returns the runs of models that were scored at more than one dimension or precision."""
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
    """Returns `Retrieval`, `STS` …, or `other` for a task that neither mteb nor f2jax knows."""
    if name in builtin.TASKS:
        return "Retrieval"
    task = _task(name)
    return task.metadata.type if task else own.TYPES.get(name.rpartition("-")[2], "other")


def is_evaluated(entry: ScoreEntry) -> bool:
    """Returns whether mteb evaluates on the entry's split; true for unknown tasks."""
    task = _task(entry.task)
    return not task or entry.split in task.metadata.eval_splits


def benchmark_mean(run: ScoredVariant, tasks: Sequence) -> tuple[float, int]:
    """Returns the mean over those tasks of a benchmark that the run has, and their number.

    Only the subsets and splits of the benchmark count.
    """
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
    """A benchmark with scores for at least one of its tasks."""

    short: str
    name: str
    tasks: int
    means: dict[str, tuple[float, int]]  # {model: (mean, number of its tasks with a score)}


def covered_benchmarks(runs: Sequence[ScoredVariant]) -> list[Benchmark]:
    """Returns the paper's benchmarks from which the runs have tasks."""
    scored = {entry.task for run in runs for entry in run.entries}
    benchmarks = []
    for short, name in published.load_published()["benchmarks"].items():
        tasks = mteb.get_benchmark(name).tasks
        if scored & {task.metadata.name for task in tasks}:
            means = {run.model: benchmark_mean(run, tasks) for run in runs if run.full}
            means = {model: mean for model, mean in means.items() if mean[1]}
            benchmarks.append(Benchmark(short, name, len(tasks), means))
    return benchmarks
