"""Runs jobs on this machine, each in a fresh process: true peak memory, and a crash takes nothing else along.

It starts, watches and stops processes; it knows no models and no tracker.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import BenchError
from bench.executors.jobs import Job, OnEvent
from bench.executors.memory import SPARE, available_bytes, own_bytes, processor_seconds
from bench.store import Tail, atomic, unwritable

POLL_SECONDS = 0.1
STOP_SECONDS = 30.0
"""A job that is asked to stop gets as long for its step and its checkpoint."""
IDLE_PROCESSOR_SHARE = 0.01
LOG_BYTES = 100_000_000
KEPT_BYTES = 1_000_000_000
"""Freed buffers of up to so many bytes that a job's process keeps for its next ones."""


def environment_of(threads: int) -> dict[str, str]:
    """The environment of a job's process: this one's, with settings that must stand before it starts."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    # threads that spin while they wait make small steps 5 times slower as soon as anything else wants a core
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # by itself glibc returns a layer's freed buffers to the kernel, which clears their pages anew for the next layer: a
    # tenth of a small network's time
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        environment.setdefault(name, str(KEPT_BYTES))
    return environment


class _Process:
    """The process of a job, started and watched; its output goes to log.txt.

    Raises:
        BenchError: the job's folder can't be written.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        try:
            self._start()
        except OSError as error:
            raise BenchError(unwritable(job.folder, error)) from None
        self.ended: str | None = None
        """Why it was ended from here, if it was."""
        self._started = self._heard = time.monotonic()
        self._worked, self._phase = 0.0, "starting"

    def _start(self) -> None:
        job = self.job
        job.folder.mkdir(parents=True, exist_ok=True)
        with atomic(job.folder / "job.json") as file:
            file.write(json.dumps({**job.spec, "parent": os.getpid()}, indent=1).encode())
        self.tail = Tail(job.folder / "events.jsonl", from_end=True)
        with (job.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.run", str(job.folder / "job.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment_of(job.threads),
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops its jobs in order
            )

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def heard(self, event: dict[str, Any]) -> None:
        """Take note of a sign of life; what the job's process uses is told whether it works or hangs."""
        if event["type"] != "system":
            self._heard = time.monotonic()
        self._phase = event.get("phase", self._phase)

    def trim(self) -> None:
        """Begin its log anew where it has grown beyond all use: a family that prints must not fill the disk."""
        path = self.job.folder / "log.txt"
        with contextlib.suppress(OSError):
            if path.stat().st_size > LOG_BYTES:
                path.write_text(f"[emptied here: it had passed {LOG_BYTES:,} bytes]\n")  # the job goes on at its end

    def excess(self) -> str | None:
        """Say which limit the job has passed, if it has."""
        now, limits = time.monotonic(), self.job.limits
        if limits.memory_bytes and own_bytes(self.pid) > limits.memory_bytes:
            return f"memory limit of {limits.memory_bytes / 1e9:g} GB reached while {self._phase}"
        if limits.seconds and now - self._started > limits.seconds:
            silent = f"last sign of life {now - self._heard:.0f} s before"
            return f"time limit of {limits.seconds / 60:g} minutes reached while {self._phase}; {silent}"
        if now - self._heard > limits.idle_seconds:
            worked, before, idle = processor_seconds(self.pid), self._worked, now - self._heard
            self._worked, self._heard = worked, now
            if worked - before < IDLE_PROCESSOR_SHARE * idle:
                return f"it hung while {self._phase}: no word and no processor time for {idle / 60:.1f} minutes"
        return None

    def reason(self) -> str:
        """Say in one line why the process ended badly."""
        if self.ended:
            return self.ended
        code, log = self._process.returncode, self.job.folder / "log.txt"
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
                hint = " (out of memory?)" if name == "SIGKILL" else ""
                return f"the job's process was ended by {name}{hint}; its log: {log}"
        return f"the job's process ended with code {code}; its log: {log}"

    def signal(self, number: signal.Signals) -> None:
        """Signal the process and whatever it started."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def stop(self, *, ask: bool = True) -> None:
        """End the process and whatever it started: asked first, so that it can save, unless it must go at once."""
        if self.code is not None:
            return
        for number, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0))[0 if ask else 1 :]:
            self.signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
                return

    def sweep(self) -> None:
        """End what a job that is over has left behind: its group is its own, and empty unless a family started something."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Local:
    """Runs jobs on this machine, `workers` at a time (`bench.executors.jobs.Executor`)."""

    workers: int = 1

    @property
    def apart(self) -> bool:
        """Jobs see the command's files."""
        return False

    def __enter__(self) -> Local:
        """Nothing is to be begun."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is to be ended."""

    def device(self, asked: str) -> str:
        """Return what was asked for: this machine is looked at where it matters."""
        return asked

    def run(self, jobs: Sequence[Job], on_event: OnEvent, workers: int | None = None) -> None:
        """Run the jobs in order."""
        run_jobs(jobs, workers or self.workers, on_event)


def run_jobs(jobs: Sequence[Job], workers: int, on_event: OnEvent) -> None:
    """Run the jobs in order, `workers` at a time; the rest as in `bench.executors.jobs.Executor`.

    Raises:
        KeyboardInterrupt: passed on after all jobs were stopped.
        BenchError: a job's folder can't be written; the others were stopped.
    """
    waiting, running = list(jobs), list[_Process]()
    try:
        while waiting or running:
            while waiting and len(running) < workers and _admitted(waiting[0], running):
                process = _Process(waiting.pop(0))
                running.append(process)
                on_event(process.job, {"type": "start", "time": time.time()})
            time.sleep(POLL_SECONDS)
            for process in list(running):
                ended = process.code is not None
                process.trim()
                for event in process.tail.read():
                    process.heard(event)
                    on_event(process.job, event)
                if not ended and (excess := process.excess()):
                    process.ended = excess
                    process.stop(ask="time limit" in excess)
                    ended = True
                if ended:
                    process.sweep()
                    running.remove(process)
                    code, limit = process.code, process.ended is not None
                    reason = process.reason() if code or limit else None
                    on_event(process.job, {"type": "end", "code": code, "reason": reason, "limit": limit})
    finally:
        for process in running:  # all are asked at once: each needs a moment for its checkpoint
            process.signal(signal.SIGTERM)
        for process in running:
            process.stop()
            process.sweep()


def _admitted(job: Job, running: list[_Process]) -> bool:
    """Whether there is memory for one more job beside those at work, counted at their peaks; the first always is."""
    if not running or not job.need_bytes:
        return True
    growing = sum(max(0, other.job.need_bytes - own_bytes(other.pid)) for other in running)
    return available_bytes() - growing - SPARE >= job.need_bytes
