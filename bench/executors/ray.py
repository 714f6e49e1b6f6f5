"""Runs the jobs on the nodes of a Ray cluster. The only room that imports Ray.

A node does with its job what `local` does: start the process, watch its limits, stop it. Ray only finds the node, starts
that watcher there (`node`) and says when it is gone; a job tells its events and leaves its results through the file system,
which all nodes share, or through an address (`share`). A job whose node or process is lost is begun again elsewhere, and
goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.data.dataset import claimed, sweep
from bench.errors import BenchError, InputError
from bench.executors.depot import ANSWER_SECONDS, DepotError
from bench.executors.jobs import Claim, Job, OnEvent
from bench.executors.local import POLL_SECONDS, STOP_SECONDS
from bench.executors.node import at_home, carried, home, with_data, work
from bench.executors.share import FETCH_SECONDS, PATIENCE_SECONDS, Awaited, Share
from bench.store import Tail

LOSSES = 3
"""A job that is lost so often without getting further in between is given up."""
GRACE_SECONDS = 10.0
"""Beyond the time that a node gives a job to stop in, until its watcher is ended too."""
CONNECT_SECONDS = 5.0
DECIMALS = 4
"""Of a share of a processor: Ray refuses finer ones."""
OWN_ROOT, OWN = Path("/tmp"), "bench-ray-"
OWN_NAMES = re.compile(f"{OWN}.*")
"""Folders of clusters that are started here; their processes end by themselves when their command is killed."""
OBJECT_STORE_BYTES = 100_000_000
"""Of a cluster of our own: jobs hand nothing through Ray's store."""


