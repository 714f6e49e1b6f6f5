"""VQ-VAE: an autoencoder through a grid of codes, then a prior that can draw such grids.

    z_e(x)          encoder's grid of vectors
    k, z_q(x)       for each the index of the nearest code vector e_k, and that vector
    loss            -log p(x|z_q) + |sg[z_e] - e|^2 + commitment |z_e - sg[e]|^2        eq. 3 of van den Oord et al. 2017
    prior           p(k) by a PixelCNN over the grid, cross entropy, in a second stage with the autoencoder fixed

The gradient of z_q is copied to z_e: straight through. sg is stop-gradient.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from baselines.gan import step
from baselines.networks import Double, Halve
from bench import model
from bench.model import GenerativeModel, Progress, Shape, tunable


class VQVAE(GenerativeModel):
    """Vector-quantised VAE with a PixelCNN prior, conditional in the prior if asked for.

    van den Oord, Vinyals & Kavukcuoglu 2017, Neural Discrete Representation Learning, https://arxiv.org/abs/1711.00937;
    prior after van den Oord et al. 2016, Pixel Recurrent Neural Networks, https://arxiv.org/abs/1601.06759 (PixelCNN).

    From the papers: strided convolutions and two residual blocks on each side, codebook and commitment loss, straight-through
    gradient, PixelCNN on the codes. Departures: the grid has at most 8 codes a side, where the paper has a quarter of the
    image's, so that drawing is affordable on a CPU; codes that no image uses move to an encoder's output (Dhariwal et al.
    2020); squared error over `noise_scale` as in `vae`; the PixelCNN is told each code's place; learning rate 1e-3 in place
    of 2e-4. 60 % of the budget are the autoencoder's, 40 % the prior's.
    """

    family: ClassVar[str] = "vae"
    source: ClassVar[str] = "van den Oord et al. 2017"
    version: ClassVar[int] = 2
    compiles: ClassVar[bool] = False  # compiled anew too often: steps took seven times as long
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "optional"
    stages: ClassVar[dict[str, float]] = {"autoencoder": 0.6, "prior": 0.4}

    class Hyperparameters(model.Hyperparameters):
        """The paper's sizes halved or less, for small images."""

        batch_size: int = Field(32, ge=2, description="images per step")
        conditional: bool = Field(False, description="heed labels, in the prior")
        codes: int = tunable(256, low=64, high=512, log=True, ge=2, description="size of the codebook; the paper's 512")
        code_dim: int = tunable(64, low=8, high=128, log=True, ge=1, description="length of a code vector")
        grid: int = Field(8, ge=2, le=64, description="codes a side, at most")
        width: int = Field(64, ge=1, description="channels of the autoencoder; the paper's 256")
        prior_width: int = Field(64, ge=1, description="channels of the PixelCNN")
        prior_layers: int = Field(6, ge=1, description="residual blocks of the PixelCNN")
        noise_scale: float = tunable(0.2, low=0.05, high=0.5, log=True, gt=0, description="of p(x|z)")
        commitment: float = tunable(0.25, low=0.05, high=2.0, log=True, ge=0, description="weight of the commitment")
        learning_rate: float = tunable(1e-3, low=1e-4, high=3e-3, log=True, gt=0, description="of both Adams")

    hyperparameters: VQVAE.Hyperparameters
    usage: Tensor

    def __init__(self, shape: Shape, num_classes: int, hyperparameters: VQVAE.Hyperparameters) -> None:
        super().__init__(shape, num_classes, hyperparameters)
        hp = hyperparameters
        sizes = [shape[1:]]
        while max(sizes[-1]) > hp.grid or len(sizes) == 1:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        self.sides = sizes[-1]
        channels = [shape[0], *[hp.width] * (len(sizes) - 1)]
        down: list[nn.Module] = [part for pair in itertools.pairwise(channels) for part in (Halve(*pair), nn.ReLU())]
        self.encoder = nn.Sequential(*down, Residual(hp.width), Residual(hp.width), nn.Conv2d(hp.width, hp.code_dim, 1))
        up: list[nn.Module] = [nn.Conv2d(hp.code_dim, hp.width, 3, padding=1), Residual(hp.width), Residual(hp.width)]
        for size, (outputs, inputs) in zip(sizes[-2::-1], list(itertools.pairwise(channels))[::-1], strict=True):
            up += [nn.ReLU(), Double(inputs, outputs, size)]
        self.decoder = nn.Sequential(*up)
        self.codebook = nn.Parameter(torch.randn(hp.codes, hp.code_dim))
        self.register_buffer("usage", torch.zeros(hp.codes))
        classes = num_classes if self.conditional else 0
        self.prior = PixelCNN(hp.codes, hp.prior_width, hp.prior_layers, classes)

    def encode(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d a b"]:
        """Return z_e(x)."""
        return self.encoder(x)

    def decode(self, z_q: Float[Tensor, "n d a b"]) -> Float[Tensor, "n c h w"]:
        """Return the mean of p(x|z_q), in [0, 1]."""
        return torch.sigmoid(self.decoder(z_q))

    def losses(self, x: Float[Tensor, "n c h w"]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the autoencoder's loss and its terms (eq. 3), means over images and numbers, and the vectors z_e [m, d]."""
        hp = self.hyperparameters
        z_e = self.encode(x)
        k, z_q = quantise(z_e, self.codebook)
        x_hat = self.decode(straight_through(z_e, z_q))
        reconstruction = F.mse_loss(x_hat, x) / (2 * hp.noise_scale**2)
        codebook, commitment = F.mse_loss(z_q, z_e.detach()), F.mse_loss(z_e, z_q.detach())
        if self.training:
            found = self.usage.new_ones(k.numel())
            self.usage.mul_(0.99).index_add_(0, k.flatten(), found)
        loss = reconstruction + codebook + hp.commitment * commitment
        used = (self.usage > 1).float().mean()
        return {"loss": loss, "reconstruction": reconstruction, "codes used": used}, z_e.permute(0, 2, 3, 1).flatten(
            0, 2
        )

    def prior_loss(self, k: Int[Tensor, "n a b"], y: Int[Tensor, " n"]) -> Tensor:
        """Return the cross entropy per code, in nats."""
        return F.cross_entropy(self.prior(k, y), k)

    def configure_optimizers(self) -> dict[str, Optimizer]:
        """One Adam for each stage."""
        rate = self.hyperparameters.learning_rate
        autoencoder = [*self.encoder.parameters(), *self.decoder.parameters(), self.codebook]
        return {
            "autoencoder": Adam(autoencoder, lr=rate, fused=True),
            "prior": Adam(self.prior.parameters(), lr=rate, fused=True),
        }

    def training_step(
        self,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        optimizers: dict[str, Optimizer],
        progress: Progress,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        """One step of the stage in force."""
        if progress.stage == "prior":
            with torch.no_grad():
                k, _ = quantise(self.encode(images), self.codebook)
            loss = self.prior_loss(k, labels)
            step(optimizers["prior"], loss)
            return {"prior": loss.detach()}
        losses, vectors = self.losses(images)
        step(optimizers["autoencoder"], losses["loss"])
        self.revive(vectors.detach(), rng)
        return {name: value.detach() for name, value in losses.items()}

    @torch.no_grad()
    def revive(self, vectors: Float[Tensor, "m d"], rng: torch.Generator) -> None:
        """Move codes that have hardly been used of late to encoder outputs drawn at random."""
        dead = self.usage < 1  # how many is not asked, since a GPU would have to be waited for
        chosen = torch.randint(len(vectors), (len(dead),), generator=rng).to(vectors.device)
        self.codebook.copy_(torch.where(dead[:, None], vectors[chosen], self.codebook))
        self.usage.masked_fill_(dead, 10.0)  # some steps to find images of its own

    def validation_loss(
        self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], rng: torch.Generator
    ) -> Tensor:
        """Return the sum of both stages' losses."""
        k, _ = quantise(self.encode(images), self.codebook)
        return self.losses(images)[0]["loss"] + self.prior_loss(k, labels)

    @torch.no_grad()
    def sample(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw a grid of codes one after the other, row by row, and decode it."""
        k = torch.zeros(len(labels), *self.sides, dtype=torch.int64, device=labels.device)
        for row, column in itertools.product(*map(range, self.sides)):
            logits = self.prior(k[:, : row + 1], labels)[:, :, row, column]
            drawn = torch.multinomial(logits.softmax(1).cpu(), 1, generator=rng)
            k[:, row, column] = drawn.squeeze(1).to(k.device)
        return self.decode(self.codebook[k].permute(0, 3, 1, 2))

    @torch.no_grad()
    def reconstruct(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Encode, quantise, decode."""
        return self.decode(quantise(self.encode(images), self.codebook)[1])


def quantise(
    z_e: Float[Tensor, "n d a b"], codebook: Float[Tensor, "k d"]
) -> tuple[Int[Tensor, "n a b"], Float[Tensor, "n d a b"]]:
    """Return the index of the nearest code vector of each place, and these vectors (eq. 1 and 2)."""
    vectors = z_e.permute(0, 2, 3, 1)
    distances = codebook.square().sum(1) - 2 * vectors @ codebook.T  # |z_e|^2 is the same for every code
    k = distances.argmin(-1)
    return k, codebook[k].permute(0, 3, 1, 2)


def straight_through(z_e: Tensor, z_q: Tensor) -> Tensor:
    """Return z_q, whose gradient goes to z_e as it is and to the codebook not at all."""
    return z_e + (z_q - z_e).detach()


class Residual(nn.Module):
    """ReLU, 3x3 convolution, ReLU, 1x1 convolution, added to the input (van den Oord et al. 2017, section 4.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1)
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Apply it."""
        return x + self.layers(x)


class Masked(nn.Conv2d):
    """Convolution that sees only places before its own in row-major order; its own too unless `first`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, first: bool) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        mask = torch.zeros(kernel, kernel)
        mask.view(-1)[: kernel * kernel // 2 + (not first)] = 1
        self.register_buffer("mask", mask, persistent=False)
        self.mask: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class PixelCNN(nn.Module):
    """Logits of every code given those before it, row by row (van den Oord et al. 2016, section 3.3 and table 1).

    Place is told by learnt vectors per row and column, class by one per class.
    """

    LARGEST = 64
    """Rows and columns for which there are vectors."""

    def __init__(self, codes: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.codes = nn.Embedding(codes, width)
        self.rows, self.columns = nn.Embedding(self.LARGEST, width), nn.Embedding(self.LARGEST, width)
        self.classes = nn.Embedding(classes, width) if classes else None
        self.first = Masked(width, width, 5, first=True)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(width, width // 2 or 1, 1),
                nn.ReLU(),
                Masked(width // 2 or 1, width // 2 or 1, 3, first=False),
                nn.ReLU(),
                nn.Conv2d(width // 2 or 1, width, 1),
            )
            for _ in range(layers)
        )
        self.to_logits = nn.Sequential(nn.ReLU(), nn.Conv2d(width, codes, 1))

    def forward(self, k: Int[Tensor, "n a b"], y: Int[Tensor, " n"]) -> Float[Tensor, "n k a b"]:
        """Return the logits of each place, from the codes before it alone."""
        height, width = k.shape[1:]
        at: Any = torch.arange(max(height, width), device=k.device)
        place = self.rows(at[:height])[:, None] + self.columns(at[:width])
        x = self.first(self.codes(k).permute(0, 3, 1, 2)) + place.permute(2, 0, 1)
        if self.classes is not None:
            x = x + self.classes(y)[:, :, None, None]
        for block in self.blocks:
            x = x + block(x)
        return self.to_logits(x)
