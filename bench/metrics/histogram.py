r"""Are the grey levels right? Divergence of the histograms of real and generated intensities, all images pooled.

With p the real and q the generated images' shares of the 256 levels that 8 bits have:

    KL(p || q) = sum p log2 (p / q),   JS = KL(p || m) / 2 + KL(q || m) / 2,  m = (p + q) / 2        (in bits)

One bin a level: nothing is binned that storage has not binned already. Every level of either side is counted once more than
it occurs (Laplace), so that one the generated images lack leaves KL finite; with some hundred images this weighs less than
a thousandth, but KL's value for missing levels depends on it, and so on the number of pixels: compare at equal n. JS hardly
depends on it. Colours are taken channel by channel and averaged. Where anything is in an image plays no part.

KL real to generated is large where real levels are missing from the generated images (as after clipping, or a shift), and
mild about levels that only the generated ones have; JS (Lin 1991, IEEE TIT 37(1)) treats both sides alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.metrics.statistics import Array

Images = NDArray[np.uint8]

LEVELS = 256
SMOOTHING = 1.0
"""Added to every level's count."""


class Divergence(NamedTuple):
    """Both in bits, 0 for equal histograms, lower is better: KL in [0, inf), JS in [0, 1]."""

    kl: float
    js: float


def intensity_divergence(*, real: Images, generated: Images) -> Divergence:
    """Return the divergences of the intensity histograms of images, uint8 [n, C, H, W] and [m, C, H, W].

    KL runs from real to generated, and exchanging the sides changes it; JS is symmetric. Sizes may differ, channels not.

    Raises:
        ValueError: not uint8 images, none of them, or different channels.
    """
    return IntensityReference(real).divergence(generated)


class IntensityReference:
    """The real side's histogram, kept for many comparisons.

    Args:
        real: uint8 [n, C, H, W].
    """

    def __init__(self, real: Images) -> None:
        self._shares = _shares(real, "real")

    def divergence(self, generated: Images) -> Divergence:
        """Return `intensity_divergence` to these images."""
        p, q = self._shares, _shares(generated, "generated")
        if p.shape != q.shape:
            raise ValueError(f"real images have {len(p)} channels, generated {len(q)}")
        m = (p + q) / 2
        # equal histograms end a rounding error from 0, on either side of it
        return Divergence(max(0.0, _kl(p, q)), min(1.0, max(0.0, (_kl(p, m) + _kl(q, m)) / 2)))


def _shares(images: Images, what: str) -> Array:
    """Share of each level, smoothed, by channel: [C, 256]."""
    if images.ndim != 4 or images.dtype != np.uint8 or not images.size:
        raise ValueError(f"{what}: expected uint8 images [n, C, H, W], got {images.dtype} {list(images.shape)}")
    counts = [np.bincount(images[:, channel].ravel(), minlength=LEVELS) for channel in range(images.shape[1])]
    smooth = np.asarray(counts, dtype=np.float64) + SMOOTHING
    shares: Array = smooth / smooth.sum(axis=1, keepdims=True)
    return shares


def _kl(p: Array, q: Array) -> float:
    """Mean over channels."""
    return float((p * np.log2(p / q)).sum(axis=1).mean())
