"""Tables as plain text, for the terminal and for text files."""

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], *, left: int = 1, head: bool = True) -> str:
    """Returns rows of cells as lines with aligned columns; an empty table is an empty string.

    >>> print(text_table([("task", "score"), ("STSB", "71.50")]))
    task  score
    -----------
    STSB  71.50

    Args:
        left: number of left-aligned columns; the ones after them are right-aligned.
        head: underline the first row.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if head and lines:
        lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)
