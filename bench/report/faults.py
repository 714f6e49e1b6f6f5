"""Which measure sees which fault: the rows of fault controls held against real data, number by number.

A fault is *seen* by a number if it lies beyond every floor (real data against real data at the same n) in the bad direction,
by more than `BEYOND` sampling deviations of a single draw:

    z = (distance of the fault's mean beyond the worst floor's mean) / sqrt(s_fault^2 + max s_floor^2),   seen: z > 3

so one draw of n images shows it to whoever looks once; how many draws were taken does not matter but for the precision of
z. Draws of n out of N real images share some, and stray less than draws of fresh ones would: s is the deviation over draws
divided by sqrt(1 - n/N), as of a sample of a finite population. Where a draw leaves less than a tenth of the images, draws
are hardly different, nothing can be said of s, and nothing is judged.

A measure without a better direction is judged on both sides. C_T only asks for copies: nearer to the training images than the
floors are, and below the report's own threshold. What lies beyond every floor on the good side by as much is taken for
*better than real*: the fault fools the measure.

Every measure among the results takes part by its record; nothing is listed here by name but what was said beforehand
(`bench.report.fault_claims`). A number that no floor has can't be judged and is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from bench.metrics.records import MEASURES
from bench.report.fault_claims import FAULTS, claim_on
from bench.report.results import ALL, Key, Results
from bench.report.tables import COPYING, SHORT, Cell, Column, Line, Number, Table, lines, score_keys

BEYOND = 3.0
"""Sampling deviations of one draw by which a fault must lie beyond the floors."""
MOST = 99.0
"""Larger effects are not told apart: a fault without any spread has an infinite one."""
LEAST_LEFT = 0.1
"""Share of the real images that a draw must leave to others for their deviation to mean something."""
ALWAYS_THERE = ("training_copy", "mean_image")
"""Controls of every suite: alone they make no table of faults."""
BY_CLASS = " by class"


class Asked(NamedTuple):
    """One row of the table: a measure on some features, over all images or class by class."""

    measure: str
    features: str
    by_class: bool

    @property
    def name(self) -> str:
        """The name under which claims are made."""
        return self.measure + (BY_CLASS if self.by_class else "")


@dataclass(frozen=True)
class Sight:
    """What a number says of a fault."""

    z: float
    """Deviations beyond the floors: positive on the bad side, negative on the good one, 0 between them."""
    seen: bool

    @property
    def fooled(self) -> bool:
        """Whether the fault is taken for better than real data."""
        return self.z < -BEYOND


def fault_of(line: Line) -> str | None:
    """The fault that a row is known to have; a row may bear a label of its own, so its family decides."""
    name = line.runs[0].family
    return name if line.role == "control" and name in FAULTS else None


def fault_lines(results: Results) -> list[Line]:
    """The finished rows with a known fault, in the order of `FAULTS`."""
    found = [line for line in lines(results) if fault_of(line) and line.finished]
    return sorted(found, key=lambda line: list(FAULTS).index(fault_of(line) or ""))


def asked(results: Results) -> list[Asked]:
    """Every number that fault controls and floors have: over all images first, then by class."""
    rows = [Asked(key.measure, key.features, False) for key in score_keys(results)]
    classes = [key for name in results.class_names for key in score_keys(results, name)]
    order = dict.fromkeys(Asked(key.measure, key.features, True) for key in classes)
    return [row for row in (*rows, *order) if _floors(results, row)]


def sight(results: Results, line: Line, row: Asked) -> Sight | None:
    """Judge one row of results by one measure; by class the class in which the fault shows most. None: no number."""
    labels = results.class_names if row.by_class else (ALL,)
    found = []
    for key in (Key(label, row.features, row.measure) for label in labels):
        floors = [_of_fresh(results, floor, key) for floor in _real(results) if key in floor.numbers]
        floors = [number for number in floors if math.isfinite(number.mean)]
        if key not in line.numbers or not any(math.isfinite(number.std) for number in floors):
            continue
        fault = _of_fresh(results, line, key)
        if math.isfinite(fault.mean) and math.isfinite(fault.std):
            found.append(judge(row.measure, fault, floors))
    return max(found, key=lambda one: (one.seen, one.z)) if found else None


def judge(measure: str, fault: Number, floors: Sequence[Number]) -> Sight:
    """Hold one number against those of real data; see the module for the rule."""
    low, high = min(number.mean for number in floors), max(number.mean for number in floors)
    noise = math.hypot(_deviation(fault), max(_deviation(number) for number in floors))
    above, below = max(0.0, fault.mean - high), max(0.0, low - fault.mean)
    record = MEASURES.get(measure)
    better = record.better if record else "none"
    copies = measure == "memorization"
    if copies or better == "higher":
        worse, good = below, above
    elif better == "lower":
        worse, good = above, below
    else:
        worse, good = max(above, below), 0.0
    z = _ratio(worse, noise) - _ratio(0.0 if copies else good, noise)
    return Sight(z, z > BEYOND and (not copies or fault.mean < COPYING))


def _of_fresh(results: Results, line: Line, key: Key) -> Number:
    """A number with the deviation that draws of fresh images would have; not a number where nothing can be said of it."""
    number = line.numbers[key]
    if number.draws < 2:
        return replace(number, std=0.0)
    left = _left(results, line, key)
    return replace(number, std=number.std / math.sqrt(left) if left >= LEAST_LEFT else math.nan)


def _left(results: Results, line: Line, key: Key) -> float:
    """Share of the real images, of which draws are made, that one draw leaves; 1 where there is no end of them."""
    pool = "validation" if line.generator == "floor_validation" else ""
    if (name := fault_of(line)) is not None:
        pool = FAULTS[name].drawn_from
    classes = [entry for entry in results.classes if key.label in (ALL, entry["name"])]
    total = sum(entry["test"] for entry in classes)
    if not pool or not total:
        return 1.0
    shares = [(entry["test"] / total, entry[pool]) for entry in classes]
    n = line.numbers[key].n_generated
    return sum(share * max(0.0, 1 - n * share / count) for share, count in shares if count)


def fault_tables(results: Results) -> list[Table]:
    """The table measure x fault; none where no row has a fault that is not in every suite."""
    columns = fault_lines(results)
    if not {fault_of(line) for line in columns} - {*ALWAYS_THERE}:
        return []
    rows = asked(results)
    seen = {row: [sight(results, line, row) for line in columns] for row in rows}
    rows = [row for row in rows if any(seen[row])]
    parts = []
    for title, by_class in (("All images together", False), ("By class: the class in which it shows most", True)):
        body = tuple(
            (Cell(_title(row)), *(_cell(row, line, one) for line, one in zip(columns, seen[row], strict=True)))
            for row in rows
            if row.by_class is by_class
        )
        parts += [(title, body)] if body else []
    heads = (Column("Measure"), *(Column(_head(line)) for line in columns))
    caption = f"Measure × fault on {results.data_label}: which measure sees which fault"
    return [Table("faults", caption, heads, tuple(parts), tuple(_notes(results, columns, rows, seen)))]


def fault_check(results: Results, line: Line) -> tuple[str, str, bool | None]:
    """Say of a fault control what is expected, what was found and whether that agrees (None: can't be told)."""
    name = fault_of(line)
    assert name is not None
    fault = FAULTS[name]
    sights = {row: one for row in asked(results) if (one := sight(results, line, row))}
    expected = fault.wrong
    if fault.must:
        expected += f" Must be seen by {_join(map(_plain, fault.must))}"
        expected += f"; not by {_join(map(_plain, fault.must_not))}." if fault.must_not else "."
    elif fault.must_not:
        expected += f" Must not be seen by {_join(map(_plain, fault.must_not))}."
    saw = [row for row, one in sights.items() if one.seen]
    measured = {row.name for row in sights}
    unseen = [want for want in fault.must if want in measured and not any(row.name == want for row in saw)]
    ghosts = {row.name for row in saw} if name == "held_out" else {row.name for row in saw} & set(fault.must_not)
    new = [row for row in saw if not (row.by_class and row._replace(by_class=False) in saw)]  # else the list grows long
    found = f"Seen by {_join(_merged(new))}." if saw else "Seen by no measure." if sights else "Not judged."
    fooled = [row for row, one in sights.items() if one.fooled]
    found += f" Taken for better than real data by {_join(_merged(fooled))}." if fooled else ""
    absent = [want for want in fault.must if want not in measured]
    found += f" Not measured: {_join(map(_plain, absent))}." if absent else ""
    ok: bool | None = not unseen and not ghosts
    if ok and (not sights or absent):
        ok = None
    return expected, found, ok


def _real(results: Results) -> list[Line]:
    return [line for line in lines(results) if line.role == "floor" and line.finished]


def _floors(results: Results, row: Asked) -> bool:
    labels = results.class_names if row.by_class else (ALL,)
    return any(Key(label, row.features, row.measure) in floor.numbers for label in labels for floor in _real(results))


def _deviation(number: Number) -> float:
    return number.std if math.isfinite(number.std) else 0.0


def _ratio(distance: float, noise: float) -> float:
    if distance <= 1e-9 * noise or distance == 0:
        return 0.0
    return distance / noise if noise > 0 else math.inf


def _title(row: Asked) -> str:
    record = MEASURES.get(row.measure)
    name = SHORT.get(row.measure) or (record.title if record else row.measure)
    return f"{name} ({row.features})" if row.features else name


def _head(line: Line) -> str:
    return line.generator.replace("_", " ")


def _cell(row: Asked, line: Line, found: Sight | None) -> Cell:
    """Write '↓ 12' for seen, '↑ 12' for better than real, '–' for neither; with † or ‡ where a claim does not hold."""
    if found is None:
        return Cell("")
    said, fault = claim_on(row.name, row.features), fault_of(line) or ""
    size = f"{min(abs(found.z), MOST):.{0 if abs(found.z) >= 9.95 else 1}f}" + ("+" if abs(found.z) > MOST else "")
    text = f"↓ {size}" if found.seen else f"↑ {size}" if found.fooled else "–"
    if said and not found.seen and fault in said.sees:
        return Cell(text + "†")
    return Cell(text + ("‡" if found.seen and ((said and fault in said.blind) or fault == "held_out") else ""))


def _notes(
    results: Results, columns: Sequence[Line], rows: Sequence[Asked], seen: dict[Asked, list[Sight | None]]
) -> Iterable[str]:
    yield (
        "↓ z: seen, that is, worse than every floor by z sampling deviations of one draw, z > "
        f"{BEYOND:g} (measures without a better direction: off on either side; C_T: nearer, and below −{-COPYING:g}). "
        "↑ z: taken for better than real data. –: not told from real data."
    )
    yield "† Said to see it, and does not. ‡ Said not to see it, and does. Who says so: docs/controls.md."
    for mark, wrong in (("†", _missed), ("‡", _ghost)):
        told = []
        for row in rows:
            found = [
                _head(line)
                for line, one in zip(columns, seen[row], strict=True)
                if one and wrong(row, fault_of(line) or "", one)
            ]
            told += [f"{_title(row)}{BY_CLASS if row.by_class else ''}: {', '.join(found)}"] if found else []
        yield f"{mark} {'; '.join(told)}." if told else f"{mark} Nowhere."
    without = {
        _title(Asked(key.measure, key.features, False))
        for line in columns
        for key in line.numbers
        if not _floors(results, Asked(key.measure, key.features, key.label != ALL))
    }
    alike = [
        _head(line)
        for line in (*_real(results), *columns)
        if any(number.draws > 1 and _left(results, line, key) < LEAST_LEFT for key, number in line.numbers.items())
    ]
    if alike:
        yield (
            f"A draw takes over nine tenths of the real images there are, so nothing can be judged of {', '.join(alike)}: "
            "ask for fewer evaluation.samples_per_draw, or for a larger validation side."
        )
    if without:
        yield f"Not judged, for want of real data's own value: {', '.join(sorted(without))}."


def _missed(row: Asked, fault: str, found: Sight) -> bool:
    said = claim_on(row.name, row.features)
    return bool(said and fault in said.sees and not found.seen)


def _ghost(row: Asked, fault: str, found: Sight) -> bool:
    said = claim_on(row.name, row.features)
    return found.seen and (fault == "held_out" or bool(said and fault in said.blind))


def _merged(rows: Iterable[Asked]) -> list[str]:
    """Names of measures, each once, with all the features that they were taken on."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.name, []).append(row.features)
    return [_plain(name) + (f" ({', '.join(used)})" if any(used) else "") for name, used in found.items()]


def _plain(name: str) -> str:
    measure = name.removesuffix(BY_CLASS)
    record = MEASURES.get(measure)
    return (SHORT.get(measure) or (record.title if record else measure)) + (BY_CLASS if name.endswith(BY_CLASS) else "")


def _join(names: Iterable[str]) -> str:
    listed = list(names)
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}" if listed else ""
