"""Curves of score against dimension and against model size, as PNG."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np

from f2jax.evaluation import published
from f2jax.evaluation.results import Run

if TYPE_CHECKING:
    from f2jax.evaluation.report import Benchmark

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MARKS = {"int8": "s", "uint8": "D", "binary": "^", "ubinary": "v"}
ALL = "mean of tasks"


def dimensions(runs: Sequence[Run]) -> bytes | None:
    """A panel for each task type and for all tasks: a line for each model with several dimensions, marks for other
    precisions, dashed lines for models with one; None where no model has several."""
    lines = [model for model in _models(runs) if len({r.variant.dim for r in runs if r.model == model}) > 1]
    if not lines:
        return None
    kinds = [ALL, *sorted({kind for run in runs for kind in run.types()})]
    columns = min(3, len(kinds))
    rows = -(-len(kinds) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), dpi=130, squeeze=False)
    for panel, kind in zip(panels.flat, kinds, strict=False):
        for number, model in enumerate(_models(runs)):
            own = [run for run in runs if run.model == model]
            points = [(run.variant, 100 * value) for run in own if (value := _value(run, kind)) is not None]
            _curve(panel, model, points, f"C{number % 10}", dashed=model not in lines)
        dims = sorted({run.variant.dim for run in runs if run.model in lines})
        panel.set_title(kind, fontsize=10)
        panel.set_xscale("log", base=2)
        panel.set_xticks(dims, [str(dim) for dim in dims], fontsize=8)
        _tidy(panel)
    for panel in list(panels.flat)[len(kinds) :]:
        panel.axis("off")
    figure.supxlabel("dimensions kept (truncate, then normalize)", fontsize=10)
    figure.supylabel("main score, %", fontsize=10)
    return _png(figure, panels.flat[0])


def _curve(panel, model: str, points: list, color: str, dashed: bool) -> None:
    floats = sorted((variant.dim, value) for variant, value in points if variant.precision == "float32")
    if dashed and floats:
        panel.axhline(floats[-1][1], ls="--", lw=1.2, color=color, label=model)
        return
    if floats:
        panel.plot(*zip(*floats, strict=True), "o-", ms=4, color=color, label=model)
    for variant, value in points:
        if variant.precision != "float32":
            label = f"{model}, {variant.precision}"
            panel.plot(variant.dim, value, MARKS[variant.precision], ms=6, mfc="none", color=color, label=label)


def sizes(runs: Sequence[Run], benchmarks: "Sequence[Benchmark]") -> bytes | None:
    """A panel for each benchmark with the published family as a line and our models as stars; without benchmarks, one
    panel with the mean of the tasks that all our models share. None where no size is known."""
    ours = {run.model: run for run in runs if run.whole and run.parameters}
    if not ours:
        return None
    columns = min(3, max(1, len(benchmarks)))
    rows = max(1, -(-len(benchmarks) // columns))
    figure, panels = plt.subplots(rows, columns, figsize=(5.2 * columns, 3.6 * rows), dpi=130, squeeze=False)
    for panel, benchmark in zip(panels.flat, benchmarks, strict=False):
        sizes_of, scores = published.load()["parameters"], published.benchmark_scores()
        family = sorted((sizes_of[model], scores[model][benchmark.name]) for model in sizes_of)
        panel.plot(*zip(*family, strict=True), "o-", ms=4, color="0.6", label="F2LLM-v2 (paper)")
        for number, (model, run) in enumerate(ours.items()):
            if model in benchmark.means:
                mean, tasks = benchmark.means[model]
                label = model if tasks == benchmark.tasks else f"{model}, {tasks} of {benchmark.tasks} tasks"
                panel.plot(run.parameters, 100 * mean, "*", ms=11, color=f"C{number % 10}", label=label)
        panel.set_title(benchmark.name, fontsize=10)
    if not benchmarks:
        shared = set.intersection(*(set(run.tasks()) for run in ours.values()))
        for number, (model, run) in enumerate(ours.items()):
            values = [value for task, value in run.tasks().items() if task in shared]
            if values:
                mean = 100 * float(np.mean(values))
                panels.flat[0].plot(run.parameters, mean, "*", ms=11, color=f"C{number % 10}", label=model)
        panels.flat[0].set_title(f"mean of {len(shared)} shared tasks", fontsize=10)
    for panel in list(panels.flat)[: max(1, len(benchmarks))]:
        panel.set_xscale("log")
        panel.legend(frameon=False, fontsize=7)
        _tidy(panel)
    for panel in list(panels.flat)[max(1, len(benchmarks)) :]:
        panel.axis("off")
    figure.supxlabel("parameters", fontsize=10)
    figure.supylabel("main score, %", fontsize=10)
    return _png(figure)


def _models(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.model for run in runs))


def _value(run: Run, kind: str) -> float | None:
    if kind == ALL:
        return float(np.mean(list(run.tasks().values()))) if run.tasks() else None
    return run.types().get(kind)


def _tidy(panel) -> None:
    panel.minorticks_off()
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", alpha=0.3)


def _png(figure, legend_of=None) -> bytes:
    if legend_of is not None:
        handles, labels = legend_of.get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    figure.set_layout_engine("constrained")
    data = io.BytesIO()
    figure.savefig(data, format="png")
    plt.close(figure)
    return data.getvalue()
