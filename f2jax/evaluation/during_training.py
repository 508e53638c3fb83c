"""Scores a model on tasks of `f2jax evaluate` while it is being trained, without writing files."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np

from f2jax.errors import UserError, require_extra
from f2jax.evaluation import builtin
from f2jax.evaluation.variants import Variant, variants
from f2jax.inference import multihost
from f2jax.inference.embedder import Embedder

Scores = dict[str, float]
NAME = "f2jax/in-training"  # name of the model in temporary results


def open_tasks(names: Sequence[str] = (), data: Sequence[str] = ()) -> Callable[[Embedder], Iterator[Scores]]:
    """Returns a function that scores a model: it yields the scores of each task, and finally their mean.

    TASK is the main score at the full width, TASK/DIM that at every second Matryoshka dimension, and `mean` the mean
    over the tasks at the full width. If there are several processes, all of them call the function with a model that
    is on all their devices, and get the same scores.

    >>> for scores in open_tasks(["cldr-names"])(embedder): print(scores)
    {'cldr-names': 0.62, 'cldr-names/16': 0.4}
    {'mean': 0.62}

    Args:
        names: built-in tasks, and local tasks with files in `data`; (): as for `f2jax evaluate`.
        data: the folder of the local tasks, and your own files.

    Raises:
        UserError: a task is unknown or would need a download, its data cannot be read, or mteb is not installed.
    """
    names = names or ([] if data else [*builtin.TASKS])
    own = [builtin.load_task(name) for name in names if name in builtin.TASKS]
    others = [name for name in names if name not in builtin.TASKS]
    scorers: list[Callable[[Embedder], Scores]] = [partial(_score_built_in, task) for task in own]
    if others or data:
        scorers += _local_scorers(others, data)

    def scores(embedder: Embedder) -> Iterator[Scores]:
        mains = []
        for scorer in scorers:
            found = multihost.follow_first(embedder, partial(scorer, embedder))
            found = json.loads(multihost.share_text(json.dumps(found)))
            mains.append(next(iter(found.values())))
            yield found
        yield {"mean": float(np.mean(mains))}

    return scores


def _score_built_in(task: builtin.RetrievalTask, embedder: Embedder) -> Scores:
    by_dim = builtin.score_dimensions(embedder, task)
    return _named(task.name, {variant.dim: by_dim[variant.dim] for variant in _variants(embedder)})


def _variants(embedder: Embedder) -> list[Variant]:
    return variants(embedder.dim, embedder.matryoshka_dims, precisions=())


def _named(task: str, by_dim: Mapping[int, float]) -> Scores:
    """Returns the scores by name, starting with that of the full width."""
    width = max(by_dim)
    return {task if dim == width else f"{task}/{dim}": by_dim[dim] for dim in sorted(by_dim, reverse=True)}


def _local_scorers(names: Sequence[str], data: Sequence[str]) -> list[Callable[[Embedder], Scores]]:
    require_extra("mteb", "log.evaluate_tasks of local tasks")
    from f2jax.evaluation import run, runner
    from f2jax.evaluation.local import LocalTask
    from f2jax.evaluation.prompts import read_instructions
    from f2jax.evaluation.selection import select_tasks

    selected = select_tasks(names, data=data)
    tasks = [task for task in selected if isinstance(task, LocalTask)]
    for task in selected:
        if task not in tasks:
            raise UserError(f"mteb downloads {task.metadata.name}; log.evaluate_tasks takes built-in and local tasks.")
    instructions = read_instructions().for_tasks(tasks)

    def score(task: LocalTask, embedder: Embedder) -> Scores:
        with TemporaryDirectory(prefix="f2jax-scores-") as folder:
            own = instructions.for_own(tasks, embedder)
            encoders = run.variant_encoders(embedder, NAME, _variants(embedder), own, folder)
            found = runner.run_tasks(encoders, [task], folder)
        return _named(task.metadata.name, {int(score.variant): score.value for score in found})

    return [partial(score, task) for task in tasks]
