"""What a run reports: its data and model at the start, the metrics of its steps, and a summary at the end."""

import resource
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from f2jax.data.dataset import AnyDataset
from f2jax.data.loader import Loader
from f2jax.data.packing import Batch
from f2jax.errors import UserError
from f2jax.model.operations import step_operations
from f2jax.model.sizes import Qwen3Config
from f2jax.parallel.chips import chip_of_kind
from f2jax.train.goodput import Goodput
from f2jax.train.metrics import MetricsWriter, Totals
from f2jax.train.step import Teacher


class Pending(NamedTuple):
    """A step whose metrics are still on the devices."""

    step: int
    name: str  # of its data set
    useful_tokens: int
    total_tokens: int
    operations: float
    metrics: dict[str, jax.Array]


@dataclass
class Work:
    """Counts the operations of steps, and the totals since the first step, for MFU."""

    operations: Callable[[Batch], float]
    peak: float = 0.0  # operations a second of all devices; 0: unknown
    so_far: Totals | None = field(default_factory=Totals)  # before this start; None: unknown

    @classmethod
    def of(cls, student: Qwen3Config, teacher: Teacher | None, mesh: Mesh, so_far: Totals | None) -> "Work":
        """Returns the work of a run, from `step_operations` and the table of chips."""

        def operations(batch: Batch) -> float:
            length = batch.squared_tokens / batch.useful_tokens
            return step_operations(student, teacher.model.config if teacher else None, batch.useful_tokens, length)

        chip = chip_of_kind(mesh.devices.flat[0].device_kind)
        return cls(operations, chip.peak * mesh.devices.size if chip else 0.0, so_far)

    def metrics(self, steps: Sequence[Pending], seconds: float) -> dict[str, float]:
        """Returns the MFU of the steps, and the total `tokens` and `operations` after them, as far as known."""
        operations = sum(step.operations for step in steps)
        values = {"mfu": operations / (seconds * self.peak)} if self.peak else {}
        if self.so_far:
            tokens = self.so_far.tokens + sum(step.useful_tokens for step in steps)
            self.so_far = Totals(tokens, self.so_far.operations + operations)
            values |= asdict(self.so_far)
        return values


class Report:
    """Collects metrics on the devices and fetches them together, so that no step waits for logging.

    Args:
        schedule: the learning rate by step.
        clock: of the run.
        advice: given the first step whose loss is not finite, says what to do.
        work: of the run.
    """

    def __init__(
        self,
        writer: MetricsWriter,
        schedule: optax.Schedule,
        clock: Goodput,
        advice: Callable[[int], str],
        work: Work,
    ) -> None:
        self.writer, self.schedule, self.clock, self.advice, self.work = writer, schedule, clock, advice, work
        self.pending: list[Pending] = []
        self.steps = self.useful = self.total = 0
        self.since = self.began = clock.training_seconds()

    def add(self, step: int, name: str, batch: Batch, metrics: dict[str, jax.Array]) -> None:
        """Collects the metrics of a step."""
        operations = self.work.operations(batch)
        self.pending.append(Pending(step, name, batch.useful_tokens, batch.tokens, operations, metrics))

    def wait(self) -> None:
        """Waits until the last collected step has finished."""
        if self.pending:
            jax.block_until_ready(self.pending[-1].metrics)

    def flush(self) -> dict[str, float]:
        """Writes and returns the means since the last report, also per data set.

        Raises:
            UserError: the loss or the gradient of a step is not finite.
        """
        if not self.pending:
            return {}
        fetched = jax.device_get([step.metrics for step in self.pending])
        groups = defaultdict(list)
        for step, metrics in zip(self.pending, fetched, strict=True):
            if not (np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])):
                raise UserError(
                    f"Step {step.step} (on {step.name}) has loss {metrics['loss']} and gradient norm "
                    f"{metrics['grad_norm']}. {self.advice(step.step)}"
                )
            for key, value in metrics.items():
                groups[key].append(value)
            groups[f"{step.name}/loss"].append(metrics["loss"])
        now, last = self.clock.training_seconds(), self.pending[-1].step
        useful = sum(step.useful_tokens for step in self.pending)
        total = sum(step.total_tokens for step in self.pending)
        values = {key: float(np.mean(group)) for key, group in groups.items()} | {
            "tokens_per_second": useful / (now - self.since),
            "useful_share": useful / total,
            "learning_rate": float(self.schedule(last - 1)),
        }
        values |= self.work.metrics(self.pending, now - self.since)
        self.writer.write(last, values)
        self.steps += len(self.pending)
        self.useful, self.total = self.useful + useful, self.total + total
        self.pending, self.since = [], now
        return values

    def summary(self) -> str:
        """Returns a summary of what this process did: steps, time, tokens and peak memory."""
        seconds = self.clock.training_seconds() - self.began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
        share = self.useful / max(self.total, 1)
        return (
            f"{self.steps:,} steps in {seconds:,.0f} s: {self.useful:,} tokens, {share:.1%} of those with "
            f"padding; peak memory {peak:.1f} GiB."
        )


def progress(values: dict[str, float], left: str) -> str:
    """Returns the remaining time and the metrics for the progress bar."""
    return (
        f"{left} left, loss {values['loss']:.3f}, {values['tokens_per_second']:,.0f} tokens/s, "
        f"{values['useful_share']:.1%} useful"
    )


def run_table(
    architecture: Qwen3Config, loader: Loader, held_out: Sequence[AnyDataset], steps: int, skipped: Counter
) -> str:
    """Returns a description of the model and the data, with a line for each data set."""
    lines = [f"{architecture.parameters:,} parameters, {architecture.width} dimensions; {steps:,} steps."]
    held = {(data.name, data.kind): len(data) for data in held_out}
    lines += [f"{'data set':<28} {'kind':<14} {'rows':>10} {'weight':>7} {'batches':>8} {'share':>7} {'held out':>9}"]
    lines += [
        f"{row['name']:<28} {row['kind']:<14} {row['rows']:>10,} {row['weight']:>7.3g} {row['batches']:>8,} "
        f"{row['share']:>7.1%} {held.get((row['name'], row['kind']), 0):>9,}"
        for row in loader.mixture.table()
    ]
    lines += [f"Skipped {count:,} row{'s' * (count > 1)}: {reason}." for reason, count in sorted(skipped.items())]
    return "\n".join(lines)
