"""Similarity of image pairs: structural similarity at one scale and at several, squared errors. No features, no torch.

SSIM as scikit-image computes it with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255`, the
settings of Wang et al. 2004 (IEEE TIP 13(4)): Gaussian weights cut at 3.5 deviations (11 x 11), K1 = 0.01, K2 = 0.03,
averaged over positions where the window fits and over channels. It is written out here for whole batches, as two small
matrix products, because scikit-image takes one pair at a time (some ten times as long at 64 x 64); a test holds them equal.

MS-SSIM (Wang, Simoncelli & Bovik 2003, Asilomar) halves the images again and again and multiplies what each scale gives:

    MS-SSIM = l_M^w_M  product over j = 1 ... M of cs_j^w_j,   w = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333

with l the term of luminance and cs that of contrast and structure. The paper's five scales need sides above 160, for the
window must fit at the smallest; smaller images get the first M scales that fit, their weights divided by their sum: numbers
of different M are different measures, so M is stated beside each. Halving is the mean of 2 x 2 pixels, an odd side's last
row taken twice. A negative mean at a scale counts as 0, as everywhere (a root of it is no number).
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
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the five scales, finest first."""
MOST_PSNR = float(10 * np.log10(12 * DATA_RANGE**2))
"""58.9 dB: of an error of 1/12 squared grey level, that of rounding to 8 bits. Nothing stored so can be told to be nearer."""
_C1, _C2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
_CHUNK = 64
"""Pairs at a time, which bounds the memory."""
_KEPT_BYTES = 128 * 2**20
"""What pairs within one set may keep of its images."""


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
    return similar_pairs(first=first, second=second, scales=1)[0]


def ms_ssim_pairs(*, first: Images, second: Images, scales: int | None = None) -> Array:
    """Return the MS-SSIM of each pair of images, shape [n].

    In [0, 1], 1 for equal images. Channels are averaged at each scale, before the scales are multiplied.

    Args:
        first: uint8 [n, C, H, W].
        second: likewise; the order of the two does not matter.
        scales: how many; as many as fit, 5 at most, if left out.

    Raises:
        ValueError: as `ssim_pairs`, or more scales than fit.
    """
    _check(first, second)
    return similar_pairs(first=first, second=second, scales=scales or scales_of(first.shape[2], first.shape[3]))[1]


