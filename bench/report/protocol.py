"""The conditions of the numbers: data, split and protocol as terms, what was trained and scored, measures, machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.metrics.records import COSTS, MEASURES
from bench.report.results import Results
from bench.report.tables import NOTHING, Cell, Column, Table, lines


def protocol(results: Results) -> list[tuple[str, str]]:
    """The conditions under which every number was made, as terms and descriptions."""
    data, split, rules = results.data, results.split, results.protocol
    channels, height, width = data["shape"]
    several = f"{channels} channels" if channels > 1 else "1 channel"
    found = [
        (
            "Data",
            f"{results.data_label}: {data['n']:,} images of {height} × {width}, {several}; "
            f"{data.get('skipped') or 0} left out; fingerprint {data['fingerprint']}",
        ),
        (
            "Split",
            f"by {split['by']}, seed {split['seed']}: {split['train']:,} training, {split['validation']:,} validation, "
            f"{split['test']:,} test images; {split['leaking_subjects']} subjects leak; hash {split['hash']}",
        ),
        ("Draws", f"{rules['draws']} fresh generations from every trained model"),
        (
            "Images per number",
            f"{rules['n_all']:,} real and as many generated over all classes, "
            f"{rules['n_class'] or 'none':{',' if rules['n_class'] else ''}} per class "
            f"({rules['samples_per_draw']:,} asked for; the smallest sufficient class bounds it)",
        ),
        (
            "Intervals",
            f"95 %, {rules.get('replicates', 'no')} bootstrap replicates over test subjects: centred percentiles with one "
            "training seed; with several, Student's t with the variances over seeds and over resampled subjects",
        ),
    ]
    for name, entry in results.features.items():
        if entry.get("status") == "ok":
            parts = [
                f"{entry['dimensions']} dimensions" if entry.get("dimensions") else "",
                str(entry.get("rule") or ""),
            ]
            parts += [f"{key} {entry[key]}" for key in ("version", "backend") if entry.get(key)]
            parts += [f"{_words(key)} {_value(value)}" for key, value in (entry.get("details") or {}).items()]
            found.append((f"Features: {name}", "; ".join(part for part in parts if part)))
        else:
            found.append((f"Features: {name}", f"{entry.get('status')}: {entry.get('reason') or 'no reason stored'}"))
    return found


def detail_tables(results: Results) -> list[Table]:
    """Images by class, what was trained and scored, and the measures."""
    return [_class_counts(results), _policies(results), _measures(results)]


def _class_counts(results: Results) -> Table:
    heads = ("Class", "Training", "Validation", "Test", "Test subjects", "Used per draw", "Note")
    rows = [
        (str(entry["name"]), *(f"{entry[k]:,}" for k in ("train", "validation", "test", "subjects_test", "n")),
         "too few" if entry.get("few") else "")
        for entry in results.classes
    ]  # fmt: skip
    return _simple("classes", "Images by class and side of the split", heads, rows)


def _policies(results: Results) -> Table:
    """What exactly was scored: the sampling policy and the hyper-parameters of every generator."""
    rows = []
    for line in lines(results):
        run = next((run for run in line.runs if run.policy or run.hyperparameters), line.runs[0])
        if line.role != "floor":
            seen = NOTHING if run.images_seen is None else f"{run.images_seen:,}"
            classes = NOTHING if run.status == "pending" else "yes" if line.conditional else "no"
            given = {**({"preset": run.preset} if run.preset else {}), **run.hyperparameters}
            scored = {key: value for key, value in run.policy.items() if value is not None and key != "unconditional"}
            if (kind := run.policy.get("unconditional")) is not None:
                scored["classes"] = "one model per class" if kind == "per_class" else f"one model for all ({kind})"
            elif line.role == "external":
                scored["classes"] = "as in the folder" if line.conditional else "none in the folder"
            rows.append((line.generator, run.family, classes, seen, _pairs(scored), _pairs(given)))
    heads = ("Generator", "Family", "Conditional", "Images seen", "Scored", "Hyper-parameters")
    return _simple("policies", "What was trained and what was scored", heads, rows)


def _measures(results: Results) -> Table:
    """The measures used, with direction, range and source."""
    used = dict.fromkeys([key.measure for run in results.runs for key in run.scores])
    costs = [name for name in MEASURES if name in COSTS and any(name in run.costs for run in results.runs)]
    rows = []
    for measure in (MEASURES[name] for name in [*(n for n in MEASURES if n in used and n not in COSTS), *costs]):
        better = {"higher": "higher is better", "lower": "lower is better"}.get(measure.better, "neither")
        ends = [f"{end:g}".replace("inf", "∞") for end in (measure.low, measure.high)]
        rows.append(
            (
                measure.title[:1].upper() + measure.title[1:],
                better,
                " to ".join(ends).replace("-", "−"),
                measure.reference or "",
            )
        )
    return _simple("measures", "Measures", ("Measure", "Direction", "Range", "Source"), rows)


def _simple(name: str, caption: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    body = tuple(tuple(Cell(text) for text in row) for row in rows)
    return Table(name, caption, tuple(Column(head) for head in heads), (("", body),))


def environments(results: Results) -> list[dict[str, str]]:
    """The different machines and versions the runs come from."""
    found: list[dict[str, str]] = []
    for run in results.runs:
        environment = {_words(str(key)): _value(value) for key, value in run.environment.items()}
        if environment and environment not in found:
            found.append(environment)
    return found


def budget_unit(results: Results) -> str:
    """The name of the unit the suite's budget is in."""
    budget = results.suite.get("budget")
    return next((k for k, v in budget.items() if v is not None), "") if isinstance(budget, Mapping) else ""


def _pairs(mapping: Mapping[str, Any]) -> str:
    return ", ".join(f"{_words(key)} {_value(value)}" for key, value in mapping.items())


def _words(key: str) -> str:
    return key.replace("_", " ")


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: NOTHING, True: "yes", False: "no"}[value]
    if isinstance(value, Mapping):
        return f"({_pairs(value)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
