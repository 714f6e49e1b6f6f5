"""Numbers of a results folder under the names, steps and times that MLflow is to show. Reads files, knows no MLflow."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

LONGEST = 250
"""Letters that MLflow takes of a name."""


class Point(NamedTuple):
    """A number of a curve; `time` in milliseconds."""

    name: str
    value: float
    step: int
    time: int


def curves(run: Path, trial: int | None = None) -> list[Point]:
    """Losses, scores on the way and the machine's load; a training begun anew replaces what it told before.

    Args:
        run: folder of the training, or of a job that ran trials.
        trial: only what was told of this one.
    """
    told: dict[str, dict[tuple[str, int], Point]] = {"loss": {}, "progress_scores": {}, "system": {}}
    samples, current = 0, None
    for event in events(run / "events.jsonl"):
        kind = event.get("type")
        if kind == "trial":
            current = event["number"]
        if kind not in told or current != trial:
            continue
        step = samples if kind == "system" else event["images_seen"]
        samples += kind == "system"
        prefix = {"loss": event.get("split"), "progress_scores": "progress", "system": "system"}[kind]
        named = {f"{prefix}/{name}": value for name, value in event["values"].items()}
        for point in points(named, step, round(event["time"] * 1000)):
            told[kind][point.name, point.step] = point
    # the same in files, where events have none of it: of a training that was copied to be scored anew, say
    for kind, file, columns in (
        ("loss", "losses.csv", "{split}/{name}"),
        ("progress_scores", "progress.csv", "progress/{features}/{measure}"),
    ):
        for row in [] if told[kind] else _rows(run / file):
            if row.get("class", "all") == "all":
                for point in points(
                    {columns.format(**row): float(row["value"])}, int(row["images_seen"]), time_of(run / file)
                ):
                    told[kind][point.name, point.step] = point
    found = [point for kind in told.values() for point in kind.values()]
    return sorted(found, key=lambda point: (point.name, point.step))


def events(path: Path) -> Iterable[dict[str, Any]]:
    """Yield the whole events of a file; none if it is not there."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError:
        return
    for line in lines:
        if line.endswith(b"\n"):  # the last one may be half written
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError:
        return []


def points(values: Mapping[str, Any], step: int, time: int) -> list[Point]:
    """Numbers under names that MLflow takes; what is no finite number is left out."""
    return [
        Point(legal(name), float(value), step, time)
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    ]


def legal(name: str) -> str:
    """A name as MLflow takes it, which may make files of it: no odd signs, no empty part, none of dots alone, no end."""
    parts = re.sub(r"[^\w\-. /]", "_", name).split("/")
    whole = "/".join(part if part.strip(".") else "_" * max(1, len(part)) for part in parts)
    return whole[:LONGEST].rstrip("/")


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings under dotted names, for people: lists with commas, what is not set left out."""
    found: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= flat(item, f"{prefix}{key}.")
        elif isinstance(item, list | tuple):
            found |= {f"{prefix}{key}": ", ".join(map(str, item))} if item else {}
        elif item is not None:
            found[f"{prefix}{key}"] = str(item)
    return found


def stat_of(path: Path) -> list[Any]:
    """Name, time of change in nanoseconds, and size, as JSON has them; zeros for a file that is not there."""
    try:
        stat = path.stat()
    except OSError:
        return [path.name, 0, 0]
    return [path.name, stat.st_mtime_ns, stat.st_size]


def time_of(path: Path) -> int:
    """When a file was changed, in milliseconds; 0 if it is not there."""
    return int(stat_of(path)[1]) // 1_000_000
