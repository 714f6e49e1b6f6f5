r"""Are generated images copies of training images? Calibrated by validation images, which can not be.

Every image x is given one number, how much nearer its nearest training image is than the following ones (the adaptive
distance of Carlini et al. 2023, arXiv 2301.13188, section 5, here without the nearest itself in the mean):

    r(x) = |x - t_1| / mean(|x - t_2|, ..., |x - t_51|),   t_i the i-th nearest training image;  r in [0, 1]

*Why a ratio.* The plain distance to the nearest training image calls blur a copy: the mean image, and everything a blurry
model makes, lies nearer to all training images than any real image does, since half of the distance between two real images
is detail of their own. But it lies near to all of them alike, so its ratio is near 1; a copy's is near 0, and a fresh
real image's in between, where the validation images show.

*Which space.* Pixels, averaged down to at most 32 a side and standardised (mean 0, deviation 1 in each image): noise, slight
blur, requantisation and a change of brightness or contrast don't hide a copy. Then the mean training image is taken away and
the rest scaled to length 1, so that what counts is what is an image's own; otherwise images near the mean are neighbours of
everything, and the mean image itself passes for a copy of one of them. What has less of its own than most training images
(blur) stays short, and so about as far from all of them; still, images without detail have fewer dimensions, in which a
nearest neighbour stands out more, and heavy blur lowers `c_t` by some 2, never to a copy's values. Learnt features would be
the wrong place: they are trained to forget what tells images of a class apart. A copy that is shifted, turned or mirrored
is not caught; the average of two training images is, and rightly.

*Slices of a subject* resemble each other. Training subjects differ from validation subjects, so a fresh image finds no slice
of its own subject; a copy's subject fills at most a few of its 50 neighbours. Two numbers come of the ratios:

- `c_t` (Meehan et al. 2020, arXiv 2004.05675): Mann-Whitney's U of generated against validation ratios as a z-score, one
  cell for the whole space, on r in place of the distance. About 0 is right, below about -3 copying, far above 0 means
  further from the training images than real ones are. It grows with the number of images: compare at equal n.
- `near_copies`: share of generated images below the 1st percentile of the validation ratios; fresh real images give about
  0.01 (some hundredths where the validation subjects are few), copies 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from bench.metrics.records import FEW_TRAINING, FEW_VALIDATION
from bench.metrics.statistics import Array

Images = NDArray[np.uint8]

SIDE = 32
"""Longer side that images are averaged down to."""
NEIGHBOURS = 50
"""Training images after the nearest that say what is near here."""
LEAST_LENGTH = 0.25
"""Quantile of the training images' own parts: an image with less of its own is not scaled up to the others' length."""
QUANTILE = 0.01
LEAST_VALIDATION = 100
"""Validation images below which their 1st percentile is hardly more than the least of them."""
_CHUNK = 512
"""Images whose distances to all training images are held at once."""


@dataclass(frozen=True)
class Nearness:
    """How near a set of images lies to the training images."""

    c_t: float
    """z-score, see the module; negative where they lie nearer than validation images do."""
    near_copies: float
    """Share of images with a ratio below `threshold`."""
    threshold: float
    """The 1st percentile of the validation images' ratios."""
    ratios: Array
    """r of each image, shape [n]."""
    nearest: NDArray[np.int64]
    """Index of the nearest training image of each image, shape [n]."""

    def closest(self, count: int) -> list[tuple[int, int]]:
        """Return (image, training image) of the most copy-like pairs, worst first."""
        order = np.argsort(self.ratios, kind="stable")[:count]
        return [(int(index), int(self.nearest[index])) for index in order]


@dataclass(frozen=True)
class ClosestPairs:
    """Generated images that lie nearest to a training image, worst first, with that image: to be looked at."""

    generated: Images
    training: Images
    ratios: Array
    threshold: float
    """Ratios below it count as near copies."""

    def joined(self, other: ClosestPairs | None, count: int) -> ClosestPairs:
        """Return the worst `count` of these and others."""
        if other is None:
            return self
        ratios = np.concatenate([other.ratios, self.ratios])
        order = np.argsort(ratios, kind="stable")[:count]
        generated = np.concatenate([other.generated, self.generated])[order]
        training = np.concatenate([other.training, self.training])[order]
        return ClosestPairs(generated, training, ratios[order], self.threshold)


