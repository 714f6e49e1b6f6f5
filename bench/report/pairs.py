"""Families two by two: interval of the difference, probability to be the better one, and which of them are told apart.

Only families with enough training seeds are compared: from one training nothing can be said of a family, so those with
fewer stand in no matrix. Nothing here ranks (`bench.report.verdict` does) or computes a statistic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import pandas as pd

from bench.metrics.comparison import compare, holm
from bench.metrics.records import MEASURES
from bench.report.results import ALL, Key, Results
from bench.report.tables import (
    COMPETING,
    NOTHING,
    Cell,
    Column,
    Line,
    Table,
    decimals,
    first_distance,
    leading_keys,
    lines,
    number_name,
    score_keys,
    signed,
)

SEEDS_NEEDED = 3
"""Training seeds a family needs before it may be compared or ranked."""
ERROR = 0.05
"""Chance that among all pairs of a matrix any two equal families are called different."""
APART = "*"
PAIR_NUMBERS = ("lower", "upper", "first_better", "p_holm", "apart")


@dataclass(frozen=True)
class Pair:
    """Two rows compared by one number: `first` minus `second`."""

    first: str
    second: str
    difference: float
    lower: float
    upper: float
    first_better: float
    """Probability that the first is the better one."""
    p: float
    """Two-sided, adjusted by Holm over the pairs of its number."""

    @property
    def apart(self) -> bool:
        """Whether the two are told apart, all pairs considered."""
        return self.p < ERROR


def able(results: Results, key: Key | None) -> list[Line]:
    """Return the rows that may be compared by a number, in the table's order; none while results are incomplete.

    Families with enough finished seeds and replicates, and images made elsewhere beside them. Those are one set and
    so have no seeds; they compete where they are as many as the families', since a Fréchet distance falls with the
    number of images.
    """
    if key is None or results.stamp or any(run.status == "pending" for run in results.runs):
        return []
    joined = [line for line in lines(results) if line.role in COMPETING and _replicates(line, key)]
    families = [line for line in joined if line.role == "family" and line.finished >= SEEDS_NEEDED]
    counts = {line.numbers[key].n_generated for line in families}
    made = [line for line in joined if line.role == "external" and line.numbers[key].n_generated in counts]
    found = [line for line in joined if line in families or line in made]
    sizes = {len(row) for line in found for row in _replicates(line, key)}
    return found if len(sizes) == 1 else []


def _replicates(line: Line, key: Key) -> list[tuple[float, ...]]:
    """Replicates of every finished seed; none unless all have as many."""
    rows = [run.scores[key].replicates for run in line.runs if run.finished and key in run.scores]
    whole = bool(rows) and len(rows) == line.finished and len({len(row) for row in rows}) == 1 and len(rows[0]) > 1
    return rows if whole and line.numbers[key].lower is not None else []


@lru_cache(maxsize=64)
def pairs(results: Results, key: Key) -> tuple[Pair, ...]:
    """Compare every two rows that may be compared by this number; p-values adjusted over all of them."""
    better = MEASURES[key.measure].better if key.measure in MEASURES else "none"
    if better == "none":
        return ()
    found = []
    for first, second in combinations(able(results, key), 2):
        one, two = (
            [run.scores[key].mean for run in line.runs if run.finished and key in run.scores]
            for line in (first, second)
        )
        compared = compare(
            first=one,
            second=two,
            first_replicates=_replicates(first, key),
            second_replicates=_replicates(second, key),
        )
        below = compared.lower_probability
        probability = below if better == "lower" else 1 - below
        found.append((first.generator, second.generator, *compared[:3], probability, 2 * min(below, 1 - below)))
    adjusted = holm([row[-1] for row in found])
    return tuple(Pair(*row[:-1], float(p)) for row, p in zip(found, adjusted, strict=True))


def beaten_by(results: Results, key: Key) -> dict[str, list[str]]:
    """Row -> those that are told apart from it and better."""
    found: dict[str, list[str]] = {line.generator: [] for line in able(results, key)}
    for pair in pairs(results, key):
        if pair.apart:
            better, worse = (pair.first, pair.second) if pair.first_better > 0.5 else (pair.second, pair.first)
            found[worse].append(better)
    return found


def pair_tables(results: Results) -> list[Table]:
    """A matrix for every distance of the main table, where two rows or more may be compared."""
    wanted = dict.fromkeys([first_distance(results), *leading_keys(results)])
    return [_matrix(results, key) for key in wanted if key is not None and pairs(results, key)]


def _matrix(results: Results, key: Key) -> Table:
    joined, name = able(results, key), number_name(results, key)
    digits = decimals(line.numbers[key] for line in joined)
    known = {(pair.first, pair.second): pair for pair in pairs(results, key)}
    body = []
    for row in joined:
        cells = [Cell(row.generator, "made elsewhere" if row.role == "external" else "")]
        for column in joined:
            if row is column:
                cells.append(Cell(NOTHING))
                continue
            there = (row.generator, column.generator) in known
            pair = known[(row.generator, column.generator) if there else (column.generator, row.generator)]
            ends = (pair.lower, pair.upper) if there else (-pair.upper, -pair.lower)
            text = _probability(pair.first_better if there else 1 - pair.first_better)
            difference = signed(pair.difference if there else -pair.difference, digits)
            interval = f"{difference} [{signed(ends[0], digits)}, {signed(ends[1], digits)}]"
            cells.append(Cell(text + APART * pair.apart, interval))
        body.append(tuple(cells))
    count = len(known)
    notes = [
        "Probability that the row is better than the column; below it the difference, row minus column, with its 95 % "
        "interval, over the same resamples of test subjects and over training seeds (Welch).",
        f"Intervals and probabilities are per pair. {APART} The {count} pairs considered together tell the two apart "
        f"(Holm, {ERROR:.0%})." if count > 1 else f"{APART} Told apart at {ERROR:.0%}.",
    ]  # fmt: skip
    if any(line.role == "external" for line in joined):
        notes.append("Images made elsewhere are compared as this one set: no training seeds enter.")
    if left := left_out(results, key):
        notes.append(left)
    title = f"Pair by pair: {name} on {results.data_label}"
    return Table(f"pairs-{key.features}", title, _heads(joined), (("", tuple(body)),), tuple(notes))


def _heads(joined: Sequence[Line]) -> tuple[Column, ...]:
    return (Column("Better than →"), *(Column(line.generator) for line in joined))


def _probability(value: float) -> str:
    if value > 0.999:
        return "> 0.999"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def left_out(results: Results, key: Key | None) -> str:
    """Say which families are not compared, and why; '' where all are."""
    if results.stamp:
        return f"Families are not compared: these outputs are stamped '{results.stamp}'."
    if any(run.status == "pending" for run in results.runs):
        return "Families are compared once every planned run has ended."
    named = [line.generator for line in able(results, key)]
    left = [
        f"{line.generator} ({line.finished} finished seed{'s' if line.finished != 1 else ''})"
        for line in lines(results)
        if line.role == "family" and line.generator not in named
    ]
    if not left:
        return ""
    if all(line.finished >= SEEDS_NEEDED for line in lines(results) if line.role == "family"):
        return f"Not compared: {', '.join(left)}: without an interval over test subjects nothing can be told apart."
    return (
        f"Not compared: {', '.join(left)}. Fewer than {SEEDS_NEEDED} training seeds allow no statement about the family; with "
        "one, its interval holds the sampling of test subjects alone."
    )


def pairs_frame(results: Results) -> pd.DataFrame:
    """Return every pair by every number that has replicates, in full precision.

    Columns: first, second, class, features, measure, difference (first minus second), lower, upper,
    first_better (probability), p_holm, apart.
    """
    columns = [*("first", "second", "class", "features", "measure", "difference"), *PAIR_NUMBERS]
    rows: list[tuple[Any, ...]] = []
    for label in (ALL, *results.class_names) if len(results.class_names) > 1 else (ALL,):
        for key in score_keys(results, label):
            for pair in pairs(results, key):
                numbers = (pair.difference, pair.lower, pair.upper, pair.first_better, pair.p, pair.apart)
                rows.append((pair.first, pair.second, *key, *numbers))
    return pd.DataFrame(rows, columns=columns)
