"""The main table as it fits across one page of a paper: the distance that ranks with its interval, the rest as means.

What it leaves out (deviations, further distances, costs) stands in the tables that follow it in `table.tex`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

from bench.metrics.records import MEASURES
from bench.report.latex import fits
from bench.report.results import Key, Results
from bench.report.tables import (
    ARROWS,
    COMPETING,
    NOTHING,
    Cell,
    Column,
    Line,
    Table,
    decimals,
    first_distance,
    head_cells,
    leading_keys,
    lines,
    main_notes,
    number_cell,
    number_name,
    sections,
    spread_cell,
    too_few,
)

BRIEF = {
    "precision": "Prec.", "recall": "Rec.", "coverage": "Cov.", "class_accuracy": "Acc.", "memorization": "C_T",
}  # fmt: skip
COST_NOTES = {"Train. ↓": "Train.: wall-clock", "Sampl. ↓": "Sampl.: time per 1,000 images"}
COSTS = {"training_seconds": ("Train. ↓", "{unit}"), "seconds_per_1000_samples": ("Sampl. ↓", "{unit}/1,000")}
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
LARGE = 100.0
"""A column's unit of time is the first in which its typical value is smaller than this."""
WANTED = (
    "precision", "recall", "memorization", "training_seconds", "class_accuracy", "seconds_per_1000_samples", "coverage",
)  # fmt: skip
"""What has a column beside the distance where there is room, the most wanted first."""
PLACES = 3

Shown = tuple[Column, list[Cell]]


def paper_table(results: Results, ranks: Mapping[str, int]) -> Table:
    """The rows of the main table with as many of its columns as fit, and its notes."""
    joined, first = lines(results), first_distance(results)
    heads = [head_cells(line) for line in joined]
    start: list[Shown] = [(Column("Generator"), [head[0] for head in heads])]
    if ranks:
        start.append((Column("Rank"), [Cell(str(ranks.get(line.generator, NOTHING))) for line in joined]))
    start.append((Column("Seeds"), [head[1] for head in heads]))
    if first:
        start += _distance(results, joined, first)
    keys = {key.measure: key for key in reversed(leading_keys(results)) if key.measure in BRIEF}
    more = {measure: _mean(results, joined, keys[measure]) for measure in BRIEF if measure in keys}
    more |= {name: _cost(joined, name) for name in COSTS if any(name in line.costs for line in joined)}

    def table(chosen: Sequence[str]) -> Table:
        used = [name for name in more if name in chosen]
        told = [*([first] if first else []), *(keys[name] for name in used if name in keys)]
        return _laid_out(results, joined, [*start, *(more[name] for name in used)], told, ranks)

    chosen: list[str] = []
    for name in WANTED:
        if name in more and fits(table([*chosen, name])):
            chosen.append(name)
    return table(chosen)


def _laid_out(
    results: Results, joined: Sequence[Line], shown: Sequence[Shown], keys: Sequence[Key], ranks: Mapping[str, int]
) -> Table:
    columns = tuple(column for column, _ in shown)
    bodies = [[cells[row] for _, cells in shown] for row in range(len(joined))]
    names = [number_name(results, key) for key in keys]
    briefs = [f"{BRIEF[key.measure]}: " if key.measure in BRIEF else "" for key in keys]
    about = [f"{brief}{name}" for brief, name in zip(briefs, names, strict=True)]
    notes = main_notes(results, joined, keys, columns, ranks)
    if any(str(column) == "Seed (std)" for column in columns):
        notes.append(f"Seed std: deviation over training seeds; {NOTHING} with one, which can't show it.")
    about += [COST_NOTES[column.title] for column in columns if column.title in COST_NOTES]
    if about:
        notes.append(f"{'; '.join(about)}. Deviations and all other measures are in the further tables.")
    caption = f"Main results on {results.data_label}"
    return Table("paper", caption, columns, sections(joined, bodies), tuple(notes))


def _distance(results: Results, joined: Sequence[Line], key: Key) -> list[Shown]:
    """The distance that orders the rows: mean, deviation and interval, then the deviation over seeds if there is one."""
    numbers = [line.numbers.get(key) for line in joined]
    digits = decimals(number for number in numbers if number)
    mark = "†" * too_few(joined, key)
    column = Column(f"{number_name(results, key).title}{mark} {ARROWS['lower']}", key.features)
    cells = [
        number_cell(number, digits, flagged=too_few([line], key)) for line, number in zip(joined, numbers, strict=True)
    ]
    spreads = [spread_cell(number.training_std if number else None, digits) for number in numbers]
    bare = [replace(cell, text=cell.text.removeprefix("± ")) for cell in spreads]
    seeds = [(Column("Seed", "std"), bare)] if bare != spreads else []
    return [(column, cells), *seeds]


def _mean(results: Results, joined: Sequence[Line], key: Key) -> Shown:
    digits = min(PLACES, decimals(line.numbers[key] for line in joined if key in line.numbers))
    mark = "†" * too_few(joined, key)
    arrow = ARROWS.get(MEASURES[key.measure].better, "")
    cells = [number_cell(line.numbers.get(key), digits, flagged=too_few([line], key)) for line in joined]
    brief = [replace(cell, text=cell.text.split(" ")[0], detail="") for cell in cells]
    return Column(f"{BRIEF[key.measure]}{mark} {arrow}".strip()), brief


def _cost(joined: Sequence[Line], name: str) -> Shown:
    """Times in one unit for the whole column, which is shorter than each in its own."""
    seconds = [line.costs.get(name, math.nan) for line in joined]
    trained = [line.costs[name] for line in joined if name in line.costs and line.role in COMPETING]
    typical = median(trained or [value for value in seconds if math.isfinite(value)] or [0.0])
    unit = next((unit for unit, size in UNITS.items() if typical / size < LARGE), "h")
    title, detail = COSTS[name]
    return Column(title, detail.format(unit=unit)), [Cell(_amount(value / UNITS[unit])) for value in seconds]


def _amount(value: float) -> str:
    if not math.isfinite(value):
        return NOTHING
    if 0 < value < 0.01:
        return "<0.01"
    return f"{value:.3g}" if value < 999 else f"{value:,.0f}"
