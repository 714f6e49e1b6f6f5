"""VAE-GAN: an autoencoder whose likelihood is measured in a discriminator's features, not in pixels.

    x, x~ = Dec(z), x_p = Dec(z_p)      image, its reconstruction (z ~ q(z|x)), a sample (z_p ~ N(0, I))
    Dis(x), Dis_l(x)                    logit of 'x is real'; what the discriminator's block l gives

    L_prior = KL(q(z|x) || p(z))
    L_like  = |Dis_l(x) - Dis_l(x~)|^2 / 2            -log p(Dis_l(x)|z) up to a constant
    L_GAN   = log Dis(x) + log(1 - Dis(x~)) + log(1 - Dis(x_p))

    Enc descends  L_prior + L_like
    Dec descends  lambda L_like  plus the adversarial loss of x~ and x_p
    Dis ascends   L_GAN

Images are in [-1, 1] (tanh).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer, RMSprop

from baselines.gan import generator_loss
from baselines.networks import ConvolutionalDecoder, ConvolutionalEncoder
from baselines.vae import kl_divergence
from bench import model
from bench.model import GenerativeModel, Progress, Shape, Widths, tunable


class VAEGAN(GenerativeModel):
    """VAE-GAN with feature matching, conditional if asked for.

    Larsen et al. 2016, Autoencoding beyond pixels using a learned similarity metric, https://arxiv.org/abs/1512.09300, as
    algorithm 1 of Rguibi et al. 2023, Medical variational autoencoder and generative adversarial network for medical
    imaging, prints it: three adversarial terms, an
    update of its own for encoder, decoder and discriminator from the same forward pass, RMSProp.

    Departures: the decoder's adversarial loss is the non-saturating one, as in Larsen's code (the printed signs would have
    the decoder help the discriminator, and the discriminator's line repeats L_like, which the text rules out); L_like is
    divided by the number of features over `likelihood_scale`, so that its balance with the KL does not depend on the
    image size; depth follows the image size. `conditional` joins the one-hot label to the encoder's input, to z and, as
    constant channels, to the discriminator's input.

    The preset `chest` has the chest paper's layers: encoder 64, 128, 256 (5x5, stride 2), dense 2048, two dense 128;
    decoder dense 8x8x256 and four layers, of which the last has stride 1 (four of stride 2 would give 128x128);
    discriminator 4 convolutions and a dense unit. Not stated there and chosen here: lambda, layer l, the discriminator's
    channels and strides (2 each), batch norm and activations (those of the other convolutional families), and the scale of
    L_like.
    """

    family: ClassVar[str] = "hybrid"
    source: ClassVar[str] = "Larsen et al. 2016; Rguibi et al. 2023"
    mixed_precision: ClassVar[bool] = True
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "optional"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "chest": {
            "batch_size": 32,
            "latent_dim": 128,
            "channels": (64, 128, 256),
            "discriminator_channels": (64, 128, 256, 256),
            "kernel": 5,
            "hidden": 2048,
            "learning_rate": 1e-4,
        },
    }

    class Hyperparameters(model.Hyperparameters):
        """The chest paper's, with the width of the other convolutional families and a learning rate to match it."""

        batch_size: int = Field(32, ge=2, description="images per step")
        conditional: bool = Field(False, description="heed labels")
        latent_dim: int = tunable(128, low=16, high=256, log=True, ge=1, description="length of z")
        width: int = Field(32, ge=1, description="channels after the first halving, where `channels` is not given")
        channels: Widths | None = Field(
            None,
            description="encoder's and decoder's channels, large grids first; the decoder then ends in a layer of stride 1",
        )
        discriminator_channels: Widths | None = Field(None, description="discriminator's channels")
        kernel: int = Field(4, ge=2, le=5, description="of every convolution")
        hidden: int = Field(0, ge=0, description="width of a dense layer before mu and log-variance; 0 for none")
        feature_block: int = Field(
            3,
            ge=1,
            description="l: block of the discriminator in which likelihood is measured; its last one if it has fewer",
        )
        likelihood_scale: float = tunable(
            1000.0, low=100.0, high=1e4, log=True, gt=0, description="features L_like counts as"
        )
        feature_weight: float = tunable(0.01, low=1e-4, high=1.0, log=True, ge=0, description="lambda")
        learning_rate: float = tunable(3e-4, low=5e-5, high=1e-3, log=True, gt=0, description="of the three RMSProps")
        ema_decay: float | None = Field(
            None, gt=0, lt=1, description="score a moving average of weights; not the paper's"
        )

    hyperparameters: VAEGAN.Hyperparameters

    def __init__(self, shape: Shape, num_classes: int, hyperparameters: VAEGAN.Hyperparameters) -> None:
        super().__init__(shape, num_classes, hyperparameters)
        hp = hyperparameters
        kind: dict[str, Any] = {
            "classes": num_classes if self.conditional else 0,
            "width": hp.width,
            "kernels": hp.kernel,
        }
        features = ConvolutionalEncoder(shape, channels=hp.channels, batch_norm=True, normalise_first=True, **kind)
        width = hp.hidden or features.features
        hidden = [nn.Linear(features.features, hp.hidden), nn.ReLU()] if hp.hidden else []
        self.encoder = nn.ModuleDict({"features": features, "hidden": nn.Sequential(*hidden)})
        self.encoder["posterior"] = nn.Linear(width, 2 * hp.latent_dim)
        self.decoder = ConvolutionalDecoder(
            hp.latent_dim, shape, channels=hp.channels, batch_norm=True, last_stride_1=hp.channels is not None, **kind
        )
        layers = ConvolutionalEncoder(
            shape, channels=hp.discriminator_channels, batch_norm=True, activation=lambda: nn.LeakyReLU(0.2), **kind
        )
        self.feature_block = min(hp.feature_block, len(layers.ends))
        self.discriminator = nn.ModuleDict({"layers": layers, "to_logit": nn.Linear(layers.features, 1)})

    @property
    def ema_decay(self) -> float | None:
        """Decay of the scored moving average."""
        return self.hyperparameters.ema_decay

    def encode(
        self, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Return mean and log-variance of q(z|x)."""
        features = self.encoder["hidden"](self.encoder["features"](x, y))
        mu, log_variance = self.encoder["posterior"](features).float().chunk(2, dim=1)
        return mu, log_variance

    def decode(self, z: Float[Tensor, "n d"], y: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return images in [-1, 1]."""
        return torch.tanh(self.decoder(z, y).float())

    def discriminate(
        self, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n d a b"], Float[Tensor, " n"]]:
        """Return Dis_l(x) and the logit of 'x is real'."""
        layers = cast("ConvolutionalEncoder", self.discriminator["layers"])
        middle, features = layers.split(x, y, self.feature_block)
        return middle.float(), self.discriminator["to_logit"](features).squeeze(1).float()

    def losses(
        self, x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"], rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return L_prior, L_like, the decoder's adversarial loss and -L_GAN, means over the batch."""
        mu, log_variance = self.encode(x, y)
        noise = torch.randn(2, *mu.shape, generator=rng).to(mu)
        prior = kl_divergence(mu, log_variance).mean()
        reconstruction = self.decode(mu + torch.exp(log_variance / 2) * noise[0], y)
        sampled = self.decode(noise[1], y)

        real_l, real = self.discriminate(x, y)
        reconstruction_l, reconstructed = self.discriminate(reconstruction, y)
        _, prior_sample = self.discriminate(sampled, y)
        scale = self.hyperparameters.likelihood_scale
        like = (real_l.detach() - reconstruction_l).square().mean() / 2 * scale
        adversarial = generator_loss(reconstructed) + generator_loss(prior_sample)
        against = F.softplus(-real).mean() + F.softplus(reconstructed).mean() + F.softplus(prior_sample).mean()
        return prior, like, adversarial, against

    def configure_optimizers(self) -> dict[str, Optimizer]:
        """One RMSProp for each of the three networks."""
        rate = self.hyperparameters.learning_rate
        return {name: RMSprop(network.parameters(), lr=rate) for name, network in self._networks().items()}

    def training_step(
        self,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        optimizers: dict[str, Optimizer],
        progress: Progress,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        """Algorithm 1: all losses first, then each network descends its own and no other."""
        prior, like, adversarial, against = self.losses(2 * images - 1, labels, rng)
        objectives = {
            "encoder": prior + like,
            "decoder": self.hyperparameters.feature_weight * like + adversarial,
            "discriminator": against,
        }
        for name, network in self._networks().items():
            parameters = list(network.parameters())
            gradients = torch.autograd.grad(objectives[name], parameters, retain_graph=name != "discriminator")
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        for optimizer in optimizers.values():  # after all gradients: they belong to the same weights
            optimizer.step()
        losses = {"prior": prior, "like": like, "adversarial": adversarial, "discriminator": against}
        return {name: value.detach() for name, value in losses.items()}

    def _networks(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "decoder": self.decoder, "discriminator": self.discriminator}

    @torch.no_grad()
    def sample(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Decode z_p ~ N(0, I); in [0, 1]."""
        return self.from_latents(self.latents(len(labels), rng).to(labels.device), labels)

    def latents(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw z_p ~ N(0, I)."""
        return torch.randn(n, self.hyperparameters.latent_dim, generator=rng)

    @torch.no_grad()
    def from_latents(self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return Dec(z) in [0, 1]."""
        return (self.decode(z, labels) + 1) / 2

    @torch.no_grad()
    def reconstruct(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Encode, take the posterior's mean, decode."""
        return (self.decode(self.encode(2 * images - 1, labels)[0], labels) + 1) / 2
