"""Deep convolutional GAN: the rules of Radford et al. that made adversarial training of convolutions stable.

The game, its losses and symbols are those of `baselines.gan`; the players are convolutional here.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from baselines.gan import GAN
from baselines.networks import ConvolutionalDecoder, ConvolutionalEncoder
from bench import model
from bench.model import Shape, tunable


class DCGAN(GAN):
    """Deep convolutional GAN, conditional if asked for.

    Radford, Metz & Chintala 2016, Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
    Networks, https://arxiv.org/abs/1511.06434; losses of Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661.

    From the paper: strided and transposed convolutions in place of pooling; batch norm in both networks except at the
    generator's output and the discriminator's input; ReLU and tanh in the generator, LeakyReLU 0.2 in the discriminator;
    no hidden fully connected layers; weights from N(0, 0.02); Adam with learning rate 0.0002 and beta_1 0.5; 100 uniform
    latents. `conditional` joins the one-hot label to z and, as constant channels, to the discriminator's input (Mirza &
    Osindero 2014).

    Departures: 4x4 kernels in place of 5x5 (a multiple of the stride, hence no checkerboard); a quarter of the paper's
    channels (256 to 32 in place of 1024 to 128), the width of every convolutional family here; the generator's first
    batch norm is per unit of its grid, not per channel; both players' updates from one draw of z, as in `GAN`; batches of
    64 in place of 128, because a budget counts images and half the updates are too few for it.
    """

    family: ClassVar[str] = "gan"
    source: ClassVar[str] = "Radford et al. 2016"
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "optional"
    version: ClassVar[int] = 3

    class Hyperparameters(model.Hyperparameters):
        """Defaults are the paper's but for `batch_size` and `width`."""

        batch_size: int = Field(64, ge=2, description="images per step; the paper's 128")
        conditional: bool = Field(False, description="heed labels")
        latent_dim: int = tunable(100, low=16, high=256, log=True, ge=1, description="length of z")
        width: int = Field(32, ge=1, description="channels of the largest grid; the paper's 128")
        learning_rate: float = tunable(2e-4, low=5e-5, high=1e-3, log=True, gt=0, description="of the generator's Adam")
        discriminator_rate: float = tunable(
            1.0,
            low=0.25,
            high=4.0,
            log=True,
            gt=0,
            description="the discriminator's learning rate in units of the generator's",
        )
        beta_1: float = tunable(0.5, low=0.0, high=0.9, ge=0, lt=1, description="Adam's decay of the first moment")
        beta_2: float = Field(0.999, ge=0, lt=1, description="Adam's decay of the second moment")
        ema_decay: float | None = Field(
            None, gt=0, lt=1, description="score a moving average of weights; not the paper's"
        )

    def __init__(self, shape: Shape, num_classes: int, hyperparameters: Any) -> None:
        super().__init__(shape, num_classes, hyperparameters)
        self.apply(initialise)

    def players(self, classes: int) -> tuple[Any, Any]:
        """Return the networks of G and D."""
        hp = self.hyperparameters
        return (
            ConvolutionalDecoder(hp.latent_dim, self.shape, classes=classes, width=hp.width, batch_norm=True),
            ConvolutionalEncoder(
                self.shape,
                classes=classes,
                width=hp.width,
                batch_norm=True,
                activation=lambda: nn.LeakyReLU(0.2),
            ),
        )


def initialise(module: nn.Module) -> None:
    """Weights of (transposed) convolutions and linear layers from N(0, 0.02), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
