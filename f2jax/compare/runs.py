"""Reads training workdirs for comparison: configs, architectures, metrics by step, and costs."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from f2jax import config as configs
from f2jax import files
from f2jax.checkpoints.best import read_metrics
from f2jax.checkpoints.workdir import is_workdir, read_architecture
from f2jax.errors import UserError
from f2jax.model.sizes import Qwen3Config
from f2jax.train.resume import BRANCH_FILE, CONFIG_FILE, DATA_FILE

# Fields of the config that change the held-out rows or the number of candidates, and so the meaning of the loss.
MEASURE = (
    *("loss", "teacher", "data.batch_size", "data.max_length", "data.negatives", "data.use_instructions"),
    *("data.validation_share", "log.validation_batches"),
)


@dataclass(frozen=True)
class ComparedRun:
    """A training run, read from its workdir."""

    name: str
    fields: Mapping[str, Any]  # leaves of the config
    architecture: Qwen3Config
    lines: Sequence[Mapping[str, float]]  # of metrics.jsonl, by step
    data: Mapping[str, str]  # what its rows are, by hashes
    plan: Mapping[str, Any] | None = None  # of f2jax plan --json
    start: int = 0  # the step of the other run's checkpoint from which a branch continues

    @property
    def weights(self) -> int:
        """The parameters outside the token table (N), which are those that take part in the operations of a token."""
        return self.architecture.parameters - self.architecture.table_parameters

    def last(self, metric: str) -> float | None:
        """Returns the last value of a metric, or None."""
        return next((line[metric] for line in reversed(self.lines) if metric in line), None)

    def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the steps at which a metric was written, and its values, each [i]."""
        pairs = [(line["step"], line[metric]) for line in self.lines if metric in line]
        return np.array([step for step, _ in pairs]), np.array([value for _, value in pairs], float)

    @property
    def steps(self) -> int:
        """The number of steps in the run's metrics."""
        return int(self.lines[-1]["step"]) if self.lines else 0

    def tokens_at(self, steps_i: np.ndarray) -> np.ndarray | None:
        """Returns the useful tokens up to these steps, [i], or None if the run did not count them."""
        return self._so_far("tokens", steps_i)

    def operations_at(self, steps_i: np.ndarray) -> np.ndarray | None:
        """Returns the operations of the model and its teacher up to these steps, [i], or None if not counted."""
        return self._so_far("operations", steps_i)

    def _so_far(self, name: str, steps_i: np.ndarray) -> np.ndarray | None:
        known = [(0, 0.0), *((line["step"], line[name]) for line in self.lines if name in line)]
        return np.interp(steps_i, *np.array(known, float).T) if len(known) > 1 else None

    @property
    def tokens(self) -> float | None:
        """The useful tokens of the run."""
        tokens = self.tokens_at(np.array([self.steps]))
        return None if tokens is None else float(tokens[0])

    @property
    def operations(self) -> float | None:
        """The operations of the run."""
        operations = self.operations_at(np.array([self.steps]))
        return None if operations is None else float(operations[0])

    def _spans(self) -> np.ndarray:
        """Returns the steps and seconds of each line of metrics that has a speed, [i, 2]."""
        spans: list[tuple[float, float]] = []
        before: Mapping[str, float] = {}
        for line in (line for line in self.lines if "tokens" in line):
            before = before or {"step": self.start, "tokens": line["tokens"] * self.start / line["step"]}
            steps, tokens = line["step"] - before["step"], line["tokens"] - before["tokens"]
            if steps > 0 and line.get("tokens_per_second"):
                spans.append((steps, tokens / line["tokens_per_second"]))
            before = line
        return np.array(spans, float).reshape(-1, 2)

    @property
    def hours(self) -> float | None:
        """The hours spent on its own steps, including compilation and input, but not validation and checkpoints."""
        spans = self._spans()
        return float(spans[:, 1].sum() / 3600) if len(spans) else None

    @property
    def step_seconds(self) -> float | None:
        """The median seconds of a step, which compilation does not affect."""
        spans = self._spans()
        return float(np.median(spans[:, 1] / spans[:, 0])) if len(spans) else None

    @property
    def measure(self) -> str:
        """Returns a hash of what defines the held-out loss; runs with different hashes cannot be compared by it."""
        parts = {name: value for name, value in self.fields.items() if f"{name}.".startswith(_groups(MEASURE))}
        if self.fields["loss.matryoshka"]:
            parts["width"] = self.architecture.width  # another number of terms
        text = json.dumps([parts, dict(self.data)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def _groups(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in names)


def find_runs(paths: Iterable[str]) -> list[str]:
    """Returns the workdirs among these folders and their direct subfolders.

    Raises:
        UserError: a folder neither is a workdir nor contains one.
    """
    found: dict[str, None] = {}
    for path in (str(path).rstrip("/") for path in paths):
        inside = []
        if not is_workdir(path):
            names = files.list_names(path) if files.exists(path) else []
            inside = [files.join(path, name) for name in sorted(names)]
            inside = [folder for folder in inside if is_workdir(folder)]
            if not inside:
                raise UserError(
                    f"{path} is not a workdir of f2jax train, and contains none; name workdirs, or their folder."
                )
        found |= dict.fromkeys(inside or [path])
    return list(found)


def read_runs(paths: Iterable[str], plans: Iterable[str] = ()) -> list[ComparedRun]:
    """Returns the runs in these folders, ordered by size and tokens.

    Args:
        paths: see `find_runs`.
        plans: RUN=FILE, with the plan of a run.

    Raises:
        UserError: a folder has no run, a run cannot be read, or a plan has no run or another size.
    """
    folders = find_runs(paths)
    parents = len({folder.rpartition("/")[2] for folder in folders}) < len(folders)
    names = [folder if parents else folder.rpartition("/")[2] for folder in folders]
    by_run = {}
    for text in plans:
        run, _, file = text.rpartition("=")  # names of runs may contain =
        if run not in names:
            raise UserError(f"--plan {text} should be RUN=FILE, with the name of a run such as {names[0]}.")
        by_run[run] = file
    before = configs.values_before()
    runs = [_read_run(folder, name, before, by_run.get(name)) for folder, name in zip(folders, names, strict=True)]
    return sorted(runs, key=lambda run: (run.architecture.parameters, run.weights, run.tokens or run.steps, run.name))


def _read_run(folder: str, name: str, before: dict[str, Any], plan: str | None) -> ComparedRun:
    fields = before | configs.fields(ConfigDict(files.read_json_object(files.join(folder, CONFIG_FILE))))
    data, branch = files.join(folder, DATA_FILE), files.join(folder, BRANCH_FILE)
    return ComparedRun(
        name,
        fields,
        read_architecture(folder),
        read_metrics(folder),
        files.read_json_object(data) if files.exists(data) else {},
        _read_plan(plan, name, fields["model.size"]) if plan else None,
        files.read_json_object(branch, {"step": int})["step"] if files.exists(branch) else 0,
    )


def _read_plan(path: str, name: str, size: str) -> Mapping[str, Any]:
    plans = files.read_json(path)
    if not isinstance(plans, list) or not all(isinstance(plan, dict) and "seconds" in plan for plan in plans):
        raise UserError(f"{path} is not a file of plans; write one with f2jax plan --json.")
    fitting = [plan for plan in plans if plan["seconds"]]
    if len(fitting) != 1 or fitting[0]["size"] != size:
        raise UserError(f"{path} should hold one plan that fits, of size {size}, as {name} has; plan that run alone.")
    return fitting[0]


def differing_fields(runs: Sequence[ComparedRun]) -> dict[str, list[Any]]:
    """Returns {field: value of each run} for the fields of the config in which the runs differ."""
    names = dict.fromkeys(name for run in runs for name in run.fields)
    values = {name: [run.fields.get(name) for run in runs] for name in names}
    distinct = {name: {json.dumps(value, default=str) for value in found} for name, found in values.items()}
    return {name: found for name, found in values.items() if len(distinct[name]) > 1}


def measures(runs: Sequence[ComparedRun]) -> list[str]:
    """Returns a letter for the definition of each run's held-out loss: A for most runs, then B, and so on."""
    keys = [run.measure for run in runs]
    ordered = sorted(dict.fromkeys(keys), key=lambda key: -keys.count(key))
    letters = {key: chr(ord("A") + min(place, 25)) for place, key in enumerate(ordered)}
    return [letters[key] for key in keys]
