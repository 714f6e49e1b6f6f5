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

from bench.store import Tail, atomic

POLL_SECONDS = 0.1


@dataclass
class Job:
    """One process to run.

    `name` is for people; `folder` receives job.json, events.jsonl and log.txt; `spec` is handed to `bench.run`.
    """

    name: str
    folder: Path
    spec: dict[str, Any]
    threads: int
    process: subprocess.Popen[bytes] | None = field(default=None, compare=False)
    tail: Tail | None = field(default=None, compare=False)

    def start(self) -> None:
        """Start the process, its output going to log.txt."""
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

    def reason(self) -> str:
        """Say in one line why the process ended badly."""
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
    """
    waiting, running = list(jobs), list[Job]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                job.start()
                running.append(job)
                on_event(job, {"type": "start", "time": time.time()})
            time.sleep(POLL_SECONDS)
            for job in list(running):
                ended = job.process is not None and job.process.poll() is not None
                for event in _events(job):
                    on_event(job, event)
                if ended and job.process is not None:
                    running.remove(job)
                    code = job.process.returncode
                    on_event(job, {"type": "end", "code": code, "reason": job.reason() if code else None})
    finally:
        for job in running:
            _stop(job)


def _events(job: Job) -> Iterator[dict[str, Any]]:
    yield from job.tail.read() if job.tail else []


def _stop(job: Job) -> None:
    """End a job and whatever it started."""
    process = job.process
    if process is None or process.poll() is not None:
        return
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return
