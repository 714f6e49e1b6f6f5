"""No job outlives the command that started it, however that one went.

The kernel ends the job in the moment its parent ends (Linux); elsewhere, and beside it, a thread looks once a second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 1.0


def die_with_parent(parent: int | None) -> None:
    """End this process when its parent is gone, and at once if it is gone already.

    Args:
        parent: process id of the one that started it; None for whoever is the parent now (a job started by hand).
    """
    expected = parent if parent is not None else os.getppid()
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != expected:  # it went while this process was starting, which takes seconds
        os._exit(1)

    def watch() -> None:
        while os.getppid() == expected:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
