"""Files on their way through an address: who packs, who sends what changes, who receives it. Each place has one writer.

A file is never written twice under one name: every version is an object of its own, and a manifest, one small object that is
written last, says which files there are, in which version, with which digest, and which are gone. So it matters to nobody how
coarse a store's clock is, whether it lists at once what was written, or whether half an object can be seen; and what a
manifest names belongs together.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from bench.errors import BenchError
from bench.executors.depot import CHUNK_BYTES, Depot
from bench.store import atomic

MANIFEST = "manifest.json"
RACY_SECONDS = 2.0
"""A file that changed so lately may change again without its times telling it."""
PACE = 10.0
"""A file is sent again only when this many times as long has passed as its sending took: a large log leaves others room."""
UNTOUCHED_NS = 1_000_000_000
"""Time that a received file is given where it is to be known whether it was written since."""
GROWING = (".jsonl",)
"""Grow by whole lines, and tell of other files: read before those, told after them."""


@dataclass(frozen=True)
class Sent:
    """A version of a file as it lies at the address."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class _Seen:
    """A file as it was when it was last read."""

    signature: tuple[int, ...]
    settled: bool
    """Whether any later change will show in the signature."""
    sent: Sent


def travels(name: str) -> bool:
    """Whether a file is one for others: no temporary, no lock, not the job's own description, which names local paths."""
    last = name.rpartition("/")[2]
    return not (last.startswith(".") or last.endswith((".part", ".lock")) or last == "job.json")


def files_below(root: Path, names: Iterable[str]) -> dict[str, os.stat_result]:
    """Return the files that these names, of files or folders below `root`, stand for, by their own names."""
    found: dict[str, os.stat_result] = {}
    for name in names:
        top = root / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            try:
                stat = path.stat()
            except OSError:  # gone since, or it never was
                continue
            own = path.relative_to(root).as_posix()
            if path.is_file() and travels(own):
                found[own] = stat
    return found


class Packer:
    """Puts files at the address, each content once.

    Args:
        depot: the address.
        place: a folder there; objects are named by their content.
    """

    def __init__(self, depot: Depot, place: str) -> None:
        self._depot, self._place = depot, place
        self._seen: dict[Path, _Seen] = {}
        self._there: set[str] = set()

    def pack(self, root: Path, names: Iterable[str]) -> dict[str, Sent]:
        """Put the files there that these names stand for; return where they lie.

        Raises:
            DepotError: the address can't be written.
        """
        return {name: sent for name in files_below(root, names) if (sent := self._one(root / name)) is not None}

    def _one(self, path: Path) -> Sent | None:
        try:
            with path.open("rb") as file:
                signature, settled = _signature(file)
                seen = self._seen.get(path)
                if seen is None or not seen.settled or seen.signature != signature:
                    size, sha256 = _digest(file)
                    sent = Sent(f"{self._place}/{sha256}", size, sha256)
                    if sha256 not in self._there:
                        file.seek(0)
                        self._depot.put(sent.key, file, size)
                        self._there.add(sha256)
                    self._seen[path] = seen = _Seen(signature, settled, sent)
                return seen.sent
        except FileNotFoundError:
            return None


class Sender:
    """Sends what changes in a folder to a place that nobody else writes to.

    Args:
        depot: the address.
        place: a folder there.
        root: the folder here.
        names: files and folders below `root` that are sent.
        fetched: files that were received here (`download` with `mark`): sent only if they were written since, and missed
            if they are removed.
    """

    def __init__(
        self, depot: Depot, place: str, root: Path, names: Collection[str], fetched: Collection[str] = ()
    ) -> None:
        self._depot, self._place, self._root, self._names = depot, place, root, names
        self._fetched = set(fetched)
        self._seen: dict[str, _Seen] = {}
        self._due: dict[str, float] = {}
        self._count = 0
        self._told: bytes | None = None
        self._stale: list[str] = []

    def also(self, names: Collection[str]) -> None:
        """Send these too from now on."""
        self._names = [*self._names, *names]

    def send(self, *, everything: bool = True) -> None:
        """Send what has changed.

        Args:
            everything: whether to send also what was sent a short while ago, measured by how long that took.

        Raises:
            DepotError: the address can't be written; the next call sends what this one did not.
        """
        growing = [name for name in files_below(self._root, self._names) if name.endswith(GROWING)]
        grown = {name: _whole_lines(self._root / name) for name in growing}
        found = files_below(self._root, self._names)  # after those were read, which tell of others
        for name in sorted(found, key=lambda name: (name.endswith(GROWING), found[name].st_mtime_ns)):
            if name.endswith(GROWING) and grown.get(name) is None:
                continue  # it came just now, and with the next call
            if everything or time.monotonic() >= self._due.get(name, 0.0):
                self._one(name, grown.get(name))
        gone = sorted(name for name in (self._fetched | self._seen.keys()) - found.keys() if self._covers(name))
        for name in gone:
            if name in self._seen:
                self._stale.append(self._seen.pop(name).sent.key)
                self._fetched.add(name)
        files = {name: astuple(seen.sent) for name, seen in self._seen.items()}
        manifest = json.dumps({"files": files, "gone": gone}).encode()
        if manifest != self._told:
            self._depot.put_bytes(f"{self._place}/{MANIFEST}", manifest)
            self._told = manifest
            while self._stale:  # whoever reads the manifest before this one finds them gone, and then reads this one
                self._depot.remove(self._stale[-1])
                self._stale.pop()

    def _covers(self, name: str) -> bool:
        return any(name == top or name.startswith(f"{top}/") for top in self._names)

    def _one(self, name: str, grown: io.BytesIO | None) -> None:
        seen = self._seen.get(name)
        try:
            file: IO[bytes]
            with (self._root / name).open("rb") as file:
                signature, settled = _signature(file)
                if seen is not None and seen.settled and seen.signature == signature:
                    return
                if seen is None and name in self._fetched and os.fstat(file.fileno()).st_mtime_ns == UNTOUCHED_NS:
                    return
                # what was added to a growing file since it was read comes with the next call, whatever its times say
                source, settled = (file, settled) if grown is None else (grown, False)
                size, sha256 = _digest(source)
                if seen is not None and (seen.sent.size, seen.sent.sha256) == (size, sha256):
                    self._seen[name] = _Seen(signature, settled, seen.sent)
                    return
                source.seek(0)
                started = time.monotonic()
                sent = Sent(f"{self._place}/{self._count:08d}", size, sha256)
                self._count += 1
                self._depot.put(sent.key, source, size)
                if seen is not None:
                    self._stale.append(seen.sent.key)
                self._seen[name] = _Seen(signature, settled, sent)
                ended = time.monotonic()
                self._due[name] = ended + PACE * (ended - started)
        except FileNotFoundError:  # removed since: the next call finds it gone
            return


