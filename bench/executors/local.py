"""Runs jobs on this machine, each in a fresh process: true peak memory, and a crash takes nothing else along.

A job is a JSON-able dict (see `bench.run`); what it tells comes back through its event file. This room starts, watches
and stops processes; it knows no models and no tracker.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.executors.memory import SPARE, available_bytes, own_bytes, processor_seconds
from bench.store import Tail, atomic, unwritable

POLL_SECONDS = 0.1
STOP_SECONDS = 30.0
"""A job that is asked to stop gets as long for its step and its checkpoint."""
IDLE_PROCESSOR_SHARE = 0.01
LOG_BYTES = 100_000_000


@dataclass(frozen=True)
class Limits:
    """What a job may use; None for as much as it likes."""

    seconds: float | None = None
    memory_bytes: float | None = None
    idle_seconds: float = 1800.0
    """Without an event and without processor time: then it hangs."""


@dataclass
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
    ended: str | None = field(default=None, compare=False)
    """Why it was ended from here, if it was."""
    process: subprocess.Popen[bytes] | None = field(default=None, compare=False)
    tail: Tail | None = field(default=None, compare=False)
    _started: float = field(default=0.0, compare=False)
    _heard: float = field(default=0.0, compare=False)
    _worked: float = field(default=0.0, compare=False)
    _phase: str = field(default="starting", compare=False)

    def start(self) -> None:
        """Start the process, its output going to log.txt.

        Raises:
            BenchError: its folder can't be written.
        """
        try:
            self._start()
        except OSError as error:
            raise BenchError(unwritable(self.folder, error)) from None
        self._started = self._heard = time.monotonic()
        self._worked, self._phase, self.ended = 0.0, "starting", None

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic(self.folder / "job.json") as file:
            file.write(json.dumps({**self.spec, "parent": os.getpid()}, indent=1).encode())
        self.tail = Tail(self.folder / "events.jsonl", from_end=True)
        threads = str(self.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        # threads that spin while they wait make small steps 5 times slower as soon as anything else wants a core
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.run", str(self.folder / "job.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops its jobs in order
            )

    def heard(self, event: dict[str, Any]) -> None:
        """Take note of a sign of life; what the job's process uses is told whether it works or hangs."""
        if event["type"] != "system":
            self._heard = time.monotonic()
        self._phase = event.get("phase", self._phase)

    def trim(self) -> None:
        """Begin its log anew where it has grown beyond all use: a family that prints must not fill the disk."""
        path = self.folder / "log.txt"
        with contextlib.suppress(OSError):
            if path.stat().st_size > LOG_BYTES:
                path.write_text(f"[emptied here: it had passed {LOG_BYTES:,} bytes]\n")  # the job goes on at its end

    def excess(self) -> str | None:
        """Say which limit the job has passed, if it has."""
        assert self.process is not None
        now, limits = time.monotonic(), self.limits
        if limits.memory_bytes and own_bytes(self.process.pid) > limits.memory_bytes:
            return f"memory limit of {limits.memory_bytes / 1e9:g} GB reached while {self._phase}"
        if limits.seconds and now - self._started > limits.seconds:
            silent = f"last sign of life {now - self._heard:.0f} s before"
            return f"time limit of {limits.seconds / 60:g} minutes reached while {self._phase}; {silent}"
        if now - self._heard > limits.idle_seconds:
            worked, before, idle = processor_seconds(self.process.pid), self._worked, now - self._heard
            self._worked, self._heard = worked, now
            if worked - before < IDLE_PROCESSOR_SHARE * idle:
                return f"it hung while {self._phase}: no word and no processor time for {idle / 60:.1f} minutes"
        return None

    def reason(self) -> str:
        """Say in one line why the process ended badly."""
        if self.ended:
            return self.ended
        code = self.process.returncode if self.process else None
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
                hint = " (out of memory?)" if name == "SIGKILL" else ""
                return f"the job's process was ended by {name}{hint}; its log: {self.folder / 'log.txt'}"
        return f"the job's process ended with code {code}; its log: {self.folder / 'log.txt'}"


def run_jobs(jobs: list[Job], workers: int, on_event: Callable[[Job, dict[str, Any]], None]) -> None:
    """Run the jobs in order, `workers` at a time.

    Args:
        jobs: what is to run.
        workers: processes at once, at least 1.
        on_event: called in this thread with every event of a job, and at its end with
            {"type": "end", "code": int, "reason": str | None}.

    Raises:
        KeyboardInterrupt: passed on after all jobs were stopped.
        BenchError: a job's folder can't be written; the others were stopped.
    """
    waiting, running = list(jobs), list[Job]()
    try:
        while waiting or running:
            while waiting and len(running) < workers and _admitted(waiting[0], running):
                job = waiting.pop(0)
                job.start()
                running.append(job)
                on_event(job, {"type": "start", "time": time.time()})
            time.sleep(POLL_SECONDS)
            for job in list(running):
                ended = job.process is not None and job.process.poll() is not None
                job.trim()
                for event in _events(job):
                    job.heard(event)
                    on_event(job, event)
                if not ended and (excess := job.excess()):
                    job.ended = excess
                    _stop(job, ask="time limit" in excess)
                    ended = True
                if ended and job.process is not None:
                    _sweep(job)
                    running.remove(job)
                    code = job.process.returncode
                    reason = job.reason() if code or job.ended else None
                    on_event(job, {"type": "end", "code": code, "reason": reason})
    finally:
        for job in running:  # all are asked at once: each needs a moment for its checkpoint
            _signal(job, signal.SIGTERM)
        for job in running:
            _stop(job)
            _sweep(job)


def _admitted(job: Job, running: list[Job]) -> bool:
    """Whether there is memory for one more job beside those at work, counted at their peaks; the first always is."""
    if not running or not job.need_bytes:
        return True
    growing = sum(max(0, other.need_bytes - own_bytes(other.process.pid)) for other in running if other.process)
    return available_bytes() - growing - SPARE >= job.need_bytes


def _events(job: Job) -> Iterator[dict[str, Any]]:
    yield from job.tail.read() if job.tail else []


def _stop(job: Job, *, ask: bool = True) -> None:
    """End a job and whatever it started: asked first, so that it can save, unless it must go at once."""
    process = job.process
    if process is None or process.poll() is not None:
        return
    for number, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0))[0 if ask else 1 :]:
        _signal(job, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


def _sweep(job: Job) -> None:
    """End what a job that is over has left behind: its group is its own, and empty unless a family started something."""
    if job.process is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(job.process.pid, signal.SIGKILL)


def _signal(job: Job, number: signal.Signals) -> None:
    if job.process is not None and job.process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(job.process.pid, number)
