"""A run of MLflow's, as the results folder has it.

What it holds falls into what only grows (curves, pictures on the way) and what may be replaced (scores, files), which is
all that the mirror must know to send nothing twice. Times are those of files and events, never of the sending: what is
sent again is equal, and a store that has it already drops it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.store import digest
from bench.track.numbers import Point

ENDED_BADLY = ("failed", "diverged", "interrupted")


@dataclass(frozen=True)
class Content:
    """What a run holds."""

    parameters: Mapping[str, str] = field(default_factory=dict)
    curves: tuple[Point, ...] = ()
    """Only grows; steps are images seen, but of system/... the number of the sample."""
    scores: tuple[Point, ...] = ()
    """May be replaced as a whole."""
    files: tuple[tuple[Path, str], ...] = ()
    """Files with the folder among the artifacts where they belong."""
    grids: tuple[tuple[Path, int], ...] = ()
    """Pictures of samples on the way, with the images seen; only grows."""


@dataclass(frozen=True)
class Node:
    """A run: who it is, how it stands, and what it holds once it is asked for."""

    key: str
    name: str
    parent: str | None
    status: str
    tags: Mapping[str, str]
    stamp: str
    """Changes when anything of it does."""
    started: int
    ended: int
    load: Callable[[], Content]


def make_node(
    key: str,
    name: str,
    parent: str | None,
    status: str,
    tags: Mapping[str, str],
    started: int,
    ended: int,
    load: Callable[[], Content],
    also: Any,
) -> Node:
    """Return a run; its stamp is made of the status, the tags and `also`, a JSON value."""
    return Node(key, name, parent, status, tags, digest([status, tags, also]), started, ended, load)


def joined(states: list[str]) -> str:
    """How a whole ended, from its parts."""
    for state in ("running", "failed", "diverged", "interrupted"):
        if state in states:
            return "failed" if state == "diverged" else state
    return "finished" if states else "interrupted"
