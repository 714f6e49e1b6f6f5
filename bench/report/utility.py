"""What generated images are good for: classifiers trained on them, and the gain from adding them to the real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.report.results import ALL, Key, Results
from bench.report.tables import NOTHING, Cell, Column, Line, Number, Table, head_cells, lines, number_cell, sections

HEADS = {
    "accuracy": "Accuracy ↑",
    "balanced_accuracy": "Balanced acc. ↑",
    "macro_f1": "Macro F1 ↑",
    "macro_precision": "Macro precision ↑",
    "macro_recall": "Macro recall ↑",
    "roc_auc": "ROC AUC ↑",
}
JUDGED = "balanced_accuracy"
"""The score that says whether generated images help, fixed before any result: it counts every class alike."""
DIGITS = 3


def utility_tables(results: Results) -> list[Table]:
    """Trained on generated images alone, then the gain beside real ones; none where the suite doesn't ask for utility."""
    known = results.utility
    if not known:
        return []
    if known.get("status") != "ok":
        reason = str(known.get("reason") or "no reason stored")
        return [
            Table("utility", "Utility of generated images", (Column("Generator"),), (), (f"Not applicable: {reason}.",))
        ]
    joined = lines(results)
    caption = (
        f"Utility: trained on generated images, tested on {known['n_test']:,} real test images of {results.data_label}"
    )
    alone = _table(
        results, joined, "tstr", "utility", caption, [_chance(results), _budget(known), *_few(known, joined)]
    )
    caption = f"Gain: real plus generated images minus real images alone, at equal budget, on {results.data_label}"
    notes = [
        "Beneath real images alone, whose row holds their scores, stand differences in the same test subjects, classifier by "
        "classifier. Helps: yes where the interval of the gain in balanced accuracy lies above 0, harms where below."
    ]
    return [alone, _table(results, joined, "gain", "utility-gain", caption, notes)]


def _table(
    results: Results, joined: Sequence[Line], prefix: str, name: str, caption: str, notes: Sequence[str]
) -> Table:
    bodies = [_body(line, prefix) for line in joined]
    columns = [Column("Generator"), *map(Column, HEADS.values())]
    real = [Cell("real images alone"), *(_real(results.utility["real"].get(score)) for score in HEADS)]
    if prefix == "gain":
        columns.append(Column("Helps"))
        real.append(Cell(NOTHING))
        bodies = [[*body, Cell(helps(line))] for line, body in zip(joined, bodies, strict=True)]
    rows = (("Real data", (tuple(real),)), *sections(joined, bodies))
    return Table(name, caption, tuple(columns), rows, (*notes, *_floors(joined, prefix)))


def helps(line: Line) -> str:
    """Say whether the gain's interval lies above 0 ('yes'), below ('harms') or holds it ('not shown'); '–' without one."""
    number = line.numbers.get(Key(ALL, "", f"gain_{JUDGED}"))
    if number is None or number.lower is None or number.upper is None:
        return NOTHING
    return "yes" if number.lower > 0 else "harms" if number.upper < 0 else "not shown"


def _body(line: Line, prefix: str) -> list[Cell]:
    if line.finished and not line.conditional:
        return [head_cells(line)[0], Cell("not applicable: unconditional"), *[Cell(NOTHING)] * (len(HEADS) - 1)]
    found = [line.numbers.get(Key(ALL, "", f"{prefix}_{score}")) for score in HEADS]
    cells = [number_cell(number, DIGITS) for number in found]
    if prefix == "gain":
        cells = [_signed(cell, number) for cell, number in zip(cells, found, strict=True)]
    return [head_cells(line)[0], *cells]


def _signed(cell: Cell, number: Number | None) -> Cell:
    """A gain bears its sign."""
    return Cell(f"+{cell.text}", cell.detail) if number is not None and round(number.mean, DIGITS) > 0 else cell


def _real(told: Mapping[str, Any] | None) -> Cell:
    if told is None:
        return Cell(NOTHING)
    count = len(told["values"])
    low, high = told.get("lower"), told.get("upper")
    return number_cell(Number(told["mean"], told["std"], None, low, high, 0, count, frozenset()), DIGITS)


def _chance(results: Results) -> str:
    count = len(results.class_names)
    return (
        f"By chance: balanced accuracy {1 / count:.2f} ({count} classes), ROC AUC 0.50 (mean over classes, each against the "
        "rest). Macro recall equals balanced accuracy."
    )


def _budget(known: Mapping[str, Any]) -> str:
    return (
        f"{known['classifiers']} classifiers for each kind of training images, each seeing {known['images_seen']:,} images "
        f"(real ones are {known['n_real']:,}, generated ones {known['n_generated']:,}; together: {known['ratio']:g} "
        f"generated for each real one): {known['rule']}. Mean ± deviation over classifiers; [95 % bootstrap interval over "
        "test subjects and classifiers, nested in the training seeds where there are several]."
    )


def _few(known: Mapping[str, Any], joined: Sequence[Line]) -> list[str]:
    """Name rows that had fewer images to be trained on than the others."""
    key = Key(ALL, "", f"tstr_{JUDGED}")
    counts = {line.generator: line.numbers[key].n_generated for line in joined if key in line.numbers}
    few = [f"{name} ({count:,})" for name, count in counts.items() if count < known["n_generated"]]
    return [f"Fewer images than asked for, so repeated more often: {', '.join(few)}."] if few else []


def _floors(joined: Sequence[Line], prefix: str) -> list[str]:
    """Say what the floors are here."""
    if not any(line.role == "floor" and Key(ALL, "", f"{prefix}_{JUDGED}") in line.numbers for line in joined):
        return []
    return [
        "Floors have real images of other subjects in place of generated ones: what a generator without fault brings."
    ]
