"""Tables in LaTeX: escaped, compiled, no wider than a page's text, and complete."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.report import latex
from bench.report.digest import _amount, paper_table
from bench.report.latex import LATEX, TEXT_WIDTH, fits, latex_text, running_text, split, to_latex, width_of, wrap
from bench.report.page import all_tables
from bench.report.results import Results, read_results
from bench.report.tables import Cell, Column, Table, main_table
from bench.report.verdict import ranks

_spec = importlib.util.spec_from_file_location("report_fixture", Path(__file__).with_name("report_fixture.py"))
assert _spec
assert _spec.loader
fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixture)

needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
ODD = ("<script>alert(1)</script>", "50%_$x$ & co", "a|b ∞ 脳 …", "{\\input{x}}")
LONG = ("left anterior descending coronary artery, calcified", "MagnetomTrioTimSiemensHealthineersErlangen", "b", "c")
QUOTED = {
    "source": "A. Author and others, A rather long title of a paper on generative models of images, 2021",
    "data": "10,000 images of https://example.org/a/very/long/address/without/any/place/to/break/it/at/all.html",
    "note": "Measured with " + "x" * 120,
    "values": [{"system": "a system with a long name of many words", "measure": "FID " * 40, "value": 1.5}],
}


def wide(folder: Path, classes: tuple[str, ...] = LONG, stamp: str | None = "not for results") -> Results:
    """Results of three features with every measure, more seeds than one and everything that has a table."""
    path = fixture.write_results(
        folder, classes=classes, seeds={"vae": 3, "cvae": 3, "dcgan": 3, "wgan_gp": 3}, progress=True,
        recognition=True, per_class=("cvae",), stamp=stamp, reported=(QUOTED,),
    )  # fmt: skip
    fixture.widen(path)
    return read_results(path)


def plain(folder: Path) -> Results:
    """Results as the other tests of the report have them."""
    return read_results(fixture.write_results(folder))


def odd(folder: Path) -> Results:
    """Results of classes whose names mean something to TeX."""
    return wide(folder, ODD)


def everything(results: Results) -> list[Table]:
    """The tables of `table.tex`."""
    return [paper_table(results, ranks(results)), *all_tables(results)]


def complaints(folder: Path, tables: Iterable[Table], options: str) -> list[str]:
    """Compile the tables in an article and return what TeX says about boxes that don't fit, by more than a point."""
    rules = r"\usepackage{booktabs}"
    if not subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, text=True, check=False).stdout.strip():
        rules = "".join(rf"\def\{name}rule{{\hline}}" for name in ("top", "mid", "bottom"))  # all that we use of it
    head = rf"\documentclass[{options}]{{article}}\usepackage[T1]{{fontenc}}{rules}\begin{{document}}" + "\n"
    (folder / "t.tex").write_text(head + to_latex(tables) + "\\end{document}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "t.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (folder / "t.log").read_text(encoding="latin-1")
    found = re.findall(r"(?:Overfull \\[hv]box|Float too large for page) .*", log)
    return [line for line in found if float(re.findall(r"[\d.]+(?=pt)", line)[0]) > 1]


@needs_latex
@pytest.mark.parametrize(("make", "options"), [(plain, "10pt"), (wide, "10pt"), (wide, "12pt,a4paper"), (odd, "11pt")])
def test_every_table_fits_a_page(tmp_path: Path, make: Any, options: str) -> None:
    tables = everything(make(tmp_path / "x"))
    assert complaints(tmp_path, tables, options) == []


@needs_latex
def test_a_table_that_is_not_split_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = main_table(wide(tmp_path / "x"))
    monkeypatch.setattr(latex, "TEXT_WIDTH", 5000.0)
    assert any("Overfull" in line for line in complaints(tmp_path, [table], "10pt"))


@needs_latex
def test_letters_are_no_wider_than_estimated(tmp_path: Path) -> None:
    letters = [chr(code) for code in range(33, 127)] + [letter for letter in map(chr, LATEX) if not letter.isascii()]
    lines = [rf"\setbox0\hbox{{{latex_text(c)}}}\typeout{{W {ord(c)} \the\wd0}}" for c in letters]
    head = rf"\documentclass{{article}}\usepackage[T1]{{fontenc}}\begin{{document}}{latex.SIZE}"
    (tmp_path / "t.tex").write_text("\n".join([head, *lines, r"\end{document}"]), encoding="utf-8")
    subprocess.run(["pdflatex", "-interaction=batchmode", "t.tex"], cwd=tmp_path, capture_output=True, check=True)
    found = re.findall(r"^W (\d+) ([\d.]+)pt", (tmp_path / "t.log").read_text(encoding="latin-1"), flags=re.MULTILINE)
    assert len(found) == len(letters)
    assert {chr(int(code)): float(size) for code, size in found if float(size) > width_of(chr(int(code)))} == {}


def cells(tables: Iterable[Table]) -> Counter[tuple[str, str, str]]:
    """Every cell with the heads of its row and of its column."""
    return Counter(
        (str(row[0]), str(column), str(cell))
        for table in tables
        for _, body in table.sections
        for row in body
        for column, cell in zip(table.columns[1:], row[1:], strict=True)
    )


@pytest.mark.parametrize("make", [plain, wide, odd])
def test_splitting_loses_nothing(tmp_path: Path, make: Any) -> None:
    for table in all_tables(make(tmp_path / "x")):
        parts = split(table)
        assert all(fits(part) for part in parts)
        assert cells(parts) == cells([table])
        assert [note for part in parts for note in part.notes] == list(table.notes)
        assert {title for part in parts for title, _ in part.sections} >= {title for title, _ in table.sections}


def test_what_the_page_says_is_in_the_file(tmp_path: Path) -> None:
    results = wide(tmp_path / "x")
    text = to_latex(everything(results))
    for table in all_tables(results):
        for cell in (cell for _, body in table.sections for row in body for cell in row[1:]):
            assert all(latex_text(line) in text for line in wrap(cell.text, latex.CELL_WIDTH))
        assert all(running_text(note) in text for note in table.notes)


def test_parts_keep_to_features(tmp_path: Path) -> None:
    parts = split(main_table(wide(tmp_path / "x")))
    groups = [list(dict.fromkeys(c.group for c in part.columns[1:] if c.group)) for part in parts]
    assert groups == [["domain"], ["domain"], ["inception", "random"], []]  # those that are short share a table
    assert "domain features (part 1 of 4)" in parts[0].caption
    assert "inception and random features (part 3 of 4)" in parts[2].caption


def test_the_first_table_is_one_that_a_paper_can_use(tmp_path: Path) -> None:
    results = wide(tmp_path / "x", stamp=None)
    table = paper_table(results, ranks(results))
    assert split(table) == [table]
    heads = [column.title for column in table.columns]
    assert heads[:8] == ["Generator", "Rank", "Seeds", "FD@280 ↓", "Seed", "Prec. ↑", "Rec. ↑", "C_T"]
    cvae = next(row for _, body in table.sections for row in body if row[0].text == "cvae")
    assert re.fullmatch(r"14\.\d+ ± 0\.\d+ \[1\d\.\d+, 1\d\.\d+\]", str(cvae[3]))
    notes = " ".join(table.notes)
    assert "Prec.: Precision@280 (domain, vs test)" in notes
    assert "Seed std: deviation over training seeds" in notes
    assert "diverged at step 812" in notes


def test_one_seed_has_no_column_of_its_deviation(tmp_path: Path) -> None:
    results = read_results(fixture.write_results(tmp_path / "x", seeds={}))
    table = paper_table(results, {})
    assert "Seed" not in [column.title for column in table.columns]
    assert "Train. ↓ (min)" in map(str, table.columns)
    assert "Seed std" not in " ".join(table.notes)


def test_a_suite_that_has_just_begun_has_a_table_too(tmp_path: Path) -> None:
    results = read_results(fixture.write_results(tmp_path / "x", pending=tuple(fixture.DISTANCE)))
    table = paper_table(results, ranks(results))
    assert [str(column) for column in table.columns] == ["Generator", "Seeds"]
    assert not any("further tables" in note for note in table.notes)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0"), (0.004, "<0.01"), (12.345, "12.3"), (999.7, "1,000"), (float("nan"), "–")]
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert _amount(seconds) == text


def test_long_tables_go_on_in_another() -> None:
    rows = tuple((Cell(f"row {number}"), Cell(str(number))) for number in range(100))
    table = Table("t", "Many", (Column("Name"), Column("Value")), (("All", rows),), ("A note.",))
    parts = split(table)
    assert len(parts) == 3
    assert [part.sections[0][0] for part in parts] == ["All", "All (continued)", "All (continued)"]
    assert [row for part in parts for _, body in part.sections for row in body] == list(rows)
    assert [part.notes for part in parts] == [(), (), ("A note.",)]


def test_long_notes_leave_the_float() -> None:
    table = Table(
        "t", "Few", (Column("Name"), Column("Value")), (("", ((Cell("a"), Cell("1")),)),), ("Long note. " * 900,)
    )
    text = to_latex([table])
    assert text.index(r"\end{table}") < text.index("Long note.")


def test_a_table_without_rows_is_its_notes() -> None:
    text = to_latex([Table("utility", "Utility", (Column("Generator"),), (), ("Not applicable.",))])
    assert "Not applicable." in text
    assert r"\toprule" not in text


@given(st.text(max_size=80), st.floats(20, TEXT_WIDTH))
@example("\uac01", 20.0)  # one letter of Hangul is three to Unicode
def test_lines_are_no_wider_than_their_room(text: str, room: float) -> None:
    lines = wrap(text, room)
    assert all(width_of(line) <= room for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_latex_is_escaped() -> None:
    assert latex_text("a_b & 5% $x$ #1 {c} ~ ^ \\d") == (
        r"a\_b \& 5\% \$x\$ \#1 \{c\} \textasciitilde{} \textasciicircum{} \textbackslash{}d"
    )
    assert latex_text("FD∞ → Å 脳 \u0301é") == r"FD$\infty$ $\rightarrow$ Å ? ?é"
    assert latex_text("[−1 ± 2]†") == r"{[}$-$1 $\pm$ 2{]}\textsuperscript{\dag}"
