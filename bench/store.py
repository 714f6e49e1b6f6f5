"""The results folder: where everything lies, written so that it is either whole or absent.

Layout: `results/<suite>/` holds the suite's files, `runs/<generator>-seed<k>-<train_id>/` those of one training. The
folder is the source of truth; nothing here knows MLflow, models or tables.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from bench.errors import BenchError, InputError

SCHEMA = 1
UMASK = os.umask(0o77)
"""Of the process as it started: it can only be read by setting it, which threads that write at once would do to each other."""
os.umask(UMASK)


def digest(value: Any, length: int = 12) -> str:
    """Return the first hex digits of the SHA-256 of a JSON value's canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@contextlib.contextmanager
def atomic(path: Path, *, synced: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary sibling for writing; on success flush it to disk and rename it to `path`, else remove it.

    Args:
        path: the file.
        synced: whether to wait until the disk has it (some 10 ms); without, a power failure may leave it damaged, and who
            reads it must be able to tell.

    Raises:
        BenchError: the file can't be written (no room, no permission), with the reason.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if synced:
                os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~UMASK)
        Path(temporary).replace(path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise BenchError(unwritable(path, error)) from None
        raise


def unwritable(path: Path, error: OSError) -> str:
    """Say that a file can't be written, why, and what to do; what is finished stays in every case."""
    remedies = {
        errno.ENOSPC: "free some space (bench doctor shows how much there is), then the same command continues",
        errno.EDQUOT: "free some of your quota, then the same command continues",
        errno.EFBIG: "raise the limit on the size of files (ulimit -f), then the same command continues",
        errno.EROFS: "make it writable again, then the same command continues",
        errno.EACCES: "make it writable, or choose another folder with --out",
    }
    remedy = remedies.get(error.errno or 0, "mend that, then the same command continues")
    return f"{path}: can't be written: {error.strerror or error}; {remedy}"


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; numbers that are not finite are refused (they are no results)."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_with(path: Path, save: Callable[[IO[bytes]], None]) -> None:
    """Write a file atomically through a function that takes an open binary file."""
    with atomic(path) as file:
        save(file)


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that it is neither read nor lost; return its new name."""
    aside = next(new for n in range(1, 10_000) if not (new := path.with_name(f"{path.name}.damaged-{n}")).exists())
    return path.rename(aside)


def there(path: Path) -> bool:
    """Whether there is such a file; one that can't be read is not damaged, and what it holds is not to be lost.

    Raises:
        BenchError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            file.read(1)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        why = f"can't be read: {error.strerror or error}"
        raise BenchError(f"{path}: {why}; nothing was changed: mend that, then the same command continues") from None
    return True


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the file's object, or None if it is absent or not whole (then it counts as not computed)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and value.get("schema", SCHEMA) == SCHEMA else None


SESSION_EVENTS = "session.jsonl"
"""What the command itself did and when, beside the folders of the jobs."""


class Events:
    """The growing record of one job: a line of JSON per event, read by the parent while the job runs."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)
        self._lock = threading.Lock()
        with contextlib.suppress(OSError):  # an empty file has no last byte
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":  # a process before was killed, or found the disk full, within a line
                self._file.write(b"\n")

    def __call__(self, kind: str, **values: Any) -> None:
        """Append an event; the time is added. On a full disk it is lost, and nothing else: results are files of their own."""
        line = json.dumps({"time": round(time.time(), 3), "type": kind, **values}) + "\n"
        with self._lock, contextlib.suppress(OSError):  # threads of a job tell too
            self._file.write(line.encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Tail:
    """Reads the events that were added since the last look."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._path = path
        self._position = path.stat().st_size if from_end and path.exists() else 0

    def read(self) -> list[dict[str, Any]]:
        """Return the new, complete events."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                content = file.read()
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._position += len(whole)
        events = []
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and isinstance(event.get("type"), str):
                    events.append(event)
        return events


class Store:
    """Paths and records of one suite's results.

    Args:
        root: the folder of all results.
        suite: the suite's name.
    """

    def __init__(self, root: Path, suite: str) -> None:
        self.root = root
        self.folder = root / suite

    def prepare(self) -> None:
        """Create the folder and prove that it can be written.

        Raises:
            InputError: it can't.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise InputError(
                f"{self.folder}: can't be written ({error.strerror or error}); choose another folder with --out"
            ) from None

    @property
    def split(self) -> Path:
        """The split, as indices."""
        return self.folder / "split.json"

    @property
    def reference(self) -> Path:
        """What is known of the real side."""
        return self.folder / "reference.json"

    def run(self, row: str, seed: int, train_id: str) -> Path:
        """The folder of one training."""
        return self.folder / "runs" / f"{row}-seed{seed}-{train_id}"


def is_whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says: quick, and true of damage within the tensors too."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            header = json.loads(file.read(length)) if 8 + length <= size else {"": {"data_offsets": [0, size]}}
        ends = [value["data_offsets"][1] for name, value in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return size == 8 + length + max(ends, default=0)


def trained(run: Path) -> bool:
    """Whether a training ended in a way that stands: finished, or diverged (which repeating would repeat)."""
    result = read_json(run / "result.json") or {}
    return result.get("status") == "diverged" or (
        result.get("status") == "finished"
        and any((run / name).exists() for name in ("checkpoint.safetensors", "external.npz"))
    )


def diverged(run: Path) -> bool:
    """Whether a training ended as diverged: there is nothing to evaluate."""
    return (read_json(run / "result.json") or {}).get("status") == "diverged"


def evaluated(run: Path, eval_id: str) -> bool:
    """Whether an evaluation stands."""
    return (read_json(run / f"evaluation-{eval_id}.json") or {}).get("status") == "finished"
