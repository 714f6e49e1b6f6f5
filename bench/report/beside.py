"""Two results side by side: every number of the same row, class, features and measure, its difference, and what differs
in how the two were made.

What can't be compared is refused (other data, another split) or left without a difference and named (other numbers of
images, other features). A folder may hold a whole run, or no more than a `results.csv`, as the committed references do.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from bench.errors import InputError
from bench.metrics.comparison import compare
from bench.metrics.records import COSTS, MEASURES
from bench.report.render import to_markdown
from bench.report.results import ALL, Key, Results, read_results
from bench.report.tables import ARROWS, NOTHING, Cell, Column, Table, cost_text, lines, signed

APART = "*"
HEADS = (
    "generator", "class", "features", "measure", "first", "first_lower", "first_upper", "second", "second_lower",
    "second_upper", "difference", "difference_lower", "difference_upper", "apart", "note",
)  # fmt: skip


class Side(NamedTuple):
    """One number of one side: mean over its seeds, interval, images, and what the interval came from."""

    mean: float
    lower: float | None
    upper: float | None
    n: int
    means: tuple[float, ...]
    replicates: tuple[tuple[float, ...], ...]
    about: str = ""


@dataclass(frozen=True)
class Folder:
    """A result as far as comparing needs it."""

    name: str
    numbers: Mapping[tuple[str, Key], Side]
    facts: Mapping[str, str]
    """How everything was made, as terms and values; empty where only results.csv is there."""
    features: Mapping[str, str] = field(default_factory=dict)
    """Features -> what makes them the same features."""


@dataclass(frozen=True)
class Pair:
    """One number on both sides: difference is second minus first, with its interval where there is one."""

    generator: str
    key: Key
    first: Side
    second: Side
    difference: float
    lower: float | None
    upper: float | None
    note: str = ""

    @property
    def apart(self) -> bool:
        """Whether the interval of the difference leaves out 0."""
        return self.lower is not None and self.upper is not None and not self.lower <= 0 <= self.upper


@dataclass(frozen=True)
class Beside:
    """Two results compared."""

    first: Folder
    second: Folder
    pairs: tuple[Pair, ...]
    differs: tuple[tuple[str, str, str], ...]
    """Term, first's value, second's."""
    warnings: tuple[str, ...]


def beside(first: Path, second: Path) -> Beside:
    """Compare two results folders.

    Raises:
        InputError: a folder can't be read, or the two are of other data or another split.
    """
    one, two = read_folder(first), read_folder(second)
    for term in ("data", "split"):
        mine, theirs = one.facts.get(term), two.facts.get(term)
        if mine is not None and theirs is not None and mine != theirs:
            raise InputError(
                f"{first} and {second}: not comparable: the {term} differ{'s' * (term == 'split')} ({mine} against {theirs})"
            )
    warnings = []
    for folder in (one, two):
        if not folder.facts:
            warnings.append(f"{folder.name} is a results.csv alone: that data and split are the same can't be checked.")
    other = sorted(name for name in set(one.features) & set(two.features) if one.features[name] != two.features[name])
    if other:
        warnings.append(
            f"Features {', '.join(other)} are not the same network on both sides: no differences are given."
        )
    found = []
    for (generator, key), own in one.numbers.items():
        others = two.numbers.get((generator, key))
        if others is not None:
            found.append(_pair(generator, key, own, others, other))
    if not found:
        raise InputError(f"{first} and {second}: no number that both have (same row, class, features and measure)")
    for folder, rest in ((one, two), (two, one)):
        alone = sorted({name for name, _ in folder.numbers} - {name for name, _ in rest.numbers})
        if alone:
            warnings.append(f"Only in {folder.name}: {', '.join(alone)}.")
    terms = dict.fromkeys([*one.facts, *two.facts]) if one.facts and two.facts else {}
    differs = [(term, one.facts.get(term, NOTHING), two.facts.get(term, NOTHING)) for term in terms]
    return Beside(one, two, tuple(found), tuple(row for row in differs if row[1] != row[2]), tuple(warnings))


def _pair(generator: str, key: Key, first: Side, second: Side, other: Sequence[str]) -> Pair:
    difference = second.mean - first.mean
    if key.features in other:
        return Pair(generator, key, first, second, math.nan, None, None, "other features")
    if first.n != second.n:
        return Pair(generator, key, first, second, math.nan, None, None, f"n = {first.n} against {second.n}")
    if first.about != second.about:
        return Pair(generator, key, first, second, math.nan, None, None, f"{first.about} against {second.about}")
    sizes = {len(row) for row in (*first.replicates, *second.replicates)}
    if first.replicates and second.replicates and len(sizes) == 1 and min(sizes) > 1:
        kept = compare(
            first=second.means,
            second=first.means,
            first_replicates=second.replicates,
            second_replicates=first.replicates,
        )
        return Pair(generator, key, first, second, difference, kept.lower, kept.upper)
    ends = (first.lower, first.upper, second.lower, second.upper)
    if any(end is None for end in ends):
        return Pair(generator, key, first, second, difference, None, None)
    a, b, c, d = (float(end) for end in ends if end is not None)
    # as if the two were independent, though they share test subjects: rather too wide than too narrow
    down, up = math.hypot(second.mean - c, b - first.mean), math.hypot(d - second.mean, first.mean - a)
    return Pair(generator, key, first, second, difference, difference - down, difference + up)


# ---- reading


def read_folder(folder: Path) -> Folder:
    """Read a run's folder, or one that holds a results.csv.

    Raises:
        InputError: neither is there, or it can't be read.
    """
    if (folder / "plan.json").is_file():
        return _of_results(read_results(folder), str(folder))
    if (folder / "results.csv").is_file():
        return Folder(str(folder), _of_csv(folder / "results.csv"), {})
    raise InputError(f"{folder}: no results here: neither plan.json of a run nor results.csv")


def _of_results(results: Results, name: str) -> Folder:
    numbers: dict[tuple[str, Key], Side] = {}
    for line in lines(results):
        for key, number in line.numbers.items():
            scores = [run.scores[key] for run in line.runs if run.finished and key in run.scores]
            if not math.isfinite(number.mean):
                continue
            means = tuple(score.mean for score in scores)
            rows = tuple(score.replicates for score in scores)
            about = next((score.about for score in scores), "")
            usable = all(map(math.isfinite, (value for row in rows for value in row))) and number.lower is not None
            side = Side(
                number.mean, number.lower, number.upper, number.n_generated, means, rows if usable else (), about
            )
            numbers[line.generator, key] = side
        for cost, value in line.costs.items():
            numbers[line.generator, Key(ALL, "", cost)] = Side(value, None, None, 0, (value,), ())
    told = {"status", "dimensions", "rule", "version", "backend"}
    features = {
        name: "; ".join(f"{key} {entry[key]}" for key in sorted(told & set(entry)))
        for name, entry in results.features.items()
    }
    return Folder(name, numbers, _facts(results, features), features)


def _facts(results: Results, features: Mapping[str, str]) -> dict[str, str]:
    rules = results.protocol
    facts = {
        "data": f"{results.data['fingerprint']}",
        "split": f"{results.split['hash']}",
        "suite": results.name,
        "stamp": results.stamp or "none",
        "budget": _plainly(results.suite.get("budget")),
        **{key: str(rules.get(key)) for key in ("draws", "n_all", "n_class", "replicates") if key in rules},
        "measures": ", ".join(map(str, rules.get("measures") or ())),
        **{f"features {name}": told for name, told in features.items()},
    }
    for line in lines(results):
        if line.role != "floor":
            facts[f"{line.generator}: seeds"] = ", ".join(str(run.seed) for run in line.runs if run.finished)
            run = next((run for run in line.runs if run.finished), line.runs[0])
            facts[f"{line.generator}: hyper-parameters"] = _plainly(run.hyperparameters)
            facts[f"{line.generator}: scored"] = _plainly(run.policy)
    environments = {key: {str(run.environment[key]) for run in results.runs if key in run.environment}
                    for run in results.runs for key in run.environment}  # fmt: skip
    return facts | {str(key): ", ".join(sorted(values)) for key, values in environments.items()}


def _plainly(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {entry}" for key, entry in value.items() if entry is not None)
    return str(value)


def _of_csv(path: Path) -> dict[tuple[str, Key], Side]:
    rows: dict[tuple[str, Key], list[dict[str, str]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["measure"] and row["mean"] and row["status"] == "finished":
                    rows.setdefault((row["generator"], Key(row["class"], row["features"], row["measure"])), []).append(
                        row
                    )
        return {key: _of_rows(found) for key, found in rows.items()}
    except (KeyError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a table of results as it was written: {error}") from None


def _of_rows(rows: Sequence[Mapping[str, str]]) -> Side:
    means = tuple(float(row["mean"]) for row in rows)
    first = rows[0]
    whole = len(rows) == 1 and first["lower"] and first["upper"]  # of several seeds the csv has no joint interval
    lower, upper = (float(first["lower"]), float(first["upper"])) if whole else (None, None)
    return Side(fmean(means), lower, upper, int(first["n_generated"] or 0), means, (), first.get("about") or "")


# ---- telling


COST_TITLES = {
    "training_seconds": "training time",
    "seconds_per_1000_samples": "time per 1,000 samples",
    "peak_memory_bytes": "peak memory in MiB",
}
"""Costs as `cost_text` writes them."""


def tables(found: Beside, *, everything: bool = False) -> list[Table]:
    """Lay out a table for each features; of all classes together unless everything is asked for."""
    shown = [pair for pair in found.pairs if everything or pair.key.label == ALL]
    kinds = dict.fromkeys((pair.key.features, pair.key.measure in COSTS) for pair in shown)
    return [
        _table(found, [p for p in shown if (p.key.features, p.key.measure in COSTS) == kind], *kind) for kind in kinds
    ]


def _table(found: Beside, pairs: Sequence[Pair], features: str, costs: bool) -> Table:
    one, two = _short(found)
    last_head = Column("Ratio", f"{two} / {one}") if costs else Column("Difference", f"{two} − {one}")
    columns = (Column("Generator"), Column("Measure"), Column(one), Column(two), last_head)
    body = []
    for pair in pairs:
        measure = MEASURES.get(pair.key.measure)
        said = COST_TITLES.get(pair.key.measure, measure.title) if measure else ""
        title = f"{said} {ARROWS.get(measure.better, '')}".strip() if measure else pair.key.measure
        title += "" if pair.key.label == ALL else f", {pair.key.label}"
        if costs:
            ratio = f"× {pair.second.mean / pair.first.mean:.3g}" if pair.first.mean else NOTHING
            sides = [Cell(cost_text(pair.key.measure, side.mean)) for side in (pair.first, pair.second)]
            body.append((Cell(pair.generator), Cell(title), *sides, Cell(ratio)))
            continue
        digits = _digits(pair)
        cells = [_written(side.mean, side.lower, side.upper, digits) for side in (pair.first, pair.second)]
        last = Cell(NOTHING, pair.note)
        if not pair.note:
            last = _written(pair.difference, pair.lower, pair.upper, digits, APART * pair.apart, plus=True)
        body.append((Cell(pair.generator), Cell(title), *cells, last))
    notes = () if costs else (
        f"{APART} The 95 % interval of the difference leaves out 0. Where one training seed stands behind a number, nothing "
        "of how trainings vary is in it; over many numbers some are told apart by chance.",
    )  # fmt: skip
    name = "costs" if costs else f"on {features} features" if features else "of the images themselves"
    return Table(
        f"compare-{features or 'images'}", f"{one} and {two} side by side: {name}", columns, (("", tuple(body)),), notes
    )


def _short(found: Beside) -> tuple[str, str]:
    """Names that tell the two apart: the last part of the path, or the whole of it where that is the same."""
    names = [Path(side.name).name for side in (found.first, found.second)]
    return (names[0], names[1]) if names[0] != names[1] else (found.first.name, found.second.name)


def _digits(pair: Pair) -> int:
    sizes = [
        abs(end - side.mean)
        for side in (pair.first, pair.second)
        for end in (side.lower, side.upper)
        if end is not None
    ]
    size = max([*sizes, 1e-3 * abs(pair.first.mean)]) or 1.0
    return max(0, min(6, 1 - math.floor(math.log10(size))))


def _written(
    mean: float, lower: float | None, upper: float | None, digits: int, mark: str = "", plus: bool = False
) -> Cell:
    text = ("+" if plus and mean > 0 else "") + signed(mean, digits) + mark
    return (
        Cell(text)
        if lower is None or upper is None
        else Cell(text, f"[{signed(lower, digits)}, {signed(upper, digits)}]")
    )


def differences(found: Beside) -> Table | None:
    """What differs in how the two were made; None where nothing is known to."""
    if not found.differs:
        return None
    one, two = _short(found)
    rows = tuple(tuple(map(Cell, row)) for row in found.differs)
    return Table(
        "differs", "What differs in how they were made", (Column("What"), Column(one), Column(two)), (("", rows),)
    )


def to_file(found: Beside, suffix: str) -> bytes:
    """Everything as CSV (full precision) or Markdown, by the suffix."""
    if suffix == ".csv":
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADS)
        writer.writerows(_rows(found.pairs))
        return stream.getvalue().encode()
    told = [table for table in [differences(found), *tables(found, everything=True)] if table]
    head = "".join(f"- {warning}\n" for warning in found.warnings)
    return (f"{head}\n{to_markdown(told)}" if head else to_markdown(told)).encode()


def _rows(pairs: Iterable[Pair]) -> list[tuple[Any, ...]]:
    return [
        (
            pair.generator, *pair.key, *pair.first[:3], *pair.second[:3],
            None if pair.note else pair.difference, pair.lower, pair.upper, pair.apart, pair.note,
        )
        for pair in pairs
    ]  # fmt: skip
