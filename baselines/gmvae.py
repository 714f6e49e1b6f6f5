"""VAE with a mixture of Gaussians as prior: classes found, not given.

p(c) = pi_c, p(z|c) = N(mu_c, diag(sigma_c^2))        learnt, K components
q(z|x), x^                                            as in `baselines.vae`
q(c|x) = p(c|z) = pi_c p(z|c) / sum_k pi_k p(z|k)     eq. 16 of Jiang et al. 2017, at the z that was drawn

loss = -log p(x|z) + beta [ sum_c q(c|x) KL(q(z|x) || p(z|c)) + KL(q(c|x) || p(c)) ]        eq. 12
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from baselines.vae import VAE
from bench.model import Shape, tunable


class GMVAE(VAE):
    """Variational autoencoder with a Gaussian-mixture prior, blind to labels.

    Jiang et al. 2017, Variational Deep Embedding, https://arxiv.org/abs/1611.05148, whose loss has a closed form given the
    posterior of c. Dilokthanakul et al. 2016, Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders,
    https://arxiv.org/abs/1611.02648, came before and has one more latent, from which a network makes the mixture.

    Departures: networks, noise scale, beta and Adam are those of `VAE`; component means start at N(0, 1) draws in place of
    a Gaussian mixture fitted to a pretrained autoencoder's codes.
    """

    source: ClassVar[str] = "Jiang et al. 2017"

    class Hyperparameters(VAE.Hyperparameters):
        """The VAE's and the number of components."""

        components: int = tunable(10, low=2, high=30, log=True, ge=1, description="K")

    hyperparameters: GMVAE.Hyperparameters

    def __init__(self, shape: Shape, num_classes: int, hyperparameters: GMVAE.Hyperparameters) -> None:
        super().__init__(shape, num_classes, hyperparameters)
        size = (hyperparameters.components, hyperparameters.latent_dim)
        self.logits = nn.Parameter(torch.zeros(size[0]))
        self.means = nn.Parameter(torch.randn(size))
        self.log_variances = nn.Parameter(torch.zeros(size))

    def losses(self, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"], rng: torch.Generator) -> dict[str, Tensor]:
        """Return the loss and its terms, means over the batch, from one z per image."""
        mu, log_variance = self.encode(x, y)
        z = mu + torch.exp(log_variance / 2) * torch.randn(mu.shape, generator=rng).to(mu)
        log_pi = self.logits.log_softmax(0)
        joint = log_pi + log_normal(z[:, None], self.means, self.log_variances)
        log_posterior = joint.log_softmax(1)
        reconstruction = self.reconstruction_loss(x, self.decode(z, y)).mean()
        kl = mixture_kl(mu, log_variance, log_posterior, log_pi, self.means, self.log_variances).mean()
        return {"loss": reconstruction + self.hyperparameters.beta * kl, "reconstruction": reconstruction, "kl": kl}

    @torch.no_grad()
    def latents(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw c ~ pi and z ~ p(z|c)."""
        c = torch.multinomial(self.logits.softmax(0).cpu(), n, replacement=True, generator=rng)
        epsilon = torch.randn(n, self.means.shape[1], generator=rng).to(self.means)
        c = c.to(self.means.device)
        return self.means[c] + torch.exp(self.log_variances[c] / 2) * epsilon


def log_normal(
    z: Float[Tensor, "... d"], mu: Float[Tensor, "... d"], log_variance: Float[Tensor, "... d"]
) -> Float[Tensor, "..."]:
    """Return log N(z; mu, sigma^2), summed over the last axis."""
    return -0.5 * (math.log(2 * math.pi) + log_variance + (z - mu).square() * torch.exp(-log_variance)).sum(-1)


def mixture_kl(
    mu: Float[Tensor, "n d"],
    log_variance: Float[Tensor, "n d"],
    log_posterior: Float[Tensor, "n k"],
    log_pi: Float[Tensor, " k"],
    means: Float[Tensor, "k d"],
    log_variances: Float[Tensor, "k d"],
) -> Float[Tensor, " n"]:
    """KL(q(z|x) q(c|x) || p(z|c) p(c)) of each image, in closed form (Jiang et al. 2017, eq. 12, its last four terms)."""
    variance = torch.exp(log_variance)[:, None]
    squared = (mu[:, None] - means).square()
    difference = log_variances - log_variance[:, None]
    per_component = 0.5 * (difference + (variance + squared) * torch.exp(-log_variances) - 1).sum(-1)
    return (log_posterior.exp() * (per_component + log_posterior - log_pi)).sum(1)