def scales_of(height: int, width: int) -> int:
    """Return how many scales of MS-SSIM fit images of this size: 5 above 160 pixels, 3 at 64; 1 (plain SSIM) below 21."""
    side, scales = min(height, width), 1
    while scales < len(WEIGHTS) and (side := (side + 1) // 2) > 2 * RADIUS:
        scales += 1
    return scales


def similar_pairs(*, first: Images, second: Images, scales: int) -> tuple[Array, Array]:
    """Return SSIM and MS-SSIM of each pair from one pass: together they take a third longer than SSIM alone.

    Raises:
        ValueError: as `ms_ssim_pairs`.
    """
    _check(first, second)
    height, width = first.shape[2:]
    if min(height, width) < 3:
        raise ValueError(f"SSIM needs images of 3 x 3 pixels or more, got {height} x {width}")
    if not 1 <= scales <= scales_of(height, width):
        raise ValueError(f"{scales} scales of images of {height} x {width} pixels; {scales_of(height, width)} fit")
    single, multiple = np.empty(len(first)), np.empty(len(first))
    for start in range(0, len(first), _CHUNK):
        part = slice(start, start + _CHUNK)
        both = np.concatenate([first[part], second[part]])
        single[part], multiple[part] = _similar(both, np.arange(len(both)).reshape(2, -1), scales)
    return single, multiple


def similar_within(*, images: Images, pairs: NDArray[np.integer], scales: int) -> tuple[Array, Array]:
    """Return what `similar_pairs` does for pairs of images of one set; each image's own part is worked out once.

    Args:
        images: uint8 [n, C, H, W].
        pairs: indices of them, shape [2, k].
        scales: see `ms_ssim_pairs`.
    """
    used, places = np.unique(pairs, return_inverse=True)
    if len(used) * images[0].size * 3 * 8 > _KEPT_BYTES:  # as floats, with a mean and a variance for each pixel
        return similar_pairs(first=images[pairs[0]], second=images[pairs[1]], scales=scales)
    similar_pairs(first=images[:1], second=images[:1], scales=scales)  # the same errors
    return _similar(images[used], places.reshape(pairs.shape), scales)


def mse_pairs(*, first: Images, second: Images) -> Array:
    """Return the mean squared error of each pair of images, shape [n], of pixels scaled to [0, 1]; 0 is best."""
    _check(first, second)
    difference = (first.astype(np.float64) - second) / DATA_RANGE
    return np.asarray((difference**2).mean(axis=(1, 2, 3)))


def psnr_pairs(*, first: Images, second: Images) -> Array:
    """Return the peak signal-to-noise ratio of each pair of images in dB, shape [n]: 10 log10 (255^2 / squared error).

    In [0, 58.9], higher is better. Equal images would have an infinite one, and so would every mean they are part of:
    nothing counts as more than `MOST_PSNR`, the ratio that rounding to 8 bits leaves by itself.
    """
    with np.errstate(divide="ignore"):
        ratios = -10 * np.log10(mse_pairs(first=first, second=second))
    return np.asarray(np.minimum(ratios, MOST_PSNR))


def nmse_pairs(*, first: Images, second: Images) -> Array:
    """Return the squared error of each pair over the first image's squares: |x - y|^2 / |x|^2, shape [n].

    In [0, inf), lower is better, 0 for equal images, 1 for a black second one. As fastMRI takes it (Zbontar et al. 2018,
    arXiv 1811.08839), of images here and not of volumes: a dark image's errors weigh more than in the plain squared error.

    Args:
        first: the true images, uint8 [n, C, H, W].
        second: what is compared with them.

    Raises:
        ValueError: as `mse_pairs`, or a first image that is black: nothing can be divided by it.
    """
    squares = (first.astype(np.float64) ** 2).mean(axis=(1, 2, 3)) / DATA_RANGE**2
    errors = mse_pairs(first=first, second=second)
    if not (squares > 0).all():
        raise ValueError(f"{int((squares == 0).sum())} of {len(first)} true images are black: no NMSE of them")
    return np.asarray(errors / squares)


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
    chosen = diversity_pairs(labels=labels, pairs=pairs, seed=seed)
    return float(similar_within(images=images, pairs=chosen, scales=1)[0].mean())


def ms_ssim_diversity(*, images: Images, labels: NDArray[np.integer], pairs: int = 200, seed: int = 0) -> float:
    """Return the mean MS-SSIM of the pairs that `ssim_diversity` takes (Odena et al. 2017, arXiv 1610.09585).

    In [0, 1]; read it as that one, and only beside numbers of as many scales (`scales_of`).
    """
    chosen = diversity_pairs(labels=labels, pairs=pairs, seed=seed)
    scales = scales_of(images.shape[2], images.shape[3])
    return float(similar_within(images=images, pairs=chosen, scales=scales)[1].mean())


def diversity_pairs(*, labels: NDArray[np.integer], pairs: int, seed: int) -> NDArray[np.int64]:
    """Choose pairs of different images of one class: indices [2, pairs]; see `ssim_diversity`."""
    classes = [own for label in np.unique(labels) if len(own := np.flatnonzero(labels == label)) > 1]
    if not classes:
        raise ValueError("no class has two images to compare")
    rng = numpy_rng(seed, "ssim pairs")
    total = sum(len(own) for own in classes)
    bounds = np.round(pairs * np.cumsum([0, *(len(own) for own in classes)]) / total).astype(int)
    chosen = [
        own[_pairs(len(own), int(count), rng)] for own, count in zip(classes, np.diff(bounds), strict=True) if count
    ]
    return np.concatenate(chosen).T


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


def _similar(images: Images, pairs: NDArray[np.integer], scales: int) -> tuple[Array, Array]:
    """SSIM at the first scale, and the product over the scales, of pairs [2, k] of images [n, C, H, W]."""
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    single, product = np.empty(0), np.ones(pairs.shape[1])
    x = images.astype(np.float64)
    for scale in range(scales):
        x = _halved(x) if scale else x
        ssim, contrast = _ssim(x, pairs)
        single = single if scale else ssim
        product *= np.maximum(ssim if scale == scales - 1 else contrast, 0) ** weights[scale]
    return single, product


def _halved(images: Array) -> Array:
    """Mean of 2 x 2 pixels; an odd side's last row is taken twice."""
    n, channels, height, width = images.shape
    if height % 2 or width % 2:
        images = np.pad(images, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    halves: Array = images.reshape(n, channels, -(-height // 2), 2, -(-width // 2), 2).mean(axis=(3, 5))
    return halves


def _ssim(x: Array, pairs: NDArray[np.integer]) -> tuple[Array, Array]:
    """SSIM of each pair, and its contrast-structure term alone, each a mean over channels and positions."""
    height, width = x.shape[2:]
    radius = min(RADIUS, (min(height, width) - 1) // 2)
    rows, columns = _window(height, radius), _window(width, radius)

    def blur(values: Array) -> Array:
        smooth: Array = rows @ values @ columns.T
        return smooth

    starts = range(0, len(x), _CHUNK)
    mean = np.concatenate([blur(x[start : start + _CHUNK]) for start in starts])
    variance = np.concatenate([blur(x[start : start + _CHUNK] ** 2) for start in starts]) - mean**2
    ssim, contrast = np.empty(pairs.shape[1]), np.empty(pairs.shape[1])
    for start in range(0, pairs.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        one, other = pairs[:, part]
        mean_x, mean_y = mean[one], mean[other]
        product = mean_x * mean_y
        covariance = blur(x[one] * x[other]) - product
        terms = (2 * covariance + _C2) / (variance[one] + variance[other] + _C2)
        contrast[part] = terms.mean(axis=(1, 2, 3))
        terms *= (2 * product + _C1) / (mean_x**2 + mean_y**2 + _C1)
        ssim[part] = terms.mean(axis=(1, 2, 3))
    return ssim, contrast


def _check(first: Images, second: Images) -> None:
    if first.shape != second.shape:
        raise ValueError(f"pairs need equal shapes, got {list(first.shape)} and {list(second.shape)}")
    if first.ndim != 4 or first.dtype != np.uint8 or second.dtype != np.uint8:
        raise ValueError(f"expected uint8 images [n, C, H, W], got {first.dtype} {list(first.shape)}")
