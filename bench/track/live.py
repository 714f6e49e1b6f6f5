"""The mirror at work: from a thread while `bench run` goes on, and once for `bench sync`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from bench.errors import BenchError, InputError
from bench.store import read_json
from bench.track.mirror import Mirror, default_uri, shown

INTERVAL_SECONDS = 2.0
PAUSE_SECONDS = 15.0
"""After a store did not answer."""
PATIENCE_SECONDS = 60.0
"""For what is left when a run has ended, as long as the store answers; a fourth of it where it didn't."""


class Tracker:
    """Mirrors a results folder into MLflow while a run fills it; losing the store loses nothing.

    Args:
        folder: results/SUITE.
        uri: tracking URI.
        note: told when a store does not answer, and when it does again.
        warn: told once, at the end, if the store lacks anything.
    """

    def __init__(self, folder: Path, uri: str, note: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self._folder, self._uri, self._note, self._warn = folder, uri, note, warn
        self._running: set[Path] = set()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._error: str | None = None
        self._complete = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def started(self, run: Path) -> None:
        """The training in this folder (or the trial: see `bench.track.records`) is at work."""
        self._running = self._running | {run}  # replaced as a whole: the thread reads it at any time

    def ended(self, run: Path) -> None:
        """It is no more."""
        self._running = self._running - {run}
        self._wake.set()

    def close(self) -> None:
        """Send what is left and wait for it, within bounds."""
        self._closing.set()
        self._wake.set()
        self._thread.join(PATIENCE_SECONDS / (4 if self._error else 1))
        if not self._complete:
            why = self._error or "too slow"
            self._warn(
                f"MLflow at {shown(self._uri)} lacks part of this run ({why}); the results are complete, and when MLflow "
                f"is there again this sends the rest: bench sync {self._folder}"
            )

    def _work(self) -> None:
        lock = FileLock(_lock(self._folder))
        mirror = Mirror(self._folder, self._uri)
        try:
            while True:
                closing = self._closing.is_set()  # looked at before sending: what came earlier is sent
                self._wake.clear()
                self._look(mirror, lock, live=not closing)
                if closing:
                    return
                self._wake_or_wait()
        finally:
            lock.release()

    def _wake_or_wait(self) -> None:
        if self._error:  # a training that ends is no reason to ask a dead server again
            self._closing.wait(PAUSE_SECONDS)
        else:
            self._wake.wait(INTERVAL_SECONDS)

    def _look(self, mirror: Mirror, lock: FileLock, *, live: bool) -> None:
        try:
            if not lock.is_locked:
                lock.acquire(timeout=0)
            mirror.send(self._running if live else (), live=live)
        except Timeout:  # another run of this folder mirrors it, this one's trainings too
            self._complete = True
            return
        except Exception as error:  # whatever MLflow or its store raises, the benchmark goes on
            self._complete = False
            if self._error is None:
                self._note(
                    f"MLflow at {shown(self._uri)} does not answer ({reason(error)}); the run goes on, and it is told later"
                )
            self._error = reason(error)
            return
        if self._error:
            self._note(f"MLflow at {shown(self._uri)} answers again, and has everything")
        self._error, self._complete = None, not live


def sync(folder: Path, uri: str | None = None) -> tuple[str, int, int]:
    """Bring a store up to date with a results folder.

    Args:
        folder: results/SUITE.
        uri: tracking URI; the suite's, or else the store beside the results, if left out.

    Returns:
        The URI (without password), the number of runs, and in how many of them anything was new.

    Raises:
        InputError: no results there, or a run at work there, which mirrors itself.
        BenchError: the store did not answer; what arrived is not sent again.
    """
    if not (folder / "plan.json").is_file():
        raise InputError(f"{folder}: no results of a suite here (plan.json is missing); name results/SUITE")
    asked = ((read_json(folder / "suite.json") or {}).get("tracking") or {}).get("uri")
    uri = uri or asked or default_uri(folder.resolve().parent)
    try:
        with FileLock(_lock(folder), timeout=0):
            return shown(uri), *Mirror(folder, uri).send()
    except Timeout:
        raise InputError(
            f"{folder}: a run is at work here and tells MLflow itself; try again when it has ended"
        ) from None
    except BenchError:
        raise
    except Exception as error:
        raise BenchError(
            f"MLflow at {shown(uri)}: {reason(error)}; what is missing is sent by the same command"
        ) from None


def reason(error: BaseException) -> str:
    """The first line of what MLflow says, without the URL's whole story."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "unsupported URI" in first:
        return "no address that MLflow knows: it begins with http://, https://, sqlite:///, postgresql:// or file:"
    if "Max retries exceeded" in first or "Connection refused" in first:
        return "no connection"
    return first[:200]


def _lock(folder: Path) -> Path:
    return folder / "mlflow.lock"
