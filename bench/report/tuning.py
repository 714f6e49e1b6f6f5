"""What tuning tried, with which budget, and what it brought: tuned beside default, trials, importances, the Pareto front.

Objectives are measured on validation images and rank nothing; how tuned families score stands in the other tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.metrics.records import MEASURES
from bench.report.figures import Picture, finished_picture, logarithmic, looks, new_figure, plain
from bench.report.results import Results
from bench.report.tables import NOTHING, SHORT, Cell, Column, Table, duration, first_distance, lines, number_cell
from bench.store import read_json

Study = Mapping[str, Any]
"""A search's study.json (`bench.studies`)."""
MARKS = {"finished": "o", "pruned": "x", "diverged": "X", "failed": "X"}
UNITS = {"training_seconds": "training time", "seconds_per_1000_samples": "time per 1,000 samples"}


def studies(results: Results) -> list[Study]:
    """The records of the suite's searches, in the plan's order; those that have none yet are left out."""
    plan = read_json(results.folder / "plan.json") or {}
    found = (read_json(results.folder / str(search["folder"]) / "study.json") for search in plan.get("searches") or ())
    return [study for study in found if study]


def tuning_tables(results: Results) -> list[Table]:
    """Budget and gain of every search, then the values that were found; none where nothing was tuned."""
    found = studies(results)
    return [_budgets(results, found), _values(found)] if found else []


def trial_table(results: Results) -> Table | None:
    """Every trial of every search; None where nothing was tuned."""
    found = studies(results)
    if not found:
        return None
    heads = ("Trial", "State", *_titles(found[0]), "Images seen", "Time", "Values")
    sections = []
    for study in found:
        body = [tuple(Cell(text) for text in _trial(study, trial)) for trial in study["trials"]]
        sections.append((str(study["generator"]), tuple(body)))
    return Table("trials", "Every trial", tuple(Column(head) for head in heads), tuple(sections))


def tuning_warnings(results: Results) -> list[str]:
    """What a reader must know of how it was tuned."""
    found = studies(results)
    said = []
    for features in dict.fromkeys(str(study["search"]["spec"]["features"]) for study in found):
        if features in results.features:
            said.append(
                f"Tuned on {features} features, which rank as well: what was chosen by a measure looks better by it. Trust "
                "the other features, or tune on others."
            )
    budgets = {
        (len(study["trials"]), study["search"]["spec"]["trials"], study["search"]["images_seen"]) for study in found
    }
    if len({budget[1:] for budget in budgets}) > 1:
        said.append("Searches had different budgets: tuned families are not compared under the same conditions.")
    said += [
        f"The search of {study['generator']} has not ended: {study.get('reason') or 'run the suite again to go on'}."
        for study in found
        if study["status"] == "running"
    ]
    return said


def draw_tuning(results: Results) -> list[Picture]:
    """The trials of every search, and with several objectives their Pareto fronts."""
    found = [study for study in studies(results) if any(trial["values"] for trial in study["trials"])]
    if not found:
        return []
    pictures = [_history(results, found)]
    if len(found[0]["search"]["spec"]["objective"]) > 1:
        pictures.append(_front(results, found))
    return pictures


# ---- tables


