"""Curves of score against dimension and against model size, as PNG."""

import io
from collections.abc import Sequence

import matplotlib

from f2jax.evaluation import published
from f2jax.evaluation.results import ALL, Benchmark, ModelResults, shared_tasks, task_type, with_dimensions

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MARKS = {"int8": "s", "uint8": "D", "binary": "^", "ubinary": "v"}


def dimensions(runs: Sequence[ModelResults]) -> bytes | None:
    """A panel for each task type and for all tasks, on the tasks that every model with several dimensions has.

    A line for each of these models, marks for other precisions, dashed lines for models with one dimension. None where
    there is nothing to draw.
    """
    several = with_dimensions(runs)
    shared = shared_tasks(several)
    if not shared:
        return None
    drawn = [run for run in runs if shared <= set(run.tasks())]
    kinds = [ALL, *sorted({task_type(task) for task in shared})]
    columns = min(3, len(kinds))
    figure, panels = _panels(len(kinds), columns, (4.2, 3.2))
    models = list(dict.fromkeys(run.model for run in drawn))
    for panel, kind in zip(panels, kinds, strict=True):
        for number, model in enumerate(models):
            own = [(run.variant, 100 * run.types(shared)[kind]) for run in drawn if run.model == model]
            _curve(panel, model, own, f"C{number % 10}", dashed=len(own) == 1)
        dims = sorted({run.variant.dim for run in several})
        panel.set_title(kind, fontsize=10)
        panel.set_xscale("log", base=2)
        panel.set_xticks(dims, [str(dim) for dim in dims], fontsize=8, rotation=45)
        _tidy(panel)
    figure.supxlabel("dimensions kept (truncate, then normalize)", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside upper center", ncols=4)
    return _png(figure)


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


def sizes(runs: Sequence[ModelResults], benchmarks: Sequence[Benchmark]) -> bytes | None:
    """A panel for each benchmark of which a model has all tasks: the published family as a line, ours as stars.

    Without such a benchmark, one panel with the mean of the tasks that all our models share. None where there is none.
    """
    ours = {run.model: run for run in runs if run.whole and run.parameters}
    shared = shared_tasks(list(ours.values()))
    stars = {one.name: {m: mean for m, (mean, n) in one.means.items() if n == one.tasks} for one in benchmarks}
    stars = {name: own for name, own in stars.items() if set(own) & set(ours)}
    if not stars and shared:
        own = {model: run.types(shared)[ALL] for model, run in ours.items()}
        stars = {f"mean of {len(shared)} shared tasks": own}
    if not stars:
        return None
    figure, panels = _panels(len(stars), min(3, len(stars)), (5.2, 3.6))
    for panel, (title, own) in zip(panels, stars.items(), strict=True):
        scores = {model: one[title] for model, one in published.benchmark_scores().items() if title in one}
        family = sorted((published.load_published()["parameters"][model], score) for model, score in scores.items())
        if family:
            panel.plot(*zip(*family, strict=True), "o-", ms=4, color="0.6", label="F2LLM-v2 (paper)")
        for number, model in enumerate(ours):
            if model in own:
                color = f"C{number % 10}"
                panel.plot(ours[model].parameters, 100 * own[model], "*", ms=11, color=color, label=model)
        panel.set_title(title, fontsize=10)
        panel.set_xscale("log")
        panel.legend(frameon=False, fontsize=7)
        _tidy(panel)
    figure.supxlabel("parameters", fontsize=10)
    return _png(figure)


def _panels(number: int, columns: int, size: tuple[float, float]) -> tuple:
    """A figure with so many panels in rows of `columns`, each of `size` inches."""
    rows = -(-number // columns)
    width, height = size
    figure, grid = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), dpi=130, squeeze=False, layout="constrained"
    )
    for panel in grid.flat[number:]:
        panel.axis("off")
    figure.supylabel("main score, %", fontsize=10)
    return figure, list(grid.flat[:number])


def _tidy(panel) -> None:
    panel.minorticks_off()
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", alpha=0.3)


def _png(figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    plt.close(figure)
    return data.getvalue()
