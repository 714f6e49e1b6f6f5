"""`bench time`: where the minutes of a run went, from the events that session and jobs left; nothing is computed anew."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import InputError
from bench.store import SESSION_EVENTS

ORDER = (
    "start-up",
    "data",
    "fitting",
    "training",
    "validation",
    "sampling",
    "extraction",
    "scoring",
    "report",
    "bookkeeping",
    "lost",
    "idle",
)
"""Columns; others follow."""
OVERHEAD = ("start-up", "bookkeeping", "lost", "idle")
"""What nobody asked for."""
SESSION = "session"


@dataclass
class Line:
    """A job, or the session itself, and its seconds by activity."""

    name: str
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self.seconds.values())


@dataclass
class Timeline:
    """Of one results folder, all its sessions together."""

    lines: list[Line]
    wall: float
    """Seconds by the clock."""
    sessions: int

    @property
    def columns(self) -> list[str]:
        """Activities that took time at all."""
        found = {name for line in self.lines for name in line.seconds}
        return [name for name in ORDER if name in found] + sorted(found - set(ORDER))

    def sum_of(self, *activities: str) -> float:
        """Seconds of these over all lines."""
        return sum(line.seconds.get(name, 0.0) for line in self.lines for name in activities)

    @property
    def total(self) -> float:
        """Seconds of all lines; more than `wall` where jobs ran side by side."""
        return sum(line.total for line in self.lines)

    @property
    def overhead(self) -> float:
        """Share of start-up, bookkeeping, lost and idle time."""
        return self.sum_of(*OVERHEAD) / self.total if self.total else 0.0


def timeline(folder: Path) -> Timeline:
    """Read a results folder's account.

    Raises:
        InputError: there is none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give that of a run's results, as results/mri_scanner")
    events = _read(folder / SESSION_EVENTS)
    sessions: list[list[dict[str, Any]]] = []
    for event in events:
        if event["type"] == "session":
            sessions.append([])
        if sessions:
            sessions[-1].append(event)
    if not sessions:
        raise InputError(f"{folder}: no account of time here; a run of this version leaves it in {SESSION_EVENTS}")
    own, jobs, wall = Line(SESSION), dict[str, Line](), 0.0
    for session in sessions:
        _add(own.seconds, _of_session(session))
        began = session[0]["began"]
        wall += session[-1]["time"] - began
        for event in session:
            if event["type"] == "job_end":
                line = jobs.setdefault(event["name"], Line(event["name"]))
                _add(line.seconds, _of_job(folder / event["folder"], event["started"], event["time"]))
    return Timeline([own, *jobs.values()], wall, len(sessions))


def _of_session(events: list[dict[str, Any]]) -> dict[str, float]:
    """The parent's own seconds; while jobs were at work it waited, which is no time of its own.

    Idle is when it was ready for jobs and none ran: from one job's end to the next one's start.
    """
    found = {
        name: float(value) for event in events if event["type"] == "spent" for name, value in event["seconds"].items()
    }
    jobs = sorted((event["started"], event["time"]) for event in events if event["type"] == "job_end")
    reach, at_work = 0.0, 0.0
    for started, ended in jobs:
        at_work += max(0.0, ended - max(started, reach))
        reach = max(reach, ended)
    waited = found.pop("jobs", 0.0)
    found["idle"] = found.get("idle", 0.0) + max(0.0, waited - at_work)
    return found


def _of_job(folder: Path, started: float, ended: float) -> dict[str, float]:
    """A job's account; what its process didn't tell (it was killed, or took long to end) is bookkeeping.

    Of one that was begun again on a cluster, all from its first beginning to its last is lost.
    """
    told: dict[str, float] = {}
    placed: list[float] = []
    for event in _read(folder / "events.jsonl"):
        if event["type"] == "spent" and started <= event["time"] <= ended + 1:
            told = {name: float(value) for name, value in event["seconds"].items()}
        if event["type"] == "placed" and started <= event["time"] <= ended:
            placed.append(event["time"])
    lost = placed[-1] - placed[0] if placed else 0.0
    rest = ended - started - sum(told.values())
    told["bookkeeping" if told else "unknown"] = told.get("bookkeeping", 0.0) + max(0.0, rest - lost)
    if lost:
        told["lost"] = lost
    return told


def _add(to: dict[str, float], more: dict[str, float]) -> None:
    for name, value in more.items():
        to[name] = to.get(name, 0.0) + value


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # a line that a crash cut off
            continue
    return found


def table(found: Timeline) -> list[str]:
    """The account as lines of text: jobs below each other, activities beside each other, in seconds."""
    columns = found.columns
    width = max(len(line.name) for line in found.lines)
    heads = ["total", *columns]
    rows = [[line.total, *(line.seconds.get(name, 0.0) for name in columns)] for line in found.lines]
    sums = [found.total, *(found.sum_of(name) for name in columns)]
    widths = [max(len(head), len(f"{total:,.1f}")) for head, total in zip(heads, sums, strict=True)]

    def row(name: str, cells: list[str]) -> str:
        return f"{name:{width}}  " + "  ".join(f"{cell:>{size}}" for cell, size in zip(cells, widths, strict=True))

    lines = [row("", heads)]
    lines += [
        row(line.name, [f"{value:,.1f}" for value in values]) for line, values in zip(found.lines, rows, strict=True)
    ]
    lines.append(row("seconds", [f"{value:,.1f}" for value in sums]))
    lines.append(row("share", [f"{value / found.total:.1%}" if found.total else "" for value in sums]))
    again = f" in {found.sessions} sessions" if found.sessions > 1 else ""
    lines.append(
        f"{found.wall / 60:.1f} minutes by the clock{again}; "
        f"start-up, bookkeeping, lost and idle time are {found.overhead:.1%} of all"
    )
    return lines
