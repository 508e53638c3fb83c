"""Helpers for all plots: panels side by side, their style, and output as PNG."""

import io

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = 3  # panels in a row


def new_figure(number: int, size: tuple[float, float], measure: str = "") -> tuple:
    """Returns a figure and its panels, up to `COLUMNS` in a row, each of `size` inches.

    Args:
        measure: label of the vertical axis of all panels.
    """
    columns = min(COLUMNS, number)
    rows = -(-number // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(size[0] * columns, size[1] * rows), dpi=130, squeeze=False, layout="constrained"
    )
    for panel in grid.flat[number:]:
        panel.axis("off")
    if measure:
        figure.supylabel(measure, fontsize=10)
    return figure, list(grid.flat[:number])


def tidy_panel(panel) -> None:
    """Removes the top and right of a panel's frame and its minor ticks, and adds a light grid."""
    panel.minorticks_off()
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", alpha=0.3)


def to_png(figure) -> bytes:
    """Returns the figure as PNG and closes it."""
    data = io.BytesIO()
    figure.savefig(data, format="png")
    plt.close(figure)
    return data.getvalue()
