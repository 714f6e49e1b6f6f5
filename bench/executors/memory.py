"""How much memory there is and who has how much of it: for admission of jobs, and for their limits.

What counts is memory of a job's own: resident or swapped out, and not of files. Pages of files, such as the mapped images
and torch's libraries, can be dropped by the system and are shared by all jobs; shared memory without a file can't.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil

SPARE = 256 * 2**20
"""Bytes that are left to the rest of the machine."""


def available_bytes() -> int:
    """Memory that can be had now without swapping: of the machine, or of the control group this process is in."""
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):
        home = Path("/sys/fs/cgroup")
        limit = int((home / "memory.max").read_text())
        used = int((home / "memory.current").read_text())
        lines = (home / "memory.stat").read_text().splitlines()
        cache = sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
        free = min(free, limit - used + cache)
    return free


def own_bytes(pid: int) -> int:
    """Memory of a process and its children that is their own; 0 if it is gone.

    What they share among each other counts once, as much as the one with most of it has.
    """
    total = together = 0
    for process in _family(pid):
        with contextlib.suppress(psutil.Error, OSError):
            own, shared = _held(process)
            total, together = total + own, max(together, shared)
    return total + together


def _held(process: psutil.Process) -> tuple[int, int]:
    """Bytes that are a process's own, and those that it shares without a file."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():  # no Linux
        return int(process.memory_info().rss), 0
    lines = [line.split() for line in status.read_text().splitlines()]
    told = {words[0]: int(words[1]) * 1024 for words in lines if words[-1:] == ["kB"]}
    return told.get("RssAnon:", 0) + told.get("VmSwap:", 0), told.get("RssShmem:", 0)


def processor_seconds(pid: int) -> float:
    """Processor time of a process and its children so far."""
    total = 0.0
    for process in _family(pid):
        with contextlib.suppress(psutil.Error):
            told = process.cpu_times()
            total += told.user + told.system
    return total


def _family(pid: int) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        yield process
        yield from process.children(recursive=True)
