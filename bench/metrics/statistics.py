"""Means, resampling of subjects and intervals, with NumPy alone (the report uses it without torch).

Two deviations are kept apart throughout: over draws (sampling) and over training seeds; and intervals come from a third
source, the subjects that happen to be in the test set. Families of several seeds are compared in `comparison`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.seeds import numpy_rng

Array = NDArray[np.float64]


def feature_matrix(values: Any, what: str, *, least: int = 2) -> Array:
    """Return features as a float64 matrix [n, d], whatever they came as (tensor on any device, array).

    Raises:
        ValueError: not a matrix, fewer than `least` rows, no columns, or a value that is not finite.
    """
    matrix = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(f"{what}: expected a matrix of shape [n, d], got shape {list(matrix.shape)}")
    if len(matrix) < least:
        raise ValueError(f"{what}: {least} or more images are needed, got {len(matrix)}")
    if not np.isfinite(matrix).all():
        bad = int((~np.isfinite(matrix)).any(axis=1).sum())
        raise ValueError(f"{what}: {bad} of {len(matrix)} rows hold values that are not finite")
    return matrix


def feature_matrices(real: Any, generated: Any, *, least: int = 2) -> tuple[Array, Array]:
    """Return both sides as matrices of the same width; see `feature_matrix` for the errors."""
    first, second = feature_matrix(real, "real", least=least), feature_matrix(generated, "generated", least=least)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"real has {first.shape[1]} features per image, generated {second.shape[1]}")
    return first, second


def mean_std(values: ArrayLike) -> tuple[float, float]:
    """Return mean and sample deviation (divided by n - 1; not a number for a single value)."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else math.nan


def bootstrap_indices(
    subjects: ArrayLike, replicates: int, seed: int, strata: ArrayLike | None = None
) -> list[NDArray[np.int64]]:
    """Resample whole subjects with replacement: images of one subject resemble each other and are no independent draws.

    As many subjects are drawn as there are; all images of a drawn subject enter, as often as it is drawn. So the number of
    images varies where subjects have different numbers of them.

    Args:
        subjects: subject of each image, shape [n].
        replicates: number of resamples.
        seed: root of the randomness; the first replicates don't depend on how many are asked for.
        strata: group of each image (its class); a subject belongs to the set of its groups, and each such set keeps its
            number of subjects. Without it, the shares of the classes vary with the draw.

    Returns:
        One array of image indices per replicate.
    """
    names = np.asarray(subjects)
    _, owner = np.unique(names, return_inverse=True)
    images = [np.flatnonzero(owner == index) for index in range(int(owner.max()) + 1)] if names.size else []
    if not images:
        raise ValueError("no subjects to resample")
    groups: dict[Any, list[int]] = {}
    labels = None if strata is None else np.asarray(strata)
    for index, own in enumerate(images):
        groups.setdefault(None if labels is None else tuple(np.unique(labels[own]).tolist()), []).append(index)
    pools = [np.array(members) for members in groups.values()]
    chosen = []
    for number in range(replicates):
        rng = numpy_rng(seed, "bootstrap", number)
        drawn = np.concatenate([pool[rng.integers(len(pool), size=len(pool))] for pool in pools])
        chosen.append(np.concatenate([images[index] for index in drawn]).astype(np.int64))
    return chosen


def interval(estimate: float, replicates: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the centred percentile interval: estimate + quantiles of (replicates - their mean).

    Plain percentiles would be wrong here: a resample holds images twice, so its covariance is that of fewer images and
    its Fréchet distance is biased upward, often beyond the estimate itself. The spread of the replicates is still that
    of the estimate; only their place is not, so it is taken out. A distance's lower end may fall below 0.

    Raises:
        ValueError: fewer than two replicates, or one that is not finite.
    """
    array = np.asarray(replicates, dtype=np.float64)
    if array.size < 2 or not np.isfinite(array).all():
        raise ValueError("an interval needs two or more replicates, all finite")
    low, high = np.quantile(array - array.mean(), [(1 - level) / 2, (1 + level) / 2])
    return float(estimate + low), float(estimate + high)
