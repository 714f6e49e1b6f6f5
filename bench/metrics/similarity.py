"""Similarity of image pairs: structural similarity and squared error. No features, no torch.

SSIM as scikit-image computes it with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255`, the
settings of Wang et al. 2004 (IEEE TIP 13(4)): Gaussian weights cut at 3.5 deviations (11 x 11), K1 = 0.01, K2 = 0.03,
averaged over positions where the window fits and over channels. It is written out here for whole batches, as two small
matrix products, because scikit-image takes one pair at a time (some ten times as long at 64 x 64); a test holds them equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.metrics.statistics import Array
from bench.seeds import numpy_rng

Images = NDArray[np.uint8]

SIGMA = 1.5
RADIUS = 5
"""Of the window: 3.5 deviations, rounded."""
DATA_RANGE = 255.0
_C1, _C2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
_CHUNK = 64
"""Pairs at a time, which bounds the memory."""


def ssim_pairs(*, first: Images, second: Images) -> Array:
    """Return the SSIM of each pair of images, shape [n].

    In [-1, 1], 1 for equal images. Images smaller than the 11 x 11 window, which scikit-image refuses, get the largest odd
    window that fits, with its Gaussian weights summed to 1 again.

    Args:
        first: uint8 [n, C, H, W].
        second: likewise; the order of the two does not matter.

    Raises:
        ValueError: not uint8 [n, C, H, W], different shapes, or a side below 3 pixels.
    """
    _check(first, second)
    height, width = first.shape[2:]
    if min(height, width) < 3:
        raise ValueError(f"SSIM needs images of 3 x 3 pixels or more, got {height} x {width}")
    radius = min(RADIUS, (min(height, width) - 1) // 2)
    rows, columns = _window(height, radius), _window(width, radius)
    parts = [
        _ssim(first[start : start + _CHUNK], second[start : start + _CHUNK], rows, columns)
        for start in range(0, len(first), _CHUNK)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def mse_pairs(*, first: Images, second: Images) -> Array:
    """Return the mean squared error of each pair of images, shape [n], of pixels scaled to [0, 1]; 0 is best."""
    _check(first, second)
    difference = (first.astype(np.float64) - second) / DATA_RANGE
    return np.asarray((difference**2).mean(axis=(1, 2, 3)))


def ssim_diversity(*, images: Images, labels: NDArray[np.integer], pairs: int = 200, seed: int = 0) -> float:
    """Return the mean SSIM of random pairs of different images of one class.

    Higher means less diverse (1: all alike), but lower is not better without end, since noise has the lowest: read it
    beside the same number of the real images. No pair is taken twice; classes take part in proportion to their images.

    Args:
        images: uint8 [n, C, H, W].
        labels: class of each image, shape [n]; all equal to compare across classes.
        pairs: how many pairs in all; fewer if there are no more.
        seed: of the choice.

    Raises:
        ValueError: no class has two images; or see `ssim_pairs`.
    """
    classes = [own for label in np.unique(labels) if len(own := np.flatnonzero(labels == label)) > 1]
    if not classes:
        raise ValueError("no class has two images to compare")
    rng = numpy_rng(seed, "ssim pairs")
    total = sum(len(own) for own in classes)
    bounds = np.round(pairs * np.cumsum([0, *(len(own) for own in classes)]) / total).astype(int)
    chosen = [
        own[_pairs(len(own), int(count), rng)] for own, count in zip(classes, np.diff(bounds), strict=True) if count
    ]
    left, right = np.concatenate(chosen).T
    return float(ssim_pairs(first=images[left], second=images[right]).mean())


def _pairs(n: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `count` different unordered pairs of n things (or all there are), shape [count, 2]."""
    numbers = rng.choice(n * (n - 1) // 2, size=min(count, n * (n - 1) // 2), replace=False)
    # pair number p is the p-th entry below the diagonal, row by row
    larger = np.floor((1 + np.sqrt(1 + 8 * numbers.astype(np.float64))) / 2).astype(np.int64)
    return np.stack([larger, numbers - larger * (larger - 1) // 2], axis=1)


def _window(size: int, radius: int) -> Array:
    """Return the Gaussian window as a matrix [size - 2 radius, size]: one row per position where it fits."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / SIGMA) ** 2)
    weights /= weights.sum()
    matrix = np.zeros((size - 2 * radius, size))
    for position in range(len(matrix)):
        matrix[position, position : position + len(weights)] = weights
    return matrix


def _ssim(first: Images, second: Images, rows: Array, columns: Array) -> Array:
    x, y = first.astype(np.float64), second.astype(np.float64)

    def blur(values: Array) -> Array:
        smooth: Array = rows @ values @ columns.T
        return smooth

    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    bottom = (mean_x**2 + mean_y**2 + _C1) * (variances + _C2)
    return np.asarray((top / bottom).mean(axis=(1, 2, 3)))


def _check(first: Images, second: Images) -> None:
    if first.shape != second.shape:
        raise ValueError(f"pairs need equal shapes, got {list(first.shape)} and {list(second.shape)}")
    if first.ndim != 4 or first.dtype != np.uint8 or second.dtype != np.uint8:
        raise ValueError(f"expected uint8 images [n, C, H, W], got {first.dtype} {list(first.shape)}")
