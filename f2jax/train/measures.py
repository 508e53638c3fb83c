"""Measurements of the model during training: metrics on held-out rows, and scores on tasks."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
from ml_collections import ConfigDict

from f2jax.checkpoints import package
from f2jax.data.dataset import AnyDataset
from f2jax.data.loader import Loader
from f2jax.data.tokenizer import Tokenizer
from f2jax.errors import UserError, did_you_mean
from f2jax.inference.embedder import Embedder
from f2jax.model.nested import cut_nested
from f2jax.parallel import hosts
from f2jax.train.compiled import CompiledProgram
from f2jax.train.metrics import MEASURED
from f2jax.train.program import Program

# Yields the scores of one task after the other, by name. All processes call it, and get the same.
Evaluate = Callable[[Embedder], Iterable[Mapping[str, float]]]
BY_LANGUAGE = ("loss", "accuracy")  # what is averaged for each language: there may be hundreds


def follows(every: int, done: int, steps: int) -> bool:
    """Returns whether something that happens every `every` steps and after the last one is due after step `done`."""
    return bool(every) and (done == steps or done % every == 0)


@dataclass(frozen=True)
class Validation:
    """The held-out rows of each data set, and when to validate on them."""

    prefix: ClassVar[str] = "validation/"  # of its metrics
    config: ConfigDict
    compiled: CompiledProgram
    loader: Loader  # of the training rows
    held_out: Sequence[AnyDataset]
    steps: int  # of the complete run
    # Training rows by language of each data set, in the order of `held_out`.
    languages: Sequence[Mapping[str, int]] = ()

    def due(self, done: int) -> bool:
        """Returns whether a validation follows step `done`."""
        return bool(self.held_out) and follows(self.config.log.validate_every, done, self.steps)

    def batches(self, datasets: Sequence[AnyDataset]) -> Loader:
        """Returns the batches of these held-out rows."""
        return Loader(datasets, self.config, self.loader.pad_id, self.loader.share, like=self.loader)

    def measure(self, params, stop: hosts.StopSignal) -> dict[str, float] | None:
        """Returns the mean metrics of each data set as `validation/<name>/<metric>`, or None if asked to stop.

        Vectors truncated to the sizes in `log.validation_dims` give `loss/<size>` and `accuracy/<size>`.
        `validation/<metric>` is the unweighted mean over the data sets, and `validation/kind/<kind>/<metric>` that over
        the data sets of a kind. If there are several languages, `validation/language/<language>/<metric>` is the mean
        over the data sets weighted by the language's share in each.
        """
        by_set: list[dict[str, float]] = []
        for rows in self.held_out:
            loader = self.batches([rows])
            steps: Sequence[int] = range(loader.steps_per_epoch)
            if count := self.config.log.validation_batches:  # without the one that is not full: it has fewer candidates
                steps = sorted(steps[: count + 1], key=lambda step: -len(loader.mixture.plan(step).rows))[:count]
            totals: dict[str, float] = defaultdict(float)
            total_rows = 0
            for _, _, batch in loader.batches(steps):
                arrays = self.compiled.program.put(batch)
                metrics = jax.device_get(self.compiled.evaluate(params, arrays, batch.kind))
                row_count = int(batch.row_mask_b.sum())
                total_rows += row_count
                for key, value in metrics.items():
                    totals[key] += float(value) * row_count
                if stop.exchange() == hosts.STOP:
                    return None
            by_set.append({key: total / total_rows for key, total in totals.items()})
        return validation_means(self.held_out, by_set, self.languages)


def validation_means(
    sets: Sequence[AnyDataset], metrics: Sequence[Mapping[str, float]], languages: Sequence[Mapping[str, int]] = ()
) -> dict[str, float]:
    """Returns the metrics of each data set by their full names, and their means, see `Validation.measure`."""
    values: dict[str, float] = {}
    means: dict[str, list[tuple[float, float]]] = defaultdict(list)  # values with their weights
    for rows, found in zip(sets, metrics, strict=True):
        for key, value in found.items():
            values[f"validation/{rows.name}/{key}"] = value
            means[f"validation/{key}"].append((value, 1.0))
            means[f"validation/kind/{rows.kind}/{key}"].append((value, 1.0))
    if len({language for counts in languages for language in counts}) > 1:
        for counts, found in zip(languages, metrics, strict=True):
            for language, rows_of_it in counts.items():
                share = rows_of_it / sum(counts.values())
                for key in found.keys() & BY_LANGUAGE:
                    means[f"validation/language/{language}/{key}"].append((found[key], share))
    weighted = {key: np.transpose(pairs) for key, pairs in means.items()}
    return values | {key: float(np.average(found, weights=shares)) for key, (found, shares) in weighted.items()}


@dataclass
class Evaluation:
    """The tasks that score the model, and when. The command passes them, because training does not know any tasks."""

    prefix: ClassVar[str] = "evaluation/"  # of its metrics
    config: ConfigDict
    program: Program
    workdir: str | Path
    tokenizer: Tokenizer
    steps: int  # of the complete run
    evaluate: Evaluate | None = None
    _embedder: Embedder | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.config.log.evaluate_every and self.evaluate is None:
            raise UserError("log.evaluate_every needs the tasks, which f2jax train gives; pass evaluate=… to train.")

    def due(self, done: int) -> bool:
        """Returns whether the tasks follow step `done`."""
        return follows(self.config.log.evaluate_every, done, self.steps)

    def measure(self, params, stop: hosts.StopSignal) -> dict[str, float] | None:
        """Returns the scores as `evaluation/<name>`, or None if asked to stop, which is checked after each task."""
        values: dict[str, float] = {}
        assert self.evaluate
        for scores in self.evaluate(self.embedder(params)):
            values |= {f"evaluation/{name}": value for name, value in scores.items()}
            if stop.exchange() == hosts.STOP:
                return None
        return values

    def embedder(self, params) -> Embedder:
        """Returns the model with these weights, which stay on their devices.

        It computes in `model.dtype`, as training does; the default of `f2jax evaluate` is float32.
        """
        architecture = self.program.model.config
        own = {name: weight for name, weight in params.items() if name not in self.program.extra}
        if architecture.table_rank:
            architecture, own = cut_nested(architecture, own)
        if self._embedder is None:  # later ones share what it has compiled
            card = package.read_settings(str(self.workdir), architecture)
            dtype, mesh = self.config.model.dtype, self.program.mesh
            self._embedder = Embedder(architecture, {}, self.tokenizer, card, dtype, mesh)
        return self._embedder.with_weights(own)


def check_best_metric(metric: str, config: ConfigDict) -> None:
    """Raises UserError if nothing would measure the metric by which the best checkpoint is kept."""
    every = {"validation": "validate_every", "evaluation": "evaluate_every"}
    if not metric.startswith(MEASURED):
        raise UserError(
            f"checkpoint.best_metric={metric} should be a metric of held-out rows or of tasks, such as validation/loss "
            "or evaluation/mean."
        )
    name = every[metric.partition("/")[0]]
    if not config.log[name]:
        raise UserError(f"checkpoint.best_metric={metric} is never measured; set log.{name}.")


def check_held_out(metric: str, held_out: Sequence[AnyDataset]) -> None:
    """Raises UserError if the best checkpoint is to be chosen by held-out rows, but there are none."""
    if metric.startswith(Validation.prefix) and not held_out:
        raise UserError(
            f"checkpoint.best_metric={metric} is never measured, as no rows are held out; raise "
            "data.validation_share, or --validation-share of f2jax prepare for a corpus."
        )


def best_score(metric: str, values: Mapping[str, float]) -> float | None:
    """Returns the score of the best metric among the measurements, or None if they are of another kind.

    Raises:
        UserError: there is no such metric.
    """
    if metric in values:
        return values[metric]
    group = metric.partition("/")[0]
    known = [name for name in values if name.startswith(f"{group}/")]
    if known:
        raise UserError(f"No metric is called checkpoint.best_metric={metric}{did_you_mean(metric, known)}")
    return None
