"""What sources report on their own data: a block of its own, marked, in no ranking and no results file."""

from __future__ import annotations

from bench.report.results import Results
from bench.report.tables import NOTHING, Cell, Column, Table

HEADING = "Reported by the source, other data: not comparable with the rows above"


def reported_tables(results: Results) -> list[Table]:
    """A table for every source that the suite quotes."""
    tables = []
    for number, entry in enumerate(results.suite.get("reported") or ()):
        values = entry["values"]
        grouped = any(value.get("group") for value in values)
        heads = ["System", *(["Group"] if grouped else []), "Measure", "Value"]
        rows = [
            tuple(
                Cell(str(value.get(key) or NOTHING))
                for key in ("system", *(("group",) if grouped else ()), "measure", "value")
            )
            for value in values
        ]
        notes = tuple(
            note for note in (f"Data: {entry['data']}.".replace("..", "."), str(entry.get("note") or "")) if note
        )
        caption = f"{HEADING} ({entry['source']})"
        tables.append(Table(f"reported-{number}", caption, tuple(map(Column, heads)), (("", tuple(rows)),), notes))
    return tables
