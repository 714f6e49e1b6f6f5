"""Wasserstein GAN with gradient penalty: a critic held 1-Lipschitz by a term of its loss, not by clipping weights.

    L_C = D(x~) - D(x) + lambda (||grad_x^ D(x^)||_2 - 1)^2       eq. 3 of Gulrajani et al. 2017, means over the batch
    L_G = -D(x~)                                                  x~ = G(z), x^ on straight lines between x and x~

Players and symbols are those of `baselines.dcgan`, but that D is a critic: its output is a score, no logit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from baselines.dcgan import DCGAN
from baselines.gan import step
from baselines.networks import ConvolutionalDecoder, ConvolutionalEncoder
from bench import model
from bench.model import Progress, tunable


class WGANGP(DCGAN):
    """Wasserstein GAN with gradient penalty, conditional if asked for.

    Gulrajani et al. 2017, Improved Training of Wasserstein GANs, https://arxiv.org/abs/1704.00028

    From the paper (algorithm 1, with the DCGAN players of its section 5.1): penalty on interpolates, lambda 10, no batch
    norm in the critic, Adam with betas (0, 0.9), Gaussian z. Each call of `training_step` is one update of the critic on
    a batch of its own; every `critic_steps`-th call updates the generator too. `conditional` as in `DCGAN`.

    Departures, because a budget counts the critic's images: batches of 16 and 1 critic step in place of 64 and 5, under
    which 60,000 images would give the generator 187 updates; in the place of further steps the critic's learning rate
    is 2.5 times the generator's 0.0002 (two time scales, Heusel et al. 2017), and both fall to 0 in a straight line, as
    in the authors' CIFAR-10 code (knee X-rays, 30,000 images, features `domain`: Fréchet distance 13, and 67 at a
    constant 0.0005 for both). The generator's first batch norm is per unit of its grid. The preset `gulrajani` has the
    paper's numbers; its kernels stay 4x4. A moving average of weights is not scored unless asked for: on brain slices,
    at a constant rate of 0.0005, it blurred (30,000 images: 6 of the last weights, 93 of the average at 0.999).
    """

    family: ClassVar[str] = "gan"
    source: ClassVar[str] = "Gulrajani et al. 2017"
    compiles: ClassVar[bool] = False
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "optional"
    version: ClassVar[int] = 2
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "gulrajani": {
            "batch_size": 64,
            "critic_steps": 5,
            "learning_rate": 1e-4,
            "discriminator_rate": 1.0,
            "linear_decay": False,
            "width": 64,
        },
    }

    class Hyperparameters(model.Hyperparameters):
        """Defaults are the paper's but for those named above."""

        batch_size: int = Field(16, ge=2, description="images per critic step; the paper's 64")
        conditional: bool = Field(False, description="heed labels")
        latent_dim: int = tunable(128, low=16, high=256, log=True, ge=1, description="length of z")
        width: int = Field(32, ge=1, description="channels of the largest grid")
        critic_steps: int = Field(1, ge=1, description="updates of the critic for one of the generator; the paper's 5")
        penalty: float = tunable(10.0, low=1.0, high=30.0, log=True, ge=0, description="lambda")
        learning_rate: float = tunable(2e-4, low=5e-5, high=1e-3, log=True, gt=0, description="of the generator's Adam")
        discriminator_rate: float = tunable(
            2.5, low=0.5, high=8.0, log=True, gt=0, description="the critic's learning rate in units of the generator's"
        )
        linear_decay: bool = Field(True, description="learning rates fall to 0 over the budget, in a straight line")
        beta_1: float = Field(0.0, ge=0, lt=1, description="Adam's decay of the first moment")
        beta_2: float = Field(0.9, ge=0, lt=1, description="Adam's decay of the second moment")
        ema_decay: float | None = Field(
            None, gt=0, lt=1, description="score a moving average of weights; not the paper's"
        )

    def players(self, classes: int) -> tuple[Any, Any]:
        """Return the networks of G and of the critic, which has no batch norm: it must judge each image on its own."""
        hp = self.hyperparameters
        return (
            ConvolutionalDecoder(hp.latent_dim, self.shape, classes=classes, width=hp.width, batch_norm=True),
            ConvolutionalEncoder(self.shape, classes=classes, width=hp.width, activation=lambda: nn.LeakyReLU(0.2)),
        )

    def latents(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw n vectors z ~ N(0, I) on the CPU."""
        return torch.randn(n, self.hyperparameters.latent_dim, generator=rng)

    def training_step(
        self,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        optimizers: dict[str, Optimizer],
        progress: Progress,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        """One update of the critic and, every `critic_steps`-th call, one of the generator."""
        hp, x = self.hyperparameters, 2 * images - 1
        if hp.linear_decay:
            for group in itertools.chain.from_iterable(optimizer.param_groups for optimizer in optimizers.values()):
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * (1 - progress.fraction)
        with torch.no_grad():
            fake = self.G(self.latents(len(x), rng).to(x), labels)
        epsilon = torch.rand(len(x), generator=rng).to(x)
        penalty = gradient_penalty(lambda x_hat: self.D(x_hat, labels), x, fake, epsilon)
        distance = (self.D(x, labels) - self.D(fake, labels)).mean()
        step(optimizers["discriminator"], hp.penalty * penalty - distance)
        losses = {"distance": distance.detach(), "penalty": penalty.detach()}

        if (progress.step + 1) % hp.critic_steps == 0:
            self.freeze_discriminator(True)
            loss_g = -self.D(self.G(self.latents(len(x), rng).to(x), labels), labels).mean()
            step(optimizers["generator"], loss_g)
            self.freeze_discriminator(False)
            losses["generator"] = loss_g.detach()
        return losses


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Float[Tensor, "n c h w"],
    fake: Float[Tensor, "n c h w"],
    epsilon: Float[Tensor, " n"],
) -> Float[Tensor, ""]:
    """Return the mean of (||grad D(x^)||_2 - 1)^2 at x^ = epsilon x + (1 - epsilon) x~ (eq. 3, second term).

    The norm is over all channels and pixels of an image. For a linear critic D(x) = <w, x> it is (||w|| - 1)^2.
    """
    weight = epsilon[:, None, None, None]
    x_hat = (weight * real + (1 - weight) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x_hat).sum(), x_hat, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()
