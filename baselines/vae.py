"""Variational autoencoders: one objective, its terms, and what the variants change of it.

    x, y              image in [0, 1] and its label
    q(z|x,y)          N(mu, diag(sigma^2)), from the encoder
    p(z)              N(0, I)
    p(x|z,y)          noise of scale s around x_hat = decoder(z, y), with a sigmoid at the end

    loss = -log p(x|z,y) + beta KL(q(z|x,y) || p(z))      summed over pixels and latents, mean over images

With beta = 1 this is the negative evidence lower bound, up to a constant. The scale s is what 'sum or mean' and 'which
weight' come down to in other codes: s = 1 is half the summed squared error, under which images in [0, 1] are so cheap to
get wrong that the latents collapse onto the prior; a small s leaves holes in the prior, from which nothing good is drawn.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from baselines import networks
from bench import model
from bench.model import GenerativeModel, Progress, Shape, Widths, tunable


class VAE(GenerativeModel):
    """Variational autoencoder with Gaussian likelihood (squared error), blind to labels.

    Kingma & Welling 2014, Auto-Encoding Variational Bayes, https://arxiv.org/abs/1312.6114

    From the paper: reparameterised Gaussian posterior, KL in closed form (appendix B), fully connected networks. Widths,
    latents and noise scale, which depend on the data, are the same for every autoencoder here; the convolutional
    networks, to be chosen, are those of the other convolutional families. Departures: Adam in place of Adagrad, batches of
    16 in place of 100, because a budget counts images and large batches leave too few updates; the encoder sees 2x - 1,
    since what all images share would otherwise come to lie in the mean of z, which then takes long to get to the prior's.
    """

    family: ClassVar[str] = "vae"
    source: ClassVar[str] = "Kingma & Welling 2014"
    version: ClassVar[int] = 2
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "never"

    class Hyperparameters(model.Hyperparameters):
        """Shared by the variants, so that they differ by method alone."""

        batch_size: int = Field(16, ge=2, description="images per step")
        architecture: Literal["fully_connected", "convolutional"] = "fully_connected"
        latent_dim: int = tunable(32, low=8, high=256, log=True, ge=1, description="length of z")
        dense_widths: Widths = Field((512, 256), min_length=1, description="fully connected: encoder's widths")
        width: int = Field(32, ge=1, description="convolutional: channels after the first halving")
        batch_norm: bool = Field(True, description="convolutional: normalise")
        noise_scale: float = tunable(0.2, low=0.05, high=0.5, log=True, gt=0, description="s of p(x|z,y)")
        beta: float = tunable(1.0, low=0.1, high=10.0, log=True, ge=0, description="weight of the KL")
        learning_rate: float = tunable(1e-3, low=1e-4, high=3e-3, log=True, gt=0, description="of Adam")

    hyperparameters: VAE.Hyperparameters

    def __init__(self, shape: Shape, num_classes: int, hyperparameters: VAE.Hyperparameters) -> None:
        super().__init__(shape, num_classes, hyperparameters)
        hp, classes = hyperparameters, num_classes if self.conditional else 0
        self.encoder: networks.ConvolutionalEncoder | networks.DenseEncoder
        self.decoder: networks.ConvolutionalDecoder | networks.DenseDecoder
        if hp.architecture == "convolutional":
            kind = {"classes": classes, "width": hp.width, "batch_norm": hp.batch_norm}
            self.encoder = networks.ConvolutionalEncoder(shape, **kind)  # type: ignore[arg-type]
            self.decoder = networks.ConvolutionalDecoder(hp.latent_dim, shape, **kind)  # type: ignore[arg-type]
        else:
            self.encoder = networks.DenseEncoder(shape, classes=classes, widths=hp.dense_widths)
            self.decoder = networks.DenseDecoder(hp.latent_dim, shape, classes=classes, widths=hp.dense_widths)
        self.posterior = nn.Linear(self.encoder.features, 2 * hp.latent_dim)

    def encode(
        self, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Return mean and log-variance of q(z|x,y)."""
        mu, log_variance = self.posterior(self.encoder(2 * x - 1, y)).chunk(2, dim=1)
        return mu, log_variance

    def decode(self, z: Float[Tensor, "n d"], y: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return the mean of p(x|z,y)."""
        return torch.sigmoid(self.decoder(z, y))

    def reconstruction_loss(self, x: Float[Tensor, "n c h w"], x_hat: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """-log p(x|z,y) up to a constant: half the squared error in units of s, summed over pixels."""
        return ((x - x_hat) / self.hyperparameters.noise_scale).square().flatten(1).sum(1) / 2

    def losses(self, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"], rng: torch.Generator) -> dict[str, Tensor]:
        """Return the loss and its terms, means over the batch, from one z per image (eq. 10 with L = 1)."""
        mu, log_variance = self.encode(x, y)
        epsilon = torch.randn(mu.shape, generator=rng).to(mu)
        z = mu + torch.exp(log_variance / 2) * epsilon
        reconstruction = self.reconstruction_loss(x, self.decode(z, y)).mean()
        kl = kl_divergence(mu, log_variance).mean()
        return {"loss": reconstruction + self.hyperparameters.beta * kl, "reconstruction": reconstruction, "kl": kl}

    def configure_optimizers(self) -> dict[str, Optimizer]:
        """One Adam for everything."""
        return {"adam": Adam(self.parameters(), lr=self.hyperparameters.learning_rate, fused=True)}

    def training_step(
        self,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        optimizers: dict[str, Optimizer],
        progress: Progress,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        """One step of Adam on the loss."""
        losses = self.losses(images, labels, rng)
        optimizers["adam"].zero_grad()
        losses["loss"].backward()
        optimizers["adam"].step()
        return {name: value.detach() for name, value in losses.items()}

    def validation_loss(
        self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], rng: torch.Generator
    ) -> Float[Tensor, ""]:
        """Return the loss that training minimises."""
        return self.losses(images, labels, rng)["loss"]

    @torch.no_grad()
    def sample(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Decode z ~ p(z) and return the mean of p(x|z,y), without its noise, as is the practice."""
        return self.from_latents(self.latents(len(labels), rng).to(labels.device), labels)

    def latents(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw z ~ N(0, I)."""
        return torch.randn(n, self.hyperparameters.latent_dim, generator=rng)

    @torch.no_grad()
    def from_latents(self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return the mean of p(x|z,y)."""
        return self.decode(z, labels)

    @torch.no_grad()
    def reconstruct(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Encode, take the posterior's mean, decode."""
        return self.decode(self.encode(images, labels)[0], labels)


class ConditionalVAE(VAE):
    """The VAE with the one-hot label joined to the encoder's input and to z.

    Sohn, Lee & Yan 2015, Learning Structured Output Representation using Deep Conditional Generative Models,
    NeurIPS 28; the prior stays N(0, I) for every label, as in the thesis's cVAE.
    """

    source: ClassVar[str] = "Sohn et al. 2015"
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "always"


class LogCoshConditionalVAE(ConditionalVAE):
    """The conditional VAE with log-cosh in place of the squared error, as the thesis proposes for brain MR by scanner.

    Ballesteros Ramirez 2025, Generating synthetic MR images using state-of-the-art deep learning approaches, Politecnico
    di Milano, section 5; log-cosh after Chen et al. 2019, Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder.

    From the thesis: fully connected, flattened image joined with the one-hot label, linear and ReLU layers, latent 256,
    mirrored decoder with a sigmoid, Adam, batches of 8. Not stated there: widths, beta, sum or mean; here those of the
    other autoencoders. Departures: learning rate 1e-3 in place of 3e-4, which a small budget needs (45,000 brain slices:
    Fréchet distance 143 in place of 156, features `domain`); the thesis takes log-cosh of the error itself, which on
    images in [0, 1] is half the squared error to within 15 %; here the error is divided by s first, so that large errors
    count linearly. The preset `thesis` takes the error itself (`noise_scale: 1`); beta, the sum over pixels and the
    encoder's centred input (see `VAE`) stay ours.
    """

    source: ClassVar[str] = "Ballesteros Ramirez 2025"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "thesis": {
            "architecture": "fully_connected",
            "batch_size": 8,
            "latent_dim": 256,
            "learning_rate": 3e-4,
            "noise_scale": 1.0,
        },
    }

    class Hyperparameters(VAE.Hyperparameters):
        """The thesis's, where it states them."""

        batch_size: int = Field(8, ge=2, description="images per step")
        latent_dim: int = tunable(256, low=8, high=256, log=True, ge=1, description="length of z")
        learning_rate: float = tunable(1e-3, low=1e-4, high=3e-3, log=True, gt=0, description="of Adam")

    hyperparameters: LogCoshConditionalVAE.Hyperparameters

    def reconstruction_loss(self, x: Float[Tensor, "n c h w"], x_hat: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Log-cosh of the error in units of s, summed over pixels: squared near 0, absolute far from it."""
        return log_cosh((x - x_hat) / self.hyperparameters.noise_scale).flatten(1).sum(1)


def kl_divergence(mu: Float[Tensor, "n d"], log_variance: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """KL(N(mu, sigma^2) || N(0, I)) of each image, summed over latents (Kingma & Welling 2014, appendix B)."""
    return (mu.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2


def log_cosh(t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """log(cosh(t)) = |t| + log(1 + exp(-2 |t|)) - log 2, which overflows for no t."""
    return t.abs() + F.softplus(-2 * t.abs()) - math.log(2)
