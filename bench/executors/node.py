"""What is done on a node of a cluster: a job's process is run there, as on the machine of the command.

Where nodes share nothing with the command but an address, a job works in a folder of its own below the node's cache, one for
each attempt, so that nothing of an earlier one is in its way: what it needs is fetched there, what it writes is sent (the
command's side is `share`). Ray, which brings all this to the node, is not known here.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import __version__
from bench.data.dataset import cache_folder, claimed, sweep
from bench.errors import BenchError
from bench.executors.depot import Depot, DepotError, patiently
from bench.executors.jobs import Job
from bench.executors.local import run_jobs
from bench.executors.parcels import Sender, download, inside
from bench.executors.share import PATIENCE_SECONDS, Lent, Parcel, cache_errors, with_paths
from bench.store import Events

SEND_SECONDS = 2.0
"""Between two looks at what the job has written."""


def home(*, shared: bool = True) -> tuple[str | None, str]:
    """Where the command was given, from which relative paths count if nodes have it too, and of which version it is."""
    return str(Path.cwd()) if shared else None, __version__


def at_home(home: tuple[str | None, str], function: Callable[..., Any], *arguments: Any) -> Any:
    """On a node: call a function there.

    Raises:
        BenchError: the node has no such folder, or another version.
    """
    folder, version = home
    if version != __version__:
        raise BenchError(f"the node {platform.node()} has medgenbench {__version__}, the command {version}")
    if folder is not None:
        try:
            os.chdir(folder)
        except OSError as error:
            raise BenchError(_unshared(folder, error.strerror or str(error))) from None
    return function(*arguments)


def with_data(data: Path | Lent, function: Callable[..., Any], *arguments: Any) -> Any:
    """On a node: call a function with the folder of a data set."""
    if isinstance(data, Lent):
        with _named():
            data = data.folder()
    return function(data, *arguments)


def work(job: Job) -> dict[str, Any]:
    """On a node: run the job's process to its end and return that; interrupted, it stops it first.

    Raises:
        BenchError: the node does not see the data or the results.
    """
    for folder in (job.spec["results"], job.spec["data"]):
        if not Path(folder).is_dir():
            raise BenchError(_unshared(folder, "no such folder"))
    told: list[dict[str, Any]] = []
    emit = Events(job.folder / "events.jsonl")
    emit("placed", node=platform.node())
    emit.close()
    run_jobs([job], 1, lambda _, event: told.append(event) if event["type"] == "end" else None)
    return told[0]


def _unshared(folder: str, why: str) -> str:
    remedy = "data (BENCH_CACHE), results (--out) and the folder of the command must lie on a file system that all nodes share"
    return f"the node {platform.node()} does not see {folder} ({why}): {remedy}, or name an address with --share"


def carried(parcel: Parcel, work: Callable[[Job], dict[str, Any]] = work) -> dict[str, Any]:
    """On a node that shares an address only: run a job in a folder of its own, and send what it writes.

    Args:
        parcel: the job.
        work: runs a job's process to its end and returns that.

    Returns:
        What `work` did; with 'lost' and the reason, if what the job has written could not be sent.

    Raises:
        BenchError: the node can't have what the job needs.
    """
    with contextlib.ExitStack() as stack:
        with _named():
            depot = Depot(parcel.data.address)
            data = patiently(parcel.data.folder, PATIENCE_SECONDS)
            root = stack.enter_context(_scratch())
            for name, sent in parcel.files.items():
                fetch = partial(download, depot, sent, inside(root, name), mark=True)
                if not patiently(fetch, PATIENCE_SECONDS):
                    where = f"--share {parcel.data.address}"
                    raise BenchError(f"{where}: {name} is not there any more; the same command puts it there again")
        spec = with_paths(parcel.job.spec, lambda path: str(root / path)) | {"data": str(data)}
        job = replace(parcel.job, spec=spec, folder=root / parcel.job.folder)
        sender = Sender(depot, parcel.place, root, parcel.luggage.leaves, parcel.files)
        sending = _Sending(sender, parcel.luggage.after)
        try:
            os.chdir(root)
            end = work(job)
        finally:  # asked to stop, the job has written a checkpoint
            os.chdir("/")  # whoever works here next finds no folder that is gone
            sending.close()
        if sending.unsent:
            why = f"its node {platform.node()} could not send what it wrote ({sending.unsent})"
            return {**end, "code": 1, "lost": why}
        return {**end, "reason": end["reason"] and end["reason"].replace(str(root), parcel.results)}


class _Sending:
    """Sends what changes, until it is closed, and then all that is left."""

    def __init__(self, sender: Sender, after: Sequence[str]) -> None:
        self._sender, self._after = sender, after
        self._closing = threading.Event()
        self.unsent: str | None = None
        """Why something could not be sent."""
        self._thread = threading.Thread(target=self._work, daemon=True, name="share")
        self._thread.start()

    def close(self) -> None:
        """Send all that is left and wait for it; who interrupts that is heard after it.

        Raises:
            KeyboardInterrupt: passed on.
        """
        self._closing.set()
        interrupted = False
        while self._thread.is_alive():
            try:
                self._thread.join(0.2)
            except KeyboardInterrupt:
                interrupted = True
        if interrupted:
            raise KeyboardInterrupt

    def _work(self) -> None:
        while not self._closing.wait(SEND_SECONDS):
            with contextlib.suppress(DepotError, OSError):  # the next look sends it
                self._sender.send(everything=False)
        self._sender.also(self._after)
        try:
            patiently(self._sender.send, PATIENCE_SECONDS)
        except Exception as error:  # whatever it is, the command must know that something is missing
            self.unsent = " ".join(str(error).split())


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for one job, which goes when it ends; those of nodes that were killed go with the next job."""
    cache = cache_folder()
    with cache_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        sweep(cache)
        root = Path(tempfile.mkdtemp(prefix=f".job-{secrets.token_hex(8)}-", dir=cache))
    try:
        with claimed(root, must=False):
            yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Say of what goes wrong which node it was."""
    try:
        yield
    except BenchError as error:
        raise BenchError(f"the node {platform.node()}: {error}") from None
