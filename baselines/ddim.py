"""Denoising diffusion: trained as DDPM, sampled by DDIM.

    x_0, x_t          image in [-1, 1]; x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) epsilon, a_t the cumulative product of alphas
    v_t               sqrt(a_t) epsilon - sqrt(1 - a_t) x_0                          Salimans & Ho 2022, appendix D
    loss              |target - network(x_t, t, y)|^2, t uniform; target epsilon (Ho et al. 2020, eq. 14), v_t, or x_0,
                      whose error is divided by 1 - a_t, which makes it the error of v_t (Li & He 2025)
    guidance w        network(y) w + network(no label) (1 - w)                       Ho & Salimans 2022, eq. 6 (w = 1 + theirs)

Network and scheduler are diffusers'. Pixel-unshuffle in front of the network (Shi et al. 2016, backwards) makes the grid
small and its channels many: at 64x64 a factor of 4 costs a twentieth and is what makes diffusion affordable on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from diffusers import DDIMScheduler, UNet2DModel
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from baselines.gan import step
from bench import model
from bench.model import GenerativeModel, Progress, Shape, Widths, tunable

LARGEST_GRID, LARGEST_PATCH = 16, 8
"""Where the patch follows the image size: sides above 16 are halved into channels, three times at most."""


class DDIM(GenerativeModel):
    """Diffusion model trained as DDPM and sampled by DDIM, conditional with classifier-free guidance if asked for.

    Song, Meng & Ermon 2021, Denoising Diffusion Implicit Models, https://arxiv.org/abs/2010.02502 (sampler, eq. 12);
    Ho, Jain & Abbeel 2020, https://arxiv.org/abs/2006.11239 (training); Ho & Salimans 2022,
    https://arxiv.org/abs/2207.12598 (guidance). No source of this benchmark trains one: it is its reference point.

    Departures, all by hyper-parameter: pixel-unshuffle in front; the network estimates x_0 under the loss of v, since
    patches of many pixels lie on few dimensions and noise does not (Li & He 2025, https://arxiv.org/abs/2511.13720), its
    weight bounded (after Hang et al. 2023, https://arxiv.org/abs/2303.09556); learnt channels that tell the place; betas
    rescaled to a last step of pure noise (Lin et al. 2024, https://arxiv.org/abs/2305.08891), which few steps need for
    images with a dark background; cosine betas (Nichol & Dhariwal 2021); a learning rate that falls as a cosine.
    """

    family: ClassVar[str] = "diffusion"
    source: ClassVar[str] = "Song et al. 2021"
    mixed_precision: ClassVar[bool] = True
    mixed_sampling: ClassVar[bool] = True
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "optional"

    class Hyperparameters(model.Hyperparameters):
        """A network small enough for a CPU; the sources' are larger."""

        batch_size: int = Field(16, ge=2, description="images per step")
        conditional: bool = Field(False, description="heed labels")
        patch: int | None = Field(None, ge=1, description="pixel-unshuffle factor; by the image size if left out")
        channels: Widths = Field((64, 64), min_length=1, description="of each level of the network")
        layers_per_block: int = Field(1, ge=1, description="residual layers per level")
        train_timesteps: int = Field(1000, ge=2, description="T")
        schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "squaredcos_cap_v2"
        prediction: Literal["epsilon", "v_prediction", "sample"] = Field(
            "sample", description="what the network estimates"
        )
        snr_limit: float = tunable(
            30.0,
            low=3.0,
            high=300.0,
            log=True,
            gt=0,
            description="signal-to-noise ratio above which errors of x_0 weigh no more",
        )
        position_channels: int = Field(8, ge=0, description="learnt channels beside the image's, one value per place")
        sampling_steps: int = Field(15, ge=1, description="DDIM steps of a sample")
        eta: float = Field(0.0, ge=0, le=1, description="0 is DDIM, 1 has DDPM's noise")
        guidance: float = tunable(
            1.0,
            low=0.5,
            high=4.0,
            log=True,
            when={"conditional": True},
            ge=0,
            description="w, of conditional models; 1 is none",
        )
        label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden in training, for guidance")
        learning_rate: float = tunable(1e-3, low=1e-4, high=3e-3, log=True, gt=0, description="of AdamW")
        ema_decay: float | None = Field(0.999, gt=0, lt=1, description="of the scored moving average")

        @model_validator(mode="after")
        def _belong_together(self) -> DDIM.Hyperparameters:
            if self.sampling_steps > self.train_timesteps:
                raise ValueError(
                    f"sampling_steps: {self.sampling_steps}, but train_timesteps are {self.train_timesteps}"
                )
            if self.guidance != 1 and not self.conditional:
                raise ValueError("guidance: needs conditional: true, or leave it at 1")
            if self.guidance != 1 and not self.label_dropout:
                raise ValueError(
                    "guidance: needs label_dropout above 0, so that the network learns to go without a label"
                )
            return self

    hyperparameters: DDIM.Hyperparameters

    def __init__(self, shape: Shape, num_classes: int, hyperparameters: DDIM.Hyperparameters) -> None:
        super().__init__(shape, num_classes, hyperparameters)
        hp = hyperparameters
        channels, height, width = shape
        self.patch = hp.patch or patch_for(height, width)
        unit = self.patch * 2 ** (len(hp.channels) - 1)  # sides must be multiples of it: images are padded
        self.padding = (-width % unit, -height % unit)
        depth = channels * self.patch**2
        sides = ((height + self.padding[1]) // self.patch, (width + self.padding[0]) // self.patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, hp.position_channels, *sides))
        self.network: Any = UNet2DModel(
            sample_size=sides,
            in_channels=depth + hp.position_channels,
            out_channels=depth,
            block_out_channels=hp.channels,
            layers_per_block=hp.layers_per_block,
            down_block_types=("DownBlock2D",) * len(hp.channels),
            up_block_types=("UpBlock2D",) * len(hp.channels),
            attention_head_dim=min(32, hp.channels[-1]),
            norm_num_groups=math.gcd(32, *hp.channels),
            num_class_embeds=num_classes + 1 if self.conditional else None,  # the last one is 'no label'
        )
        self.scheduler: Any = DDIMScheduler(
            num_train_timesteps=hp.train_timesteps,
            beta_schedule=hp.schedule,
            prediction_type=hp.prediction,
            rescale_betas_zero_snr=hp.prediction != "epsilon",
            timestep_spacing="trailing",
            clip_sample=True,
        )

    @property
    def ema_decay(self) -> float | None:
        """Decay of the scored moving average: every diffusion model's practice."""
        return self.hyperparameters.ema_decay

    def to_grid(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d a b"]:
        """Images in [0, 1] -> patches in [-1, 1] as channels of a grid; padded by repeating the edge."""
        return F.pixel_unshuffle(
            F.pad(2 * images - 1, (0, self.padding[0], 0, self.padding[1]), "replicate"), self.patch
        )

    def to_images(self, grid: Float[Tensor, "n d a b"]) -> Float[Tensor, "n c h w"]:
        """Undo `to_grid`, clamped to [0, 1]."""
        images = F.pixel_shuffle(grid, self.patch)[:, :, : self.shape[1], : self.shape[2]]
        return ((images + 1) / 2).clamp(0, 1)

    def predict(
        self, x_t: Float[Tensor, "n d a b"], t: Int[Tensor, " n"], y: Int[Tensor, " n"]
    ) -> Float[Tensor, "n d a b"]:
        """Return the network's estimate of the target; label `num_classes` means none."""
        placed = torch.cat([x_t, self.position.to(x_t.dtype).expand(len(x_t), -1, -1, -1)], dim=1)
        return self.network(placed, t, class_labels=y if self.conditional else None).sample.float()

    def loss(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], rng: torch.Generator) -> Tensor:
        """Return the mean squared error at uniform t: of epsilon, or of v where the network estimates v or x_0."""
        x_0 = self.to_grid(images)
        epsilon = torch.randn(x_0.shape, generator=rng).to(x_0)
        t = torch.randint(self.hyperparameters.train_timesteps, (len(x_0),), generator=rng).to(x_0.device)
        hidden = torch.rand(len(x_0), generator=rng).to(x_0) < self.hyperparameters.label_dropout
        x_t = self.scheduler.add_noise(x_0, epsilon, t)
        estimate = self.predict(x_t, t, labels.masked_fill(hidden, self.num_classes))
        if self.hyperparameters.prediction == "epsilon":
            return F.mse_loss(estimate, epsilon)
        if self.hyperparameters.prediction == "v_prediction":
            return F.mse_loss(estimate, self.scheduler.get_velocity(x_0, epsilon, t))
        weight = 1 / (1 - self.scheduler.alphas_cumprod.to(x_0)[t])  # signal-to-noise ratio + 1
        error = (estimate - x_0).square().mean((1, 2, 3))
        return (weight.clamp(max=self.hyperparameters.snr_limit + 1) * error).mean()

    def configure_optimizers(self) -> dict[str, Optimizer]:
        """One AdamW, as in diffusers' own training script."""
        return {"adamw": AdamW(self.parameters(), lr=self.hyperparameters.learning_rate, weight_decay=1e-6, fused=True)}

    def training_step(
        self,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        optimizers: dict[str, Optimizer],
        progress: Progress,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        """One step on the loss; the learning rate falls as a cosine of the budget used."""
        decay = (1 + torch.cos(torch.tensor(torch.pi * progress.fraction)).item()) / 2
        for group in optimizers["adamw"].param_groups:
            group["lr"] = self.hyperparameters.learning_rate * min(decay + 0.01, (progress.step + 1) / 100)
        loss = self.loss(images, labels, rng)
        step(optimizers["adamw"], loss)
        return {"loss": loss.detach()}

    def validation_loss(
        self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], rng: torch.Generator
    ) -> Tensor:
        """Return the loss that training minimises."""
        return self.loss(images, labels, rng)

    @torch.no_grad()
    def sample(self, labels: Int[Tensor, " n"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Draw one image per label by DDIM, guided if asked for."""
        return self._denoise(self.latents(len(labels), rng).to(labels.device), labels, self.hyperparameters.eta, rng)

    def latents(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d a b"]:
        """Draw x_T ~ N(0, I)."""
        sides = self.network.config["sample_size"]
        return torch.randn(n, self.shape[0] * self.patch**2, *sides, generator=rng)

    @torch.no_grad()
    def from_latents(self, z: Float[Tensor, "n d a b"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Carry x_T to its image without further noise (eta = 0), whatever eta samples have (section 5.3)."""
        return self._denoise(z, labels, 0.0, None)

    def _denoise(
        self, x_T: Float[Tensor, "n d a b"], labels: Int[Tensor, " n"], eta: float, rng: torch.Generator | None
    ) -> Float[Tensor, "n c h w"]:
        hp = self.hyperparameters
        nothing = torch.full_like(labels, self.num_classes)

        def guided(x_t: Tensor, t: Tensor) -> Tensor:
            estimate = self.predict(x_t, t, labels)
            if not self.conditional or hp.guidance == 1:
                return estimate
            return hp.guidance * estimate + (1 - hp.guidance) * self.predict(x_t, t, nothing)

        return self.to_images(ddim(guided, self.scheduler, x_T, steps=hp.sampling_steps, eta=eta, rng=rng))


def ddim(
    network: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    x_T: Float[Tensor, "n d a b"],
    *,
    steps: int,
    eta: float,
    rng: torch.Generator | None,
) -> Float[Tensor, "n d a b"]:
    """Carry noise x_T to x_0 in `steps` steps of DDIM (Song et al. 2021, eq. 12, by diffusers' scheduler)."""
    scheduler.set_timesteps(steps)
    x_t = x_T
    for t in scheduler.timesteps.tolist():
        estimate = network(x_t, torch.full((len(x_t),), t, device=x_t.device))
        noise = torch.randn(x_t.shape, generator=rng).to(x_t) if eta else None
        x_t = scheduler.step(estimate, t, x_t, eta=eta, variance_noise=noise).prev_sample
    return x_t


def patch_for(height: int, width: int) -> int:
    """Return the least power of two, 8 at most, that brings the longer side to 16 or less: 2 for 28, 4 for 64."""
    patch = 1
    while max(height, width) / patch > LARGEST_GRID and patch < LARGEST_PATCH:
        patch *= 2
    return patch
