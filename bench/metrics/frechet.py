r"""Fréchet distance between the features of real and generated images.

Both sides are taken for Gaussians of the same mean and covariance; between Gaussians the 2-Wasserstein distance has a
closed form (Dowson & Landau 1982; used for images by Heusel et al. 2017, arXiv 1706.08500):

    d^2 = |mu_r - mu_g|^2 + tr S_r + tr S_g - 2 tr (S_r S_g)^(1/2)

The last trace needs no matrix root. Write the covariances by any factors, S_r = A'A and S_g = B'B. The eigenvalues of
S_r S_g = A'A B'B that are not 0 are those of (A B')(A B')', so their roots are the singular values of A B':

    tr (S_r S_g)^(1/2) = sum of the singular values of A B'

The centred features over sqrt(n - 1) are such a factor with n rows, the R of their QR decomposition one with d rows: the
route is chosen by which is less, and A B' never has more than min(n, d) rows and columns. Singular values also keep the
digits that eigenvalues of the product lose below the square root of the machine's precision.

The estimate is biased upward by an amount that depends on n (about 0 only for n far above d): compare at equal n only.

That bias falls about as 1/n, so a line through the distances at several n, read off at 1/n = 0, is nearly free of it: FID
infinity of Chong & Forsyth 2020 (arXiv 1911.07023). There the real side is large and stays; here both sides are small, so
both are thinned together, and the line runs in N/n with N the images at hand. The distance at N is one of its points.
Where n is not far above d the bias bends upward with 1/n and the line leaves some of it: of Gaussians with 64 features the
plain distance lies 8.3 above the true 19.9 at N = 280 and the extrapolated one 0.1 below, but at N = 70 33 and 6 above
(means of 20). Its deviation is that of the plain distance, within some hundredths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.statistics import Array, feature_matrix
from bench.seeds import numpy_rng

FRACTIONS = (1 / 2, 5 / 8, 3 / 4)
"""Of the images at hand: the n of the extrapolation, beside all of them."""
ORDERS = 2
"""Random orders of the images: of each, both halves are taken, and the first 5/8 and 3/4."""
LEAST = 4
"""Images whose halves still have a covariance."""


def frechet_distance(*, real: Any, generated: Any) -> float:
    """Return the squared Fréchet distance d^2 (what everybody calls FID) between features [n, d] and [m, d].

    In [0, inf), lower is better, 0 for equal means and covariances; in squared units of the features. Symmetric.
    Covariances divide by n - 1, as NumPy and torch-fidelity do.

    Raises:
        ValueError: fewer than two images, different widths, or features that are not finite.
    """
    return FrechetReference(real).distance(generated)


def frechet_distance_infinity(*, real: Any, generated: Any, orders: int = ORDERS, seed: int = 0) -> float:
    """Return the squared Fréchet distance extrapolated to infinitely many images, of features [n, d] and [m, d].

    In (-inf, inf), lower is better, 0 expected for equal distributions; in squared units of the features. As an unbiased
    estimate should, it falls below 0 about half the time when both sides are alike. Of a set and itself it is negative:
    at a smaller n the two parts are different images, at the whole n the same. Symmetric but for the choice of orders.

    Args:
        real: features [n, d].
        generated: features [m, d].
        orders: random orders behind each point below n; more lower the noise of the choice.
        seed: of the orders.

    Raises:
        ValueError: as `frechet_distance`, or a side of fewer than 4 images.
    """
    return FrechetReference(real).extrapolated(generated, orders=orders, seed=seed)


class FrechetReference:
    """The real side's mean and covariance factor, kept for many comparisons.

    Args:
        real: features [n, d].
    """

    def __init__(self, real: Any) -> None:
        self._features = feature_matrix(real, "real")
        self._mean, self._factor = _moments(self._features)
        self._trace = float((self._factor**2).sum())

    def distance(self, generated: Any) -> float:
        """Return the squared Fréchet distance to features [m, d]; see `frechet_distance`."""
        mean, factor = self._other(generated)
        overlap = np.linalg.svd(self._factor @ factor.T, compute_uv=False).sum()
        return _combine(self._mean - mean, self._trace, factor, overlap)

    def resampled(self, generated: Any, rows: Sequence[NDArray[np.int64]]) -> Array:
        """Return the distance of each resample `real[rows[b]]` to the same generated features, shape [len(rows)].

        A row drawn w times is one row of weight sqrt(w) in the factor, and centring commutes with the product by B', so
        the large product is done once for all resamples.
        """
        mean, factor = self._other(generated)
        centred = self._features - self._mean  # the mean is taken out first: less to cancel in the sums below
        product = centred @ factor.T
        squares = (centred**2).sum(axis=1)
        distances = np.empty(len(rows))
        for index, chosen in enumerate(rows):
            unique, weights = np.unique(np.asarray(chosen), return_counts=True)
            n = int(weights.sum())
            if n < 2:
                raise ValueError("a resample needs two or more images")
            shift = weights @ centred[unique] / n
            trace = (weights @ squares[unique] - n * (shift @ shift)) / (n - 1)
            part = product[unique]
            part = (part - weights @ part / n) * np.sqrt(weights / (n - 1))[:, None]
            overlap = np.linalg.svd(part, compute_uv=False).sum()
            distances[index] = _combine(self._mean + shift - mean, float(trace), factor, overlap)
        return distances

    def extrapolated(self, generated: Any, *, orders: int = ORDERS, seed: int = 0, whole: float | None = None) -> float:
        """Return `frechet_distance_infinity` to features [m, d]; `whole` is `distance(generated)` where it is known.

        Of fewer images than features, a part's overlap is taken from a part of one product of all images; of more, from
        the Cholesky factors of its covariances. Nothing larger than min(n, d) rows and columns is decomposed.
        """
        other = feature_matrix(generated, "generated")
        if min(len(self._features), len(other)) < LEAST:
            raise ValueError(f"the extrapolation needs {LEAST} or more images on either side")
        inverse, distances = [1.0], [self.distance(other) if whole is None else whole]
        centred = self._features - self._mean, other - self._mean
        products = _Products(*centred)
        for fraction in FRACTIONS:
            sizes = [max(2, round(fraction * len(side))) for side in centred]
            found = []
            for number in range(orders):
                rng = numpy_rng(seed, "frechet order", number)
                order = [rng.permutation(len(side)) for side in centred]
                for part in range(int(1 / fraction)):
                    rows = [own[part * n : (part + 1) * n] for own, n in zip(order, sizes, strict=True)]
                    if min(map(len, rows)) > 1:
                        found.append(products.distance(*rows))
            inverse.append(float(np.mean([len(side) / n for side, n in zip(centred, sizes, strict=True)])))
            distances.append(float(np.mean(found)))
        return float(np.polyfit(inverse, distances, 1)[1])

    def _other(self, generated: Any) -> tuple[Array, Array]:
        features = feature_matrix(generated, "generated")
        if features.shape[1] != len(self._mean):
            raise ValueError(f"real has {len(self._mean)} features per image, generated {features.shape[1]}")
        return _moments(features)


class _Products:
    """Distances of many parts of the same two sets [n, d], [m, d], both centred about the real mean."""

    def __init__(self, real: Array, generated: Array) -> None:
        self._sides = real, generated
        self._squares = [(side**2).sum(axis=1) for side in self._sides]
        self._product: Array | None = None

    def distance(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
        """Return the distance of the images `first` of the one side to `second` of the other."""
        n, m = len(first), len(second)
        d = self._sides[0].shape[1]
        if min(n, m) > d:
            (mean, factor), (other_mean, other) = _rough(self._sides[0][first]), _rough(self._sides[1][second])
            overlap = np.linalg.svd(factor @ other.T, compute_uv=False).sum()
            return _combine(mean - other_mean, float((factor**2).sum()), other, overlap)
        if self._product is None:
            self._product = self._sides[0] @ self._sides[1].T
        part = self._product[np.ix_(first, second)]
        part = part - part.mean(axis=0) - part.mean(axis=1, keepdims=True) + part.mean()  # both sides centred
        overlap = np.linalg.svd(part, compute_uv=False).sum() / np.sqrt((n - 1) * (m - 1))
        means = [side[rows].mean(axis=0) for side, rows in zip(self._sides, (first, second), strict=True)]
        traces = [
            (squares[rows].sum() - len(rows) * (mean @ mean)) / (len(rows) - 1)
            for squares, rows, mean in zip(self._squares, (first, second), means, strict=True)
        ]
        difference = means[0] - means[1]
        return max(0.0, float(difference @ difference + sum(traces) - 2 * overlap))


def _moments(features: Array) -> tuple[Array, Array]:
    """Return the mean and a factor A of the covariance A'A with min(n, d) rows."""
    mean = features.mean(axis=0)
    factor = (features - mean) / np.sqrt(len(features) - 1)
    if factor.shape[0] > factor.shape[1]:
        factor = np.linalg.qr(factor, mode="r")
    return mean, factor


def _rough(features: Array) -> tuple[Array, Array]:
    """Return what `_moments` does, from the covariance itself: faster, but right to 1e-8 of its largest deviation only."""
    mean = features.mean(axis=0)
    centred = features - mean
    try:
        return mean, np.linalg.cholesky(centred.T @ centred / (len(features) - 1)).T
    except np.linalg.LinAlgError:  # features that depend on each other
        return _moments(features)


def _combine(difference: Array, trace: float, factor: Array, overlap: float) -> float:
    """Put the four terms together; equal sets end a rounding error from 0, on either side of it."""
    return max(0.0, float(difference @ difference) + trace + float((factor**2).sum()) - 2.0 * float(overlap))