class Receiver:
    """Brings what a `Sender` sends into a folder here.

    Args:
        depot: the address.
        place: the sender's.
        root: the folder here; what did not change there stays as it is here, whatever it is.
    """

    def __init__(self, depot: Depot, place: str, root: Path) -> None:
        self.place = place
        self._depot, self._root = depot, root
        self._have: dict[str, str] = {}
        self._gone: set[str] = set()
        self._last: bytes | None = None

    @property
    def begun(self) -> bool:
        """Whether anything has come yet."""
        return bool(self._have)

    def fetch(self) -> bool:
        """Bring what is new; a version that is replaced at this moment comes with the next call.

        Returns:
            Whether all is here that the sender told of; not if it told nothing.

        Raises:
            DepotError: the store does not answer.
            BenchError: a file can't be written here.
        """
        content = self._depot.read(f"{self.place}/{MANIFEST}")
        manifest = _parsed(content)
        if manifest is None or content == self._last:
            return manifest is not None
        files, gone = manifest
        whole = True
        for name, sent in sorted(files.items(), key=lambda item: (item[0].endswith(GROWING), item[1].key)):
            if self._have.get(name) != sent.key:
                if download(self._depot, sent, inside(self._root, name)):
                    self._have[name] = sent.key
                else:
                    whole = False
        for name in gone - self._gone:
            inside(self._root, name).unlink(missing_ok=True)
            self._have.pop(name, None)
        self._gone = gone
        self._last = content if whole else None
        return whole


def download(depot: Depot, sent: Sent, path: Path, *, mark: bool = False) -> bool:
    """Bring a version of a file here, whole or not at all; return whether it was there.

    Args:
        depot: the address.
        sent: the version.
        path: where it is to lie.
        mark: whether to give it a time that says whether it was written since (`UNTOUCHED_NS`).

    Raises:
        DepotError: the store does not answer.
        BenchError: the file can't be written here.
    """
    digest, size = hashlib.sha256(), 0
    try:
        # a log or an account of events is not worth the wait for the disk, several times a minute
        with atomic(path, synced=path.suffix not in (".jsonl", ".txt")) as file:
            for part in depot.fetch(sent.key, sent.size):
                digest.update(part)
                size += len(part)
                file.write(part)
            if (size, digest.hexdigest()) != (sent.size, sent.sha256):
                raise _HalfError
    except _HalfError:
        return False
    if mark:
        os.utime(path, ns=(UNTOUCHED_NS, UNTOUCHED_NS))
    return True


def inside(root: Path, name: str) -> Path:
    """Return the path of a name below a folder.

    Raises:
        BenchError: it would lie elsewhere.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/"):
        raise BenchError(f"{name!r}: no name of a file below {root}; somebody else writes to the share")
    return root.joinpath(*parts)


class _HalfError(Exception):
    """What was read is not what was sent."""


def _parsed(content: bytes | None) -> tuple[Mapping[str, Sent], set[str]] | None:
    """What a manifest says; None for none, or half of one."""
    try:
        value = json.loads(content or b"")
        return {name: Sent(*told) for name, told in value["files"].items()}, set(value["gone"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _signature(file: IO[bytes]) -> tuple[tuple[int, ...], bool]:
    """What tells one version of an open file from another, and whether any later one will differ in it."""
    stat = os.fstat(file.fileno())
    settled = time.time() - max(stat.st_mtime, stat.st_ctime) > RACY_SECONDS
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns), settled


def _digest(file: IO[bytes]) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while part := file.read(CHUNK_BYTES):
        digest.update(part)
        size += len(part)
    return size, digest.hexdigest()


def _whole_lines(path: Path) -> io.BytesIO | None:
    """A growing file as far as its last whole line; None if it is gone."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return io.BytesIO(content[: content.rfind(b"\n") + 1])
