"""Jobs on nodes that share nothing but an address: what travels there and back, as the command sees it.

    ADDRESS/data/shared-<digest>/       a prepared data set, put there once and fetched once by each node
    ADDRESS/runs/<suite>-<token>/in/    of one command: what its jobs bring along, by content
    ADDRESS/runs/<suite>-<token>/out/   a folder for each attempt at a job: what it sends while it runs

The command's results folder is the source of truth. A job works in a folder of its own on its node, which goes when it ends;
what it writes there comes back through `out`, where no other attempt writes: a node that was given up and lives on harms
nobody. Here is the command's side, and which files those are (`luggage`); a node's side is in `node`, how files travel in
`parcels`. No Ray, no models.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.data.dataset import ImageDataset, cache_folder, keep
from bench.errors import BenchError, InputError
from bench.executors.depot import PAUSE_SECONDS, Depot, DepotError, patiently
from bench.executors.jobs import Job
from bench.executors.parcels import MANIFEST, Packer, Receiver, Sent, download, inside
from bench.store import read_json, write_bytes

FETCH_SECONDS = 1.0
"""Between two looks of the command at what has come: a listing, and a small object of each job at work."""
LOOKS = 3
"""More at what a job has left, if something is missing that its node told of."""
PATIENCE_SECONDS = 60.0
"""For a store that does not answer, where nothing can go on without it."""
RECORD = ".share"
"""In the results folder while a command works there: what it put at which address, for the next one if it is killed."""
FETCHES = 8
"""Jobs whose files are fetched at once."""
STUDY = ("study.journal", "study.db", "study.db-journal")


@dataclass(frozen=True)
class Luggage:
    """Files and folders of the results' folder, by name, that a job has to do with."""

    brings: tuple[str, ...]
    leaves: tuple[str, ...]
    """Sent while the job is at work."""
    after: tuple[str, ...] = ()
    """Sent when it has ended: a database is not to be copied while it is written."""


def luggage(job: Job) -> Luggage:
    """Return what a job of `bench.run` opens and writes; the paths of its specification are relative to the results."""
    spec, own = job.spec, job.folder.as_posix()
    always = (own, "split.json", "reference.json")
    if spec["kind"] == "reference":
        leaves = (own, "reference.json", "real.npz", *(floor["run"] for floor in spec["floors"]))
        return Luggage((*always, *leaves), leaves)
    if spec["kind"] == "trial":
        study = tuple(f"{spec['search']['folder']}/{name}" for name in STUDY)
        return Luggage((*always, *study), (own,), study)
    return Luggage((*always, f"runs/reference-{spec['reference_id']}"), (own,))


@dataclass(frozen=True)
class Lent:
    """A prepared data set at an address."""

    address: str
    name: str

    def folder(self) -> Path:
        """Return it in this machine's cache, fetched if it is not there yet.

        Raises:
            BenchError: it can't be fetched or kept.
        """
        cache = cache_folder()
        folder = cache / self.name
        with cache_errors(cache):
            cache.mkdir(parents=True, exist_ok=True)
            lock = FileLock(cache / f".{self.name}.lock")
            lock.acquire()
        try:  # the jobs that begin here at once fetch it once
            if folder.exists():
                try:
                    ImageDataset.open(folder)
                    return folder
                except InputError:
                    shutil.rmtree(folder, ignore_errors=True)
            keep(folder, self._fill)
            ImageDataset.open(folder)
            return folder
        finally:
            lock.release()

    def _fill(self, folder: Path) -> None:
        depot = Depot(self.address)
        files = _manifest(depot, self.name) or {}
        if not files or not all(download(depot, sent, inside(folder, name)) for name, sent in files.items()):
            where = f"{self.address}/data/{self.name}"
            raise BenchError(
                f"--share: the data at {where} are not whole; remove them, then the same command continues"
            )


@dataclass(frozen=True)
class Parcel:
    """A job on its way to a node."""

    job: Job
    """Its paths are relative to the results' folder."""
    results: str
    """That folder, where the command is: for messages."""
    files: Mapping[str, Sent]
    luggage: Luggage
    data: Lent
    place: str
    """Where the node sends what the job writes."""


@dataclass
class Awaited:
    """A job that was sent, as the command sees it: what it writes comes into its folder there."""

    job: Job
    receiver: Receiver
    _described: bool = False

    def fetch(self) -> bool:
        """Bring what is new; return whether all is here that the node told of.

        Raises:
            DepotError: the store does not answer.
            BenchError: the results can't be written.
        """
        whole = self.receiver.fetch()
        if self.receiver.begun and not self._described:  # as a local job's, with the paths that hold here
            described = {**self.job.spec, "parent": os.getpid()}
            write_bytes(self.job.folder / "job.json", json.dumps(described, indent=1).encode())
            self._described = True
        return whole


