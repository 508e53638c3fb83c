"""Tables as plain text, and as an HTML page with plots."""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


def text_table(rows: Sequence[Sequence[str]], *, left: int = 1, head: bool = True) -> str:
    """Returns a table as text with aligned columns; empty if there are no rows.

    >>> print(text_table([("task", "score"), ("STSB", "71.50")]))
    task  score
    -----------
    STSB  71.50

    Args:
        left: number of left-aligned columns; the others are right-aligned.
        head: whether to underline the first row.
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


@dataclass(frozen=True)
class PageTable:
    """A table with a title and a note. Rows have a name and cells; None is an empty cell."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float | str | None]]]


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222 }
h1, h2 { font-weight: 600 } h2 { margin-top: 2em } p { color: #555 } img { max-width: 100% }
div { overflow: auto; max-height: 40em } table { border-collapse: collapse; font-size: 14px }
th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap }
th { position: sticky; top: 0; background: #fff } th:first-child, td:first-child { text-align: left }
tr:hover td { background: #f5f8fc } tr.paper td { color: #777 }
"""


def html_page(title: str, note: str, tables: Sequence[PageTable], pictures: Mapping[str, bytes]) -> str:
    """Returns a self-contained HTML page with a heading, a note, PNG pictures by name, and tables.

    URLs in notes become links.
    """
    body = [f"<h1>{html.escape(title)}</h1><p>{_linked(note)}</p>"]
    for name, picture in pictures.items():
        data = base64.b64encode(picture).decode()
        body.append(f'<img alt="{html.escape(name)}" src="data:image/png;base64,{data}">')
    body += [_html_table(table) for table in tables]
    head = '<!doctype html><html lang="en"><meta charset="utf-8">'
    head += f"<title>f2jax: {html.escape(title)}</title><style>{STYLE}</style>"
    return head + "\n".join(body) + "</html>\n"


def _html_table(table: PageTable) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *table.columns))
    lines = []
    for name, cells in table.rows:
        style = ' class="paper"' if name.endswith("(paper)") else ""
        data = "".join(f"<td>{html.escape(_cell(cell))}</td>" for cell in cells)
        lines.append(f"<tr{style}><td>{html.escape(name)}</td>{data}</tr>")
    title = f"<h2>{html.escape(table.title)}</h2><p>{_linked(table.note)}</p>"
    return f"{title}<div><table><thead><tr>{head}</tr></thead>{''.join(lines)}</table></div>"


def _linked(text: str) -> str:
    """Returns text as HTML with its URLs as links, without punctuation that follows them."""
    return re.sub(r"https?://\S*[^\s.,;:)]", r'<a href="\g<0>">\g<0></a>', html.escape(text))


def _cell(cell: float | str | None) -> str:
    return "" if cell is None else cell if isinstance(cell, str) else f"{cell:.2f}"