class Cluster:
    """A Ray cluster, to be used as a context (`bench.executors.jobs.Executor`).

    Args:
        address: host:port of its head, or 'auto' for the one that this machine belongs to; None for the one that
            RAY_ADDRESS names, or else one of this machine alone, which is started here and ends with the context.
        workers: jobs at once, at most; None for as many as there is room for.
        share: any address that fsspec knows, through which jobs get and leave files; None where all nodes share a file system.

    Raises:
        InputError: no address that fsspec knows.
    """

    def __init__(self, address: str | None, workers: int | None = None, share: str | None = None) -> None:
        where, self._named = (address, "--address") if address else (os.environ.get("RAY_ADDRESS"), "RAY_ADDRESS=")
        self.address, self.workers = None if where in (None, "", "local") else where, workers  # local: as Ray says it
        self._own: Path | None = None
        self._claim = contextlib.ExitStack()
        self._share = None if share is None else Share(share)
        self._away = False
        """Whether the share did not answer when it was last looked at."""

    def __enter__(self) -> Cluster:
        """Connect to the cluster, or start one.

        Raises:
            InputError: Ray is not installed, there is no cluster at the address, or nothing can be shared through an address.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers
        os.environ.setdefault("RAY_worker_niceness", "0")  # of a cluster started here: a job is as nice as a local one
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")  # Ray would print its own words into the display
        try:
            import ray
        except ImportError:
            raise InputError("--executor ray: Ray is not installed here; pip install 'medgenbench[ray]'") from None
        self._ray: Any = ray
        if self._share:
            self._share.__enter__()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        if self.address is None:
            sweep(OWN_ROOT, OWN_NAMES)
            self._own = Path(tempfile.mkdtemp(prefix=OWN, dir=OWN_ROOT))  # sockets bear no longer path
            self._claim.enter_context(claimed(self._own, must=False))
            how |= {"address": "local", "include_dashboard": False, "_temp_dir": str(self._own)}
            how |= {"object_store_memory": OBJECT_STORE_BYTES}
        else:
            _reach(self.address, self._named)
            how["address"] = self.address
        try:
            self._ray.init(**how)
        except BaseException as error:  # Ray raises many kinds; all mean that there is no cluster to be had
            self.__exit__()
            if not isinstance(error, Exception):
                raise
            where = f"no Ray cluster at {self.address}" if self.address else "no Ray cluster could be started here"
            reached = self.address not in (None, "auto") and "RAY_AUTH_MODE" not in os.environ
            token = "; one that asks for a token takes RAY_AUTH_MODE=token" if reached else ""
            raise InputError(f"--executor ray: {where}: {_first_line(error).rstrip('.')}{token}") from None
        finally:
            for number, handler in handlers.items():  # Ray sets its own, which end the process without a word to jobs
                signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self._ray.shutdown()
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            self._claim.close()
        if self._share:
            self._share.__exit__()

    @property
    def apart(self) -> bool:
        """Whether jobs see the command's files as copies only."""
        return self._share is not None

    def nodes(self) -> list[Mapping[str, float]]:
        """What each node that is up and may be given jobs has in all: 'CPU', 'GPU', 'memory' (bytes)."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0)]

    def device(self, asked: str) -> str:
        """Return 'cpu' or 'cuda' for 'auto': by the nodes and not by this machine."""
        if asked != "auto":
            return asked
        return "cuda" if any(node.get("GPU", 0) for node in self.nodes()) else "cpu"

    def slots(self, claim: Claim, need_bytes: int = 0) -> int:
        """Count the jobs of this claim that there is room for at once.

        Raises:
            InputError: there is room for none, on any node.
        """
        nodes, asked = self.nodes(), _asked(claim)
        if not any(_fits(node, asked) for node in nodes):
            have = "; ".join(sorted({_told(node) for node in nodes})) or "none is up"
            remedy = "lower resources or threads in the suite, or bring up a larger node"
            raise InputError(f"--executor ray: a job asks for {_told(asked)}, and no node has that ({have}): {remedy}")
        options = self._options(claim, need_bytes)
        return sum(_fits(node, {**asked, "memory": options["memory"]}) for node in nodes)

    def call(self, function: Callable[..., Any], *arguments: Any, claim: Claim, data: Path | None = None) -> Any:
        """Run a function on a node, as a job of this claim would run there, and return what it returns.

        Args:
            function: what is called.
            arguments: what it is given.
            claim: what is set apart for it.
            data: a prepared data set, whose folder on the node it is given before its arguments.

        Raises:
            InputError: no node has room for such a job.
            BenchError: what it raised, in one line.
        """
        self.slots(claim)  # Ray would wait for a node that has
        remote = self._ray.remote(at_home).options(**self._options(claim, 0))
        if data is not None:
            there = self._share.lend(data) if self._share else data.resolve()
            function, arguments = with_data, (there, function, *arguments)
        try:
            return self._ray.get(remote.remote(home(shared=not self._share), function, *arguments))
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            if isinstance(cause, BenchError):
                raise cause from None
            raise BenchError(f"on a node of the cluster: {_first_line(cause)}") from None

    def run(self, jobs: Sequence[Job], on_event: OnEvent, workers: int | None = None) -> None:
        """Run the jobs; see `bench.executors.jobs.Executor`.

        Raises:
            KeyboardInterrupt: passed on after all jobs were stopped.
            InputError: a job asks for more than any node has.
            BenchError: a node does not see the data or the results, or what they are shared through does not answer.
        """
        for job in jobs:
            self.slots(job.claim, job.need_bytes)
        waiting, placed = list(jobs), list[_Placed]()
        looked = 0.0
        try:
            while waiting or placed:
                for job in self._next(waiting, placed, workers or self.workers):
                    waiting.remove(job)
                    placed.append(self._place(job))
                time.sleep(POLL_SECONDS)
                if self._share and placed and time.monotonic() - looked >= FETCH_SECONDS:
                    self._look(placed, on_event)
                    looked = time.monotonic()
                for one in list(placed):
                    done = bool(self._ray.wait([one.reference], timeout=0)[0])  # before its last events are read
                    if done and self._share and one.awaited:
                        one.whole = self._share.conclude(one.awaited)
                    for event in one.events():
                        on_event(one.job, event)
                    if done and (end := self._end(one, on_event)) is not None:
                        placed.remove(one)
                        if not one.begun:
                            on_event(one.job, {"type": "start", "time": time.time()})
                        on_event(one.job, end)
        except KeyboardInterrupt:
            if self._share and placed:
                text = "stopped; what it has done is awaited, four minutes if the address does not answer"
                on_event(placed[0].job, {"type": "warning", "text": f"{text}; Ctrl-C once more leaves it there"})
            raise
        finally:
            self._stop(placed)
            self._conclude(placed, on_event)

    def _look(self, placed: list[_Placed], on_event: OnEvent) -> None:
        """Bring what jobs at work have sent; if it can't be had, that is told once, and jobs go on."""
        assert self._share
        try:
            self._share.look([one.awaited for one in placed if one.awaited])
            self._away = False
        except DepotError as error:
            if not self._away:
                on_event(placed[0].job, {"type": "warning", "text": f"{error}; it goes on, and is looked for again"})
            self._away = True

    def _conclude(self, placed: list[_Placed], on_event: OnEvent) -> None:
        """Bring what jobs that were stopped have left, their checkpoints above all."""
        away: DepotError | None = None
        for one in placed:
            try:
                if away:  # for the others too: it is the same store
                    raise away
                if self._share and one.awaited:
                    self._share.conclude(one.awaited)
            except BenchError as error:
                away = error if isinstance(error, DepotError) else None
                text = f"{error}; what it did after its last word is lost"
                on_event(one.job, {"type": "warning", "text": text})

    def _next(self, waiting: list[Job], placed: list[_Placed], most: int | None) -> Iterator[Job]:
        """The jobs to hand to Ray now, which begins them when there is room."""
        queues, count = {one.job.queue for one in placed}, len(placed)
        for job in list(waiting):
            if (most is None or count < most) and (job.queue is None or job.queue not in queues):
                queues.add(job.queue)
                count += 1
                yield job

    def _place(self, job: Job, losses: int = 0) -> _Placed:
        placed, awaited = replace(job, folder=job.folder.resolve()), None
        what: tuple[Any, ...] = (work, placed)
        if self._share:
            parcel, awaited = self._share.pack(placed)
            what = (carried, parcel)
        tail = Tail(placed.folder / "events.jsonl", from_end=True)
        # what is lost is begun again from here, where it is told and counted
        how = {**self._options(job.claim, job.need_bytes), "max_retries": 0, "scheduling_strategy": "SPREAD"}
        reference = self._ray.remote(at_home).options(**how, name=job.name).remote(home(shared=not self._share), *what)
        return _Placed(job, reference, tail, losses, awaited)

    def _options(self, claim: Claim, need_bytes: int) -> dict[str, float]:
        """What Ray is asked for. What a job is only expected to need is asked for as far as a node has it."""
        able = [node for node in self.nodes() if _fits(node, _asked(claim))]
        memory = claim.memory_bytes or min(need_bytes, int(max((node.get("memory", 0) for node in able), default=0)))
        return {"num_cpus": round(claim.cpus, DECIMALS), "num_gpus": round(claim.gpus, DECIMALS), "memory": memory}

    def _end(self, one: _Placed, on_event: OnEvent) -> dict[str, Any] | None:
        """How a job ended; None if it was lost and is begun again.

        Raises:
            BenchError: it can't be begun on the node that it was put on.
        """
        errors = self._ray.exceptions
        gone = (errors.WorkerCrashedError, errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError)
        try:
            end: dict[str, Any] = self._ray.get(one.reference)
            if not one.whole:
                end = {"lost": "not all that it wrote is at the address that nodes share", **end, "code": 1}
            if "lost" not in end and (end["code"] != -signal.SIGKILL or end["limit"]):
                return end
            why = end.pop("lost", "its process was killed (out of memory?)")
        except errors.OutOfMemoryError:
            end, why = {"type": "end", "code": 1, "limit": False}, "its node ran out of memory"
        except gone as error:
            end, why = (
                {"type": "end", "code": 1, "limit": False},
                f"its node or its worker is gone ({type(error).__name__})",
            )
        except errors.RayTaskError as error:
            cause = error.cause or error
            raise BenchError(f"{one.job.name}: {_first_line(cause)}") from None
        except errors.RayError as error:
            raise BenchError(f"{one.job.name}: Ray could not run it: {_first_line(error)}") from None
        losses = one.losses + 1
        if losses >= LOSSES:
            reason = f"lost {losses} times without getting further in between, the last time because {why}"
            return {**end, "reason": f"{reason}; its log: {one.job.folder / 'log.txt'}"}
        text = f"lost: {why}; it is begun again where there is room, and goes on from its checkpoint if it had one"
        on_event(one.job, {"type": "lost", "text": text})
        if not any(_fits(node, _asked(one.job.claim)) for node in self.nodes()):
            on_event(
                one.job, {"type": "warning", "text": "no node that is up is large enough for it: it waits for one"}
            )
        for path in one.job.folder.rglob(".*.part"):
            path.unlink(missing_ok=True)
        again = self._place(one.job, losses)
        one.reference, one.tail, one.losses = again.reference, again.tail, losses
        one.awaited, one.whole = again.awaited, True
        return None

    def _stop(self, placed: list[_Placed]) -> None:
        """Have every job stopped where it runs, as a local one is; what does not stop in time is ended with its watcher."""
        left = [one.reference for one in placed]
        sending = PATIENCE_SECONDS + 2 * ANSWER_SECONDS if self._share else 0.0
        for force, patience in ((False, STOP_SECONDS + GRACE_SECONDS + sending), (True, GRACE_SECONDS)):
            for reference in left:
                with contextlib.suppress(Exception):  # it ended just now, or its node is gone
                    self._ray.cancel(reference, force=force)
            if left:
                _, left = self._ray.wait(left, num_returns=len(left), timeout=patience)


