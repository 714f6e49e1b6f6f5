"""The knee VAE-GAN: a VAE whose reconstructions are judged by MSE and SSIM, and whose samples by a discriminator.

x^ = G(z), z ~ q(z|x)               reconstruction, in [0, 1] (sigmoid)
L_recon = N (w MSE + (1 - w)(1 - SSIM))                            eq. 1 and the text below eq. 4; N, w: see below
L_KL    = KL(q(z|x) || N(0, I))                                    eq. 2
L_adv   = -log D(G(z_p)), z_p ~ N(0, I)                            eq. 3
encoder and decoder descend L_recon + beta L_KL + L_adv            eq. 4
the discriminator descends -log D(x) - log(1 - D(G(z_p)))
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from baselines.gan import discriminator_loss, generator_loss, step
from baselines.networks import ConvolutionalDecoder, ConvolutionalEncoder
from baselines.vae import kl_divergence
from bench import model
from bench.model import GenerativeModel, Plateau, Progress, Shape, Widths, tunable

SIGMA, RADIUS = 1.5, 5
"""Wang et al. 2004: an 11x11 Gaussian window."""
C1, C2 = 0.01**2, 0.03**2
"""Wang et al. 2004, for values in [0, 1]."""


class KneeVAEGAN(GenerativeModel):
    """VAE-GAN with MSE and SSIM, for knee MRI; conditional if asked for.

    Revathi & Sathish Babu 2025, Synthesizing Realistic Knee MRI Images: A VAE-GAN Approach for Enhanced Medical Data
    Augmentation; SSIM after Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861.

    From the paper: encoder of four convolutions (32, 64, 128, 256; 3x3, then 2x2) with ReLU and batch norm, 128 latents,
    mirrored decoder with a sigmoid, discriminator of five convolutions with LeakyReLU and dropout 0.3, beta 0.1, Adam with
    learning rate 0.0002 and beta_1 0.5, batches of 32, early stopping and reduction of the learning rate on a plateau of
    the validation loss. The preset `knee` is the same; image size (256x256) and four epochs are the suite's.

    Not stated there, chosen here: w (0.5); sum or mean of the error, which eq. 1 and the text tell differently (N means'
    worth, as in `vae_gan`); the discriminator's channels and kernels; that dropout is of whole channels and follows each
    of its convolutions, where the paper has one layer of it; both patiences and the factor; that G(z) in eq. 3 is a sample
    from the prior, which is what will be scored.
    """

    family: ClassVar[str] = "hybrid"
    source: ClassVar[str] = "Revathi & Sathish Babu 2025"
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "optional"
    mixed_precision: ClassVar[bool] = True
    version: ClassVar[int] = 2
    presets: ClassVar[dict[str, dict[str, Any]]] = {"knee": {}}

    class Hyperparameters(model.Hyperparameters):
        """The paper's where it states them."""

        batch_size: int = Field(32, ge=2, description="images per step")
        conditional: bool = Field(False, description="heed labels")
        latent_dim: int = tunable(128, low=16, high=256, log=True, ge=1, description="length of z")
        channels: Widths = Field((32, 64, 128, 256), min_length=1, description="encoder's, decoder's reversed")
        kernels: tuple[Annotated[int, Field(ge=2, le=5)], ...] = Field(
            (3, 3, 2, 2), min_length=1, description="one for each of channels"
        )
        discriminator_channels: Widths = Field((32, 64, 128, 256, 256), min_length=1)
        dropout: float = Field(0.3, ge=0, lt=1, description="in the discriminator")
        mse_weight: float = tunable(0.5, low=0.0, high=1.0, ge=0, le=1, description="w: the rest is SSIM's")
        reconstruction_scale: float = tunable(1000.0, low=100.0, high=1e4, log=True, gt=0, description="N")
        beta: float = tunable(0.1, low=0.01, high=10.0, log=True, ge=0, description="weight of the KL")
        learning_rate: float = tunable(2e-4, low=5e-5, high=1e-3, log=True, gt=0, description="of both Adams")
        beta_1: float = Field(0.5, ge=0, lt=1, description="Adam's decay of the first moment")
        reduce_factor: float = Field(0.5, gt=0, le=1, description="of the learning rate on a plateau")
        reduce_patience: int = Field(3, ge=1, description="validations (20 a training) without a new minimum")
        stop_patience: int = Field(10, ge=1, description="validations without a new minimum that end training")

        @model_validator(mode="after")
        def _one_kernel_each(self) -> KneeVAEGAN.Hyperparameters:
            if len(self.kernels) != len(self.channels):
                raise ValueError(f"kernels: {len(self.kernels)} for {len(self.channels)} channels; give one for each")
            return self

    hyperparameters: KneeVAEGAN.Hyperparameters

    def __init__(self, shape: Shape, num_classes: int, hyperparameters: KneeVAEGAN.Hyperparameters) -> None:
        super().__init__(shape, num_classes, hyperparameters)
        hp, classes = hyperparameters, num_classes if self.conditional else 0
        kind: dict[str, Any] = {"classes": classes, "channels": hp.channels, "kernels": hp.kernels, "batch_norm": True}
        self.encoder = ConvolutionalEncoder(shape, normalise_first=True, **kind)
        self.posterior = nn.Linear(self.encoder.features, 2 * hp.latent_dim)
        self.decoder = ConvolutionalDecoder(hp.latent_dim, shape, **kind)
        self.discriminator = ConvolutionalEncoder(
            shape,
            classes=classes,
            channels=hp.discriminator_channels,
            activation=lambda: nn.LeakyReLU(0.2),
            dropout=hp.dropout,
        )
        self.to_logit = nn.Linear(self.discriminator.features, 1)

    @property
    def plateau(self) -> Plateau:
        """Reduce the learning rate, then stop, when the validation loss falls no more."""
        hp = self.hyperparameters
        return Plateau(hp.reduce_factor, hp.reduce_patience, hp.stop_patience)

    def encode(
        self, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Return mean and log-variance of q(z|x)."""
        mu, log_variance = self.posterior(self.encoder(x, y)).float().chunk(2, dim=1)
        return mu, log_variance

    def G(self, z: Float[Tensor, "n d"], y: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:  # noqa: N802
        """Return images in [0, 1]."""
        return torch.sigmoid(self.decoder(z, y).float())

    def D(self, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:  # noqa: N802
        """Return the logit that each image is real; the paper's sigmoid is part of the losses."""
        return self.to_logit(self.discriminator(x, y)).squeeze(1).float()

    def vae_loss(
        self, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"], rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return L_recon and L_KL, means over the batch."""
        hp = self.hyperparameters
        mu, log_variance = self.encode(x, y)
        z = mu + torch.exp(log_variance / 2) * torch.randn(mu.shape, generator=rng).to(mu)
        x_hat = self.G(z, y)
        error = hp.mse_weight * F.mse_loss(x_hat, x) + (1 - hp.mse_weight) * (1 - ssim(x_hat, x))
        return hp.reconstruction_scale * error, kl_divergence(mu, log_variance).mean()

    def configure_optimizers(self) -> dict[str, Optimizer]:
        """One Adam for encoder and decoder, one for the discriminator."""
        hp = self.hyperparameters
        players = {
            "generator": itertools.chain.from_iterable(
                m.parameters() for m in (self.encoder, self.posterior, self.decoder)
            ),
            "discriminator": itertools.chain(self.discriminator.parameters(), self.to_logit.parameters()),
        }
        return {
            name: Adam(parameters, lr=hp.learning_rate, betas=(hp.beta_1, 0.999), fused=True)
            for name, parameters in players.items()
        }

    def training_step(
        self,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        optimizers: dict[str, Optimizer],
        progress: Progress,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        """Update the discriminator on real images and samples, then encoder and decoder (eq. 4)."""
        z_p = torch.randn(len(images), self.hyperparameters.latent_dim, generator=rng).to(images)
        fake = self.G(z_p, labels)
        loss_d = discriminator_loss(self.D(images, labels), self.D(fake.detach(), labels))
        step(optimizers["discriminator"], loss_d)

        reconstruction, kl = self.vae_loss(images, labels, rng)
        self.freeze_discriminator(True)
        adversarial = generator_loss(self.D(fake, labels))
        step(optimizers["generator"], reconstruction + self.hyperparameters.beta * kl + adversarial)
        self.freeze_discriminator(False)
        losses = {"reconstruction": reconstruction, "kl": kl, "adversarial": adversarial, "discriminator": loss_d}
        return {name: value.detach() for name, value in losses.items()}

    def freeze_discriminator(self, frozen: bool) -> None:
        """Leave the discriminator out of gradients, or take it in again."""
        self.discriminator.requires_grad_(not frozen)
        self.to_logit.requires_grad_(not frozen)

    def validation_loss(
        self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], rng: torch.Generator
    ) -> Tensor:
        """Return L_recon + beta L_KL: the part of eq. 4 that does not depend on the discriminator's state."""
        reconstruction, kl = self.vae_loss(images, labels, rng)
        return reconstruction + self.hyperparameters.beta * kl

    @torch.no_grad()
    def sample(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Decode z_p ~ N(0, I)."""
        return self.from_latents(self.latents(len(labels), rng).to(labels.device), labels)

    def latents(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw z_p ~ N(0, I)."""
        return torch.randn(n, self.hyperparameters.latent_dim, generator=rng)

    @torch.no_grad()
    def from_latents(self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return G(z)."""
        return self.G(z, labels)

    @torch.no_grad()
    def reconstruct(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Encode, take the posterior's mean, decode."""
        return self.G(self.encode(images, labels)[0], labels)


def ssim(first: Float[Tensor, "n c h w"], second: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Return the mean structural similarity of images in [0, 1], differentiable (Wang et al. 2004, eq. 13).

    Gaussian window of 11x11 and sigma 1.5, only where it lies within the image; population covariance. In float32 under
    autocast too: the differences of squares below lose all their digits in bfloat16.
    """
    with torch.autocast(first.device.type, enabled=False):
        return _ssim(*(side.to(torch.promote_types(side.dtype, torch.float32)) for side in (first, second)))


def _ssim(first: Float[Tensor, "n c h w"], second: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=first.device, dtype=first.dtype)
    window = torch.exp(-offsets.square() / (2 * SIGMA**2))
    window = window / window.sum()

    def smooth(x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)[:, None]
        return F.conv2d(F.conv2d(rows, window[None, None, :, None]), window[None, None, None, :])

    mu_x, mu_y = smooth(first), smooth(second)
    var_x, var_y = smooth(first.square()) - mu_x.square(), smooth(second.square()) - mu_y.square()
    covariance = smooth(first * second) - mu_x * mu_y
    luminance = (2 * mu_x * mu_y + C1) / (mu_x.square() + mu_y.square() + C1)
    return (luminance * (2 * covariance + C2) / (var_x + var_y + C2)).mean()
