"""Plots of scores against dimension and against model size, as PNG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from f2jax.evaluation.variants import Variant
from f2jax.figures import COLUMNS, new_figure, tidy_panel, to_png

MARKS = {"int8": "s", "uint8": "D", "binary": "^", "ubinary": "v"}


@dataclass(frozen=True)
class Curve:
    """The scores of one model at several dimensions and precisions, in percent."""

    label: str
    color: int
    points: Sequence[tuple[Variant, float]]  # a single point is drawn as a dashed line


@dataclass(frozen=True)
class SizePanel:
    """Scores in percent against numbers of parameters."""

    title: str
    family: Sequence[tuple[int, float]]  # the published models
    models: Sequence[tuple[str, int, int, float]]  # (label, color, parameters, score)


def plot_dimensions(panels: Mapping[str, Sequence[Curve]], measure: str = "main score, %") -> bytes:
    """Returns a plot with a panel for each title: lines for scores in float32, and marks for other precisions."""
    figure, axes = new_figure(len(panels), (4.2, 3.2), measure)
    curves = [curve for drawn in panels.values() for curve in drawn if len(curve.points) > 1]
    dims = sorted({variant.dim for curve in curves for variant, _ in curve.points})
    for panel, (title, drawn) in zip(axes, panels.items(), strict=True):
        for curve in drawn:
            _draw(panel, curve)
        panel.set_title(title, fontsize=10)
        panel.set_xscale("log", base=2)
        panel.set_xticks(dims, [str(dim) for dim in dims], fontsize=8, rotation=45)
        tidy_panel(panel)
    figure.supxlabel("dimensions kept (truncate, then normalize)", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    ncols = 2 * min(COLUMNS, len(panels))  # as wide as the panels
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside upper center", ncols=ncols)
    return to_png(figure)


def _draw(panel, curve: Curve) -> None:
    color = f"C{curve.color % 10}"
    floats = sorted((variant.dim, score) for variant, score in curve.points if variant.precision == "float32")
    if len(curve.points) == 1 and floats:
        panel.axhline(floats[0][1], ls="--", lw=1.2, color=color, alpha=0.7, label=curve.label)
        return
    if floats:
        panel.plot(*zip(*floats, strict=True), "o-", ms=4, color=color, label=curve.label)
    for variant, score in curve.points:
        if variant.precision != "float32":
            label = f"{curve.label}, {variant.precision}"
            panel.plot(variant.dim, score, MARKS[variant.precision], ms=6, mfc="none", color=color, label=label)


def plot_sizes(panels: Sequence[SizePanel]) -> bytes:
    """Returns a plot with a panel for each benchmark: the published models as a line, other models as stars."""
    figure, axes = new_figure(len(panels), (5.2, 3.6), "main score, %")
    for panel, content in zip(axes, panels, strict=True):
        if content.family:
            panel.plot(*zip(*sorted(content.family), strict=True), "o-", ms=4, color="0.6", label="F2LLM-v2 (paper)")
        for label, color, parameters, score in content.models:
            panel.plot(parameters, score, "*", ms=11, color=f"C{color % 10}", label=label)
        panel.set_title(content.title, fontsize=10)
        panel.set_xscale("log")
        panel.legend(frameon=False, fontsize=7)
        tidy_panel(panel)
    figure.supxlabel("parameters", fontsize=10)
    return to_png(figure)