class Memorization:
    """Measures nearness to the training images; their side is worked out once.

    Args:
        training: uint8 [n, C, H, W], 3 or more images.
        validation: uint8 [m, C, H, W], of subjects who are not in training; see `shortage` for how many there should be.
        validation_subjects: subject of each validation image. Ten slices of one subject are not ten independent images:
            with subjects the z-score's deviation is widened by the measured design effect (Kish), without them it is that
            of independent images and strays beyond 3 too easily.

    Raises:
        ValueError: wrong dtype or shape, or too few images.
    """

    def __init__(self, *, training: Images, validation: Images, validation_subjects: ArrayLike | None = None) -> None:
        if len(training) < 3 or len(validation) < 2:
            raise ValueError("memorization needs 3 training and 2 validation images or more")
        self._shape = training.shape[1:]
        whole = _standardised(training)
        self._mean = whole.mean(dim=0)
        own = whole - self._mean
        lengths = own.norm(dim=1, keepdim=True)
        self._least = float(torch.quantile(lengths, LEAST_LENGTH).clamp_min(1e-9))
        self._training = own / lengths.clamp_min(1e-9)
        self._squares = (self._training**2).sum(dim=1)
        self._validation, _ = self._ratios(validation)
        self._threshold = float(np.quantile(self._validation, QUANTILE))
        self._effect = _design_effect(self._validation, validation_subjects)

    def __call__(self, images: Images, subjects: ArrayLike | None = None) -> Nearness:
        """Measure images uint8 [n, C, H, W]; `subjects` only if they are real ones that share subjects.

        Raises:
            ValueError: no images, or another shape than the training images'.
        """
        if not len(images):
            raise ValueError("no images to measure")
        ratios, nearest = self._ratios(images)
        c_t = _mann_whitney_z(ratios, self._validation, _design_effect(ratios, subjects), self._effect)
        near = float((ratios < self._threshold).mean())
        return Nearness(c_t, near, self._threshold, ratios, nearest)

    def _ratios(self, images: Images) -> tuple[Array, NDArray[np.int64]]:
        if images.shape[1:] != self._shape:
            raise ValueError(f"images of shape {list(images.shape[1:])} against training images of {list(self._shape)}")
        own = _standardised(images) - self._mean
        queries = own / own.norm(dim=1, keepdim=True).clamp_min(self._least)
        count = min(NEIGHBOURS + 1, len(self._training))
        ratios, nearest = [], []
        for part in queries.split(_CHUNK):
            squared = (part**2).sum(dim=1, keepdim=True) + self._squares - 2 * part @ self._training.T
            found = squared.topk(count, dim=1, largest=False)
            # the product of matrices leaves a rounding error (1e-13 of the norm) where the distance is 0
            distances = found.values.clamp_min(0).sqrt()
            ratios.append(distances[:, 0] / distances[:, 1:].mean(dim=1).clamp_min(1e-9))
            nearest.append(found.indices[:, 0])
        return torch.cat(ratios).numpy(), torch.cat(nearest).numpy()


def shortage(*, training: int, validation: int) -> list[str]:
    """Flags for numbers of images on the real side that suffice to compute both numbers, but not to trust them.

    With fewer than 51 training images the ratio compares with fewer neighbours; with fewer than 100 validation images the
    threshold of near copies is loose, and one odd image moves C_T.
    """
    return [FEW_TRAINING] * (training <= NEIGHBOURS) + [FEW_VALIDATION] * (validation < LEAST_VALIDATION)


def _standardised(images: Images) -> torch.Tensor:
    """Average down to at most `SIDE` a side and standardise each image; float64 [n, pixels]."""
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 images [n, C, H, W], got {images.dtype} {list(images.shape)}")
    height, width = images.shape[2:]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    parts = []
    for start in range(0, len(images), _CHUNK):
        pixels = torch.from_numpy(np.array(images[start : start + _CHUNK])).double()
        flat = torch.nn.functional.adaptive_avg_pool2d(pixels, size).flatten(1)
        centred = flat - flat.mean(dim=1, keepdim=True)
        # below one grey level there is nothing to see, and nothing is blown up
        parts.append(centred / centred.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1.0))
    return torch.cat(parts)


def _mann_whitney_z(generated: Array, validation: Array, effect_generated: float, effect_validation: float) -> float:
    """Return z of U = number of pairs in which the generated value is the larger (ties count half).

    U / (n m) has mean 1/2 and, for independent images, variance (n + m + 1) / (12 n m): each side adds about 1/12 over its
    number. A side of correlated images counts for as many fewer as its design effect says.
    """
    n, m = len(generated), len(validation)
    ranks = _ranks(np.concatenate([generated, validation]))
    share = (ranks[:n].sum() - n * (n + 1) / 2) / (n * m)
    _, ties = np.unique(ranks, return_counts=True)
    kept = 1 - float((ties.astype(np.float64) ** 3 - ties).sum()) / ((n + m) ** 3 - (n + m))
    variance = kept * (effect_generated / n + effect_validation / m + 1 / (n * m)) / 12
    return float((share - 0.5) / np.sqrt(variance)) if variance > 0 else 0.0


def _ranks(values: Array) -> Array:
    """Return ranks from 1 on, ties sharing their mean: SciPy's `rankdata`, whose module takes 0.6 s to import."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def _design_effect(values: Array, subjects: ArrayLike | None) -> float:
    """How many times wider the variance of the mean rank is than that of independent images; 1 or more."""
    if subjects is None:
        return 1.0
    _, owner = np.unique(np.asarray(subjects), return_inverse=True)
    if len(owner) != len(values):
        raise ValueError(f"{len(owner)} subjects for {len(values)} images")
    centred = _ranks(values) - (len(values) + 1) / 2
    total = float((centred**2).sum())
    sums = np.bincount(owner, weights=centred)
    return max(1.0, float((sums**2).sum()) / total) if total > 0 else 1.0
