"""Finds and keeps the best checkpoint of a run by a metric in its `metrics.jsonl`."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orbax.checkpoint.checkpoint_managers import preservation_policy

from f2jax import files

METRICS_FILE = "metrics.jsonl"


def read_metrics(workdir: str | Path) -> list[dict]:
    """Returns the lines of a workdir's metrics in order of steps, without those that are incomplete; may be empty."""
    path = files.join(workdir, METRICS_FILE)
    if not files.exists(path):
        return []
    found = []
    for text in files.read_bytes(path).decode("utf-8", "replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            found.append(line)
    return sorted(found, key=lambda line: line["step"])


def scores_of(lines: Iterable[Mapping[str, float]], metric: str) -> dict[int, float]:
    """Returns {step: value} of a metric, for lines in which it is present and finite.

    >>> scores_of([{"step": 10, "loss": 2.0}, {"step": 20, "validation/loss": 1.5}], "validation/loss")
    {20: 1.5}
    """
    return {int(line["step"]): line[metric] for line in lines if math.isfinite(line.get(metric, math.nan))}


def best_step(scores: Mapping[int, float], metric: str, steps: Iterable[int]) -> int | None:
    """Returns the best of the steps, and of equal ones the last; None if none of them has a score.

    The highest score is best, except for a loss, which is a metric whose name begins with `loss` after the last slash,
    or before it where a size follows (`validation/loss/64`).

    >>> best_step({10: 0.5, 20: 0.7, 30: 0.6}, "validation/accuracy", (10, 30))
    30
    """
    sign = -1 if metric.rstrip("/0123456789").rpartition("/")[2].startswith("loss") else 1
    scored = (step for step in steps if math.isfinite(scores.get(step, math.nan)))
    return max(scored, key=lambda step: (sign * scores[step], step), default=None)


@dataclass
class KeepBest(preservation_policy.PreservationPolicy):
    """Keeps the checkpoint with the best score.

    Args:
        scores: {step: score}, to which validation and evaluation add.
    """

    metric: str
    scores: dict[int, float]

    def should_preserve(
        self,
        checkpoints: Sequence[preservation_policy.PolicyCheckpointInfo],
        *,
        context: preservation_policy.PreservationContext,
    ) -> Sequence[bool]:
        """Returns for each checkpoint whether it is the best."""
        best = best_step(self.scores, self.metric, [checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step == best for checkpoint in checkpoints]
