"""Weights in the two files that LPIPS reads, at random: half a gigabyte less, and the same arithmetic."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp

import torch

from bench.metrics.lpips import LINEAR, VGG16

WIDTHS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
"""Channels of VGG-16's blocks."""


@cache
def random_weights() -> Path:
    """Write both files once; return their folder."""
    folder = Path(mkdtemp(prefix="lpips"))
    rng = torch.Generator().manual_seed(0)
    state, place = {}, 0
    for block in WIDTHS:
        for given, made in pairwise(block):
            weight = torch.randn(made, given, 3, 3, generator=rng) * (2 / (9 * given)) ** 0.5
            state[f"features.{place}.weight"] = weight
            state[f"features.{place}.bias"] = 0.1 * torch.randn(made, generator=rng)
            place += 2  # a ReLU
        place += 1  # a pooling
    torch.save(state, folder / VGG16)
    linear = {f"lin{i}.model.1.weight": torch.rand(1, block[-1], 1, 1, generator=rng) for i, block in enumerate(WIDTHS)}
    torch.save(linear, folder / LINEAR)
    return folder
