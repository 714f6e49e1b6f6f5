"""Do generated images help a classifier? Networks trained on real, on generated and on both kinds of images, tested on real.

Train on synthetic, test on real (TSTR; Esteban et al. 2017, https://arxiv.org/abs/1706.02633; for images the
classification accuracy score, Ravuri & Vinyals 2019, https://arxiv.org/abs/1905.10887), and real plus generated against
real alone at equal budget: the same network, initial weights, schedule, number of steps and of images seen. Nothing is
chosen by any score, neither the length of training nor a checkpoint, so the test images are used once, at the end.

What it can't see: variety that classes don't hang on. Where classes differ in their means (a scanner's contrast, the place of
a lesion), even one mean image of each class teaches a classifier a good deal; recall and coverage see that, this does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from bench.metrics.classification import SCORES, Array, Estimate, resampled
from bench.metrics.side_by_side import side_by_side
from bench.seeds import derive, forked, numpy_rng

SIDE = 128
"""Longer side that images are reduced to; smaller ones stay as they are."""
WIDTHS = (16, 32, 64, 128)
BATCH = 64
LEAST_STEPS = 10
"""The schedule needs some to rise and fall."""
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.05
SMOOTHING = 0.1
"""Of labels."""
SHIFT = 16
"""Training images are moved by at most a side / SHIFT pixels each way."""
RULE = (
    "six 3x3 or 5x5 convolutions (16 to 128 channels, batch norm, ReLU), mean over places, one linear layer; AdamW, "
    f"one cycle to {LEARNING_RATE:g}, batches of {BATCH}, every class drawn equally often, images moved by up to 1/{SHIFT} of "
    "their side; last weights, nothing chosen by a score"
)
"""How every classifier is made, in words."""

TSTR, AUGMENTED, GAIN = "tstr", "augmented", "gain"
"""What the names of scores begin with: trained on generated images; on both kinds; that minus real images alone."""


class Labelled(NamedTuple):
    """Images with their classes."""

    images: NDArray[np.uint8]
    """[n, C, H, W]."""
    labels: NDArray[np.int64]
    """[n]."""


@dataclass(frozen=True)
class Training:
    """How classifiers are trained: the same for every kind of images."""

    classifiers: int = 3
    """Networks from as many initial weights and orders of images; two or more."""
    images_seen: int = 20_000
    ratio: float = 1.0
    """Where both kinds are trained on: generated images seen for each real one."""
    seed: int = 0


_Pool = tuple[Labelled, NDArray[np.int64]]
"""A side, and which of its images are of one class."""


class Classifier(nn.Module):
    """A small convolutional network: four stages at a half, a quarter, an eighth and a sixteenth of the image's side.

    Batch norm and not group norm: on knee X-rays (validation subjects, 20,000 images seen) the latter learned next to
    nothing in this time. 0.14 million parameters; 0.45 ms per image of 64x64 and step on one core.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        first, second, third, fourth = WIDTHS
        layers: list[nn.Module] = []
        for before, after, size, stride in (
            (channels, first, 5, 2), (first, second, 3, 2), (second, second, 3, 1), (second, third, 3, 2),
            (third, third, 3, 1), (third, fourth, 3, 2),
        ):  # fmt: skip
            layers += [nn.Conv2d(before, after, size, stride, size // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(fourth, num_classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Return logits of images in [0, 1]."""
        return self.head(self.body(images * 4 - 2).mean(dim=(2, 3)))


def predictions(
    *,
    real: Labelled | None = None,
    generated: Labelled | None = None,
    test: NDArray[np.uint8],
    num_classes: int,
    training: Training,
    threads: int | None = None,
    device: torch.device | str = "cpu",
) -> Array:
    """Train classifiers on real images, on generated ones or on both, and let them read the test images.

    Classifier k begins with the same weights, sees classes in the same order and moves images by the same pixels whatever
    it is trained on, so that two kinds of images are compared in pairs. On the CPU each is trained by one thread, several
    beside each other: the same seed and packages give the same bits, however many threads there are.

    Args:
        real: training images; given alone, these alone are trained on.
        generated: likewise; given both, `training.ratio` generated images are seen for each real one.
        test: real images of subjects that are in none of the two, uint8 [n, C, H, W].
        num_classes: how many.
        training: how.
        threads: how many classifiers are trained at once; torch's number of threads if left out.
        device: where to train.

    Returns:
        Probabilities [classifiers, n, classes]; each row sums to 1.

    Raises:
        ValueError: no images to train on, of fewer than two classes, or of another shape than the test images.
    """
    given = [side for side in (real, generated) if side is not None]
    if not given or any(side.images.shape[1:] != test.shape[1:] for side in given):
        raise ValueError(f"training images of the test images' shape {list(test.shape[1:])} are needed")
    if len(np.unique(np.concatenate([side.labels for side in given]))) < 2:
        raise ValueError("training images of two or more classes are needed")
    place = torch.device(device)
    share = training.ratio / (1 + training.ratio) if len(given) == 2 else 0.0
    sides = [Labelled(_reduced(side.images), side.labels) for side in given]
    pixels, jobs = _reduced(test), []
    for index in range(training.classifiers):
        stream = derive(training.seed, "classifier", index)
        with forked(stream, "weights"):
            network = Classifier(test.shape[1], num_classes)
        jobs.append(_Job(network.to(place), sides, share, pixels, training.images_seen, stream, place))
    return np.stack(side_by_side(_Job.run, jobs, device=place, threads=threads))


def utility_scores(
    *,
    labels: ArrayLike,
    subjects: ArrayLike,
    real: Array,
    generated: Array,
    both: Array,
    replicates: int,
    seed: int,
) -> dict[str, Estimate]:
    """Score classifiers that were trained on generated images and on both kinds, the latter against real images alone.

    `tstr_*` and `augmented_*` are in [0, 1], higher is better, `gain_*` = augmented - real alone in [-1, 1], higher is
    better and 0 means no use; see `classification_scores` for what each is. Gains are paired: classifier by classifier,
    and within the same resamples of test subjects.

    Args:
        labels: true class of each test image, shape [n].
        subjects: whom each test image is of, shape [n].
        real: probabilities [classifiers, n, classes] by those trained on real images alone (`predictions`).
        generated: likewise, on generated images alone.
        both: likewise, on both.
        replicates: resamples behind the intervals.
        seed: of resampling; the same for all generators that are to be compared.
    """
    reference = resampled(labels, subjects, real, replicates, seed)
    added = resampled(labels, subjects, both, replicates, seed)
    alone = resampled(labels, subjects, generated, replicates, seed)
    found = {f"{TSTR}_{name}": alone[name] for name in SCORES}
    found |= {f"{AUGMENTED}_{name}": added[name] for name in SCORES}
    for name in SCORES:
        (values, spread), (of_real, spread_of_real) = added[name], reference[name]
        found[f"{GAIN}_{name}"] = Estimate(values - of_real, spread - spread_of_real)
    return found


def _reduced(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring the longer side down to `SIDE`, at 8 bits as before."""
    height, width = images.shape[2:]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return images
    size = max(1, round(height * scale)), max(1, round(width * scale))
    parts = []
    for start in range(0, len(images), 256):
        x = torch.from_numpy(np.array(images[start : start + 256])).float()
        x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
        parts.append(x.round().clamp(0, 255).to(torch.uint8).numpy())
    return np.concatenate(parts)


@dataclass(frozen=True)
class _Job:
    """One classifier: what it is trained on, and what it is to read afterwards."""

    network: Classifier
    sides: Sequence[Labelled]
    share: float
    """Of the second side in what is seen."""
    test: NDArray[np.uint8]
    images_seen: int
    seed: int
    device: torch.device

    def run(self) -> Array:
        """Train, then return probabilities of the test images."""
        self._train()
        self.network.eval()
        with torch.no_grad():
            logits = [
                self.network(_floats(self.test[start : start + 256], self.device)).double().cpu()
                for start in range(0, len(self.test), 256)
            ]
        return torch.cat(logits).softmax(dim=1).numpy()

    def _train(self) -> None:
        steps = max(LEAST_STEPS, math.ceil(self.images_seen / BATCH))
        network = self.network.to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.2)
        rng = numpy_rng(self.seed, "batches")
        classes = np.unique(np.concatenate([side.labels for side in self.sides])).tolist()
        pools = [[(side, np.flatnonzero(side.labels == c)) for side in self.sides] for c in classes]
        pools = [[(side, own) for side, own in pool if len(own)] for pool in pools]
        for _ in range(steps):
            images, drawn = self._batch(pools, rng)
            labels = torch.tensor([classes[c] for c in drawn], device=self.device)
            loss = F.cross_entropy(network(images), labels, label_smoothing=SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()

    def _batch(self, pools: Sequence[Sequence[_Pool]], rng: np.random.Generator) -> tuple[Tensor, NDArray[np.int64]]:
        """Draw a class for each image, then the side it comes from, then the image: as many random numbers for any sides."""
        drawn = rng.integers(len(pools), size=BATCH)
        second, place, moved = rng.random(BATCH) < self.share, rng.random(BATCH), rng.random((2, BATCH))
        images = np.empty((BATCH, *self.test.shape[1:]), np.uint8)
        for index, label in enumerate(drawn):
            side, own = pools[label][min(int(second[index]), len(pools[label]) - 1)]
            images[index] = side.images[own[int(place[index] * len(own))]]
        return _floats(_moved(images, moved), self.device), drawn


def _moved(images: NDArray[np.uint8], draws: Array) -> NDArray[np.uint8]:
    """Move each image by whole pixels (resampling would blur, which may tell classes); borders are repeated."""
    rows_and_columns = []
    for draw, side in zip(draws, images.shape[2:], strict=True):
        most = max(1, side // SHIFT)
        offset = np.floor(draw * (2 * most + 1)).astype(np.int64) - most
        rows_and_columns.append((np.arange(side) + offset[:, None]).clip(0, side - 1))
    rows, columns = rows_and_columns
    n = np.arange(len(images))[:, None, None]
    return images.transpose(0, 2, 3, 1)[n, rows[:, :, None], columns[:, None, :]].transpose(0, 3, 1, 2)


def _floats(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(images)).to(device).float() / 255
    return x.contiguous(memory_format=torch.channels_last)
