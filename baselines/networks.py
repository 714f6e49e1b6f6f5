"""Networks that families share, so that their results differ by method and not by capacity.

Two pairs of encoder and decoder, convolutional and fully connected, with one way in (`encoder(images, labels)` gives
features) and one way out (`decoder(vectors, labels)` gives image logits, before any tanh or sigmoid). Labels are joined
here, as one-hot channels or one-hot entries; built with `classes=0`, a network ignores them.

No losses, no sampling, no randomness but the initial weights, and nothing that knows a family by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from bench.model import Shape

SMALLEST_IMAGE = 16
SMALLEST_GRID = 4
WIDEST = 8
"""Channels grow by two with each halving up to this many times the base width, as in Radford et al. 2016."""


def grid_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Return the (height, width) of every grid from the image down to the one the vectors are read from.

    Sides are halved, rounding up, for as long as both stay at 4 or more: 64 -> 32 -> 16 -> 8 -> 4, and 28 -> 14 -> 7 -> 4.

    Raises:
        ValueError: a side is below 16 pixels.
    """
    if min(height, width) < SMALLEST_IMAGE:
        raise ValueError(
            f"images of {height}x{width} are too small: both sides must have {SMALLEST_IMAGE} pixels or more"
        )
    sizes = [(height, width)]
    while min(sizes[-1]) > 2 * SMALLEST_GRID - 2:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def grid_channels(width: int, halvings: int) -> list[int]:
    """Return the channels of every grid below the image: `width`, doubled with each halving, at most 8 times `width`."""
    return [width * min(2**level, WIDEST) for level in range(halvings)]


def join_vector(vectors: Float[Tensor, "n d"], labels: Int[Tensor, " n"], classes: int) -> Float[Tensor, "n d_and_k"]:
    """Append the one-hot label to each vector; with `classes` 0, return the vectors as they are."""
    if classes == 0:
        return vectors
    return torch.cat([vectors, F.one_hot(labels, classes).to(vectors.dtype)], dim=1)


def join_channels(
    images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], classes: int
) -> Float[Tensor, "n c_and_k h w"]:
    """Append one constant channel per class, 1 for the label's and 0 elsewhere; with `classes` 0, return the images."""
    if classes == 0:
        return images
    planes = F.one_hot(labels, classes).to(images.dtype)[:, :, None, None]
    return torch.cat([images, planes.expand(-1, -1, *images.shape[2:])], dim=1)


