"""What a feature extractor is, and the one that needs no training and no file: random convolutions.

An extractor turns stored images (uint8 [n, C, H, W]) into numbers per image, in batches of one fixed size, so that an
image's numbers don't depend on how many others are measured with it. The other extractors live in modules of their own; two
are offered here under their names without being imported before they are asked for.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import UnavailableError
from bench.spent import SPENT

if TYPE_CHECKING:
    from bench.metrics.domain import DomainFeatures as DomainFeatures
    from bench.metrics.inception import InceptionFeatures as InceptionFeatures

Images = NDArray[np.uint8]
ALIKE = 1e-6
"""Distance of two check images' features over the features' norm up to which an extractor tells nothing apart."""

_ELSEWHERE = {"DomainFeatures": "bench.metrics.domain", "InceptionFeatures": "bench.metrics.inception"}


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Extracted(NamedTuple):
    """What an extractor gives for n images, float32 on the CPU."""

    features: Float[Tensor, "n d"]
    logits: Float[Tensor, "n k"] | None


class FeatureExtractor(ABC):
    """Turns images into features, and into class logits where it has classes.

    Args:
        device: where the network runs; what it gives lies on the CPU.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    """Raise it when a change of code changes numbers."""
    batch_size: ClassVar[int]
    """Images per pass, always: the last batch is filled up."""
    rule: str
    """One sentence: what becomes of channels, size and grey levels."""
    dimensions: int
    has_logits: bool = False
    doubt: str = ""
    """What must stand beside every number on these features, without comma or semicolon."""
    classifies: ClassVar[bool] = False
    """Whether the logits are those of the data's own classes, from a classifier trained on real images."""

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    @property
    def details(self) -> dict[str, Any]:
        """Facts worth printing beside the numbers, JSON-able."""
        return {"batch_size": self.batch_size}

    @property
    def backend(self) -> str:
        """Everything that decides the numbers, in one string; goes into ids."""
        return f"{self.name}-{self.version}"

    @abstractmethod
    def _extract(self, images: UInt8[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"] | None]:
        """Return features and logits of one full batch that lies on the device; called without gradients."""

    @SPENT.on("extraction")
    def __call__(self, images: Images | UInt8[Tensor, "n c h w"]) -> Extracted:
        """Extract features of uint8 images [n, C, H, W]: an array, or a tensor on any device, which stays where it is.

        Raises:
            ValueError: another dtype or shape, or no images.
        """
        if images.ndim != 4 or images.dtype not in (np.uint8, torch.uint8) or not len(images):
            raise ValueError(f"expected uint8 images [n, C, H, W], got {images.dtype} {list(images.shape)}")
        features, logits = [], []
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            batch = (part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))).to(self.device)
            count = len(batch)
            if count < self.batch_size:
                batch = torch.cat([batch, batch[-1:].expand(self.batch_size - count, -1, -1, -1)])
            with torch.inference_mode():
                found, scores = self._extract(batch)
            features.append(found[:count].float().cpu())
            if scores is not None:
                logits.append(scores[:count].float().cpu())
        # inference tensors can't be used where gradients are recorded; clones can
        return Extracted(torch.cat(features).clone(), torch.cat(logits).clone() if logits else None)

    def self_check(self) -> None:
        """Try the extractor on two fixed images before anything is measured with it.

        Raises:
            UnavailableError: what it gives is not finite, the same for different images, or of the wrong width.
        """
        features, logits = self(check_images(self._check_shape()))
        if not all(torch.isfinite(found).all() for found in (features, logits) if found is not None):
            raise UnavailableError(f"features {self.name!r}: the check images give values that are not finite")
        if features.shape != (2, self.dimensions):
            raise UnavailableError(
                f"features {self.name!r}: {features.shape[1]} numbers, {self.dimensions} were promised"
            )
        apart = (features[0] - features[1]).double().norm()
        if not apart > ALIKE * features.double().norm():  # equal but for rounding is equal
            raise UnavailableError(f"features {self.name!r}: two different check images give the same numbers")

    def _check_shape(self) -> tuple[int, int, int]:
        return 1, 64, 64


