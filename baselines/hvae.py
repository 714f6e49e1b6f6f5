"""Hamiltonian VAE: the posterior's draw is carried on by a few leapfrog steps towards where the model puts its mass.

    U(z)        -log p(x, z) = -log p(x|z) - log N(z; 0, I)
    H_0         z_0 ~ q(z|x), rho_0 = gamma_0 / sqrt(b_0), gamma_0 ~ N(0, I)
    leapfrog    rho <- rho - e/2 grad U(z);  z <- z + e rho;  rho <- rho - e/2 grad U(z)
    tempering   after step k: rho <- sqrt(b_(k-1) / b_k) rho, from b_0 to b_K = 1

    loss = U(z_K) + |rho_K|^2 / 2 + log q(z_0|x) - |gamma_0|^2 / 2        minus the bound of eq. 9, constants left out

The map from (z_0, gamma_0) to (z_K, rho_K) keeps volume but for the tempering, whose factor is the one by which rho_0's
density differs from gamma_0's: that is why gamma_0 stands in the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from baselines.gmvae import log_normal
from baselines.vae import VAE
from bench.model import Shape, tunable

LARGEST_STEP = 0.5
"""Step sizes are learnt below this, as in the paper's code."""


class HVAE(VAE):
    """Hamiltonian variational autoencoder, blind to labels.

    Caterini, Doucet & Sejdinovic 2018, Hamiltonian Variational Auto-Encoder, https://arxiv.org/abs/1805.11328

    From the paper: algorithm 1 with learnt step sizes (one per latent) and fixed quadratic tempering with a learnt b_0.
    Departures: networks, noise scale and Adam are those of `VAE`; beta, which would weigh the prior, must be 1.
    """

    source: ClassVar[str] = "Caterini et al. 2018"

    class Hyperparameters(VAE.Hyperparameters):
        """The VAE's and the flow's."""

        beta: float = Field(1.0, ge=1, le=1, description="fixed: the bound has no weight")
        batch_norm: Literal[False] = Field(False, description="never: U(z) of an image would depend on the others")
        leapfrog_steps: int = Field(3, ge=1, le=20, description="K")
        step_size: float = tunable(
            0.02, low=0.005, high=0.1, log=True, gt=0, lt=LARGEST_STEP, description="where the learnt step sizes begin"
        )
        tempering: float = tunable(0.8, low=0.3, high=0.98, gt=0, lt=1, description="sqrt(b_0), where it begins")

    hyperparameters: HVAE.Hyperparameters

    def __init__(self, shape: Shape, num_classes: int, hyperparameters: HVAE.Hyperparameters) -> None:
        super().__init__(shape, num_classes, hyperparameters)
        share = torch.tensor(hyperparameters.step_size / LARGEST_STEP)
        self.step_logits = nn.Parameter(torch.logit(share).repeat(hyperparameters.latent_dim))
        self.tempering_logit = nn.Parameter(torch.logit(torch.tensor(hyperparameters.tempering)))

    def potential(self, x: Float[Tensor, "n c h w"], z: Float[Tensor, "n d"], y: Int[Tensor, " n"]) -> Tensor:
        """Return U(z) of each image, up to a constant."""
        return self.reconstruction_loss(x, self.decode(z, y)) - log_normal(z, torch.zeros_like(z), torch.zeros_like(z))

    def losses(self, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"], rng: torch.Generator) -> dict[str, Tensor]:
        """Return the loss, and as 'reconstruction' -log p(x|z_K), means over the batch."""
        mu, log_variance = self.encode(x, y)
        noise = torch.randn(2, *mu.shape, generator=rng).to(mu)
        z_0 = mu + torch.exp(log_variance / 2) * noise[0]
        gamma_0 = noise[1]
        z, rho = self.flow(x, y, z_0, gamma_0)
        reconstruction = self.reconstruction_loss(x, self.decode(z, y))
        kinetic = (rho.square().sum(1) - gamma_0.square().sum(1)) / 2
        zeros = torch.zeros_like(z)
        divergence = log_normal(z_0, mu, log_variance) - log_normal(z, zeros, zeros) + kinetic
        loss = (reconstruction + divergence).mean()
        return {"loss": loss, "reconstruction": reconstruction.mean(), "kl": divergence.mean()}

    def flow(
        self, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"], z: Float[Tensor, "n d"], gamma: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Carry (z_0, gamma_0) to (z_K, rho_K): K leapfrog steps with tempering (algorithm 1)."""
        steps = self.hyperparameters.leapfrog_steps
        size = LARGEST_STEP * torch.sigmoid(self.step_logits)
        roots = tempering(torch.sigmoid(self.tempering_logit), steps)

        def gradient(z: Tensor) -> Tensor:
            with torch.enable_grad():  # validation runs without
                z = z if z.requires_grad else z.detach().requires_grad_()
                return torch.autograd.grad(self.potential(x, z, y).sum(), z, create_graph=self.training)[0]

        rho = gamma / roots[0]
        for k in range(1, steps + 1):
            z, rho = leapfrog(z, rho, size, gradient)
            rho = rho * roots[k - 1] / roots[k]
        return z, rho


def leapfrog(
    z: Float[Tensor, "n d"], rho: Float[Tensor, "n d"], size: Tensor, gradient: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """One leapfrog step of Hamiltonian dynamics with unit mass: reversible and volume-preserving."""
    rho = rho - size / 2 * gradient(z)
    z = z + size * rho
    return z, rho - size / 2 * gradient(z)


def tempering(root: Tensor, steps: int) -> Float[Tensor, " k"]:
    """Return sqrt(b_0) to sqrt(b_K) = 1 of the fixed quadratic schedule (Caterini et al. 2018, section 3.1)."""
    k = torch.arange(steps + 1, device=root.device, dtype=root.dtype)
    return 1 / ((1 - 1 / root) * k.square() / steps**2 + 1 / root)