def _budgets(results: Results, found: Sequence[Study]) -> Table:
    spec = found[0]["search"]["spec"]
    objective = _titles(found[0])[0]
    key, of_row = first_distance(results), {line.generator: line for line in lines(results)}
    beside = key is not None and any(f"{study['generator']}_default" in of_row for study in found)
    heads = ["Trials", "Images per trial", "Images seen", "Time", "Ended early", "Default", "Best", "Change"]
    columns = [Column("Generator"), *map(Column, heads)]
    if beside and key is not None:
        test = f"{SHORT[key.measure]} test ({key.features})"
        columns += [Column(test, "default values"), Column(test, "tuned")]
    rows = []
    for study in found:
        trials = study["trials"]
        ended = [trial for trial in trials if trial["state"] not in ("running", "waiting")]
        default, best = _first(trials[:1]), _first([study["best"]] if study["best"] else [])
        change = NOTHING
        if default is not None and best is not None and default > 0:  # a kernel distance may lie at 0 or below
            change = f"{best / default - 1:+.0%}".replace("-", "−")
        cells = [
            f"{len(ended)} of {study['search']['spec']['trials']}",
            f"{study['search']['images_seen']:,}",
            f"{study['images_seen']:,}",
            duration(study["seconds"]),
            _early(ended),
            *(NOTHING if value is None else _written(value) for value in (default, best)),
            "default kept" if study["best"] and study["best"]["number"] == 0 else change,
        ]
        row = [
            Cell(str(study["generator"]), "" if study["status"] == "finished" else study["status"]),
            *map(Cell, cells),
        ]
        if beside and key is not None:
            for name in (f"{study['generator']}_default", str(study["generator"])):
                number = of_row[name].numbers.get(key) if name in of_row else None
                row.append(number_cell(number, 2) if number else Cell(NOTHING))
        rows.append(tuple(row))
    pruning = (
        "trials worse than the median on their way were ended early" if prunes(spec) else "no trial was ended early"
    )
    budgets = {(study["search"]["spec"]["trials"], study["search"]["images_seen"]) for study in found}
    granted = f"Granted to every family alike: {spec['trials']} trials of as many images; {pruning}."
    if len(budgets) > 1:
        granted = f"The budgets differ, as results of several suites do; {pruning}."
    notes = [
        f"Default and best: {objective} between generated and {found[0]['validation_images']:,} validation images on "
        f"{spec['features']} features, lower is better; test images were out of reach. The first trial has the default "
        "values, so tuning can't lose on this number; whether it won on test images, the other tables say.",
        f"{granted} Sampler {spec['sampler']}, seed {spec['seed']}, Optuna {found[0]['optuna']}. Images seen and time are of "
        "all trials; costs elsewhere don't contain them.",
    ]
    tuned = {str(study["generator"]) for study in found}
    rest = [line.generator for line in lines(results) if line.role == "family" and line.generator not in tuned]
    if rest:
        notes.append(f"Not tuned: {', '.join(rest)}.")
    return Table(
        "tuning",
        "Tuning: budget, and what it brought on validation images",
        tuple(columns),
        (("", tuple(rows)),),
        tuple(notes),
    )


def _values(found: Sequence[Study]) -> Table:
    sections = []
    for study in found:
        best = (study["best"] or {}).get("parameters", {})
        rows = []
        for name, within in study["search"]["space"].items():
            span = f"{within['low']:g} to {within['high']:g}" + (" (log)" if within["log"] else "")
            share = study["importances"].get(name)
            texts = (
                name.replace("_", " "),
                span,
                f"{within['default']:.4g}",
                f"{best[name]:.4g}" if name in best else NOTHING,
                NOTHING if share is None else f"{share:.0%}",
            )
            rows.append(tuple(map(Cell, texts)))
        sections.append((str(study["generator"]), tuple(rows)))
    heads = ("Hyper-parameter", "Searched", "Default", "Best", "Importance")
    notes = (
        "Importance: share of the objective's variation among the trials that the hyper-parameter explains (PED-ANOVA, "
        "Watanabe et al. 2023); of few trials a hint and no more. – where fewer than 6 trials finished.",
    )
    return Table(
        "tuning-values", "What was tuned, and the best values", tuple(map(Column, heads)), tuple(sections), notes
    )


def _trial(study: Study, trial: Mapping[str, Any]) -> tuple[str, ...]:
    names = study["search"]["spec"]["objective"]
    values = [_written(value) for value in trial["values"]] or [NOTHING] * len(names)
    tried = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in trial["parameters"].items())
    state = trial["state"] + (f": {trial['reason']}" if trial["state"] in ("failed", "diverged") else "")
    mark = " (best)" if study["best"] and study["best"]["number"] == trial["number"] else ""
    return (f"{trial['number']}{mark}", state, *values, f"{trial['images_seen']:,}", duration(trial["seconds"]), tried)


def _titles(study: Study) -> list[str]:
    return [_title(name) for name in study["search"]["spec"]["objective"]]


def _title(name: str) -> str:
    title = UNITS.get(name) or (MEASURES[name].title if name in MEASURES else name.replace("_", " "))
    return title[:1].upper() + title[1:]


def _early(ended: Sequence[Mapping[str, Any]]) -> str:
    counts = {state: sum(trial["state"] == state for trial in ended) for state in ("pruned", "diverged", "failed")}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "0"


def prunes(spec: Mapping[str, Any]) -> bool:
    """Whether hopeless trials were ended early, by a stored specification."""
    return bool(len(spec["objective"]) == 1 if spec["pruning"] is None else spec["pruning"])


def _first(trials: Sequence[Mapping[str, Any]]) -> float | None:
    return next((float(trial["values"][0]) for trial in trials if trial["values"]), None)


