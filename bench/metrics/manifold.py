r"""How two sets of features overlap, by balls that reach to the k-th nearest neighbour.

Precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991), with B(x) the ball about x to its k-th neighbour of
the same set:

    precision = share of generated images inside some ball of the real ones   (are they realistic?)
    recall    = share of real images inside some ball of the generated ones   (is everything there?)

Density and coverage (Naeem et al. 2020, arXiv 2002.09797) use the balls of the real images only, since those of generated
outliers are wide, and count instead of asking for one:

    density  = (1 / k m) sum over generated j of the number of real balls that hold j
    coverage = share of real images whose ball holds a generated image

Balls are closed, as the papers define them. torch-fidelity 0.4.0, which the tests compare with, takes input1 as generated
and input2 as real and is right; versions before February 2026 had precision and recall exchanged. For two equal Gaussians
in 1,000 dimensions at n = 10,000 density and coverage come near 1, precision and recall near 0.5.

Resampling rows with replacement breaks these measures (a copy is a neighbour at distance 0), so none is offered.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from bench.metrics.statistics import Array, feature_matrices, feature_matrix


class PrecisionRecall(NamedTuple):
    """Both in [0, 1], higher is better."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density in [0, inf), expected 1 for equal distributions; coverage in [0, 1]. Higher is better."""

    density: float
    coverage: float


def precision_recall(*, real: Any, generated: Any, k: int = 3) -> PrecisionRecall:
    """Return precision and recall of features [m, d] against features [n, d] by balls to the k-th neighbour.

    Exchanging the sides exchanges the two. A generator of one single image gives balls of radius 0: its recall is 0.

    Raises:
        ValueError: a side has k images or fewer, the widths differ, or features are not finite.
    """
    return ManifoldReference(real).precision_recall(generated, k=k)


def density_coverage(*, real: Any, generated: Any, k: int = 5) -> DensityCoverage:
    """Return density and coverage of features [m, d] against features [n, d] by balls to the k-th neighbour.

    Raises:
        ValueError: the real side has k images or fewer, the widths differ, or features are not finite.
    """
    return ManifoldReference(real).density_coverage(generated, k=k)


class ManifoldReference:
    """The real side's distances among itself, kept for many comparisons.

    Distances are taken from differences in float64, not from a product of matrices: a copy lies at exactly 0 and exactly
    on the ball that its original lies on.

    Args:
        real: features [n, d].
    """

    def __init__(self, real: Any) -> None:
        self._features = feature_matrix(real, "real")
        self._sorted = np.sort(cdist(self._features, self._features), axis=1)

    def precision_recall(self, generated: Any, *, k: int = 3) -> PrecisionRecall:
        """See the function `precision_recall`."""
        other, between = self._between(generated)
        return self._precision_recall(other, between, k)

    def density_coverage(self, generated: Any, *, k: int = 5) -> DensityCoverage:
        """See the function `density_coverage`."""
        return self._density_coverage(self._between(generated)[1], k)

    def scores(self, generated: Any, *, k: int = 3, k_density: int = 5) -> dict[str, float]:
        """Return all four by name, from one matrix of distances."""
        other, between = self._between(generated)
        found = self._precision_recall(other, between, k), self._density_coverage(between, k_density)
        return {name: value for part in found for name, value in part._asdict().items()}

    def _between(self, generated: Any) -> tuple[Array, Array]:
        _, other = feature_matrices(self._features, generated, least=1)
        return other, cdist(self._features, other)

    def _precision_recall(self, other: Array, between: Array, k: int) -> PrecisionRecall:
        radii = _radii(np.sort(cdist(other, other), axis=1), k, "generated")
        in_real: NDArray[np.bool_] = between <= _radii(self._sorted, k, "real")[:, None]
        return PrecisionRecall(float(in_real.any(axis=0).mean()), float((between <= radii).any(axis=1).mean()))

    def _density_coverage(self, between: Array, k: int) -> DensityCoverage:
        held: NDArray[np.bool_] = between <= _radii(self._sorted, k, "real")[:, None]
        return DensityCoverage(float(held.sum() / (k * held.shape[1])), float(held.any(axis=1).mean()))


def _radii(distances: Array, k: int, what: str) -> Array:
    """Distance of each image to its k-th neighbour, from sorted rows that begin with the image itself."""
    if not 1 <= k < len(distances):
        raise ValueError(f"{what}: the {k}-th neighbour needs more than {k} images, got {len(distances)}")
    radii: Array = distances[:, k]
    return radii
