"""The trials of a search as runs below their family: from its study.json and the events of its jobs. No MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.track.nodes import Content, Node, make_node
from bench.track.numbers import curves, events, flat, points, stat_of, time_of


def trial_nodes(
    folder: Path, home: Path, study: Mapping[str, Any], parent: str, common: Mapping[str, str], *, live: bool
) -> list[Node]:
    """Return a run per trial that has begun.

    Args:
        folder: results/SUITE.
        home: the search's folder, with study.json and jobs/NUMBER/events.jsonl.
        study: what study.json says; empty if it is not there yet.
        parent: key of the family's run.
        common: tags of all runs of the family.
        live: whether a run is at work; else what study.json calls running was broken off.
    """
    jobs = _jobs(home) if study.get("trials") else {}
    found = []
    for trial in study.get("trials", []):
        if trial["state"] == "waiting" or (trial["state"] == "running" and not trial["parameters"]):
            continue
        number, job = trial["number"], jobs.get(trial["number"])
        status = "interrupted" if trial["state"] == "running" and not live else trial["state"]
        tags = {**common, "level": "trial", "role": "family", "trial": str(number), "study": str(study.get("study"))}
        tags |= {"commit": trial["commit"]} if trial.get("commit") else {}
        tags |= {"status": status} | ({"reason": trial["reason"]} if trial.get("reason") else {})
        # of its own events only, and of what is told of it: the record is written anew with every other trial
        time = time_of(job / "events.jsonl") if job else time_of(home / "study.json")
        key = f"{home.relative_to(folder).as_posix()}/trial{number}"
        load = partial(_content, home, study, trial, job, time)
        stamp = [trial, stat_of(job / "events.jsonl") if job else None]
        name = f"{common['generator']}/trial {number}"
        found.append(make_node(key, name, parent, status, tags, time, time, load, stamp))
    return found


def _content(home: Path, study: Mapping[str, Any], trial: Mapping[str, Any], job: Path | None, time: int) -> Content:
    spec = study["search"]["spec"]
    grown = curves(job, trial["number"]) if job else []
    if not any(point.name.startswith("progress/") for point in grown):  # a trial of another machine
        name = f"progress/{spec['features']}/{spec['objective'][0]}"
        for step, value in trial["looks"].items():
            grown += points({name: value}, int(step), time)
    grown.sort(key=lambda point: (point.name, point.step))
    values = {f"objective/{name}": value for name, value in zip(spec["objective"], trial["values"], strict=False)}
    values |= {"cost/training_seconds": trial["seconds"]} if trial["seconds"] else {}
    parameters = {**flat(trial["parameters"]), "budget.images_seen": str(study["search"]["images_seen"])}
    return Content(parameters, tuple(grown), tuple(points(values, trial["images_seen"], time)))


def _jobs(home: Path) -> dict[int, Path]:
    """Trial -> folder of the job that ran it last."""
    found = {}
    for path in sorted(home.glob("jobs/*/events.jsonl")):
        for event in events(path):
            if event.get("type") == "trial":
                found[int(event["number"])] = path.parent
    return found
