"""One model per class of a family that knows no classes, seen from outside as one conditional model.

With it the table by class is complete for every family. The budget is shared in proportion to the classes' images, so
that all models together see as many images as any other family, and each of them as many epochs.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bench.model import GenerativeModel, Shape


class PerClass(GenerativeModel):
    """A model for each class.

    Args:
        family: what each is an instance of; built for one class.
        shape: channels, height, width.
        num_classes: how many.
        hyperparameters: the family's.
    """

    conditioning: ClassVar[Literal["always", "never", "optional"]] = "always"

    def __init__(self, family: type[GenerativeModel], shape: Shape, num_classes: int, hyperparameters: Any) -> None:
        super().__init__(shape, num_classes, hyperparameters)
        self.models = nn.ModuleList(family(shape, 1, hyperparameters) for _ in range(num_classes))

    def of_class(self, label: int) -> GenerativeModel:
        """Return the model of a class."""
        model = self.models[label]
        assert isinstance(model, GenerativeModel)
        return model

    @property
    def ema_decay(self) -> float | None:
        """That of each model."""
        return self.of_class(0).ema_decay

    def sample(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Let each class's model draw what is asked of it."""
        images = torch.empty(len(labels), *self.shape, device=labels.device)
        for label in labels.unique().tolist():
            chosen = labels == label
            images[chosen] = self.of_class(label).sample(torch.zeros_like(labels[chosen]), rng).float()
        return images

    def latents(self, n: int, rng: torch.Generator) -> Float[Tensor, "n ..."] | None:
        """Draw of the first class's model: they all have the same space."""
        return self.of_class(0).latents(n, rng)

    def from_latents(self, z: Float[Tensor, "n ..."], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Let each class's model decode its own."""
        images = torch.empty(len(labels), *self.shape, device=labels.device)
        for label in labels.unique().tolist():
            chosen = labels == label
            images[chosen] = self.of_class(label).from_latents(z[chosen], torch.zeros_like(labels[chosen])).float()
        return images

    def reconstruct(
        self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"] | None:
        """Let each class's model give back its images; None for families without an encoder."""
        returned = torch.empty_like(images)
        for label in labels.unique().tolist():
            chosen = labels == label
            part = self.of_class(label).reconstruct(images[chosen], torch.zeros_like(labels[chosen]))
            if part is None:
                return None
            returned[chosen] = part.float()
        return returned
