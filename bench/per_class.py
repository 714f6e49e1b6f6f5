"""One model per class of a family that knows no classes, seen from outside as one conditional model.

With it the table by class is complete for every family. The budget is shared in proportion to the classes' images, so
that all models together see as many images as any other family, and each of them as many epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bench.errors import InputError
from bench.fit import Budget, Fitted
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


def fit_per_class(
    model: PerClass,
    labels: np.ndarray,
    training: np.ndarray,
    validation: np.ndarray,
    class_names: tuple[str, ...],
    budget: Budget,
    fit_one: Callable[[GenerativeModel, np.ndarray, np.ndarray, Budget, str, float, float], Fitted],
) -> Fitted:
    """Fit one model after the other and join what is told of them; losses are named 'class/loss'.

    Args:
        model: whose models are to be trained.
        labels: of all images.
        training: indices of the training split.
        validation: indices of the validation split.
        class_names: by label.
        budget: of all together.
        fit_one: called with a model, its training and validation indices, its budget, its class's name, and the share
            of the budget that was used before it and that it may use.

    Raises:
        InputError: a class has fewer than two training images or no validation image.
    """
    counts = np.bincount(labels[training], minlength=len(class_names))
    joined, used = Fitted(), 0.0
    ends = np.round(np.cumsum(counts) / counts.sum() * (budget.images_seen or 0)).astype(int)
    for label, name in enumerate(class_names):
        own, held = training[labels[training] == label], validation[labels[validation] == label]
        if len(own) < 2 or not len(held):
            raise InputError(f"unconditional: per_class needs two training images and a validation image of {name!r}")
        share = counts[label] / counts.sum()
        images = int(ends[label] - (ends[label - 1] if label else 0)) if budget.images_seen else None
        part = Budget(max(2, images) if images is not None else None, budget.seconds and budget.seconds * share)
        fitted = fit_one(model.of_class(label), own, held, part, name, used, share)
        joined.losses += [
            (step + joined.steps, seen + joined.images_seen, split, f"{name}/{loss}", value)
            for step, seen, split, loss, value in fitted.losses
        ]
        joined.steps += fitted.steps
        joined.images_seen += fitted.images_seen
        joined.seconds += fitted.seconds
        used += share
    model.eval()
    return joined
