"""Tables as text: GitHub's Markdown and LaTeX; the page's template writes the HTML. Nothing here knows a result."""

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


LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
        "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "†": r"\textsuperscript{\dag}",
        "‡": r"\textsuperscript{\ddag}", "–": "--", "−": "$-$",
        "∞": r"$\infty$", "→": r"$\rightarrow$", "×": r"$\times$", "≥": r"$\geq$",
        "≤": r"$\leq$", "…": r"\dots{}", "’": "'", "|": r"\textbar{}", '"': r"\textquotedbl{}",
        "[": "{[}", "]": "{]}",  # a bracket after \\ would be taken for its option
    }
)  # fmt: skip


def latex_text(text: str) -> str:
    """Escape text for LaTeX (UTF-8 input); a name can't become a command, and what pdflatex can't set becomes '?'."""
    text = " ".join(text.split()).replace("C_T", "\0").translate(LATEX).replace("\0", "$C_T$")
    return re.sub("[^\x20-\x7e\xa1-\u017f]", "?", text)  # pdflatex would stop at letters of other scripts


def to_latex(tables: Iterable[Table]) -> str:
    """Write tables as tabulars with caption and notes, ready for \\input into a paper; they need booktabs.

    Intervals stand in a line of their own below the numbers, which keeps the columns narrow.
    """
    head = "% needs \\usepackage[T1]{fontenc} and \\usepackage{booktabs}\n"
    return head + "\n".join(_latex(table) for table in tables)


def _latex(table: Table) -> str:
    width = len(table.columns)

    def line(cells: Iterable[str], size: str = "") -> str:
        return " & ".join(f"{{{size} {latex_text(c)}}}" if size and c else latex_text(c) for c in cells) + r" \\"

    out = [f"\\noindent{{\\small {latex_text(table.caption)}.\\par}}", r"\nopagebreak\smallskip\noindent"]
    out += [f"\\begin{{tabular}}{{@{{}}l{'r' * (width - 1)}@{{}}}}", r"\toprule"]
    out.append(line(column.title for column in table.columns))
    if any(column.detail for column in table.columns):
        out.append(line((column.detail for column in table.columns), r"\scriptsize"))
    for title, body in table.sections:
        heading = f"\\multicolumn{{{width}}}{{@{{}}l@{{}}}}{{\\textit{{{latex_text(title)}}}}} \\\\"
        out += [r"\midrule", *([heading] if title else [])]
        for row in body:
            out.append(line([_named(row[0]), *(cell.text for cell in row[1:])]))
            if any(cell.detail for cell in row[1:]):
                out.append(line(["", *(cell.detail for cell in row[1:])], r"\scriptsize"))
    out += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        notes = r"\\ ".join(latex_text(note) for note in table.notes)
        out.append(f"\\par\\nopagebreak\\smallskip\\noindent\n{{\\footnotesize\\raggedright {notes}\\par}}")
    return "\n".join([*out, "\\bigskip", ""])
