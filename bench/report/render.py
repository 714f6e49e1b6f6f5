"""Tables as text in GitHub's Markdown; the page's template writes the HTML, `bench.report.latex` the LaTeX."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from bench.report.tables import Cell, Table


def to_markdown(tables: Iterable[Table]) -> str:
    """Write tables in GitHub's Markdown, columns aligned in the raw text too."""
    return "\n\n".join(_markdown(table) for table in tables) + "\n"


def _markdown(table: Table) -> str:
    rows = [[_markdown_text(str(column)) for column in table.columns]]
    for title, section in table.sections:
        rows += [[f"**{_markdown_text(title)}**", *[""] * (len(table.columns) - 1)]] if title else []
        rows += [[_markdown_text(_named(row[0])), *(_markdown_text(str(cell)) for cell in row[1:])] for row in section]
    widths = [max(3, *(_width(row[i]) for row in rows)) for i in range(len(table.columns))]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(row: Sequence[str]) -> str:
        pads = [" " * (width - _width(text)) for text, width in zip(row, widths, strict=True)]
        return "| " + " | ".join([row[0] + pads[0], *(p + t for p, t in zip(pads[1:], row[1:], strict=True))]) + " |"

    body = "\n".join([line(rows[0]), line(rule), *(line(row) for row in rows[1:])])
    notes = "\n".join(f"- {_markdown_text(note)}" for note in table.notes)
    return f"**{_markdown_text(table.caption)}**\n\n{body}" + (f"\n\n{notes}" if notes else "")


def _named(cell: Cell) -> str:
    return f"{cell.text} ({cell.detail})" if cell.detail else cell.text


def _markdown_text(text: str) -> str:
    text = re.sub(r"([\\|*`<>])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # within a word an underscore is only itself


def _width(text: str) -> int:
    """Columns of a terminal or an editor: wide letters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
