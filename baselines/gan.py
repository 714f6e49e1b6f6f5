"""Generative adversarial networks: the game of two players, blind to labels or not.

z           ~ p(z)
G(z, y)     image in [-1, 1] (tanh); images in [0, 1] are mapped to that range and samples back from it
D(x, y)     logit of 'x is real'; the sigmoid is part of the losses

    D ascends   log D(x) + log(1 - D(G(z)))         eq. 1 of Goodfellow et al. 2014
    G ascends   log D(G(z))                         the non-saturating form, section 3

`GAN` holds the algorithm with fully connected players; the families built on it change the players or the losses.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from baselines.networks import DenseDecoder, DenseEncoder
from bench import model
from bench.model import GenerativeModel, Progress, Shape, Widths, tunable


class GAN(GenerativeModel):
    """Generative adversarial network with fully connected players, blind to labels.

    Goodfellow et al. 2014, Generative Adversarial Nets, https://arxiv.org/abs/1406.2661

    From the paper: the game (algorithm 1 with k = 1, non-saturating), fully connected players, uniform z. Departures, all
    of them today's practice: Adam in place of SGD with momentum, on two time scales (Heusel et al. 2017) with the rates of
    Zhang et al. 2019, 0.0001 and 0.0004, and beta_1 0: at one rate, 0.0002 with beta_1 0.5, the discriminator lost touch
    and the distance on brain slices was up to five times as large; LeakyReLU in place of maxout, batch norm in the
    generator, tanh in place of the sigmoid, a moving average of weights; both players' updates from one draw of z, where
    algorithm 1 draws anew; batches of 16 in place of 100, because a budget counts images; no dropout unless asked for (0.3
    tripled that distance).
    """

    family: ClassVar[str] = "gan"
    source: ClassVar[str] = "Goodfellow et al. 2014"
    mixed_precision: ClassVar[bool] = True
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "never"

    class Hyperparameters(model.Hyperparameters):
        """Shared by the two fully connected ones."""

        batch_size: int = Field(16, ge=2, description="images per step; the paper's 100")
        latent_dim: int = tunable(100, low=16, high=256, log=True, ge=1, description="length of z")
        dense_widths: Widths = Field(
            (1024, 1024), min_length=1, description="discriminator's widths; the generator's reversed"
        )
        dropout: float = Field(0.0, ge=0, lt=1, description="in the discriminator")
        learning_rate: float = tunable(1e-4, low=2e-5, high=1e-3, log=True, gt=0, description="of the generator's Adam")
        discriminator_rate: float = tunable(
            4.0,
            low=0.5,
            high=8.0,
            log=True,
            gt=0,
            description="the discriminator's learning rate in units of the generator's",
        )
        beta_1: float = tunable(0.0, low=0.0, high=0.9, ge=0, lt=1, description="Adam's decay of the first moment")
        beta_2: float = Field(0.999, ge=0, lt=1, description="Adam's decay of the second moment")
        ema_decay: float | None = Field(
            0.999, gt=0, lt=1, description="score a moving average of weights; not the paper's"
        )

    hyperparameters: Any  # each family's own, which has at least what is read here

    def __init__(self, shape: Shape, num_classes: int, hyperparameters: Any) -> None:
        super().__init__(shape, num_classes, hyperparameters)
        self.generator, self.discriminator = self.players(num_classes if self.conditional else 0)
        self.to_logit = nn.Linear(self.discriminator.features, 1)

    def players(self, classes: int) -> tuple[Any, Any]:
        """Return the networks of G (vectors, labels -> image logits) and D (images, labels -> features)."""
        hp = self.hyperparameters
        return (
            DenseDecoder(hp.latent_dim, self.shape, classes=classes, widths=hp.dense_widths, batch_norm=True),
            DenseEncoder(
                self.shape,
                classes=classes,
                widths=hp.dense_widths,
                activation=lambda: nn.LeakyReLU(0.2),
                dropout=hp.dropout,
            ),
        )

    @property
    def ema_decay(self) -> float | None:
        """Decay of the scored moving average."""
        return self.hyperparameters.ema_decay

    @property
    def averaged(self) -> tuple[str, ...]:
        """The generator alone: nobody asks the discriminator afterwards."""
        return ("generator",)

    def G(self, z: Float[Tensor, "n d"], y: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:  # noqa: N802
        """Return images in [-1, 1]."""
        return torch.tanh(self.generator(z, y).float())

    def D(self, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:  # noqa: N802
        """Return the logit that each image in [-1, 1] is real."""
        return self.to_logit(self.discriminator(x, y)).squeeze(1).float()

    def latents(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw n vectors z, uniform in [-1, 1], on the CPU."""
        return 2 * torch.rand(n, self.hyperparameters.latent_dim, generator=rng) - 1

    def configure_optimizers(self) -> dict[str, Optimizer]:
        """One Adam for each player, each with its own learning rate (two time scales where they differ)."""
        hp = self.hyperparameters
        rates = {"discriminator": hp.learning_rate * hp.discriminator_rate, "generator": hp.learning_rate}
        players = {
            "discriminator": nn.ModuleList([self.discriminator, self.to_logit]),
            "generator": nn.ModuleList([self.generator]),
        }
        return {
            name: Adam(networks.parameters(), lr=rates[name], betas=(hp.beta_1, hp.beta_2), fused=True)
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
        """Update the discriminator, then the generator on the same z (algorithm 1 with k = 1)."""
        x = 2 * images - 1
        fake = self.G(self.latents(len(x), rng).to(x), labels)

        loss_d = discriminator_loss(self.D(x, labels), self.D(fake.detach(), labels))
        step(optimizers["discriminator"], loss_d)

        self.freeze_discriminator(True)  # saves its weights' gradients, a third of this backward pass
        loss_g = generator_loss(self.D(fake, labels))
        step(optimizers["generator"], loss_g)
        self.freeze_discriminator(False)
        return {"discriminator": loss_d.detach(), "generator": loss_g.detach()}

    def freeze_discriminator(self, frozen: bool) -> None:
        """Leave the discriminator out of gradients, or take it in again."""
        self.discriminator.requires_grad_(not frozen)
        self.to_logit.requires_grad_(not frozen)

    @torch.no_grad()
    def sample(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw one image per label, in [0, 1]."""
        return self.from_latents(self.latents(len(labels), rng).to(labels.device), labels)

    @torch.no_grad()
    def from_latents(self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return G(z, y) in [0, 1]."""
        return (self.G(z, labels) + 1) / 2


class ConditionalGAN(GAN):
    """The GAN with the one-hot label joined to z and to the discriminator's input.

    Mirza & Osindero 2014, Conditional Generative Adversarial Nets, https://arxiv.org/abs/1411.1784 (eq. 2). Departures as
    in `GAN`; the paper passes z and y through a layer of their own each before it joins them.
    """

    source: ClassVar[str] = "Mirza & Osindero 2014"
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "always"


def step(optimizer: Optimizer, loss: Tensor) -> None:
    """One step of gradient descent on the loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def discriminator_loss(real: Float[Tensor, " n"], fake: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """-log D(x) - log(1 - D(G(z))) of logits, mean over the batch: eq. 1 of Goodfellow et al. 2014, negated."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """-log D(G(z)) of logits, mean over the batch: the non-saturating loss of Goodfellow et al. 2014, section 3."""
    return F.softplus(-fake).mean()
