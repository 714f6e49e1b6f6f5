"""Recognition by class: how many generated images a classifier of real ones reads as the class asked for."""

from __future__ import annotations

from bench.report.results import ALL, Key, Results
from bench.report.tables import (
    NOTHING,
    Cell,
    Column,
    Table,
    add_scores,
    few_classes,
    head_cells,
    lines,
    sections,
    unconditional,
)


def recognition_tables(results: Results) -> list[Table]:
    """A table for each features with a classifier: its accuracy on real test images first, then every generator's."""
    joined = lines(results)
    keys = {key for line in joined for key in line.numbers if key.measure == "class_accuracy"}
    used = sorted({key.features for key in keys if key.label != ALL}, key=[*results.features, ""].index)
    return [_table(results, features) for features in used]


def _table(results: Results, features: str) -> Table:
    joined = lines(results)
    columns, bodies = [Column("Generator")], [head_cells(line)[:1] for line in joined]
    few = [str(entry["name"]) for entry in results.classes if entry.get("few")]
    known = results.recognition.get(features, {})
    real = [Cell("real test images")]
    for label in (ALL, *results.class_names):
        add_scores(results, joined, Key(label, features, "class_accuracy"), columns, bodies)
        shown = "all classes" if label == ALL else label
        columns[-1] = Column(shown + ("‡" if label in few else ""))
        real.append(Cell(f"{known[label]:.3f}" if label in known else NOTHING))
    notes = [
        "A classifier trained on real training images reads generated ones; its own errors on real test images bound what "
        "can be asked for. High accuracy says nothing of variety: one good image over and over has it too."
    ]
    notes += [f"‡ {few_classes(results)}."] if few else []
    caption = (
        f"Class accuracy ({features}): share recognised as the class asked for, on {results.data_label}; "
        "higher is better"
    )
    body = (("Real data", (tuple(real),)), *sections(joined, bodies))
    return Table(f"class-accuracy-{features}", caption, tuple(columns), body, (*notes, *unconditional(joined)))
