"""Fault controls whose images are not as they should be: blur, noise, grey levels, anatomy, junk among good ones.

Each spoils real validation images and nothing else: see `baselines.faults`, whose `HeldOut` says why. The default
severities are such that a person who compares a few images side by side with real ones can see them, but for `mirrored`.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from baselines.faults import HeldOut, coins, noisy
from bench import model


class Blur(HeldOut):
    """Real images, blurred by a Gaussian: what squared errors and small decoders do.

    Heusel et al. 2017, https://arxiv.org/abs/1706.08500, figure 3. The kernel is cut at four deviations, borders are
    mirrored.
    """

    source: ClassVar[str] = "Heusel et al. 2017"

    class Hyperparameters(model.Hyperparameters):
        """1 pixel of 64 is about the width of a sulcus."""

        severity: float = Field(1.0, ge=0, le=64, description="deviation of the Gaussian, pixels")

    hyperparameters: Blur.Hyperparameters

    def spoil(self, images: Float[Tensor, "n c h w"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Blur rows, then columns."""
        sigma, channels = self.hyperparameters.severity, images.shape[1]
        if not sigma:
            return images
        for axis, pad in ((2, (0, 0, 1, 1)), (3, (1, 1, 0, 0))):
            radius = min(math.ceil(4 * sigma), images.shape[axis] - 1)
            weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=images.device) / sigma) ** 2)
            kernel = (weights / weights.sum()).view((1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1))
            padded = F.pad(images, [radius * side for side in pad], mode="reflect")
            images = F.conv2d(padded, kernel.expand(channels, 1, -1, -1), groups=channels)
        return images


class LowResolution(HeldOut):
    """Real images at a lower resolution, brought back to their size: sharp in no detail that is left out.

    Parmar, Zhang & Zhu 2022, On Aliased Resizing and Surprising Subtleties in GAN Evaluation,
    https://arxiv.org/abs/2104.11222: resizing alone moves distances. Averaged down and bicubic up.
    """

    source: ClassVar[str] = "Parmar et al. 2022"

    class Hyperparameters(model.Hyperparameters):
        """Here no fault is 1, not 0."""

        severity: float = Field(2.0, ge=1, le=64, description="how many pixels become one")

    hyperparameters: LowResolution.Hyperparameters

    def spoil(self, images: Float[Tensor, "n c h w"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Average down, interpolate up."""
        size = images.shape[2], images.shape[3]
        height, width = (max(1, round(side / self.hyperparameters.severity)) for side in size)
        small = height, width
        if small == size:
            return images
        return F.interpolate(F.adaptive_avg_pool2d(images, small), size=size, mode="bicubic", antialias=True)


class Noise(HeldOut):
    """Real images with Gaussian noise on every pixel.

    Heusel et al. 2017, https://arxiv.org/abs/1706.08500, figure 3.
    """

    source: ClassVar[str] = "Heusel et al. 2017"

    class Hyperparameters(model.Hyperparameters):
        """The phantom's scanners have between 0.02 and 0.04 in a voxel of 1 mm."""

        severity: float = Field(0.05, ge=0, le=1, description="deviation of the noise, where white is 1")

    hyperparameters: Noise.Hyperparameters

    def spoil(self, images: Float[Tensor, "n c h w"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Add noise."""
        return noisy(images, self.hyperparameters.severity, rng)


class Intensity(HeldOut):
    """Real images, all brighter by one factor: another window, another scanner.

    A shift of the grey levels as in Xu et al. 2018, https://arxiv.org/abs/1806.07755. Black stays black, what passes white
    is cut.
    """

    class Hyperparameters(model.Hyperparameters):
        """A seventh is what a change of scanner does."""

        severity: float = Field(0.15, gt=-1, le=10, description="grey levels are multiplied by 1 + severity")

    hyperparameters: Intensity.Hyperparameters

    def spoil(self, images: Float[Tensor, "n c h w"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Multiply."""
        return images * (1 + self.hyperparameters.severity)


class UpsideDown(HeldOut):
    """Real images upside down: every detail right, the anatomy wrong.

    The transformations of Xu et al. 2018, https://arxiv.org/abs/1806.07755, by which a measure should not be
    moved where they leave an image right, as in photographs; no scanner gives this one.
    """

    axis: ClassVar[int] = 2

    class Hyperparameters(model.Hyperparameters):
        """All images by default."""

        severity: float = Field(1.0, ge=0, le=1, description="share of the images that is flipped")

    hyperparameters: UpsideDown.Hyperparameters

    def spoil(self, images: Float[Tensor, "n c h w"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Flip a share."""
        return _mixed(images, images.flip(self.axis), self.hyperparameters.severity, rng)


class Mirrored(UpsideDown):
    """Real images with left for right: hardly wrong in a brain, another patient in a chest.

    As Xu et al. 2018, https://arxiv.org/abs/1806.07755, flip photographs.
    """

    axis: ClassVar[int] = 3


class SwappedHalves(HeldOut):
    """Real images whose upper and lower half have changed places: good parts, no whole.

    Disturbed regions as in Heusel et al. 2017, https://arxiv.org/abs/1706.08500, figure 3. Of an odd number of rows the
    middle one goes with the lower half.
    """

    source: ClassVar[str] = "Heusel et al. 2017"

    class Hyperparameters(model.Hyperparameters):
        """All images by default."""

        severity: float = Field(1.0, ge=0, le=1, description="share of the images that is cut")

    hyperparameters: SwappedHalves.Hyperparameters

    def spoil(self, images: Float[Tensor, "n c h w"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Roll by half of the rows."""
        return _mixed(images, images.roll(-(images.shape[2] // 2), dims=2), self.hyperparameters.severity, rng)


class Outliers(HeldOut):
    """Real images, and some that are nothing but noise.

    Contamination as in Heusel et al. 2017, https://arxiv.org/abs/1706.08500, figure 3, and Naeem et al. 2020,
    https://arxiv.org/abs/2002.09797. An outlier has uniform noise in every pixel.
    """

    source: ClassVar[str] = "Heusel et al. 2017"

    class Hyperparameters(model.Hyperparameters):
        """One in ten."""

        severity: float = Field(0.1, ge=0, le=1, description="share of the images that is noise")

    hyperparameters: Outliers.Hyperparameters

    def spoil(self, images: Float[Tensor, "n c h w"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Replace a share."""
        noise = torch.rand(images.shape, generator=rng).to(images.device)
        return _mixed(images, noise, self.hyperparameters.severity, rng)


def _mixed(
    images: Float[Tensor, "n c h w"], spoilt: Float[Tensor, "n c h w"], share: float, rng: torch.Generator
) -> Float[Tensor, "n c h w"]:
    """Take each image from the second set with this probability, else from the first."""
    which = coins(len(images), share, rng).to(images.device)
    return torch.where(which.view(-1, 1, 1, 1), spoilt, images)
