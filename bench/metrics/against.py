"""One set of real images, and every measure that is taken against it: its own work is done once, each measure by itself.

A measure that can't be had of some images (too few neighbours, values that are not finite) is not a number here, with the
reason beside it, and the others stand: so nothing is averaged over fewer draws than it seems, and no draw is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.frechet import FRACTIONS, ORDERS, FrechetReference
from bench.metrics.gaussian_kernel import GaussianKernelReference
from bench.metrics.histogram import LEVELS, IntensityReference
from bench.metrics.inception_score import PARTS, inception_score, inception_score_parts
from bench.metrics.kernel import KernelReference
from bench.metrics.manifold import ManifoldReference
from bench.metrics.similarity import (
    diversity_pairs,
    mse_pairs,
    nmse_pairs,
    psnr_pairs,
    scales_of,
    similar_within,
    ssim_pairs,
)
from bench.metrics.statistics import Array

Images = NDArray[np.uint8]
DIVERSITY_PAIRS = 200
RESAMPLED = ("frechet_distance", "kernel_distance", "gaussian_kernel_distance")
"""Measures whose interval is bootstrapped over the subjects of the real images."""


@dataclass
class Found:
    """What was measured of one set of images."""

    values: dict[str, float] = field(default_factory=dict)
    """By measure; not a number where it could not be had."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why not, by measure."""

    def take(self, names: Sequence[str], measure: Callable[[], Sequence[float]]) -> None:
        """Add the values that `measure` returns for these names; what can't be had is no number, with a reason."""
        try:
            values = [float(value) for value in measure()]
        except (ValueError, np.linalg.LinAlgError) as error:
            values = [math.nan] * len(names)
            self.reasons.update(dict.fromkeys(names, " ".join(str(error).split())))
        for name, value in zip(names, values, strict=True):
            self.values[name] = value
            if not math.isfinite(value):
                self.reasons.setdefault(name, f"the value is {value}")


class FeatureSide:
    """Real images of one set in one feature space.

    Args:
        real: features [n, d].
        names: the measures asked for; others are left out, and their preparation with them.
    """

    def __init__(self, real: Any, names: Collection[str]) -> None:
        self._real, self._names = real, frozenset(names)

    def scores(self, features: Any, logits: Any = None, *, seed: int = 0) -> Found:
        """Measure generated images by features [m, d] and, where there are any, logits [m, k]; `seed` is of random orders."""
        found, asked = Found(), self._names
        for name in (name for name in RESAMPLED if name in asked):
            found.take([name], lambda name=name: [self._reference(name).distance(features)])  # type: ignore[misc]
        if (name := "frechet_distance_infinity") in asked:
            whole = found.values.get("frechet_distance")
            known = whole if whole is not None and math.isfinite(whole) else None
            found.take([name], lambda: [self._frechet.extrapolated(features, seed=seed, whole=known)])
        if logits is not None and "inception_score" in asked:
            found.take(["inception_score"], lambda: inception_score(logits=logits)[:1])
            parts = ["inception_score_parts", "inception_score_parts_std"]
            found.take(parts, lambda: inception_score_parts(logits=logits))
        if "precision" in asked:
            names = ["precision", "recall", "density", "coverage"]
            found.take(names, lambda: list(map(self._manifold.scores(features).__getitem__, names)))
        return found

    def resampled(self, name: str, features: Any, rows: Sequence[NDArray[np.int64]]) -> Array:
        """Return a measure of `RESAMPLED` for each resample of the real rows; not a number where it can't be had."""
        try:
            return self._reference(name).resampled(features, rows)
        except (ValueError, np.linalg.LinAlgError):  # `scores` of the same images has the reason
            return np.full(len(rows), np.nan)

    def about(self, name: str) -> str:
        """What belongs beside a number of this name; '' if nothing does."""
        if name == "gaussian_kernel_distance":
            return f"bandwidth {self._gaussian.bandwidth:.4g}"
        if name == "frechet_distance_infinity":
            return f"n times {', '.join(f'{part:g}' for part in (*FRACTIONS, 1))} in {ORDERS} orders"
        return f"{PARTS} parts" if name.startswith("inception_score_parts") else ""

    def _reference(self, name: str) -> FrechetReference | KernelReference:
        if name == "frechet_distance":
            return self._frechet
        return self._kernel if name == "kernel_distance" else self._gaussian

    @cached_property
    def _frechet(self) -> FrechetReference:
        return FrechetReference(self._real)

    @cached_property
    def _kernel(self) -> KernelReference:
        return KernelReference(self._real)

    @cached_property
    def _gaussian(self) -> GaussianKernelReference:
        return GaussianKernelReference(self._real)

    @cached_property
    def _manifold(self) -> ManifoldReference:
        return ManifoldReference(self._real)


class ImageSide:
    """Real images of one set, as pixels.

    Args:
        real: gives them, uint8 [n, C, H, W]; called once, and only if a measure needs them.
        names: the measures asked for.
    """

    def __init__(self, real: Callable[[], Images], names: Collection[str]) -> None:
        self._real, self._names = real, frozenset(names)
        self._scales = 1

    def scores(self, images: Images, labels: NDArray[np.integer], *, seed: int) -> Found:
        """Measure generated images, uint8 [m, C, H, W]; `seed` chooses pairs within a class of `labels` [m]."""
        found = Found()
        self._scales = scales_of(*images.shape[2:])
        pairs = [name for name in ("ssim_diversity", "ms_ssim_diversity") if name in self._names]
        if pairs:
            found.take(pairs, lambda: self._alike(pairs, images, labels, seed))
        if "intensity_kl" in self._names:
            found.take(["intensity_kl", "intensity_js"], lambda: self._intensities.divergence(images))
        return found

    def about(self, name: str) -> str:
        """What belongs beside a number of this name; '' if nothing does."""
        if name == "ms_ssim_diversity":
            return f"{self._scales} scale{'s' if self._scales > 1 else ''}"
        return f"{LEVELS} bins" if name.startswith("intensity_") else ""

    def _alike(self, names: Sequence[str], images: Images, labels: NDArray[np.integer], seed: int) -> list[float]:
        pairs = diversity_pairs(labels=labels, pairs=DIVERSITY_PAIRS, seed=seed)
        scales = self._scales if "ms_ssim_diversity" in names else 1
        both = similar_within(images=images, pairs=pairs, scales=scales)
        means = {"ssim_diversity": float(both[0].mean()), "ms_ssim_diversity": float(both[1].mean())}
        return [means[name] for name in names]

    @cached_property
    def _intensities(self) -> IntensityReference:
        return IntensityReference(self._real())


RECONSTRUCTIONS: Mapping[str, Callable[..., Array]] = {
    "ssim_reconstruction": ssim_pairs,
    "mse_reconstruction": mse_pairs,
    "psnr_reconstruction": psnr_pairs,
    "nmse_reconstruction": nmse_pairs,
}
"""Measures of what comes back from encoder and decoder; LPIPS, which needs a network, is `bench.metrics.lpips`."""


def reconstruction_scores(*, given: Images, returned: Images, names: Collection[str]) -> Found:
    """Return means over the images, uint8 [n, C, H, W], of the measures asked for."""
    found = Found()
    for name, measure in RECONSTRUCTIONS.items():
        if name in names:
            found.take([name], lambda measure=measure: [measure(first=given, second=returned).mean()])  # type: ignore[misc]
    return found
