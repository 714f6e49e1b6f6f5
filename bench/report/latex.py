"""Tables as LaTeX that fits a page: floats no wider than the text of an ordinary article, ready to be pasted.

Widths are estimated from the letters of Computer Modern (pdfTeX's own at 8 pt); a table that is too wide is split into
parts that repeat the rows' names, features by features where it has several, and one that is too long into parts with
fewer rows. Nothing is left out, and nothing here knows a result.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from bench.report.tables import Cell, Column, Table

TEXT_WIDTH = 340.0
"""Points; 345 is the text width of LaTeX's article at 10 pt, its narrowest."""
TEXT_HEIGHT = 500.0
"""Points; 550 is its text height, less what stands around a float."""
BODY_HEIGHT = 400.0
"""Of it for the rows of one part; the others are for caption and notes."""
NAME_WIDTH, CELL_WIDTH, HEAD_WIDTH = 110.0, 150.0, 53.0
"""A longer row's name, cell or head is broken into lines (a head only where it is wider than its column as well)."""
GAP, LINE = 6.0, 9.5
SIZE = r"\fontsize{8}{9.5}\selectfont"
"""A size of its own, since \\footnotesize is larger where the paper's type is."""
FLOATS_AT_ONCE = 8
"""LaTeX holds back only so many floats (18, in older versions) until it must set a page."""
LETTERS = {
    2.4: "!',.:;[]`il|· ", 2.9: "fj-°", 3.4: "I()trs", 4.1: "cez†‡§?", 4.3: '"$*/0123456789\\ago{}↓↑–ß', 4.5: "Jkqvxy",
    4.8: "Sbdhnpu", 5.4: "Z^~L", 5.8: "FEP", 6.2: "BCTwæ", 6.7: "RAHNUVXYDKG&+<=>@OQ_±−×≥≤", 7.2: "#%mÆ", 8.8: "M∞→W",
    11.4: "…",
}  # fmt: skip
WIDTHS = {letter: width for width, letters in LETTERS.items() for letter in letters}
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
UNKNOWN = re.compile("[^\x20-\x7e\xa1-\u017f]")
HEAD = r"""% Needs \usepackage[T1]{fontenc} and \usepackage{booktabs}. Each table stands by itself: take the ones you want.
"""


def latex_text(text: str) -> str:
    """Escape text for LaTeX (UTF-8 input); a name can't become a command, and what pdflatex can't set becomes '?'."""
    text = " ".join(text.split()).replace("C_T", "\0").translate(LATEX).replace("\0", "$C_T$")
    return UNKNOWN.sub("?", text)  # pdflatex would stop at letters of other scripts


def running_text(text: str) -> str:
    """Escape a note or caption, where long names may break: after their separators, and anywhere if there are none."""
    words = (re.sub(r"(?<=[_/\\.,=\-])(?=\w)(?<!C_)", "\1", word) if len(word) > 15 else word for word in text.split())
    pieces = (re.sub(r"([^\1]{20})(?=[^\1])", "\\1\1", word) for word in words)
    return r"\allowbreak{}".join(latex_text(piece) for piece in " ".join(pieces).split("\1"))


def to_latex(tables: Iterable[Table]) -> str:
    """Write tables as floats with caption, label and notes, ready for \\input into a paper; they need booktabs.

    Intervals stand in a line of their own below the numbers, which keeps the columns narrow.
    """
    floats: list[str] = []
    for table in tables:
        parts = split(table)
        floats += [_float(part, number if len(parts) > 1 else 0) for number, part in enumerate(parts, 1)]
    for place in range(FLOATS_AT_ONCE, len(floats), FLOATS_AT_ONCE):
        floats[place] = "\\clearpage\n" + floats[place]
    return HEAD + "\n".join(floats)


# ---- layout


def width_of(text: str) -> float:
    """Points that a line of text takes, at most; a letter that pdflatex can't set is a '?' there, whatever its parts are."""
    shown = "".join(letter if ord(letter) in LATEX else UNKNOWN.sub("?", letter) for letter in text)
    base = (letter for letter in unicodedata.normalize("NFD", shown) if not unicodedata.combining(letter))
    return sum(WIDTHS.get(letter, 8.8) for letter in base)


def wrap(text: str, room: float) -> list[str]:
    """Break text into lines of at most that many points: between words, else after separators, else anywhere."""
    out: list[str] = []
    for word in re.findall(r"\S+(?: [↑↓→])?\s*", text):
        if out and width_of((out[-1] + word).rstrip()) <= room:
            out[-1] += word
            continue
        for piece in [word] if width_of(word.rstrip()) <= room else re.findall(r"@?[^@_/-]+[_/-]?|[@_/-]", word):
            if out and not out[-1].endswith(" ") and piece != word and width_of((out[-1] + piece).rstrip()) <= room:
                out[-1] += piece
                continue
            out.append("")
            for letter in piece:
                if width_of((out[-1] + letter).rstrip()) > room:
                    out.append("")
                out[-1] += letter
    return [line.strip() for line in out if line.strip()] or [""]