class Halve(nn.Module):
    """Strided 4x4 convolution from sides (h, w) to (ceil(h / 2), ceil(w / 2))."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1, bias=bias)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h_half w_half"]:
        """Apply it, with one more row or column of zeros where a side is odd."""
        odd_h, odd_w = x.shape[2] % 2, x.shape[3] % 2
        return self.convolution(F.pad(x, (0, odd_w, 0, odd_h)) if odd_h or odd_w else x)


class Double(nn.Module):
    """Transposed 4x4 convolution of stride 2 to exactly `size`, whose sides are twice the input's or one less.

    The kernel is a multiple of the stride, so that every output pixel gathers equally many terms: no checkerboard.
    """

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int], *, bias: bool = True) -> None:
        super().__init__()
        self.size = size
        self.convolution = nn.ConvTranspose2d(inputs, outputs, kernel_size=4, stride=2, padding=1, bias=bias)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h_double w_double"]:
        """Apply it and crop to the size."""
        y: Tensor = self.convolution(x)
        return y if y.shape[2:] == self.size else y[:, :, : self.size[0], : self.size[1]]


class ConvolutionalEncoder(nn.Module):
    """Strided convolutions down to a grid of about 4x4, flattened into `features` numbers per image.

    Args:
        shape: channels, height, width of one image; sides of 16 or more.
        classes: number of one-hot label channels joined to the input; 0 for none.
        width: channels after the first halving.
        batch_norm: normalise after every convolution but the first (as discriminators do, Radford et al. 2016).
        activation: makes the nonlinearity.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        classes: int = 0,
        width: int = 32,
        batch_norm: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.classes = classes
        sizes = grid_sizes(*shape[1:])
        channels = [shape[0] + classes, *grid_channels(width, len(sizes) - 1)]
        layers: list[nn.Module] = []
        for level, (inputs, outputs) in enumerate(pairwise(channels)):
            normalised = batch_norm and level > 0
            layers.append(Halve(inputs, outputs, bias=not normalised))
            layers += [nn.BatchNorm2d(outputs)] if normalised else []
            layers.append(activation())
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.features = channels[-1] * sizes[-1][0] * sizes[-1][1]

    def forward(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n features"]:
        """Return the features of the images."""
        return self.layers(join_channels(images, labels, self.classes))


class ConvolutionalDecoder(nn.Module):
    """Mirror of `ConvolutionalEncoder`: project to the smallest grid, then transposed convolutions up to the image.

    Args:
        inputs: length of the vectors.
        shape: channels, height, width of one image; sides of 16 or more.
        classes: number of one-hot label entries joined to the vectors; 0 for none.
        width: channels before the last doubling.
        batch_norm: normalise the projection and every transposed convolution but the last.
        activation: makes the nonlinearity; none follows the last layer.
    """

    def __init__(
        self,
        inputs: int,
        shape: Shape,
        *,
        classes: int = 0,
        width: int = 32,
        batch_norm: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.classes = classes
        sizes = grid_sizes(*shape[1:])[::-1]
        channels = [*grid_channels(width, len(sizes) - 1)[::-1], shape[0]]
        self.grid = (channels[0], *sizes[0])
        units = math.prod(self.grid)
        self.project = nn.Sequential(nn.Linear(inputs + classes, units, bias=not batch_norm))
        if batch_norm:  # per unit, not per channel as elsewhere: the offsets hold what all images have in common
            self.project.append(nn.BatchNorm1d(units))
        layers: list[nn.Module] = [activation()]
        for level, size in enumerate(sizes[1:-1]):
            layers.append(Double(channels[level], channels[level + 1], size, bias=not batch_norm))
            layers += [nn.BatchNorm2d(channels[level + 1])] if batch_norm else []
            layers.append(activation())
        layers.append(Double(channels[-2], channels[-1], sizes[-1]))
        self.layers = nn.Sequential(*layers)

    def forward(self, vectors: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return image logits."""
        grid = self.project(join_vector(vectors, labels, self.classes)).unflatten(1, self.grid)
        return self.layers(grid.contiguous(memory_format=torch.channels_last))


class DenseEncoder(nn.Module):
    """Flattened image and one-hot label through linear and ReLU layers of the given widths; `features` is the last."""

    def __init__(self, shape: Shape, *, widths: Sequence[int], classes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.layers = dense([shape[0] * shape[1] * shape[2] + classes, *widths])
        self.features = widths[-1]

    def forward(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n features"]:
        """Return the features of the images."""
        return self.layers(join_vector(images.flatten(1), labels, self.classes))


class DenseDecoder(nn.Module):
    """Mirror of `DenseEncoder`: vector and one-hot label through the widths reversed, then linear to the image."""

    def __init__(self, inputs: int, shape: Shape, *, widths: Sequence[int], classes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.layers = dense([inputs + classes, *reversed(widths)])
        self.to_image = nn.Sequential(nn.Linear(widths[0], shape[0] * shape[1] * shape[2]), nn.Unflatten(1, shape))

    def forward(self, vectors: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return image logits."""
        return self.to_image(self.layers(join_vector(vectors, labels, self.classes)))


def dense(widths: Sequence[int]) -> nn.Sequential:
    """Linear and ReLU layers from each width to the next."""
    layers = [layer for inputs, outputs in pairwise(widths) for layer in (nn.Linear(inputs, outputs), nn.ReLU())]
    return nn.Sequential(*layers)
