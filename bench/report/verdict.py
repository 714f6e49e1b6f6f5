"""What the numbers allow to say: ranks, the conclusion, warnings, and whether floors and controls did their work.

No winner is named from fewer than three training seeds, of pairs that can't be told apart, or of a family that copies
its training set. Nothing here lays out or writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.metrics.records import FEW_TRAINING, FEW_VALIDATION, MEASURES
from bench.report.faults import fault_check, fault_of
from bench.report.pairs import SEEDS_NEEDED, able, beaten_by, pairs
from bench.report.protocol import budget_unit, environments
from bench.report.results import ALL, Key, Results
from bench.report.tables import (
    COMPETING,
    COPYING,
    Line,
    Number,
    decimals,
    few_classes,
    first_distance,
    lines,
    number_cell,
    number_name,
)

NAMED = 3
"""More rows than these are counted, or named without a reason: the conclusion must stay short."""
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Check:
    """A control or floor: what it should show, what it showed, and whether that agrees (None: can't be told)."""

    name: str
    expected: str
    found: str
    ok: bool | None


def ranks(results: Results) -> dict[str, int]:
    """Rank the rows that may be: 1 + how many are better and told apart; empty if fewer than two may.

    So rows that can't be told apart share a rank, unless only one of them is separated from a third.
    """
    first = first_distance(results)
    if first is None or not pairs(results, first):
        return {}
    return {name: 1 + len(better) for name, better in beaten_by(results, first).items()}


def conclusion(results: Results) -> str:
    """Say in one or two sentences what the numbers allow to conclude, and no more."""
    families = [line for line in lines(results) if line.role == "family"]
    done = [line for line in families if line.finished]
    first = first_distance(results)
    pending = sum(run.status == "pending" for run in results.runs)
    if results.stamp:
        return f"Nothing may be concluded: these outputs are stamped '{results.stamp}'."
    if not done or first is None:
        return "Nothing may be concluded: no family has finished with a distance."
    if pending:
        return f"Nothing may be concluded yet: {pending} of {len(results.runs)} runs are pending."
    compared = able(results, first)
    if len(compared) < 2:
        most, needed = max(line.finished for line in done), _count(SEEDS_NEEDED)
        if len(done) == 1:
            return f"No ranking may be named: {done[0].generator} is the only family that finished."
        seeds = f"{_count(most)} training seed{'s' if most > 1 else ''}"
        if most >= SEEDS_NEEDED:
            return f"No ranking may be named: fewer than two families have {needed} training seeds and an interval."
        return f"No ranking may be named: {seeds} per family where {needed} are needed."
    return _verdict(results, first, compared, [line for line in lines(results) if line.role in COMPETING])


def _verdict(results: Results, first: Key, compared: Sequence[Line], everyone: Sequence[Line]) -> str:
    """Name the lowest distance among the rows that are compared, or those that can't be told from it."""
    name, best = number_name(results, first), compared[0]
    beaten = beaten_by(results, first)
    sharing = [_called(line) for line in compared[1:] if best.generator not in beaten[line.generator]]
    families = sum(line.role == "family" for line in compared)
    scope = f"of the {_count(families)} families with {_count(SEEDS_NEEDED)} or more training seeds"
    scope += f" and {_count(len(compared) - families)} made elsewhere" if len(compared) > families else ""
    if sharing:
        others = _join(sharing)
        if len(sharing) > NAMED:
            everybody = len(sharing) == len(compared) - 1
            others = "any of the others" if everybody else f"{_count(len(sharing))} others: {others}"
        text = f"No single winner {scope}: {_called(best)} has the lowest {name}, but can't be told from {others}."
    else:
        cell = number_cell(best.numbers[first], decimals(line.numbers[first] for line in compared))
        lowest = f"{_called(best)} has the lowest {name}, {cell}, {scope}"
        if best.copies:
            text = f"No winner: {lowest}, but the memorisation check finds that it copies training images."
        else:
            text = f"{lowest}; pair by pair it is told apart from every other."
    left = [line for line in everyone if line not in compared]
    if len(left) > NAMED:
        text += f" Not ranked: {_join([line.generator for line in left])}."
    elif left:
        text += f" Not ranked: {_join([f'{line.generator} ({_unranked(line)})' for line in left])}."
    return text


def _called(line: Line) -> str:
    return f"{line.generator} (made elsewhere)" if line.role == "external" else line.generator


def _unranked(line: Line) -> str:
    """Why a row that competes has no rank."""
    if line.role == "family" and line.finished < SEEDS_NEEDED:
        return f"{line.finished} of {len(line.runs)} seeds finished"
    return "no interval, or other numbers of images" if line.finished else line.status


def warnings(results: Results) -> list[str]:
    """Everything that limits what the numbers mean."""
    found = []
    joined = lines(results)
    leaking = int(results.split.get("leaking_subjects") or 0)
    if leaking:
        by = results.split["by"]
        found.append(f"The split (by {by}) leaks: {leaking} subjects have images on more than one side.")
    if repeated := results.split.get("duplicates"):
        found.append(f"{repeated} pairs of images on two sides of the split are the same: see bench data show.")
    for name, entry in results.features.items():
        if entry.get("status") != "ok":
            found.append(f"Features {name} were not available: {entry.get('reason') or entry.get('status')}.")
    if few_classes(results):
        found.append(f"{few_classes(results)}.")
    flags: dict[str, set[str]] = {}
    for line in joined:
        for key, number in line.numbers.items():
            for flag in number.flags - {"too few"} - ({"n < 2d"} if key.measure != "frechet_distance" else set()):
                measure = MEASURES[key.measure].title if key.measure in MEASURES else key.measure
                where = (key.features or measure) + ("" if key.label == ALL else " by class")
                flags.setdefault(flag, set()).add(where)
    known = {
        "n < 2d": "Fréchet distances of fewer images than twice the feature dimensions (n < 2d), so biased upwards",
        FEW_TRAINING: "Memorisation with fewer than 51 training images, too few to say what is near",
        FEW_VALIDATION: "Memorisation with fewer than 100 validation images, so its threshold is loose",
    }
    found += [
        f"{known.get(flag, flag[:1].upper() + flag[1:])}: {_join(sorted(places))}."
        for flag, places in sorted(flags.items())
    ]
    copying = [line.generator for line in joined if line.role in COMPETING and line.copies]
    if copying:
        found.append(f"Memorisation (C_T below −{-COPYING:g}) caught {_join(copying)}: a low distance may be copying.")
    ended = [run for run in results.runs if run.status in ("failed", "diverged", "interrupted")]
    if ended:
        found.append(f"{_count(len(ended)).capitalize()} of {len(results.runs)} runs did not finish; see Failures.")
    if budget_unit(results) == "minutes":
        found.append("The budget was wall-clock minutes: these results can't be reproduced bit by bit.")
    if len(environments(results)) > 1:
        found.append("The runs come from different environments: their costs can't be compared.")
    found += [f"Data: {note}." for note in results.data.get("notes") or ()]
    if results.data.get("skipped"):
        found.append(f"{results.data['skipped']} images could not be used and were left out.")
    return found


def checks(results: Results) -> list[Check]:
    """Judge floors and controls by what each is there to show."""
    first, joined = first_distance(results), lines(results)
    families = [line for line in joined if line.role in COMPETING and line.finished]
    rules = {
        "floor_validation": ("Real validation subjects against test subjects: below every family.", _floor_check),
        "floor_fresh": ("Fresh real subjects against test subjects: below every family.", _floor_check),
        "training_copy": ("Copies training images: memorisation must catch it, however low its distance.", _copy_check),
        "mean_image": ("One image over and over: no family has a lower recall.", _mean_check),
        "gaussian": ("The linear reference (probabilistic PCA): every family is nearer than it.", _gaussian_check),
    }
    found = []
    for line in joined:
        # a row may bear a label of its own; then its family says which control it is
        known = next((name for name in (line.runs[0].family, line.generator) if name in rules), None)
        if known is None and fault_of(line):
            expected, text, ok = fault_check(results, line)
            found.append(Check(line.generator, expected, text if line.finished else line.status, ok))
            continue
        if known is None:
            if line.role not in COMPETING:
                found.append(Check(line.generator, "No expectation is known.", _told(results, line, first), None))
            continue
        expected, rule = rules[known]
        if not line.finished or first is None:
            found.append(Check(line.generator, expected, line.status, None))
            continue
        text, ok = rule(results, line, families, first)
        found.append(Check(line.generator, expected, text, ok))
    return found


def _floor_check(results: Results, line: Line, families: Sequence[Line], first: Key) -> tuple[str, bool | None]:
    own = _measured(line, first)
    below = [f.generator for f in families if own and first in f.numbers and f.numbers[first].mean <= own.mean]
    text = _told(results, line, first)
    return (f"{text}; not above it: {_join(below)}" if below else text), (not below if own else None)


def _copy_check(results: Results, line: Line, families: Sequence[Line], first: Key) -> tuple[str, bool | None]:
    memory = [(key, n) for key, n in line.numbers.items() if key.label == ALL and key.measure == "memorization"]
    text = _told(results, line, first)
    if not memory or not math.isfinite(memory[0][1].mean):
        return f"{text}; memorisation was not measured", None
    return f"{text}; {_told(results, line, memory[0][0])}", line.copies


def _mean_check(results: Results, line: Line, families: Sequence[Line], first: Key) -> tuple[str, bool | None]:
    key = Key(ALL, first.features, "recall")
    if _measured(line, key) is None:
        return "recall was not measured", None
    lower = [f.generator for f in families if key in f.numbers and f.numbers[key].mean < line.numbers[key].mean]
    text = _told(results, line, key)
    return (f"{text}; lower still: {_join(lower)}" if lower else text), not lower


def _gaussian_check(results: Results, line: Line, families: Sequence[Line], first: Key) -> tuple[str, bool | None]:
    own = _measured(line, first)
    worse = [f.generator for f in families if own and first in f.numbers and f.numbers[first].mean >= own.mean]
    text = _told(results, line, first)
    return (f"{text}; not nearer: {_join(worse)}" if worse else text), (not worse if own else None)


def _measured(line: Line, key: Key) -> Number | None:
    """A number, or None where it could not be had of every draw: then nothing is judged by it."""
    number = line.numbers.get(key)
    return number if number and math.isfinite(number.mean) else None


def _told(results: Results, line: Line, key: Key | None) -> str:
    """A number with its full name, such as 'FD@280 (domain, vs test) 3.1 ± 0.2 [2.8, 3.5]'."""
    if key is None or key not in line.numbers:
        return "no number" if line.finished else line.status
    peers = [other.numbers[key] for other in lines(results) if key in other.numbers]
    return f"{number_name(results, key)} {number_cell(line.numbers[key], decimals(peers))}"


def _count(number: int) -> str:
    return COUNTS[number] if number < len(COUNTS) else str(number)


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
