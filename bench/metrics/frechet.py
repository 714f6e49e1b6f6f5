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
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.statistics import Array, feature_matrix


def frechet_distance(*, real: Any, generated: Any) -> float:
    """Return the squared Fréchet distance d^2 (what everybody calls FID) between features [n, d] and [m, d].

    In [0, inf), lower is better, 0 for equal means and covariances; in squared units of the features. Symmetric.
    Covariances divide by n - 1, as NumPy and torch-fidelity do.

    Raises:
        ValueError: fewer than two images, different widths, or features that are not finite.
    """
    return FrechetReference(real).distance(generated)


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

    def _other(self, generated: Any) -> tuple[Array, Array]:
        features = feature_matrix(generated, "generated")
        if features.shape[1] != len(self._mean):
            raise ValueError(f"real has {len(self._mean)} features per image, generated {features.shape[1]}")
        return _moments(features)


def _moments(features: Array) -> tuple[Array, Array]:
    """Return the mean and a factor A of the covariance A'A with min(n, d) rows."""
    mean = features.mean(axis=0)
    factor = (features - mean) / np.sqrt(len(features) - 1)
    if factor.shape[0] > factor.shape[1]:
        factor = np.linalg.qr(factor, mode="r")
    return mean, factor


def _combine(difference: Array, trace: float, factor: Array, overlap: float) -> float:
    """Put the four terms together; equal sets end a rounding error from 0, on either side of it."""
    return max(0.0, float(difference @ difference) + trace + float((factor**2).sum()) - 2.0 * float(overlap))
