"""Deep convolutional GAN: the rules of Radford et al. that made adversarial training of convolutions stable.

z           ~ U(-1, 1)^latent_dim
G(z)        image in [-1, 1] (tanh); images in [0, 1] are mapped to that range and samples back from it
D(x)        logit of 'x is real'; the sigmoid is part of the losses
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from baselines.networks import ConvolutionalDecoder, ConvolutionalEncoder
from bench import model
from bench.model import GenerativeModel, Progress, Shape, tunable


class DCGAN(GenerativeModel):
    """Deep convolutional GAN, blind to labels.

    Radford, Metz & Chintala 2016, Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
    Networks, https://arxiv.org/abs/1511.06434; losses of Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661.

    From the paper: strided and transposed convolutions in place of pooling; batch norm in both networks except at the
    generator's output and the discriminator's input; ReLU and tanh in the generator, LeakyReLU 0.2 in the discriminator;
    no hidden fully connected layers; weights from N(0, 0.02); Adam with learning rate 0.0002 and beta_1 0.5; 100 uniform
    latents.

    Departures: 4x4 kernels in place of 5x5 (a multiple of the stride, hence no checkerboard); a quarter of the paper's
    channels (256 to 32 in place of 1024 to 128), the width of every convolutional family here; batches of 64 in place
    of 128, because a budget counts images and half the updates are too few for it.
    """

    family: ClassVar[str] = "gan"
    source: ClassVar[str] = "Radford et al. 2016"
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "never"

    class Hyperparameters(model.Hyperparameters):
        """Defaults are the paper's but for `batch_size` and `width`."""

        batch_size: int = Field(64, ge=2, description="images per step; the paper's 128")
        latent_dim: int = Field(100, ge=1, description="length of z")
        width: int = Field(32, ge=1, description="channels of the largest grid; the paper's 128")
        learning_rate: float = tunable(2e-4, low=5e-5, high=1e-3, log=True, gt=0, description="of both Adams")
        beta_1: float = tunable(0.5, low=0.0, high=0.9, ge=0, lt=1, description="Adam's decay of the first moment")
        ema_decay: float | None = Field(
            None, gt=0, lt=1, description="score a moving average of weights; not the paper's"
        )

    hyperparameters: DCGAN.Hyperparameters

    def __init__(self, shape: Shape, num_classes: int, hyperparameters: DCGAN.Hyperparameters) -> None:
        super().__init__(shape, num_classes, hyperparameters)
        hp, classes = hyperparameters, num_classes if self.conditional else 0
        self.generator = ConvolutionalDecoder(
            hp.latent_dim, shape, classes=classes, width=hp.width, batch_norm=True, activation=nn.ReLU
        )
        self.discriminator = ConvolutionalEncoder(
            shape, classes=classes, width=hp.width, batch_norm=True, activation=lambda: nn.LeakyReLU(0.2)
        )
        self.to_logit = nn.Linear(self.discriminator.features, 1)
        self.apply(initialise)

    @property
    def ema_decay(self) -> float | None:
        """None unless asked for: the paper scores the last weights."""
        return self.hyperparameters.ema_decay

    def G(self, z: Float[Tensor, "n d"], y: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:  # noqa: N802
        """Return images in [-1, 1]."""
        return torch.tanh(self.generator(z, y))

    def D(self, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:  # noqa: N802
        """Return the logit that each image in [-1, 1] is real."""
        return self.to_logit(self.discriminator(x, y)).squeeze(1)

    def latents(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw n vectors z, uniform in [-1, 1], on the CPU."""
        return 2 * torch.rand(n, self.hyperparameters.latent_dim, generator=rng) - 1

    def configure_optimizers(self) -> dict[str, Optimizer]:
        """One Adam for each player."""
        hp = self.hyperparameters
        players: dict[str, list[nn.Module]] = {
            "discriminator": [self.discriminator, self.to_logit],
            "generator": [self.generator],
        }
        return {
            name: Adam(nn.ModuleList(networks).parameters(), lr=hp.learning_rate, betas=(hp.beta_1, 0.999), fused=True)
            for name, networks in players.items()
        }

    def training_step(
        self,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        optimizers: dict[str, Optimizer],
        progress: Progress,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        """Update the discriminator, then the generator on the same z (Goodfellow et al. 2014, algorithm 1 with k = 1)."""
        x = 2 * images - 1
        fake = self.G(self.latents(len(x), rng).to(x), labels)

        loss_d = discriminator_loss(self.D(x, labels), self.D(fake.detach(), labels))
        optimizers["discriminator"].zero_grad()
        loss_d.backward()
        optimizers["discriminator"].step()

        self._freeze_discriminator(True)  # saves its weights' gradients, a third of this backward pass
        loss_g = generator_loss(self.D(fake, labels))
        optimizers["generator"].zero_grad()
        loss_g.backward()
        optimizers["generator"].step()
        self._freeze_discriminator(False)
        return {"discriminator": loss_d.detach(), "generator": loss_g.detach()}

    def _freeze_discriminator(self, frozen: bool) -> None:
        self.discriminator.requires_grad_(not frozen)
        self.to_logit.requires_grad_(not frozen)

    @torch.no_grad()
    def sample(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw one image per label, whatever the label, in [0, 1]."""
        return (self.G(self.latents(len(labels), rng).to(labels.device), labels) + 1) / 2


def discriminator_loss(real: Float[Tensor, " n"], fake: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """-log D(x) - log(1 - D(G(z))) of logits, mean over the batch: eq. 1 of Goodfellow et al. 2014, negated."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """-log D(G(z)) of logits, mean over the batch: the non-saturating loss of Goodfellow et al. 2014, section 3."""
    return F.softplus(-fake).mean()


def initialise(module: nn.Module) -> None:
    """Weights of (transposed) convolutions and linear layers from N(0, 0.02), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