def fits(table: Table) -> bool:
    """Whether a table needs no splitting across."""
    return sum(_width(table, index) + GAP for index in range(len(table.columns))) - GAP <= TEXT_WIDTH


def split(table: Table) -> list[Table]:
    """Split a table into parts that fit a page, across and then down; all notes stand below the last one."""
    across = list(_across(table))
    parts = [part for one in across for part in _down(one)]
    if len(parts) == 1:
        return [replace(parts[0], notes=table.notes)]
    named = []
    for number, part in enumerate(parts, 1):
        groups = list(dict.fromkeys(column.group for column in part.columns[1:] if column.group))
        about = (
            f", {' and '.join(groups)} features" if groups and len({c.group for c in table.columns} - {""}) > 1 else ""
        )
        caption = f"{table.caption}{about} (part {number} of {len(parts)})"
        named.append(replace(part, caption=caption, notes=table.notes if number == len(parts) else ()))
    return named


def _across(table: Table) -> Iterator[Table]:
    sizes = [_width(table, index) + GAP for index in range(len(table.columns))]
    room = TEXT_WIDTH - sizes[0] + GAP
    groups = _groups(table.columns)
    parts: list[list[int]] = [[]]
    for group in groups:
        if sum(sizes[i] for i in parts[-1] + group) <= room:
            parts[-1] += group
            continue
        pieces = _packed(group, sizes, room)
        parts = [part for part in [*parts, *pieces] if part]
    for chosen in parts:
        kept = [0, *chosen]
        yield replace(
            table,
            columns=tuple(table.columns[i] for i in kept),
            sections=tuple(
                (title, tuple(tuple(row[i] for i in kept) for row in body)) for title, body in table.sections
            ),
        )


def _groups(columns: Sequence[Column]) -> list[list[int]]:
    """Columns that belong together; those of no group stand last, but before the first group where they lead the table."""
    names = [column.group for column in columns]
    lead = next((index for index, name in enumerate(names) if index and name), 1)
    found: dict[str, list[int]] = {}
    for index in range(lead, len(columns)):
        found.setdefault(names[index], []).append(index)
    rest = found.pop("", [])
    groups = [*found.values(), *([rest] if rest else [])] or [[]]
    return [[*range(1, lead), *groups[0]], *groups[1:]]


def _packed(group: Sequence[int], sizes: Sequence[float], room: float) -> list[list[int]]:
    """Columns into as few parts as can be, and those as even as can be."""

    def pack(limit: float) -> list[list[int]]:
        parts: list[list[int]] = [[]]
        for i in group:
            if parts[-1] and sum(sizes[j] for j in parts[-1]) + sizes[i] > limit:
                parts.append([])
            parts[-1].append(i)
        return parts

    best = pack(room)
    for limit in range(int(room), 0, -5):
        tried = pack(limit)
        if len(tried) > len(best):
            break
        best = tried
    return best


def _width(table: Table, index: int) -> float:
    """Points of a column: of its cells once they are broken, and of its head."""
    cells = [_cell_lines(row[index], first=index == 0) for _, body in table.sections for row in body]
    inner = max((width_of(line) for lines in cells for line in lines), default=0.0)
    return max(inner, *(width_of(line) for line in _head_lines(table.columns[index], inner if index else NAME_WIDTH)))


def _cell_lines(cell: Cell, *, first: bool) -> list[str]:
    if first:
        return wrap(f"{cell.text} ({cell.detail})" if cell.detail else cell.text, NAME_WIDTH)
    return [*wrap(cell.text, CELL_WIDTH), *(wrap(cell.detail, CELL_WIDTH) if cell.detail else [])]


def _head_lines(column: Column, inner: float) -> list[str]:
    room = max(inner, HEAD_WIDTH)
    return [*wrap(column.title, room), *(wrap(column.detail, room) if column.detail else [])]


def _row_lines(row: Sequence[Cell]) -> int:
    return max(len(_cell_lines(cell, first=index == 0)) for index, cell in enumerate(row))


