"""Plots of the curves of runs, and of a scaling law next to the runs."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib import colormaps

from f2jax.compare.law import GridPoint, ScalingLaw
from f2jax.compare.runs import ComparedRun
from f2jax.figures import new_figure, tidy_panel, to_png

NAMED = 12  # most runs that a legend lists one by one


def size_colors(sizes: Iterable[int]) -> dict[int, tuple]:
    """Returns a colour for each number of parameters, from dark to light."""
    sizes = sorted(set(sizes))
    return {size: colormaps["viridis"](0.9 * place / max(len(sizes) - 1, 1)) for place, size in enumerate(sizes)}


def plot_curves(runs: Sequence[ComparedRun], metric: str) -> bytes:
    """Plots the held-out metric, and below it the training loss, against steps, tokens and operations.

    Lines are coloured by size, or by run if all runs have the same size.
    """
    figure, panels = new_figure(6, (4.4, 3.1))
    for panel, (kind, name) in zip(
        panels, [(metric, axis) for metric in (metric, "loss") for axis in AXES], strict=True
    ):
        for place, run in enumerate(runs):
            steps_i, values_i = run.curve(kind)
            at_i = AXES[name](run, steps_i)
            if len(steps_i) and at_i is not None:
                style = "-" if len(steps_i) > 1 else "o"
                panel.plot(at_i, values_i, style, ms=4, lw=1.2, color=_color(runs, place), alpha=0.85, label=run.name)
        panel.set(xscale="log", xlabel=name, ylabel=kind)
        tidy_panel(panel)
    handles, labels = _legend(panels[0], runs)
    if labels:
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside upper center", ncols=4)
    return to_png(figure)


AXES = {
    "steps": lambda run, steps_i: steps_i,
    "tokens": lambda run, steps_i: run.tokens_at(steps_i),
    "operations": lambda run, steps_i: run.operations_at(steps_i),
}


def _color(runs: Sequence[ComparedRun], place: int) -> str | tuple:
    colors = size_colors(run.weights for run in runs)
    return colors[runs[place].weights] if len(colors) > 1 else f"C{place % 10}"


def _legend(panel, runs: Sequence[ComparedRun]) -> tuple[list, list[str]]:
    """Returns a legend entry for each run, or if there are many, for each size."""
    handles, labels = panel.get_legend_handles_labels()
    by_name = dict(zip(labels, handles, strict=True))
    if len(runs) <= NAMED:
        return list(by_name.values()), list(by_name)
    firsts = {run.weights: by_name[run.name] for run in reversed(runs) if run.name in by_name}
    sizes = sorted(firsts) if len(firsts) > 1 else []
    return [firsts[size] for size in sizes], [f"{size:,} parameters outside the token table" for size in sizes]


def plot_law(
    law: ScalingLaw,
    fitted: Sequence[GridPoint],
    left_out: Sequence[GridPoint],
    metric: str,
    per_product: float,
    optimum: bool,
) -> bytes:
    """Plots loss against tokens, predicted against measured loss, and size against operations.

    Args:
        per_product: operations of a run per parameter and token.
        optimum: whether the law has an optimum to draw.
    """
    points = [*fitted, *left_out]
    figure, (data, both, best) = new_figure(3, (4.4, 3.6))
    colors = size_colors(point.parameters for point in points)
    tokens_i = np.geomspace(0.8 * min(p.tokens for p in points), 1.25 * max(p.tokens for p in points), 100)
    out = {point.parameters for point in left_out}
    for size, color in colors.items():
        style, name = ("--", f"{size:,} (left out)") if size in out else ("-", f"{size:,}")
        data.plot(tokens_i, law.loss(np.full(100, size), tokens_i), style, lw=1.2, color=color, label=name)
    for point in points:
        mark: dict = {"marker": "*", "ms": 10} if point in left_out else {"marker": "o", "ms": 5, "mfc": "none"}
        mark |= {"ls": "", "color": colors[point.parameters]}
        data.plot(point.tokens, point.loss, **mark)
        both.plot(point.loss, law.loss(point.parameters, point.tokens), **mark)
        best.plot(point.operations, point.parameters, **mark)
    data.set(xscale="log", xlabel="tokens", ylabel=metric)
    data.legend(frameon=False, fontsize=7, title="parameters outside the token table", title_fontsize=7)
    least = min(point.loss for point in points)
    both.axline((least, least), slope=1, color="0.6", lw=1)
    both.set(xlabel=f"{metric}, measured", ylabel="by the law (stars: left out)")
    if optimum:
        operations_i = np.geomspace(min(p.operations for p in points), max(p.operations for p in points), 50)
        sizes_i, _ = law.optimum(operations_i / per_product)
        best.plot(operations_i, sizes_i, color="C3", lw=1.5, label="least loss by the law")
        best.legend(frameon=False, fontsize=8)
    best.set(xscale="log", yscale="log", xlabel="operations", ylabel="parameters outside the token table")
    for panel in (data, both, best):
        tidy_panel(panel)
    return to_png(figure)
