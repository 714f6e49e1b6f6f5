"""What a piece of work costs: seconds, bytes at the peak, parameters. Measures; runs nothing of its own.

Figures are those of the calling process: a job must have a process to itself for its peak to be its own.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UnavailableError

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Timer:
    """Filled in when the block that `timer` opened is left."""

    seconds: float = 0.0


@contextlib.contextmanager
def timer() -> Iterator[Timer]:
    """Measure the wall-clock seconds of a block; a GPU's queued work is waited for on both sides."""
    result = Timer()
    _synchronize()
    start = time.perf_counter()
    try:
        yield result
    finally:
        _synchronize()
        result.seconds = time.perf_counter() - start


def peak_memory_bytes() -> int:
    """Return the peak memory of this process: of torch's CUDA allocator if it was used, else the resident size.

    On Linux the kernel's high-water mark of this very program is read first: `getrusage` hands a child the peak of the
    parent that started it, which would credit a small job with the size of the big process that launched it.

    Raises:
        UnavailableError: the system tells neither.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        used = sum(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count()))
        if used:
            return int(used)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        raise UnavailableError("this system does not tell the peak memory of a process") from None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, kibibytes elsewhere


def parameter_count(module: nn.Module) -> int:
    """Return the number of parameters, trained or frozen, shared ones once; buffers don't count."""
    return sum(parameter.numel() for parameter in module.parameters())


def _synchronize() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
