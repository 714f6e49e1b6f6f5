"""What a generative family must provide, and nothing of how it is trained, scored or stored.

A family is one class: its hyper-parameters, its networks, its losses and its sampling. The harness owns the loop, the
device, the precision, seeds, checkpoints, moving averages and all measuring (`bench.fit`, `bench.run`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.optim import Optimizer

Shape = tuple[int, int, int]
"""Channels, height, width."""


class Progress(NamedTuple):
    """Where training stands when a step begins."""

    step: int
    images_seen: int
    fraction: float
    """Share of the budget used so far, in [0, 1)."""
    stage: str = ""
    """Name of the stage that this step belongs to, for families that declare `stages`."""


def tunable(
    default: Any,
    *,
    low: float,
    high: float,
    log: bool = False,
    when: Mapping[str, Any] | None = None,
    **constraints: Any,
) -> Any:
    """Declare a hyper-parameter with the source's default and the range that tuning searches.

    Args:
        default: the source's; within the range.
        low: where the range begins, a valid value itself.
        high: where it ends, likewise.
        log: search its logarithm.
        when: values of other hyper-parameters without which this one does nothing, and isn't searched.
        constraints: of pydantic's `Field`.
    """
    extra: dict[str, Any] = {"tune": {"low": low, "high": high, "log": log, "when": dict(when or {})}}
    return Field(default, json_schema_extra=extra, **constraints)


Widths = tuple[Annotated[int, Field(ge=1)], ...]
"""Channels or units of layers, one after the other."""


class Plateau(NamedTuple):
    """What happens when the validation loss stops falling; counted in validations, of which a training has 20."""

    factor: float
    """The learning rates are multiplied by it, in (0, 1]."""
    patience: int
    """Validations without a new minimum before that, and again after each."""
    stop: int
    """Validations without a new minimum before training ends early."""


class Hyperparameters(BaseModel):
    """Base of every family's hyper-parameters: frozen, no unknown keys, defaults from the source."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    batch_size: int = Field(64, ge=2, description="images per step")


class TrainableModel(nn.Module, ABC):
    """What the training loop needs of a model, whatever it makes: the base of `GenerativeModel` and `Translator`.

    Images are floats in [0, 1] of shape [n, channels, height, width]; labels are class indices. All randomness that a
    method uses on its own comes from the `rng` it is given, a CPU `torch.Generator`: draw there, then move.

    Args:
        shape: channels, height, width of one image.
        num_classes: number of classes, at least 1.
        hyperparameters: an instance of this class's `Hyperparameters`.
    """

    family: ClassVar[str]
    """ "vae", "gan", "hybrid", "diffusion", "translation" or "control"."""
    source: ClassVar[str]
    """Short citation of the method."""
    version: ClassVar[int] = 1
    """Raise it when a change of code changes what is trained: results of older versions are then trained anew."""
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "never"
    """Whether labels are heeded: 'optional' is chosen by the hyper-parameter `conditional`."""
    stages: ClassVar[dict[str, float]] = {}
    """Stages of training in order, each with its share of the budget; the shares add up to 1."""
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Hyper-parameters that reproduce a source exactly, by its name; a suite asks for them with `preset: NAME`."""

    fitted_on: ClassVar[Literal["training", "validation"]] = "training"
    """What `fit_direct` is given. 'validation' is for controls that spoil real images which nobody has learnt; the harness
    refuses it to everything that competes."""

    mixed_precision: ClassVar[bool] = False
    """Whether training may run under bfloat16 autocast where the machine gains from it."""
    mixed_sampling: ClassVar[bool] = False
    """Whether sampling may as well: for samplers of many steps, whose cost is the network's."""
    compiles: ClassVar[bool] = True
    """Whether its networks may be compiled: not where gradients are differentiated again, as in a gradient
    penalty, nor where it was seen to slow them down."""
    sampling_precision: str = "float32"
    """How this model draws, "float32" or "bfloat16"; set by the harness and kept with the training."""

    Hyperparameters: ClassVar[type[Hyperparameters]] = Hyperparameters

    def __init__(self, shape: Shape, num_classes: int, hyperparameters: Any) -> None:
        super().__init__()
        self.shape = shape
        self.num_classes = num_classes
        self.hyperparameters = hyperparameters

    @classmethod
    def heeds_labels(cls, hyperparameters: Any) -> bool:
        """Whether a model with these hyper-parameters would be conditional."""
        return cls.conditioning == "always" or (cls.conditioning == "optional" and bool(hyperparameters.conditional))

    @property
    def conditional(self) -> bool:
        """Whether what is made heeds its labels."""
        return self.heeds_labels(self.hyperparameters)

    @property
    def ema_decay(self) -> float | None:
        """Decay of the moving average of weights that the harness keeps and scores; none by default."""
        return None

    @property
    def averaged(self) -> tuple[str, ...]:
        """Attributes that the moving average covers: those that sampling needs; all by default."""
        return ()

    @property
    def plateau(self) -> Plateau | None:
        """The rule on the validation loss, where the source has one."""
        return None

    @property
    def trains(self) -> bool:
        """Whether the family is trained by steps; otherwise `fit_direct` is called once."""
        return type(self).training_step is not TrainableModel.training_step

    def configure_optimizers(self) -> dict[str, Optimizer]:
        """Return the optimisers by name; the harness keeps them and passes them to `training_step`."""
        return {}

    def training_step(
        self,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        optimizers: dict[str, Optimizer],
        progress: Progress,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        """Use one batch exactly once: compute losses, step the optimisers, return scalar losses by name (detached)."""
        raise TypeError(f"{type(self).__name__} has no training_step; it is fitted by fit_direct")

    def validation_loss(
        self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], rng: torch.Generator
    ) -> Tensor | None:
        """Return the mean loss per image that training minimises, or None where the family has no such number."""
        return None

    def fit_direct(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], rng: torch.Generator) -> None:
        """Fit in one call (closed forms and controls) from the whole training set, or what `fitted_on` says."""
        raise TypeError(f"{type(self).__name__} has no fit_direct; it is trained by training_step")


class GenerativeModel(TrainableModel):
    """A generative family: draws images from nothing but labels and random numbers."""

    @abstractmethod
    def sample(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw one image per label, in [0, 1]; an unconditional family uses only their number and device."""

    def reconstruct(
        self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"] | None:
        """Return the images as the model's encoder and decoder give them back, or None without an encoder."""
        return None

    def latents(self, n: int, rng: torch.Generator) -> Float[Tensor, "n ..."] | None:
        """Draw n latent vectors as `sample` does first; None for families without a space to walk through."""
        return None

    def from_latents(self, z: Float[Tensor, "n ..."], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return the image that belongs to each latent vector, without further chance, in [0, 1]."""
        raise TypeError(f"{type(self).__name__} has no latents")


class Translator(TrainableModel):
    """A family that turns images of one class into images of another; scored in a table of its own."""

    family: ClassVar[str] = "translation"
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "always"

    @abstractmethod
    def translate(
        self,
        images: Float[Tensor, "n c h w"],
        source: Int[Tensor, " n"],
        target: Int[Tensor, " n"],
        rng: torch.Generator,
    ) -> Float[Tensor, "n c h w"]:
        """Return each image as it would look in its target class, in [0, 1]."""
