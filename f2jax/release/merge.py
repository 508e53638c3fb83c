"""`f2jax merge`: merges checkpoints of the same shape, and writes the result as a package.

Each weight is read, merged and written before the next one, so memory holds two weights and not two models.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import flax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from f2jax import files
from f2jax.checkpoints import package, workdir
from f2jax.checkpoints.hf import LazyWeight
from f2jax.checkpoints.workdir import StoredModel, check_dtype, tokenizer_folder
from f2jax.data.tokenizer import load_tokenizer
from f2jax.errors import UserError, did_you_mean
from f2jax.model.sizes import Qwen3Config

METHODS = ("average", "slerp")
MAY_DIFFER = ("max_length", "tie_word_embeddings")  # fields of the architecture that do not affect the weights


def sources(names: Sequence[str], last: int | None = None) -> list[StoredModel]:
    """Returns the checkpoints for these names: folders, hub ids, workdirs, `WORKDIR@STEP` or `WORKDIR@best`.

    Args:
        last: take all existing checkpoints from the last `last` steps of each workdir, oldest first.

    Raises:
        UserError: a model does not exist, or `last` is negative, is given for a single step or without a workdir, or
            is more than the steps for which the run keeps checkpoints to be averaged.
    """
    if last is not None and last < 0:
        raise UserError(f"--last {last} should be a number of steps, 0 or more.")
    models: list[StoredModel] = []
    for name in names:
        model = workdir.find_model(name)
        if not workdir.is_workdir(model.path):
            if last is not None:
                raise UserError(f"{model.path} is not a training workdir, so it has no steps; leave out the step.")
            models.append(model)
        elif model.step is not None:
            if last is not None:
                raise UserError(f"{name} is one checkpoint and --last takes several; leave out --last or the step.")
            models.append(model)
        else:
            steps = workdir.checkpoint_steps(model.path)
            if last:
                _check_tail(model.path, steps, last)
            models += [StoredModel(model.path, n) for n in steps if n >= steps[-1] - (last or 0)]
    return models


def _check_tail(run: str, steps: list[int], last: int) -> None:
    """Raises UserError if a run does not keep checkpoints at an even distance in its last `last` steps.

    Args:
        steps: of its checkpoints, ascending.
    """
    path = files.join(run, "config.json")
    config = files.read_json_object(path, optional={"checkpoint": dict}) if files.exists(path) else {}
    checkpoint = config.get("checkpoint", {})
    tail = checkpoint.get("tail_steps", 0) if checkpoint.get("tail_every", 0) else 0
    if 0 < tail < last:
        raise UserError(
            f"{run} keeps every checkpoint of its last {tail} steps (checkpoint.tail_steps) and few earlier ones, so "
            f"--last {last} would not be an even average; give at most {tail}, or name checkpoints as {run}@STEP."
        )
    found = [step for step in steps if step >= steps[-1] - last]
    apart = {b - a for a, b in itertools.pairwise(found)}
    if len(found) == 1 or (not tail and (len(apart) > 1 or found[0] - min(apart) >= max(steps[-1] - last, 1))):
        why = "" if tail else ", because checkpoint.tail_steps or tail_every is 0"
        raise UserError(
            f"Of its last {last} steps, {run} keeps only the checkpoints of {', '.join(map(str, found))}{why}, which "
            f"would not be an even average; name checkpoints as {run}@STEP, of the steps {', '.join(map(str, steps))}."
        )


def shares(count: int, weights: Sequence[float] | None = None, decay: float | None = None) -> list[float]:
    """Returns the share of each of `count` models: equal, proportional to `weights`, or decaying from the last model.

    >>> shares(3, decay=0.5)
    [0.14285714285714285, 0.2857142857142857, 0.5714285714285714]

    Raises:
        UserError: the numbers of weights and models differ, a weight is negative or NaN, all are 0, or `decay` is not
            above 0 and at most 1.
    """
    if weights and decay is not None:
        raise UserError("Give either --weights or --decay.")
    if decay is not None:
        if not 0 < decay <= 1:
            raise UserError(f"--decay {decay} should be above 0 and at most 1.")
        weights = [decay ** (count - 1 - i) for i in range(count)]
    weights = list(weights or [1.0] * count)
    if len(weights) != count:
        raise UserError(f"There are {len(weights)} weights for {count} models; give one for each.")
    if not (min(weights) >= 0 and 0 < sum(weights) < math.inf):  # also refuses NaN
        raise UserError("The weights should be positive numbers, or 0 for some.")
    return [weight / sum(weights) for weight in weights]


def average(tensors: Iterable[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    """Returns the weighted sum, in float64."""
    total = np.zeros(())
    for share, x in zip(shares, tensors, strict=True):
        total = total + share * x.astype(np.float64)
    return total


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Interpolates on the arc from the vector `a` (t=0) to `b` (t=1), in float64 (Shoemake 1985).

    sin((1 - t) θ) / sin θ · a + sin(t θ) / sin θ · b, with the angle θ between them; linear if they are parallel.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    angle = np.arccos(np.clip(np.sum(a * b) / lengths, -1, 1)) if lengths else 0.0
    if np.sin(angle) < 1e-6:
        return (1 - t) * a + t * b
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def slerp_all(tensors: Iterable[np.ndarray], shares: Sequence[float], stacked: bool) -> np.ndarray:
    """Interpolates from one model to the next, each time by the model's share of all models so far.

    Args:
        stacked: whether the first axis runs over layers, which are then interpolated one by one.
    """
    iterator = iter(tensors)
    total, share_so_far = next(iterator), shares[0]
    for share, x in zip(shares[1:], iterator, strict=True):
        share_so_far += share
        t = share / share_so_far if share_so_far else 0.0
        total = np.stack([slerp(a, b, t) for a, b in zip(total, x, strict=True)]) if stacked else slerp(total, x, t)
    return total


def merge_models(
    models: Sequence[StoredModel],
    output: str | Path,
    method: str = "average",
    weights: Sequence[float] | None = None,
    decay: float | None = None,
    dtype: str = "float32",
) -> tuple[Qwen3Config, list[float]]:
    """Merges models into a package with the settings of the last model; returns its architecture and the shares.

    Raises:
        UserError: the models differ in shape or tokenizer, `output` is one of them, a weight is NaN or infinite, or an
            option cannot be used.
    """
    if method not in METHODS:
        raise UserError(f"There is no method '{method}'{did_you_mean(method, METHODS)}")
    check_dtype(dtype)
    package.check_output(output, [model.path for model in models])
    model_shares = shares(len(models), weights, decay)
    opened = [workdir.open_weights(model) for model in models]
    architecture = _common_shape(models, [shape for shape, _ in opened])
    tokenizers = [load_tokenizer(tokenizer_folder(path)) for path in dict.fromkeys(model.path for model in models)]
    if not all(tokenizer.gives_same_ids(tokenizers[-1]) for tokenizer in tokenizers):
        raise UserError("The models have different tokenizers; only models with the same tokenizer can be merged.")

    readers = [weights for _, weights in opened]
    bar = tqdm(total=len(readers[0]), unit="weight", dynamic_ncols=True)

    def read(number: int, path: tuple[str, ...]) -> np.ndarray:
        tensor = readers[number][path].make()
        if not np.isfinite(tensor).all():
            name = ".".join(path)
            raise UserError(f"{models[number]} has values that are NaN or infinite in {name}; leave it out.")
        return tensor

    def merge_weight(path: tuple[str, ...]) -> np.ndarray:
        tensors = (read(number, path) for number in range(len(models)))
        bar.update()
        if method == "average":
            return average(tensors, model_shares)
        return slerp_all(tensors, model_shares, stacked=path[0] == "layers")

    params = {
        path: LazyWeight(weight.shape, np.dtype(jnp.dtype(dtype)), partial(merge_weight, path))
        for path, weight in readers[0].items()
    }
    with bar:
        settings = [package.read_settings(model.path, architecture) for model in models][-1]
        package.write_package(output, architecture, flax.traverse_util.unflatten_dict(params), tokenizers[-1], settings)
    return architecture, model_shares


def _common_shape(models: Sequence[StoredModel], shapes: Sequence[Qwen3Config]) -> Qwen3Config:
    """Returns the architecture of the last model; raises UserError if another model's differs."""
    last = shapes[-1]
    for model, shape in zip(models, shapes, strict=True):
        differences = [
            f"{name} {value}, not {getattr(last, name)}"
            for name, value in asdict(shape).items()
            if name not in MAY_DIFFER and value != getattr(last, name)
        ]
        if differences:
            raise UserError(f"{model} cannot be merged with {models[-1]}: it has {'; '.join(differences)}.")
    return last
