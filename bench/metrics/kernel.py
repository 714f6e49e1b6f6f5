r"""Kernel distance: squared maximum mean discrepancy under a polynomial kernel (Binkowski et al. 2018, arXiv 1801.01401).

    k(x, y) = (gamma x'y + c)^degree,  gamma = 1/d
    MMD^2   = mean over i != j of k(r_i, r_j) + mean over i != j of k(g_i, g_j) - 2 mean over i, j of k(r_i, g_j)

All pairs are used rather than random subsets: with a few hundred images that is cheap, has no random part and the
smallest variance. The estimate is unbiased at every n, hence negative about half the time when both sides are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.statistics import Array, feature_matrices, feature_matrix

_AT_ONCE = 4096
"""Images a side whose whole matrices of kernels are held: three of 134 MB."""


def kernel_distance(
    *, real: Any, generated: Any, degree: int = 3, gamma: float | None = None, coef0: float = 1.0
) -> float:
    """Return the unbiased MMD^2 between features [n, d] and [m, d].

    In (-inf, inf), lower is better, 0 expected for equal distributions; not multiplied by 100 or 1,000 as some do.
    Symmetric. A distance of a set to itself is negative: the pairs of an image with itself are left out within a side only.

    Raises:
        ValueError: fewer than two images, different widths, or features that are not finite.
    """
    first, second = feature_matrices(real, generated)

    def kernel(x: Array, y: Array) -> Array:
        return _polynomial(x, y, degree, gamma, coef0)

    return _within(kernel(first, first)) + _within(kernel(second, second)) - 2 * float(kernel(first, second).mean())


def kernel_distance_subsets(
    *,
    real: Any,
    generated: Any,
    subset_size: int,
    subsets: int,
    rng: np.random.Generator | np.random.RandomState,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
) -> tuple[float, float]:
    """Return mean and deviation (divided by the number) of MMD^2 over random subsets without replacement.

    This is how KID is published elsewhere. Each subset draws from the generated images first, so that torch-fidelity
    (input1 generated, input2 real, `RandomState(rng_seed)`) has the same subsets and the same numbers.

    Raises:
        ValueError: as `kernel_distance`, or a subset larger than a side.
    """
    first, second = feature_matrices(real, generated)
    if not 2 <= subset_size <= min(len(first), len(second)):
        raise ValueError(
            f"subset_size {subset_size} is not between 2 and the smaller side's {min(len(first), len(second))}"
        )

    def kernels(x: Array, y: Array) -> list[Array]:
        return [_polynomial(*pair, degree, gamma, coef0) for pair in ((x, x), (y, y), (x, y))]

    once = max(len(first), len(second)) <= _AT_ONCE
    whole = kernels(first, second) if once else []  # subsets share most pairs: each pair is worked out once
    values = []
    for _ in range(subsets):
        other = rng.choice(len(second), subset_size, replace=False)
        own = rng.choice(len(first), subset_size, replace=False)
        places = ((own, own), (other, other), (own, other))
        parts = (
            [k[np.ix_(*at)] for k, at in zip(whole, places, strict=True)]
            if once
            else kernels(first[own], second[other])
        )
        values.append(_within(parts[0]) + _within(parts[1]) - 2 * float(parts[2].mean()))
    return float(np.mean(values)), float(np.std(values))


class KernelReference:
    """The real side's kernel matrix, kept for many comparisons.

    Args:
        real: features [n, d].
        kernel: of rows [n, d] and [m, d], a matrix [n, m]; the polynomial one (degree 3, gamma 1/d, c = 1) if left out.
    """

    def __init__(self, real: Any, kernel: Callable[[Array, Array], Array] | None = None) -> None:
        self._between = kernel or _polynomial
        self._features = feature_matrix(real, "real")
        self._kernel = self._between(self._features, self._features)
        self._own = _within(self._kernel)

    def distance(self, generated: Any) -> float:
        """Return the unbiased MMD^2 to features [m, d]."""
        _, other = feature_matrices(self._features, generated)
        cross = self._between(self._features, other)
        return self._own + _within(self._between(other, other)) - 2 * float(cross.mean())

    def resampled(self, generated: Any, rows: Sequence[NDArray[np.int64]]) -> Array:
        """Return the distance of each resample `real[rows[b]]` to the same generated features, shape [len(rows)].

        Pairs of an image with its own copy within a resample are left out like every pair of an image with itself, so the
        replicates are not pushed upward by duplicates.

        Raises:
            ValueError: a resample of one image alone.
        """
        _, other = feature_matrices(self._features, generated)
        to_other = self._between(self._features, other).mean(axis=1)
        theirs = _within(self._between(other, other))
        off_diagonal = self._kernel - np.diag(np.diagonal(self._kernel))
        distances = np.empty(len(rows))
        for index, chosen in enumerate(rows):
            weights = np.bincount(np.asarray(chosen), minlength=len(self._features)).astype(np.float64)
            pairs = weights.sum() ** 2 - (weights**2).sum()
            if pairs == 0:
                raise ValueError("a resample needs two or more different images")
            own = weights @ off_diagonal @ weights / pairs
            distances[index] = own + theirs - 2 * (weights @ to_other) / weights.sum()
        return distances


def _polynomial(x: Array, y: Array, degree: int = 3, gamma: float | None = None, coef0: float = 1.0) -> Array:
    scale = 1.0 / x.shape[1] if gamma is None else gamma
    result: Array = (scale * (x @ y.T) + coef0) ** degree
    return result


def _within(kernel: Array) -> float:
    """Mean over the pairs of different images."""
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))
