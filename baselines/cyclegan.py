"""CycleGAN: images of one class turned into images of another, learnt without pairs.

x, a            image in [-1, 1] and its class; b a class drawn from the others
G(x, a, b)      x as it would look in class b
D(x, b)         score of 'x is a real image of class b', one per patch

L_D     = (D(x, a) - 1)^2 + D(G(x, a, b), b)^2                           least squares, Mao et al. 2017
L_G     = (D(G(x, a, b), b) - 1)^2
          + lambda |G(G(x, a, b), b, a) - x|_1                           eq. 2 of Zhu et al. 2017
          + identity lambda |G(x, a, a) - x|_1                           section 5.2 there
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from baselines.gan import step
from baselines.networks import Double, Halve, join_channels
from bench import model
from bench.model import Progress, Shape, Translator, tunable


class CycleGAN(Translator):
    """Unpaired translation between any two classes, by one conditional pair of networks or by networks for each pair.

    Zhu, Park, Isola & Efros 2017, Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks,
    https://arxiv.org/abs/1703.10593

    From the paper: residual generator with instance norm, patch discriminator, least-squares and cycle loss (lambda 10),
    identity loss, Adam with learning rate 0.0002 and beta_1 0.5. `mode: pairs` has a generator for each ordered pair of
    classes and a discriminator for each class, as there; `mode: conditional` has one of each, told the classes by constant
    channels (towards Choi et al. 2018, StarGAN, but with the target told to the discriminator): any scanner to any scanner
    at the cost of one. Departures: fewer channels and residual blocks, transposed 4x4 convolutions, zero padding, affine
    instance norm, the network's output added to the image's own logits before the tanh, no image buffer, batches larger
    than 1, a constant learning rate, the discriminator's loss not halved; in `pairs` the identity loss reaches one
    generator into each class.
    """

    source: ClassVar[str] = "Zhu et al. 2017"
    family: ClassVar[str] = "translation"
    conditioning: ClassVar[Literal["always", "never", "optional"]] = "always"
    mixed_precision: ClassVar[bool] = True

    class Hyperparameters(model.Hyperparameters):
        """The paper's, but for sizes."""

        batch_size: int = Field(8, ge=2, description="images per step; the paper's 1")
        mode: Literal["conditional", "pairs"] = "conditional"
        width: int = Field(24, ge=1, description="channels at full size; the paper's 64")
        halvings: int = Field(2, ge=0, le=4, description="of the generator")
        residual_blocks: int = Field(3, ge=0, description="the paper's 6 or 9")
        cycle: float = tunable(10.0, low=1.0, high=30.0, log=True, ge=0, description="lambda")
        identity: float = tunable(
            0.5, low=0.0, high=1.0, ge=0, description="weight of the identity loss, times lambda; 0 leaves it out"
        )
        learning_rate: float = tunable(2e-4, low=5e-5, high=1e-3, log=True, gt=0, description="of both Adams")
        beta_1: float = Field(0.5, ge=0, lt=1, description="Adam's decay of the first moment")

    hyperparameters: CycleGAN.Hyperparameters

    def __init__(self, shape: Shape, num_classes: int, hyperparameters: CycleGAN.Hyperparameters) -> None:
        super().__init__(shape, num_classes, hyperparameters)
        if num_classes < 2:
            raise ValueError("a translator needs two classes or more")
        hp = hyperparameters
        if min(shape[1:]) < 2 ** (hp.halvings + 1):  # instance norm needs two pixels a side
            raise ValueError(f"halvings: {hp.halvings} leave nothing of images of {shape[1]}x{shape[2]}")
        one = hp.mode == "conditional"
        pairs = ["any"] if one else [f"{a}-{b}" for a, b in itertools.permutations(range(num_classes), 2)]
        # the identity loss asks for G(x, a, a), which `pairs` has not: the paper feeds b's images to the generator a-b
        self.generators = nn.ModuleDict({name: ResidualGenerator(shape, hp, 2 * num_classes * one) for name in pairs})
        names = ["any"] if one else [str(a) for a in range(num_classes)]
        self.discriminators = nn.ModuleDict({name: PatchDiscriminator(shape, hp, num_classes * one) for name in names})

    def G(  # noqa: N802
        self, x: Float[Tensor, "n c h w"], a: Int[Tensor, " n"], b: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """Return each image, of class a, as one of class b, in [-1, 1]."""
        if self.hyperparameters.mode == "conditional":
            told = join_channels(join_channels(x, a, self.num_classes), b, self.num_classes)
            return self.generators["any"](told, x)
        return by_group(lambda name, part: self.generators[name](part, part), x, [f"{i}-{j}" for i, j in pairs(a, b)])

    def D(self, x: Float[Tensor, "n c h w"], b: Int[Tensor, " n"]) -> Float[Tensor, "n 1 p q"]:  # noqa: N802
        """Return the score of each patch to be of a real image of class b."""
        if self.hyperparameters.mode == "conditional":
            return self.discriminators["any"](join_channels(x, b, self.num_classes))
        return by_group(lambda name, part: self.discriminators[name](part), x, [str(i) for i in b.tolist()])

    def targets(self, a: Int[Tensor, " n"], rng: torch.Generator) -> Int[Tensor, " n"]:
        """Draw for each image a class other than its own."""
        shift = torch.randint(1, self.num_classes, (len(a),), generator=rng).to(a.device)
        return (a + shift) % self.num_classes

    def configure_optimizers(self) -> dict[str, Optimizer]:
        """One Adam for all generators, one for all discriminators."""
        hp = self.hyperparameters
        networks = {"generator": self.generators, "discriminator": self.discriminators}
        return {
            name: Adam(network.parameters(), lr=hp.learning_rate, betas=(hp.beta_1, 0.999))
            for name, network in networks.items()
        }

    def training_step(
        self,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        optimizers: dict[str, Optimizer],
        progress: Progress,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        """Update the generators, then the discriminators on the same translations."""
        hp, x, a = self.hyperparameters, 2 * images - 1, labels
        b = self.targets(a, rng)
        translated = self.G(x, a, b)
        self.discriminators.requires_grad_(False)
        adversarial = least_squares(self.D(translated, b), 1.0)
        cycle = F.l1_loss(self.G(translated, b, a), x)
        loss = adversarial + hp.cycle * cycle
        if hp.identity:
            same = a if hp.mode == "conditional" else (a + 1) % self.num_classes
            loss = loss + hp.identity * hp.cycle * F.l1_loss(self.G(x, same, a), x)
        step(optimizers["generator"], loss)
        self.discriminators.requires_grad_(True)

        loss_d = least_squares(self.D(x, a), 1.0) + least_squares(self.D(translated.detach(), b), 0.0)
        step(optimizers["discriminator"], loss_d)
        return {"adversarial": adversarial.detach(), "cycle": cycle.detach(), "discriminator": loss_d.detach()}

    @torch.no_grad()
    def translate(
        self,
        images: Float[Tensor, "n c h w"],
        source: Int[Tensor, " n"],
        target: Int[Tensor, " n"],
        rng: torch.Generator,
    ) -> Float[Tensor, "n c h w"]:
        """Return each image as it would look in its target class; deterministic."""
        return (self.G(2 * images - 1, source, target) + 1) / 2


def least_squares(scores: Tensor, wanted: float) -> Float[Tensor, ""]:
    """Return the mean squared difference from what is wanted (Mao et al. 2017, eq. 9)."""
    return (scores - wanted).square().mean()


def pairs(a: Int[Tensor, " n"], b: Int[Tensor, " n"]) -> list[tuple[int, int]]:
    """Return source and target of each image."""
    return list(zip(a.tolist(), b.tolist(), strict=True))


def by_group(network: Callable[[str, Tensor], Tensor], x: Float[Tensor, "n c h w"], names: list[str]) -> Tensor:
    """Send each image through the network of its name, and put the results together in the images' order."""
    order, results = [], []
    for name in sorted(set(names)):
        chosen = [index for index, other in enumerate(names) if other == name]
        order += chosen
        results.append(network(name, x[chosen]))
    return torch.cat(results)[torch.tensor(order, device=x.device).argsort()]


class ResidualGenerator(nn.Module):
    """Convolutions down, residual blocks, convolutions up; tanh of a correction added to the image's own logits."""

    def __init__(self, shape: Shape, hp: CycleGAN.Hyperparameters, classes: int) -> None:
        super().__init__()
        channels = [hp.width * 2**level for level in range(hp.halvings + 1)]
        sizes = [shape[1:]]
        for _ in range(hp.halvings):
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        layers: list[nn.Module] = [nn.Conv2d(shape[0] + classes, hp.width, 7, padding=3), *normed(hp.width)]
        for inputs, outputs in itertools.pairwise(channels):
            layers += [Halve(inputs, outputs), *normed(outputs)]
        layers += [ResidualBlock(channels[-1]) for _ in range(hp.residual_blocks)]
        for level in range(hp.halvings, 0, -1):
            layers += [Double(channels[level], channels[level - 1], sizes[level - 1]), *normed(channels[level - 1])]
        layers.append(nn.Conv2d(hp.width, shape[0], 7, padding=3))
        self.layers = nn.Sequential(*layers)

    def forward(self, told: Float[Tensor, "n k h w"], image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return the translated image: what goes through the network, beside the image itself."""
        own = torch.atanh(image.clamp(-0.99, 0.99))
        return torch.tanh(own + self.layers(told).float())


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with instance norm, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            *normed(width),
            nn.Conv2d(width, width, 3, padding=1),
            nn.InstanceNorm2d(width, affine=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return x + self.layers(x)


class PatchDiscriminator(nn.Module):
    """Strided convolutions to a grid of scores, one for each overlapping patch of the image."""

    def __init__(self, shape: Shape, hp: CycleGAN.Hyperparameters, classes: int) -> None:
        super().__init__()
        widths = [2 * hp.width, 4 * hp.width, 8 * hp.width][: 2 if min(shape[1:]) < 32 else 3]
        layers: list[nn.Module] = [Halve(shape[0] + classes, widths[0]), nn.LeakyReLU(0.2)]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [Halve(inputs, outputs), nn.InstanceNorm2d(outputs, affine=True), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        return self.layers(x).float()


def normed(width: int) -> list[Any]:
    """Instance norm and ReLU."""
    return [nn.InstanceNorm2d(width, affine=True), nn.ReLU()]
