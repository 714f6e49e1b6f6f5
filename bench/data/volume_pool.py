"""Many volumes into slices: in parallel, in order, each kept on disk until the set is complete.

Without registration the work is reading, inflating and resampling in C, which threads do side by side; a registration is
long and partly Python, so each runs in a process of its own, which may also die without harm to the others. At most a few
results are in memory at a time. Slices that are done are kept beside the sets being built, so that a killed preparation
goes on where it was; poses are kept for good, since a registration takes seconds and its result 128 bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import signal
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.pixels import UnusableError
from bench.data.slicing import Recipe, slices_of
from bench.errors import BenchError
from bench.store import atomic, read_json, write_json

PARTS, POSES = ".volumes-parts", ".volumes-poses"
MAX_WORKERS = 8
"""Each registration holds some 400 MB."""

Slices = NDArray[np.uint8] | NDArray[np.uint16]
Stamp = list[list[Any]]


@dataclass(frozen=True)
class Job:
    """One volume, and where what is made of it is kept."""

    path: Path
    recipe: Recipe
    part: Path
    pose: Path
    fault: str = ""


def stamp(path: Path) -> Stamp:
    """Return name, size and time of change of a file, or of every file of a series folder; empty if there is none."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [[file.name, stat.st_size, stat.st_mtime_ns] for file in files for stat in (file.stat(),)]
    except OSError:
        return []


def make_job(path: Path, recipe: Recipe, versions: dict[str, str], cache: Path, fault: str = "") -> Job:
    """Return the job of one volume; its keys cover file, recipe and versions."""
    file = [str(path.resolve()), stamp(path)]
    pose = _key([file, versions])
    part = _key([file, versions, recipe.model_dump(mode="json")])
    return Job(path, recipe, cache / PARTS / f"{part}.npy", cache / POSES / f"{pose}.json", fault)


def run_jobs(jobs: Sequence[Job], workers: int | None = None) -> Iterator[Slices | str]:
    """Yield every job's slices, or why there are none, in the order of the jobs.

    Args:
        jobs: of one recipe.
        workers: how many at once; the processors this process may use, at most 8, if left out.

    Raises:
        BenchError: the kept parts can't be written; a library that is needed is missing.
    """
    workers = workers or min(
        MAX_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if not jobs or jobs[0].recipe.registration == "none":
        yield from _run(ThreadPoolExecutor(workers), jobs, workers)
        return
    pending = list(jobs)
    while pending:
        done = 0
        results = _run(_processes(min(workers, len(pending))), pending, workers)
        while done < len(pending):
            try:
                result = next(results)
            except BrokenProcessPool:
                break
            done += 1
            yield result
        pending = pending[done:]
        if pending:  # somebody's process died: the first of those that have no result gets one of its own
            try:
                yield from _run(_processes(1), pending[:1], 1)
            except BrokenProcessPool:
                yield "made the registration's process die (out of memory?)"
            pending = pending[1:]


def _run(pool: Executor, jobs: Sequence[Job], workers: int) -> Iterator[Slices | str]:
    waiting: deque[Future[Slices | str]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(do_job, job))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _processes(workers: int) -> ProcessPoolExecutor:
    """Processes that are started anew: a fork would copy the locks of whatever threads there are."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    parent = multiprocessing.parent_process()

    def follow() -> None:
        """End with the parent, which may be killed without a word: idle workers would wait for ever."""
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def do_job(job: Job) -> Slices | str:
    """Return a volume's slices, from the kept part if there is one, or why it can't be used."""
    if job.fault:
        return job.fault
    if (kept := _kept(job)) is not None:
        return kept
    try:
        slices: Slices = slices_of(job.path, job.recipe, lambda find: _pose(job.pose, find))
    except UnusableError as error:
        return _named(str(error), job.path)
    except BenchError:
        raise
    except MemoryError:
        return "needs more memory than there is"
    except Exception as error:  # whatever a damaged file makes a library raise, it is that one volume's fault
        return _named(f"can't be read: {(str(error).splitlines() or [''])[0] or type(error).__name__}", job.path)
    _keep(job, slices)
    return slices


def _keep(job: Job, slices: Slices) -> None:
    """Write the part with a checksum at its end: so it needn't be waited for until the disk has it."""
    written = io.BytesIO()
    np.save(written, slices)
    content = written.getvalue()
    with atomic(job.part, synced=False) as file:
        file.write(content + zlib.crc32(content).to_bytes(4, "little"))


def _kept(job: Job) -> Slices | None:
    try:
        content = job.part.read_bytes()
        if zlib.crc32(content[:-4]) != int.from_bytes(content[-4:], "little"):
            return None
        kept: Slices = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    right = kept.shape == (job.recipe.slices, *job.recipe.image_size) and kept.dtype.itemsize * 8 == job.recipe.bits
    return kept if right else None


def _pose(path: Path, find: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
    kept = (read_json(path) or {}).get("pose")
    try:
        pose = np.array(kept, dtype=np.float64)
        if pose.shape == (4, 4) and np.isfinite(pose).all():
            return pose
    except (TypeError, ValueError):
        pass  # damaged by hand: find it anew
    pose = find()
    write_json(path, {"pose": pose.tolist()})
    return pose


def _named(reason: str, path: Path) -> str:
    return reason.replace(str(path), path.name)


def _key(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]
