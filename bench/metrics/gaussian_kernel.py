r"""Squared maximum mean discrepancy under a Gaussian kernel, as CMMD takes it (Jayasumana et al. 2024, arXiv 2401.09603).

    k(x, y) = exp(-|x - y|^2 / (2 sigma^2))
    MMD^2   = mean over i != j of k(r_i, r_j) + mean over i != j of k(g_i, g_j) - 2 mean over i, j of k(r_i, g_j)

Unlike a polynomial, this kernel tells any two distributions apart (it is characteristic), and unlike the Fréchet distance
no Gaussian is assumed. Unbiased at every n.

*Bandwidth.* CMMD has sigma = 10 on CLIP embeddings of length 1, and times 1,000: no two of those lie further apart than 2,
so there k is nearly 1 - |x - y|^2 / 200, and MMD^2 nearly |difference of the means|^2 / 100. Other features have other
units, and so need a rule: here sigma is the median distance between two different real images (the heuristic of Gretton et
al. 2012, JMLR 13), the same for everything that is compared with these real images, and stated beside the number. A part
of the real images has a median of its own: compare numbers of one real set only.

*Scale.* The number is MMD^2 itself: not times 1,000, and not the square root. CMMD's published code keeps the pairs of an
image with itself, which adds (1 - mean k within) / n for either side; the paper's formula, and this, leave them out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.distance import pdist

from bench.metrics.kernel import KernelReference
from bench.metrics.statistics import Array, feature_matrix

CMMD_BANDWIDTH = 10.0
"""Of the paper, for CLIP embeddings (ViT-L/14 at 336 pixels) scaled to length 1."""


def gaussian_kernel_distance(*, real: Any, generated: Any, bandwidth: float | None = None) -> float:
    """Return the unbiased MMD^2 under the Gaussian kernel between features [n, d] and [m, d].

    In [-2, 2], lower is better, 0 expected for equal distributions, near 2 for two tight clouds far apart (for wide ones
    about the sum of the mean kernels within either side). Symmetric where the bandwidth is given.

    Args:
        real: features [n, d].
        generated: features [m, d].
        bandwidth: sigma; the median distance between two real images if left out.

    Raises:
        ValueError: fewer than two images, different widths, features that are not finite, or a bandwidth that is not
            above 0 (as the median is where most real images are the same).
    """
    return GaussianKernelReference(real, bandwidth).distance(generated)


def median_bandwidth(real: Any) -> float:
    """Return the median distance between two different rows of features [n, d]."""
    return float(np.median(pdist(feature_matrix(real, "real"))))


class GaussianKernelReference(KernelReference):
    """The real side's Gaussian kernel matrix, kept for many comparisons.

    Args:
        real: features [n, d].
        bandwidth: sigma; see `gaussian_kernel_distance`.
    """

    def __init__(self, real: Any, bandwidth: float | None = None) -> None:
        features = feature_matrix(real, "real")
        self.bandwidth = median_bandwidth(features) if bandwidth is None else float(bandwidth)
        if not self.bandwidth > 0 or not np.isfinite(self.bandwidth):
            raise ValueError(
                f"the kernel's bandwidth must be above 0, got {self.bandwidth:g}: are the real images alike?"
            )
        centre = features.mean(axis=0)

        def kernel(x: Array, y: Array) -> Array:
            # by a product of matrices, some ten times as fast as differences; about the centre little cancels
            x, y = x - centre, y - centre
            squared = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
            values: Array = np.exp(-np.maximum(squared, 0) / (2 * self.bandwidth**2))
            return values

        super().__init__(features, kernel)
