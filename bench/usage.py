"""What a job takes of its machine while it works: processor and memory of its process and those it started, and GPU.

The job samples itself, wherever it runs, and tells it as events; it knows no tracker.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import psutil

SECONDS = 5.0
"""Between samples; the first comes after a fifth of it, so that a short job has one."""


class Usage:
    """Samples in a thread of its own until the process ends.

    Args:
        emit: called as `emit("system", values={...})`: `cpu_percent` (100 is one core), `memory_megabytes` (resident),
            and on a GPU `gpu_memory_megabytes` (held by torch) and `gpu_percent` (where the driver's library is there).
        gpu: whether the job computes on a CUDA device.
    """

    def __init__(self, emit: Callable[..., None], *, gpu: bool) -> None:
        self._emit, self._gpu = emit, gpu
        self._known: dict[int, psutil.Process] = {}
        threading.Thread(target=self._work, daemon=True, name="usage").start()

    def _work(self) -> None:
        self.sample()  # what a process took since the look before: the first look has none
        pause = threading.Event()
        pause.wait(SECONDS / 5)
        while True:
            self._emit("system", values=self.sample())
            pause.wait(SECONDS)

    def sample(self) -> dict[str, float]:
        """Return the sums over this process and its children; processor time is that since the call before."""
        own = psutil.Process()
        with contextlib.suppress(psutil.Error):
            self._known = {
                process.pid: self._known.get(process.pid, process) for process in (own, *own.children(recursive=True))
            }
        processor = memory = 0.0
        for process in self._known.values():
            with contextlib.suppress(psutil.Error):  # one that ended meanwhile
                processor += process.cpu_percent()
                memory += process.memory_info().rss / 1e6
        values = {"cpu_percent": round(processor, 1), "memory_megabytes": round(memory, 1)}
        if self._gpu:
            import torch

            values["gpu_memory_megabytes"] = round(torch.cuda.memory_reserved() / 1e6, 1)
            with contextlib.suppress(Exception):  # needs nvidia-ml-py, which torch does not ask for
                values["gpu_percent"] = float(torch.cuda.utilization())
        return values
