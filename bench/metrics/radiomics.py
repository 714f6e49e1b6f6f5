"""Hand-made texture numbers, the kind that radiomics computes, from scikit-image: no network, no training, no file.

They are known by name, so a distance on them can be read: what generated images get wrong is a grey level, a texture or a
sharpness. They see blur and noise well and know nothing of anatomy.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from torch import Tensor

from bench.errors import UnavailableError
from bench.metrics.features import FeatureExtractor, check_images

Image = NDArray[np.uint8]

LEVELS = 32
"""Grey levels of the co-occurrence matrix: 8 of the 256 in each, the same bins for every image."""
DISTANCES = (1, 3)
_ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
_PERCENTILES = (5, 25, 50, 75, 95)
_SCALES = (0.7, 1.4, 2.8, 5.6)
_MASK = np.outer((1.0, -2.0, 1.0), (1.0, -2.0, 1.0))
"""Second differences across second differences: blind to edges that a plane explains (Immerkaer 1996)."""
_LEAST = 1e-3
"""Added before every logarithm, in grey levels of [0, 1]: below an eighth of one 8-bit step nothing is meant."""

SPREADS: Mapping[str, float] = {
    "mean": 0.07,
    "deviation": 0.04,
    "skewness": 0.3,
    "kurtosis": 0.15,
    **{f"percentile_{p}": 0.08 for p in _PERCENTILES},
    "entropy": 0.3,
    **dict(zip((f"{name}_1" for name in _PROPERTIES), (0.4, 0.25, 0.05, 0.04, 0.4), strict=True)),
    **dict(zip((f"{name}_3" for name in _PROPERTIES), (0.4, 0.2, 0.05, 0.04, 0.4), strict=True)),
    **{f"pattern_{index}": 0.03 for index in range(10)},
    "gradient": 0.2,
    "laplacian": 0.25,
    **{f"band_{index}": 0.2 for index in range(len(_SCALES) - 1)},
    "noise": 0.25,
}
"""Name of every number, in order -> its usual deviation within one set of medical images, which it is divided by.

Set by hand, once, near the geometric mean of what knee and chest X-rays and the phantom's brain slices show (the phantom
about half, knees about twice as much): fixed numbers keep distances of different data sets and days comparable.
"""


class RadiomicsFeatures(FeatureExtractor):
    """36 numbers of grey levels, co-occurrence, local binary patterns and sharpness (scikit-image).

    - grey levels (10): mean, deviation, skewness and kurtosis (compressed), five percentiles, entropy of 32 bins
    - co-occurrence of 32 grey levels at distances 1 and 3, mean over four directions (10): contrast, dissimilarity
      and what is missing of a correlation of 1 (as logarithms), homogeneity, energy (Haralick et al. 1973)
    - uniform local binary patterns of 8 neighbours (10): roots of their shares (Ojala et al. 2002)
    - sharpness (6, as logarithms): gradient, Laplacian, three bands of a difference of Gaussians, noise (Immerkaer 1996)

    Each is divided by its usual deviation (`SPREADS`), so that none dominates a distance by its unit.
    """

    name: ClassVar[str] = "radiomics"
    version: ClassVar[str] = "1"
    batch_size: ClassVar[int] = 64
    rule = (
        "colour made grey by luma (Rec. 601), images in their own size, pixels in [0, 1]; 36 numbers of grey levels, "
        "co-occurrence, local binary patterns and sharpness, each over a fixed usual deviation"
    )
    dimensions = len(SPREADS)

    _SMALLEST: ClassVar[int] = 8
    _CHECKSUMS: ClassVar[Mapping[int, float]] = {0: -0.855749, 1: 4.507177}
    """Mean of the check images' numbers."""

    def _extract(self, images: UInt8[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n d"], None]:
        if images.shape[1] not in (1, 3):
            raise UnavailableError(f"images of {images.shape[1]} channels; these features take grey (1) or colour (3)")
        if min(images.shape[2:]) < self._SMALLEST:
            raise UnavailableError(f"images of {images.shape[2]}x{images.shape[3]}; these features need 8x8 or more")
        found = [radiomics(image) for image in grey(images.cpu().numpy())]
        return torch.from_numpy(np.stack(found)).float(), None

    def self_check(self) -> None:
        """Also compare the check images' numbers with the recorded ones.

        Raises:
            UnavailableError: this machine's scikit-image gives other numbers than were recorded.
        """
        super().self_check()
        means = self(check_images(self._check_shape())).features.mean(dim=1).tolist()
        for index, expected in self._CHECKSUMS.items():
            if abs(means[index] - expected) > 1e-3:
                raise UnavailableError(
                    f"features 'radiomics': check image {index} gives {means[index]:.5f} in place of {expected:.5f}; "
                    "this scikit-image computes something else than the version these features were recorded with"
                )


def grey(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images [n, C, H, W] as grey ones [n, H, W]: luma of colour (Rec. 601), rounded."""
    if images.shape[1] == 1:
        return images[:, 0]
    luma = np.tensordot(np.array((0.299, 0.587, 0.114)), images.astype(np.float64), axes=(0, 1))
    return np.rint(luma).astype(np.uint8)


def radiomics(image: Image) -> NDArray[np.float64]:
    """Return the numbers of one grey image [H, W], in the order of `SPREADS`, each over its usual deviation."""
    values = [*_grey_levels(image), *_cooccurrence(image), *_patterns(image), *_sharpness(image)]
    return np.array(values) / np.array(list(SPREADS.values()))


def _grey_levels(image: Image) -> list[float]:
    x = image.astype(np.float64).ravel() / 255
    mean, deviation = x.mean(), x.std()
    z = (x - mean) / max(deviation, _LEAST)
    skewness, kurtosis = np.arcsinh((z**3).mean()), np.log((z**4).mean() + 1)  # long tails weigh less
    share = np.bincount(image.ravel() // (256 // LEVELS), minlength=LEVELS) / image.size
    entropy = -(share[share > 0] * np.log2(share[share > 0])).sum()
    return [mean, deviation, skewness, kurtosis, *np.percentile(x, _PERCENTILES).tolist(), entropy]


def _cooccurrence(image: Image) -> list[float]:
    levels = (image // (256 // LEVELS)).astype(np.uint8)
    matrix = graycomatrix(levels, DISTANCES, _ANGLES, levels=LEVELS, symmetric=True, normed=True)
    table = {name: graycoprops(matrix, name).mean(axis=1) for name in _PROPERTIES}
    for name in ("contrast", "dissimilarity"):
        table[name] = np.log(table[name] + 0.01)
    table["correlation"] = np.log(1 - table["correlation"] + 0.01)
    return [float(table[name][index]) for index in range(len(DISTANCES)) for name in _PROPERTIES]


def _patterns(image: Image) -> list[float]:
    codes = local_binary_pattern(image, P=8, R=1.0, method="uniform").astype(np.int64)
    return np.sqrt(np.bincount(codes.ravel(), minlength=10) / codes.size).tolist()


def _sharpness(image: Image) -> list[float]:
    x = image.astype(np.float64) / 255
    rows, columns = ndimage.sobel(x, axis=0) / 8, ndimage.sobel(x, axis=1) / 8
    smoothed = [ndimage.gaussian_filter(x, scale) for scale in _SCALES]
    found = [
        np.hypot(rows, columns).mean(),
        ndimage.laplace(x).std(),
        *((fine - coarse).std() for fine, coarse in pairwise(smoothed)),
        np.sqrt(np.pi / 2) / 6 * np.abs(ndimage.convolve(x, _MASK)).mean(),
    ]
    return np.log(np.array(found) + _LEAST).tolist()