def _down(table: Table) -> Iterator[Table]:
    """Split by rows; a section that goes on says so."""
    head = 1 + max(len(_head_lines(column, HEAD_WIDTH)) for column in table.columns)
    used, number = head * LINE, 0
    placed: list[tuple[int, str, tuple[Cell, ...]]] = []
    for title, body in table.sections:
        used += 2 * LINE
        for row in body:
            height = _row_lines(row) * LINE
            if placed and used + height > BODY_HEIGHT:
                used, number = (head + 2) * LINE, number + 1
            used += height
            placed.append((number, title, row))
    if number == 0:
        yield table
        return
    begun: set[str] = set()
    for _, part in groupby(placed, key=lambda item: item[0]):
        sections = []
        for title, rows in groupby(part, key=lambda item: item[1]):
            shown = f"{title} (continued)" if title and title in begun else title
            begun.add(title)
            sections.append((shown, tuple(row for _, _, row in rows)))
        yield replace(table, sections=tuple(sections))


# ---- text


def _float(table: Table, number: int) -> str:
    label = "-".join(re.findall("[a-z0-9]+", f"{table.name} {number or ''}".lower()))
    out = [r"\begin{table}[htbp]", r"\centering\sloppy", f"\\caption{{{running_text(table.caption)}.}}"]
    out += [f"\\label{{tab:{label}}}\\par\\smallskip", f"{SIZE}\\setlength{{\\tabcolsep}}{{{GAP / 2:g}pt}}"]
    rows = sum(_row_lines(row) for _, body in table.sections for row in body) + 2 * len(table.sections) + 4
    lines = sum(1 + width_of(note) // TEXT_WIDTH for note in table.notes)
    inside = (rows + lines) * LINE <= TEXT_HEIGHT
    notes = r"\\ ".join(running_text(note) for note in table.notes)
    if table.sections and len(table.columns) > 1:
        out += _tabular(table)
    if notes and inside:
        out.append(
            f"\\par\\medskip\n\\begin{{minipage}}{{\\linewidth}}\\scriptsize\\raggedright\n{notes}\n\\end{{minipage}}"
        )
    out.append(r"\end{table}")
    if notes and not inside:  # a float can't be broken, a paragraph can
        out.append(f"\\par\\noindent{{\\footnotesize\\raggedright Table~\\ref{{tab:{label}}}: {notes}\\par}}")
    return "\n".join([*out, ""])


def _tabular(table: Table) -> list[str]:
    width = len(table.columns)
    bodies = [[_cell_lines(row[i], first=i == 0) for _, body in table.sections for row in body] for i in range(width)]
    inner = [max((width_of(line) for lines in cells for line in lines), default=0.0) for cells in bodies]
    left = [i == 0 or any(_is_text(row[i]) for _, body in table.sections for row in body) for i in range(width)]
    sides = "".join("l" if one else "r" for one in left)
    heads = []
    for column, room, side in zip(table.columns, [NAME_WIDTH, *inner[1:]], sides, strict=True):
        titles = wrap(column.title, max(room, HEAD_WIDTH))
        heads.append(_stack(_head_lines(column, room), side, "b", len(titles)))
    total = sum(_width(table, i) + GAP for i in range(width)) - GAP
    out = [f"\\begin{{tabular}}{{@{{}}{sides}@{{}}}}", r"\toprule", " & ".join(heads) + r" \\"]
    for title, body in table.sections:
        shown = _stack(wrap(title, max(total, TEXT_WIDTH / 2)), "l", "b", 9, r"\itshape ")
        heading = f"\\multicolumn{{{width}}}{{@{{}}l@{{}}}}{{{shown}}} \\\\"
        out += [r"\midrule", *([heading] if title else [])]
        out += [" & ".join(_cells(row, sides)) + r" \\" for row in body]
    return [*out, r"\bottomrule", r"\end{tabular}"]


def _cells(row: Sequence[Cell], sides: str) -> Iterator[str]:
    for index, (cell, side) in enumerate(zip(row, sides, strict=True)):
        large = len(wrap(cell.text, CELL_WIDTH)) if index else 99
        yield _stack(_cell_lines(cell, first=index == 0), side, "t", large)


def _is_text(cell: Cell) -> bool:
    return len(wrap(cell.text, CELL_WIDTH)) > 1


def _stack(lines: Sequence[str], side: str, where: str, large: int, style: str = "") -> str:
    """Lines above each other in one cell, those after the first `large` in smaller type."""
    texts = [latex_text(line) for line in lines]
    texts = [f"{{{style}{text}}}" if style and text else text for text in texts]
    texts = [text if index < large or not text else f"{{\\scriptsize {text}}}" for index, text in enumerate(texts)]
    if len(texts) == 1:
        return texts[0]
    return f"\\begin{{tabular}}[{where}]{{@{{}}{side}@{{}}}}" + r"\\ ".join(texts) + r"\end{tabular}"
