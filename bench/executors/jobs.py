"""A job, what it may use, and what every executor does with it: the words that sessions and executors share.

A job is a JSON-able dict (see `bench.run`) with a folder; what it tells comes back through its event file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Limits:
    """What a job may use; None for as much as it likes."""

    seconds: float | None = None
    memory_bytes: float | None = None
    idle_seconds: float = 1800.0
    """Without an event and without processor time: then it hangs."""


@dataclass(frozen=True)
class Claim:
    """What a node of a cluster sets apart for a job; on one machine nothing is set apart."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int | None = None
    """None: what the job is expected to need, as far as a node has it."""


@dataclass(frozen=True)
class Job:
    """One process to run.

    `name` is for people; `folder` receives job.json, events.jsonl and log.txt; `spec` is handed to `bench.run`.
    """

    name: str
    folder: Path
    spec: dict[str, Any]
    threads: int
    need_bytes: int = 0
    """Memory it is expected to take at its peak; 0 where nothing is known."""
    limits: Limits = Limits()
    claim: Claim = Claim()
    queue: str | None = None
    """On a cluster, jobs of one queue run one after another; None for whenever there is room."""


OnEvent = Callable[[Job, dict[str, Any]], None]


class Executor(Protocol):
    """Runs jobs to their ends."""

    @property
    def workers(self) -> int | None:
        """Jobs at once, at most; None for as many as there is room for."""

    @property
    def apart(self) -> bool:
        """Whether jobs see the command's files as copies only, which come back when a job ends."""

    def run(self, jobs: Sequence[Job], on_event: OnEvent, workers: int | None = None) -> None:
        """Run the jobs, begun in this order.

        Args:
            jobs: what is to run.
            on_event: called in this thread with every event of a job; before them with {"type": "start"}, and at its end
                with {"type": "end", "code": int, "reason": str | None, "limit": bool}, the last for one that was ended
                because it passed a limit. A job that is lost and begun again elsewhere tells {"type": "lost", "text": str}.
            workers: in place of the executor's own.

        Raises:
            KeyboardInterrupt: passed on after all jobs were stopped, each with a checkpoint where it had one to write.
            BenchError: a job can't be begun at all; the others were stopped likewise.
        """