# ---- figures


def _history(results: Results, found: Sequence[Study]) -> Picture:
    """A panel per family: the objective of each trial, the best so far, and what the defaults gave."""
    look = looks(results)
    columns = min(4, len(found))
    rows = math.ceil(len(found) / columns)
    figure = new_figure(results, 2.9 * columns + 0.6, 2.4 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, study in zip(grid.flat, found, strict=False):
        colour = look.get(str(study["generator"]), ("#0072B2", "o"))[0]
        best: list[tuple[int, float]] = []
        for trial in study["trials"]:
            told = (
                trial["values"] or [value for _, value in sorted((int(k), v) for k, v in trial["looks"].items())][-1:]
            )
            if told:
                faint = trial["state"] != "finished"
                axes.plot(
                    trial["number"], told[0], MARKS.get(trial["state"], "."), color="#777777" if faint else colour, ms=5
                )
            if trial["values"] and (not best or trial["values"][0] < best[-1][1]):
                best.append((trial["number"], trial["values"][0]))
        if best:
            steps = [*best, (study["search"]["spec"]["trials"] - 1, best[-1][1])]
            axes.step(*zip(*steps, strict=True), where="post", color=colour, linewidth=1.2)
        if (default := _first(study["trials"][:1])) is not None:
            axes.axhline(default, color="#999999", linewidth=0.9, linestyle=":")
        low, high = axes.dataLim.intervaly
        if low > 0 and high > 5 * low:
            logarithmic(axes, "y")
        axes.set_title(plain(str(study["generator"])))
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in list(grid.flat)[len(found) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("trial")
    for line in grid:
        line[0].set_ylabel(plain(_titles(found[0])[0]))
    told = "; ".join(
        f"{study['generator']} {_text(_first(study['trials'][:1]))} by default, {_best(study)}" for study in found
    )
    return finished_picture(
        figure,
        "tuning",
        "Trials",
        f"{_titles(found[0])[0]} on validation images by trial, lower is better. Line: the best so far; dotted: the default "
        "values (trial 0); grey crosses: ended early, at their last look.",
        f"A panel for each tuned family with the objective of each trial: {told}.",
    )


def _front(results: Results, found: Sequence[Study]) -> Picture:
    """A panel per cost: the finished trials of every family, and which no other trial of the same family beats in all."""
    look = looks(results)
    costs = list(found[0]["search"]["spec"]["objective"])[1:]
    figure = new_figure(results, 5.2 * len(costs), 4.2)
    grid = figure.subplots(1, len(costs), squeeze=False, sharey=True)
    for place, (axes, name) in enumerate(zip(grid.flat, costs, strict=True), start=1):
        for study in found:
            colour, marker = look.get(str(study["generator"]), ("#0072B2", "o"))
            points = [(t["values"][place], t["values"][0], t["number"]) for t in study["trials"] if t["values"]]
            if not points:
                continue
            axes.plot(
                *zip(*[p[:2] for p in points], strict=True), marker, color=colour, alpha=0.35, ms=5, linestyle="none"
            )
            front = sorted(p[:2] for p in points if p[2] in study["front"])
            axes.plot(
                *zip(*front, strict=True),
                marker=marker,
                color=colour,
                ms=6,
                linewidth=1,
                label=plain(str(study["generator"])),
            )
        logarithmic(axes, "x")
        logarithmic(axes, "y")
        axes.set_xlabel(plain(_title(name).lower() + (" (s)" if name in UNITS else "")))
    grid[0][0].set_ylabel(plain(_titles(found[0])[0]))
    grid[0][-1].legend(fontsize=8, frameon=False)
    told = "; ".join(f"{study['generator']}: trials {', '.join(map(str, study['front']))}" for study in found)
    return finished_picture(
        figure,
        "tuning_front",
        "Quality against cost among the trials",
        "Every finished trial, better to the lower left. Strong marks, joined: trials that no other of the same family beats "
        "in all objectives (Pareto front). The first objective decides which values are trained.",
        f"Scatter plot of the objectives of every trial. On the Pareto fronts: {told}.",
    )


def _best(study: Study) -> str:
    return f"{_text(_first([study['best']]))} best" if study["best"] else "none finished"


def _text(value: float | None) -> str:
    return "no value" if value is None else _written(value)


def _written(value: float) -> str:
    """Four digits, and no powers of ten for what people can read."""
    return (f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}").replace("-", "−")
