"""One `bench run` at a time on a results folder: a lock of the operating system's, which no crash leaves behind.

Beside it lies who holds it, for the message to whoever comes second; after a crash that file is stale and says nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from bench.errors import InputError

LOCK, HOLDER = ".lock", ".holder"


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a results folder for as long as the block lasts.

    Args:
        folder: exists.
        wait: whether to wait for another holder.
        say: is told for whom is being waited.

    Raises:
        InputError: somebody else holds it and is not to be waited for.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not wait:
            advice = "wait for it, run with --wait, or choose another --out"
            raise InputError(f"{folder}: {_holder(folder)} is at work here; {advice}") from None
        say(f"waiting: {_holder(folder)} is at work in {folder}")
        lock.acquire(poll_interval=0.5)
    except OSError as error:  # another user's file, say
        why = f"{error.strerror or error}; make it writable, or choose another folder with --out"
        raise InputError(f"{folder / LOCK}: can't be locked: {why}") from None
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its name
            (folder / HOLDER).write_text(json.dumps([os.getpid(), platform.node(), time.time()]))
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    """Who holds the folder, as far as it is told: 'bench run (process 7 on host, since 12:00)'."""
    try:
        pid, host, since = json.loads((folder / HOLDER).read_text())
        started = datetime.fromtimestamp(since).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OSError, ValueError, TypeError, OverflowError):
        return "another bench run"
    return f"another bench run (process {pid} on {host}, since {started})"
