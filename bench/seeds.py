"""One root seed, as many independent random streams as there are names.

A stream is a pure function of (root, names): adding a consumer never shifts the numbers of another. Torch is imported
only where a torch stream is asked for, so that planning stays light.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Name = str | int


def derive(root: int, *names: Name) -> int:
    """Return a seed in [0, 2**63) that depends on the root and on every name, type included."""
    text = json.dumps([root, *names])  # tells 1 from "1" and ("a", "b") from ("ab",)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_rng(root: int, *names: Name) -> np.random.Generator:
    """Return NumPy's generator for the stream called `names`."""
    return np.random.default_rng(derive(root, *names))


def torch_rng(root: int, *names: Name) -> torch.Generator:
    """Return a CPU generator for the stream `names` (CUDA's streams differ by GPU model: draw here, then move)."""
    import torch

    return torch.Generator().manual_seed(derive(root, *names))


@contextlib.contextmanager
def forked(root: int, *names: Name) -> Iterator[None]:
    """Seed torch's global state inside the block (weight initialisation, dropout) and restore it afterwards."""
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(root, *names))
        yield