@dataclass
class _Placed:
    """A job that was handed to Ray."""

    job: Job
    reference: Any
    tail: Tail
    losses: int
    """How often it was lost since it last got further."""
    awaited: Awaited | None = None
    """What it sends, where nodes share an address only."""
    whole: bool = True
    """Whether all came that it has sent."""
    begun: bool = False
    resumed: int | None = None
    """Step that it was taken up again at, the last time."""

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield what the job told; first that it began, when its node says so."""
        for event in self.tail.read():
            if event["type"] == "placed" and not self.begun:
                self.begun = True
                yield {"type": "start", "time": event["time"]}
            if event["type"] == "resumed" and event["step"] != self.resumed:
                self.resumed, self.losses = event["step"], 0
            yield event


def _asked(claim: Claim) -> dict[str, float]:
    return {"CPU": claim.cpus, "GPU": claim.gpus, "memory": claim.memory_bytes or 0}


def _told(what: Mapping[str, float]) -> str:
    names = {"CPU": ("CPUs", 1), "GPU": ("GPUs", 1), "memory": ("GB of memory", 1e9)}
    found = [(what.get(key, 0) / unit, name) for key, (name, unit) in names.items()]
    return ", ".join(
        f"{value:,.0f} {name}" if value >= 100 else f"{value:.3g} {name}" for value, name in found if value
    )


def _fits(node: Mapping[str, float], asked: Mapping[str, float]) -> int:
    """How many jobs of this size a node has room for."""
    counts = [int(node.get(key, 0.0) / amount + 1e-9) for key, amount in asked.items() if amount]
    return min(counts, default=0)


def _reach(address: str, named: str) -> None:
    """See that somebody listens there, since Ray would try for minutes.

    Raises:
        InputError: nobody does, or it is no address.
    """
    if address == "auto":
        return
    given = f"{named}{'' if named.endswith('=') else ' '}{address}"
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit() or not host:
        raise InputError(f"{given}: write it as host:port (6379 unless ray start said another), or auto")
    if address.startswith("ray://"):
        raise InputError(f"{given}: give the head's own address, host:6379, on a machine of the cluster")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(f"--executor ray: no Ray cluster at {address}: {error.strerror or error}") from None


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    advice = "; every node needs the same packages: ray start from the environment that has them"
    return line + (advice if "No module named" in line else "")