def check_images(shape: tuple[int, int, int]) -> Images:
    """Return two fixed images, uint8 [2, C, H, W]: one smooth, one with edges; whole-number arithmetic only."""
    channels, height, width = shape
    row, column = np.arange(height)[:, None], np.arange(width)[None, :]
    smooth = (row * 255 // max(1, height - 1) + column * 255 // max(1, width - 1)) // 2
    edges = 255 * ((row // 5 + column // 3) % 2) * (row * row + column * column > height * width // 4)
    return np.stack([np.repeat(plane[None], channels, axis=0) for plane in (smooth, edges)]).astype(np.uint8)


def three_channels(images: UInt8[Tensor, "n c h w"]) -> Tensor:
    """Give images the three channels that networks for photographs take: grey is repeated, colour left as it is.

    Raises:
        UnavailableError: neither one nor three channels.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise UnavailableError(f"images of {channels} channels; these features take grey (1) or colour (3)")
    return images.expand(-1, 3, -1, -1) if channels == 1 else images


class RandomFeatures(FeatureExtractor):
    """64 numbers from random convolutions at four scales (no training, no file).

    Random filters see blur, noise, contrast and coarse shape without having been taught a task, so they favour no family
    and suit tuning (what tunes does not rank). Per scale: 5x5 filters without mean, ReLU, 3x3 filters, ReLU, then mean
    and deviation over the image, as logarithms: an error of a tenth weighs the same in a weak channel as in a strong one.
    """

    name: ClassVar[str] = "random"
    version: ClassVar[str] = "1"
    batch_size: ClassVar[int] = 64
    rule = (
        "grey repeated to 3 channels, resized to 64x64 (bilinear, antialiased), pixels in [-1, 1]; "
        "four scales of random convolutions, logarithm of pooled mean and deviation"
    )
    dimensions = 64

    _SEED: ClassVar[int] = 20_240_229
    _SCALES: ClassVar[int] = 4
    _FIRST: ClassVar[int] = 16
    _SECOND: ClassVar[int] = 8
    _CHECKSUMS: ClassVar[Mapping[int, float]] = {0: -3.945407, 1: -2.034178}
    """Mean feature of the two check images."""

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        super().__init__(device=device)
        rng = np.random.default_rng(self._SEED)
        self._weights = []
        for _ in range(self._SCALES):
            first = rng.uniform(-1, 1, size=(self._FIRST, 3, 5, 5))
            first -= first.mean(axis=(1, 2, 3), keepdims=True)
            second = rng.uniform(-1, 1, size=(self._SECOND, self._FIRST, 3, 3))
            pair = [weight / np.sqrt((weight**2).sum(axis=(1, 2, 3), keepdims=True)) for weight in (first, second)]
            self._weights.append([torch.from_numpy(weight).float().to(self.device) for weight in pair])

    def _extract(self, images: UInt8[Tensor, "n c h w"]) -> tuple[Tensor, None]:
        x = three_channels(images).float() / 127.5 - 1
        if x.shape[2:] != (64, 64):
            x = F.interpolate(x, size=(64, 64), mode="bilinear", antialias=True)
        found = []
        for first, second in self._weights:
            padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
            y = F.relu(F.conv2d(padded, first))
            y = F.relu(F.conv2d(y, second)).flatten(2)
            found += [y.mean(dim=2), y.std(dim=2, correction=0)]
            x = F.avg_pool2d(x, 2)
        return torch.log(torch.cat(found, dim=1) + 1e-2), None

    def self_check(self) -> None:
        """Also compare the check images' features with the recorded ones.

        Raises:
            UnavailableError: this machine's arithmetic gives other numbers than were recorded.
        """
        super().self_check()
        means = self(check_images(self._check_shape())).features.mean(dim=1).tolist()
        for index, expected in self._CHECKSUMS.items():
            if abs(means[index] - expected) > 1e-3:
                raise UnavailableError(
                    f"features 'random': check image {index} gives {means[index]:.5f} in place of {expected:.5f}; "
                    "this NumPy or torch computes something else than the version these features were recorded with"
                )
