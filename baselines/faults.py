"""Fault controls: real images with exactly one thing wrong, so that a table can show which measure sees what.

What a fault is done to decides what can be learnt. Done to training images every fault is copying as well, and memorisation
would see them all. So these controls spoil real *validation* images (`fitted_on`): real, of the classes asked for, of
subjects that no training image shows. Without the fault they are the row `floor_validation`, which is `held_out` here; any
difference between a fault's row and the floors is the fault's own. This needs no process that can be drawn from and so
works on patients' images as it does on the phantom. Two faults are copying itself and keep to the training images:
`training_copy` (baselines.controls) and `near_copy`.

Here are the faults of a set, whose images are all good ones; `baselines.image_faults` has those of the images. Every fault
has a `severity`, of which 0 means none. Nothing is trained.

The faults are those by which others have examined measures: Heusel et al. 2017, figure 3 (noise, blur, disturbed regions,
contamination), Xu et al. 2018 (collapsed and dropped modes, shifts, memorising), Naeem et al. 2020 (outliers, dropped
modes), Shmelkov et al. 2018 (labels). What each measure is said to see stands in `bench.report.faults`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from baselines.controls import TrainingCopy
from bench import model


class HeldOut(TrainingCopy):
    """Real validation images as they are: nothing is wrong, and whoever sees a fault here sees ghosts.

    The null of Xu et al. 2018, An Empirical Study on Evaluation Metrics of Generative Adversarial Networks,
    https://arxiv.org/abs/1806.07755: real images against real images of the same distribution. Subclasses change
    what is asked for (`wanted`) or what is given (`spoil`).
    """

    source: ClassVar[str] = "Xu et al. 2018"
    fitted_on: ClassVar[Literal["training", "validation"]] = "validation"

    def sample(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw one image per label without replacement, and spoil it."""
        return self.spoil(super().sample(self.wanted(labels, rng), rng), rng).clamp(0, 1)

    def wanted(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Int[Tensor, " n"]:
        """Return the class that is given in place of the one asked for."""
        return labels

    def spoil(self, images: Float[Tensor, "n c h w"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Return what becomes of real images; need not keep to [0, 1]."""
        return images


class NearCopy(TrainingCopy):
    """Training images with a little noise and another brightness, which hides a copy from a comparison of bytes.

    Xu et al. 2018, https://arxiv.org/abs/1806.07755, and Carlini et al. 2023, https://arxiv.org/abs/2301.13188: what
    models memorise comes back nearly, not exactly.
    """

    source: ClassVar[str] = "Xu et al. 2018"

    class Hyperparameters(model.Hyperparameters):
        """Severity 0 is `training_copy`."""

        severity: float = Field(
            0.01, ge=0, le=1, description="deviation of the noise; brightness changes by up to twice as much"
        )

    hyperparameters: NearCopy.Hyperparameters

    def sample(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw training images and disguise them."""
        s, images = self.hyperparameters.severity, super().sample(labels, rng)
        return noisy(brightened(images, 2 * s, rng), s, rng).clamp(0, 1)


class OneMode(HeldOut):
    """One mode a class: only the images that lie nearest to one image of it, in slightly changing brightness.

    Mode collapse as Xu et al. 2018, https://arxiv.org/abs/1806.07755, simulate it. The one image is drawn at
    random, near is by squared pixel differences. Brightness changes by up to 2 %, as within one subject, so that no two
    images are equal to the bit: `few_images` is that.
    """

    class Hyperparameters(model.Hyperparameters):
        """At least two images of each class remain."""

        severity: float = Field(0.9, ge=0, lt=1, description="share of each class's images that never comes")

    hyperparameters: OneMode.Hyperparameters

    def fit_direct(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], rng: torch.Generator) -> None:
        """Keep what lies nearest to one image of each class."""
        kept = []
        for own in _by_class(labels, self.num_classes):
            centre = images[own[int(torch.randint(len(own), (1,), generator=rng))]]
            distances = (images[own] - centre).square().flatten(1).sum(1)
            kept.append(own[distances.argsort(stable=True)[: self._left(len(own))]])
        left = torch.cat(kept)
        super().fit_direct(images[left], labels[left], rng)

    def _left(self, count: int) -> int:
        return min(count, max(2, round(count * (1 - self.hyperparameters.severity))))

    def spoil(self, images: Float[Tensor, "n c h w"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Change the brightness a little, unless nothing is wrong."""
        return brightened(images, 0.02, rng) if self.hyperparameters.severity else images


class FewImages(OneMode):
    """A few images of each class, chosen at random, over and over: no new image comes.

    Repetition as Xu et al. 2018, https://arxiv.org/abs/1806.07755, call memorising few samples. Unlike `one_mode` they lie
    all over their class, and return to the bit.
    """

    def fit_direct(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], rng: torch.Generator) -> None:
        """Keep a few of each class."""
        owned = _by_class(labels, self.num_classes)
        kept = [own[torch.randperm(len(own), generator=rng)[: self._left(len(own))].to(own.device)] for own in owned]
        left = torch.cat(kept)
        HeldOut.fit_direct(self, images[left], labels[left], rng)

    def spoil(self, images: Float[Tensor, "n c h w"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Change nothing."""
        return images


class MissingClasses(HeldOut):
    """Half of the classes never come: who asks for one gets images of the others.

    Dropped modes as in Naeem et al. 2020, https://arxiv.org/abs/2002.09797, where one mode after the other is
    left out. The last classes are missing; in their place come images of the first ones in turn. Of a single class nothing
    is missing.
    """

    source: ClassVar[str] = "Naeem et al. 2020"

    class Hyperparameters(model.Hyperparameters):
        """At least one class remains."""

        severity: float = Field(0.5, ge=0, lt=1, description="share of the classes that is missing, rounded down")

    hyperparameters: MissingClasses.Hyperparameters

    def wanted(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Int[Tensor, " n"]:
        """Replace missing classes by the remaining ones."""
        left = self.num_classes - int(self.num_classes * self.hyperparameters.severity)
        return torch.where(labels < left, labels, labels % left)


class ShuffledLabels(HeldOut):
    """Good images under wrong labels: a share of the images heeds no label and is drawn from all.

    Shmelkov, Schmid & Alahari 2018, How Good Is My GAN?, https://arxiv.org/abs/1807.09499: a conditional model may draw fine
    images of the wrong class, which no score of all images together shows. Those images come in the classes' proportions
    among the real ones, so that the whole set stays as it should be.
    """

    source: ClassVar[str] = "Shmelkov et al. 2018"

    class Hyperparameters(model.Hyperparameters):
        """At 1 labels mean nothing."""

        severity: float = Field(0.5, ge=0, le=1, description="share of the images that heeds no label")

    hyperparameters: ShuffledLabels.Hyperparameters

    def wanted(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Int[Tensor, " n"]:
        """Draw the class of a share of the images anew."""
        anew = coins(len(labels), self.hyperparameters.severity, rng).to(labels.device)
        drawn = torch.randint(len(self.labels), labels.shape, generator=rng).to(labels.device)
        return torch.where(anew, self.labels[drawn], labels)


def _by_class(labels: Int[Tensor, " n"], num_classes: int) -> list[Tensor]:
    """Return the positions of every class's images; a class without any is refused later, by name."""
    return [own for label in range(num_classes) if len(own := torch.nonzero(labels == label).squeeze(1))]


def coins(count: int, share: float, rng: torch.Generator) -> Tensor:
    """Throw `count` coins that say yes with this probability."""
    return torch.rand(count, generator=rng) < share


def brightened(images: Float[Tensor, "n c h w"], up_to: float, rng: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Multiply each image by a factor of its own in [1 - up_to, 1 + up_to]."""
    factors = 1 + up_to * (2 * torch.rand(len(images), 1, 1, 1, generator=rng) - 1)
    return images * factors.to(images.device)


def noisy(images: Float[Tensor, "n c h w"], deviation: float, rng: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Add Gaussian noise, drawn on the CPU."""
    return images + deviation * torch.randn(images.shape, generator=rng).to(images.device)
