"""Where a process's time goes: seconds by the clock, each counted for one activity, the innermost at work."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

START_UP, BOOKKEEPING = "start-up", "bookkeeping"


class Spent:
    """Seconds by activity; what no activity claims is bookkeeping.

    One thread's: a second one would be counted as whatever the first does.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._now, self._since = BOOKKEEPING, time.monotonic()

    def begin(self, process_created: float) -> None:
        """Start the account anew: all since the process was created (seconds since 1970) was start-up."""
        self.seconds = {START_UP: max(0.0, time.time() - process_created)}
        self._now, self._since = BOOKKEEPING, time.monotonic()

    @contextlib.contextmanager
    def on(self, activity: str) -> Iterator[None]:
        """Count what happens inside for this activity, and for no other around it."""
        before = self._turn_to(activity)
        try:
            yield
        finally:
            self._turn_to(before)

    def told(self) -> dict[str, float]:
        """Seconds of each activity up to now."""
        self._turn_to(self._now)
        return {name: round(value, 3) for name, value in self.seconds.items()}

    def _turn_to(self, activity: str) -> str:
        now, before = time.monotonic(), self._now
        self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._now, self._since = activity, now
        return before


SPENT = Spent()
"""This process's."""
