"""Selects mteb tasks by the names of tasks and benchmarks."""

from collections.abc import Mapping, Sequence

import mteb
from mteb.abstasks import AbsTask

from f2jax.errors import UserError, did_you_mean
from f2jax.evaluation import builtin, local, own, published

NO_NAMES: Mapping[str, str] = {}


def select_tasks(
    names: Sequence[str] = (),
    benchmark: str | None = None,
    data: Sequence[str] = (),
    languages: Sequence[str] = (),
    columns: Mapping[str, str] = NO_NAMES,
) -> list[AbsTask]:
    """Returns the tasks of a benchmark, the named tasks, and then those on your own files, each task once.

    Args:
        names: local tasks or mteb's; if there are neither names nor a benchmark, `data` selects all local tasks.
        benchmark: a short name such as `english` (recipe 4.1), or mteb's own name.
        data: folder of the local tasks, and your own files and folders (`own.own_tasks`).
        languages: keep only these ISO 639-3 languages, and only tasks that have one of them; tasks on your own files
            are always kept.
        columns: {name: column} in your own files.

    Raises:
        UserError: a name is unknown, a task is not about texts alone, a local task has no `data`, two of your own files
            have the same name, or no task is left.
    """
    folders = [spec for spec in data if not own.is_own(spec)]
    if len(folders) > 1:
        raise UserError(f"--data names the folders {' and '.join(folders)}; the local tasks have one.")
    folder = folders[0] if folders else None
    if columns and len(folders) == len(data):
        raise UserError("--columns is for files of your own in --data.")
    if folder and not names and not benchmark:
        names = list(local.TASKS)
    tasks = [*(_benchmark(benchmark) if benchmark else ()), *(_task(name, folder) for name in names)]
    tasks = list({task.metadata.name: task for task in tasks}.values())
    if other := [task.metadata.name for task in tasks if set(task.metadata.modalities) != {"text"}]:
        shown = ", ".join(other[:3]) + (", …" if len(other) > 3 else "")
        raise UserError(
            f"There is more than text in {shown}, such as images; f2jax embeds only texts, so leave that out."
        )
    if languages:
        tasks = _filter_languages(tasks, languages)
    return [*tasks, *_own_tasks([spec for spec in data if own.is_own(spec)], columns)]


def _own_tasks(specs: Sequence[str], columns: Mapping[str, str]) -> list[AbsTask]:
    tasks: dict[str, tuple[str, AbsTask]] = {}
    for spec in dict.fromkeys(specs):
        for task in own.own_tasks(spec, columns):
            other, _ = tasks.setdefault(task.metadata.name, (spec, task))
            if other != spec:
                raise UserError(
                    f"{other} and {spec} are both called {task.metadata.name}; rename one, or leave it out."
                )
    return [task for _, task in tasks.values()]


def _benchmark(name: str) -> Sequence[AbsTask]:
    short = published.load_published()["benchmarks"]
    try:
        return mteb.get_benchmark(short.get(name, name)).tasks
    except KeyError as error:
        known = [*short, *(benchmark.name for benchmark in mteb.get_benchmarks())]
        raise UserError(f"There is no benchmark '{name}'{did_you_mean(name, known)}") from error


def _task(name: str, data: str | None) -> AbsTask:
    if name in local.TASKS:
        if not data:
            raise UserError(f"{name} is a local task; name the folder of its data with --data.")
        return local.TASKS[name](data)
    if name in builtin.TASKS:
        alone = "without other tasks, --data, --benchmark and --baseline"
        raise UserError(f"{name} is built in; run built-in tasks in a separate command: {alone}.")
    try:
        return mteb.get_task(name)
    except KeyError as error:
        raise builtin.unknown_task(name, known_names()) from error


def known_names() -> list[str]:
    """Returns the names of all tasks: built-in and local ones, and those of mteb."""
    return [*builtin.TASKS, *local.TASKS, *(task.metadata.name for task in mteb.get_tasks(exclude_superseded=False))]


def _filter_languages(tasks: list[AbsTask], languages: Sequence[str]) -> list[AbsTask]:
    kept = []
    for task in tasks:
        wanted = {
            subset
            for subset, tags in task.metadata.hf_subsets_to_langscripts.items()
            if any(tag.partition("-")[0] in languages for tag in tags)
        }
        if wanted:
            kept.append(task.filter_languages(None, hf_subsets=[name for name in task.hf_subsets if name in wanted]))
    if not kept:
        raise UserError(
            f"No task has the languages {', '.join(languages)}; give ISO 639-3 codes such as deu, or none if all files "
            "are your own."
        )
    return kept