class Share:
    """The command's side of an address, to be used as a context.

    Args:
        address: any that fsspec knows and that the nodes reach too.

    Raises:
        InputError: it is no such address.
    """

    def __init__(self, address: str) -> None:
        self._depot = Depot(address)
        if address.startswith("memory:"):
            raise InputError(
                f"--share {address}: only this process sees it; give a bucket or a folder that nodes reach"
            )
        self.address = self._depot.address
        self._rooms: dict[Path, tuple[str, Packer]] = {}
        self._lent: dict[Path, Lent] = {}
        self._attempts = 0

    def __enter__(self) -> Share:
        """See that it can be written.

        Raises:
            InputError: it can't.
        """
        self._depot.probe()
        return self

    def __exit__(self, *ended: object) -> None:
        """Remove what this command put there for its jobs; data sets stay."""
        for results, (room, _) in self._rooms.items():
            with contextlib.suppress(DepotError):
                self._depot.clear(room)
                (results / RECORD).unlink(missing_ok=True)

    def lend(self, folder: Path) -> Lent:
        """Put a prepared data set there, unless it is there.

        Raises:
            DepotError: it can't be written.
        """
        if folder not in self._lent:
            self._lent[folder] = patiently(lambda: self._put_data(folder), PATIENCE_SECONDS)
        return self._lent[folder]

    def pack(self, job: Job) -> tuple[Parcel, Awaited]:
        """Put there what a job needs; return what its node is told, and where its results come in.

        Raises:
            DepotError: it can't be written.
        """
        results = Path(job.spec["results"]).resolve()
        room, packer = self._room(results)
        spec = with_paths(job.spec, lambda path: Path(path).resolve().relative_to(results).as_posix())
        moved = replace(job, spec=spec, folder=job.folder.resolve().relative_to(results))
        what = luggage(moved)
        files = patiently(lambda: packer.pack(results, what.brings), PATIENCE_SECONDS)
        self._attempts += 1
        place = f"{room}/out/{self._attempts:06d}"
        parcel = Parcel(moved, str(results), files, what, self.lend(Path(job.spec["data"])), place)
        return parcel, Awaited(job, Receiver(self._depot, place, results))

    def look(self, awaited: Sequence[Awaited]) -> None:
        """Bring what is new of the jobs at work.

        Raises:
            DepotError: the store does not answer.
            BenchError: the results can't be written.
        """
        begun = {f"{room}/out/{name}" for room, _ in self._rooms.values() for name in self._depot.names(f"{room}/out")}
        at_work = [one for one in awaited if one.receiver.place in begun]
        if at_work:
            with ThreadPoolExecutor(FETCHES) as pool:
                list(pool.map(Awaited.fetch, at_work))

    def conclude(self, one: Awaited) -> bool:
        """Bring all that is left of an attempt that is over, and remove it there.

        Returns:
            Whether all is here that its node told of: not if it told nothing, or something is gone from the address.

        Raises:
            DepotError: the store does not answer.
            BenchError: the results can't be written.
        """
        whole = patiently(one.fetch, PATIENCE_SECONDS)
        for _ in range(LOOKS):
            if whole or not one.receiver.begun:
                break
            time.sleep(PAUSE_SECONDS)
            whole = patiently(one.fetch, PATIENCE_SECONDS)
        with contextlib.suppress(DepotError):  # it goes with the room
            self._depot.clear(one.receiver.place)
        return whole

    def _room(self, results: Path) -> tuple[str, Packer]:
        if results not in self._rooms:
            record = results / RECORD
            left = read_json(record) or {}
            if left.get("address") == self.address:  # of a command that was killed: what it had fetched is here
                patiently(lambda: self._depot.clear(str(left.get("room"))), PATIENCE_SECONDS)
            elif left.get("address"):
                with contextlib.suppress(InputError, DepotError):  # another address need not be there any more
                    Depot(str(left["address"])).clear(str(left.get("room")))
            room = f"runs/{results.name}-{secrets.token_hex(6)}"
            write_bytes(record, json.dumps({"address": self.address, "room": room}).encode())
            self._rooms[results] = room, Packer(self._depot, f"{room}/in")
        return self._rooms[results]

    def _put_data(self, folder: Path) -> Lent:
        told = (folder / "dataset.json").read_bytes()
        name = f"shared-{hashlib.sha256(told).hexdigest()[:16]}"
        files = _manifest(self._depot, name) or {}
        if not files or any(self._depot.size(sent.key) != sent.size for sent in files.values()):
            files = Packer(self._depot, f"data/{name}").pack(folder, ("pixels.npy", "dataset.json"))
            manifest = {"files": {own: astuple(sent) for own, sent in files.items()}}
            self._depot.put_bytes(
                f"data/{name}/{MANIFEST}", json.dumps(manifest).encode()
            )  # last: it marks the set whole
        return Lent(self.address, name)


@contextlib.contextmanager
def cache_errors(cache: Path) -> Iterator[None]:
    """Say of a node's cache what is wrong with it, and what to do."""
    try:
        yield
    except OSError as error:
        raise BenchError(
            f"{cache}: can't be written ({error.strerror or error}); set BENCH_CACHE to another folder"
        ) from None


def _manifest(depot: Depot, name: str) -> dict[str, Sent] | None:
    """The files of a data set at an address; None if it is not there, or not whole."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        files = json.loads(depot.read(f"data/{name}/{MANIFEST}") or b"")["files"]
        return {own: Sent(*told) for own, told in files.items()}
    return None


def with_paths(spec: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A job's specification with other paths of results."""
    told = {**spec, "results": change(spec["results"])}
    if "run" in spec:
        told["run"] = change(spec["run"])
    if "floors" in spec:
        told["floors"] = [{**floor, "run": change(floor["run"])} for floor in spec["floors"]]
    if "search" in spec:
        told["search"] = {**spec["search"], "folder": change(spec["search"]["folder"])}
    return told
