"""A table as text for a terminal, and as HTML for a notebook; the first row is its head."""

import html
from collections.abc import Sequence


def as_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line per row, its cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def as_html(rows: Sequence[Sequence[str]], *, caption: str) -> str:
    """Return a table element; whatever is in a cell is shown as it is written."""
    head, *others = rows
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in others)
    told = f'<caption style="text-align:left">{html.escape(caption)}</caption>'
    return f"<table>{told}<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
