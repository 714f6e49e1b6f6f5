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


def grid_sizes(height: int, width: int, halvings: int | None = None) -> list[tuple[int, int]]:
    """Return the (height, width) of every grid from the image down to the one the vectors are read from.

    Sides are halved, rounding up, for as long as both stay at 4 or more: 64 -> 32 -> 16 -> 8 -> 4, and 28 -> 14 -> 7 -> 4;
    or as often as asked for.

    Raises:
        ValueError: a side is below 16 pixels.
    """
    if min(height, width) < SMALLEST_IMAGE:
        raise ValueError(
            f"images of {height}x{width} are too small: both sides must have {SMALLEST_IMAGE} pixels or more"
        )
    sizes = [(height, width)]
    while min(sizes[-1]) > 2 * SMALLEST_GRID - 2 if halvings is None else len(sizes) <= halvings:
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
    """Strided convolution from sides (h, w) to (ceil(h / 2), ceil(w / 2)), for kernels of 2 to 5."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 4, bias: bool = True) -> None:
        super().__init__()
        self.even_kernel = kernel % 2 == 0
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=(kernel - 1) // 2, bias=bias)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h_half w_half"]:
        """Apply it, with one more row or column of zeros where an even kernel meets an odd side."""
        odd_h, odd_w = x.shape[2] % 2, x.shape[3] % 2
        return self.convolution(F.pad(x, (0, odd_w, 0, odd_h)) if self.even_kernel and (odd_h or odd_w) else x)


class Double(nn.Module):
    """Transposed convolution of stride 2 to exactly `size`, whose sides are twice the input's or one less.

    The usual kernel, 4, is a multiple of the stride, so that every output pixel gathers equally many terms: no
    checkerboard. Others (2 to 5) are there for presets that follow a paper.
    """

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int], *, kernel: int = 4, bias: bool = True) -> None:
        super().__init__()
        self.size = size
        self.convolution = nn.ConvTranspose2d(
            inputs, outputs, kernel, stride=2, padding=(kernel - 1) // 2, output_padding=kernel % 2, bias=bias
        )

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
        channels: channels after each halving, in place of `width` and of the depth derived from the size.
        kernels: one kernel for all, or one for each halving.
        batch_norm: normalise after every convolution but the first (as discriminators do, Radford et al. 2016).
        normalise_first: normalise after the first as well.
        activation: makes the nonlinearity.
        dropout: share of channels dropped after each activation.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        classes: int = 0,
        width: int = 32,
        channels: Sequence[int] | None = None,
        kernels: int | Sequence[int] = 4,
        batch_norm: bool = False,
        normalise_first: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.classes = classes
        sizes, widths, kernels = _plan(shape, width, channels, kernels)
        layers: list[nn.Module] = []
        self.ends: list[int] = []
        """Number of layers up to the end of each block: `upto` counts blocks."""
        for level, (inputs, outputs) in enumerate(pairwise([shape[0] + classes, *widths])):
            normalised = batch_norm and (level > 0 or normalise_first)
            layers.append(Halve(inputs, outputs, kernel=kernels[level], bias=not normalised))
            layers += [nn.BatchNorm2d(outputs)] if normalised else []
            layers.append(activation())
            layers += [nn.Dropout2d(dropout)] if dropout else []
            self.ends.append(len(layers))
        # channels last: a fifth less time for a step of DCGAN on a CPU
        self.layers = nn.Sequential(*layers, nn.Flatten()).to(memory_format=torch.channels_last)
        self.features = widths[-1] * sizes[-1][0] * sizes[-1][1]

    def forward(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n features"]:
        """Return the features of the images."""
        return self.layers(join_channels(images, labels, self.classes))

    def split(
        self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], block: int
    ) -> tuple[Float[Tensor, "n d a b"], Float[Tensor, "n features"]]:
        """Return what the block of this number (1 is the first) gives, and the features that `forward` returns."""
        end = self.ends[block - 1]
        middle = self.layers[:end](join_channels(images, labels, self.classes))
        return middle, self.layers[end:](middle)


class ConvolutionalDecoder(nn.Module):
    """Mirror of `ConvolutionalEncoder`: project to the smallest grid, then transposed convolutions up to the image.

    Args:
        inputs: length of the vectors.
        shape: channels, height, width of one image; sides of 16 or more.
        classes: number of one-hot label entries joined to the vectors; 0 for none.
        width: channels before the last doubling.
        channels: channels of each grid, as the encoder's (the largest grid first).
        kernels: one kernel for all, or one for each doubling, as the encoder's (the largest grid first).
        batch_norm: normalise the projection and every transposed convolution but the last.
        activation: makes the nonlinearity; none follows the last layer.
        last_stride_1: the last doubling keeps its channels and a convolution of stride 1 makes the image.
    """

    def __init__(
        self,
        inputs: int,
        shape: Shape,
        *,
        classes: int = 0,
        width: int = 32,
        channels: Sequence[int] | None = None,
        kernels: int | Sequence[int] = 4,
        batch_norm: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
        last_stride_1: bool = False,
    ) -> None:
        super().__init__()
        self.classes = classes
        sizes, widths, kernels = _plan(shape, width, channels, kernels)
        sizes, widths, kernels = sizes[::-1], widths[::-1], kernels[::-1]
        outputs = [*widths[1:], widths[-1] if last_stride_1 else shape[0]]
        self.grid = (widths[0], *sizes[0])
        units = math.prod(self.grid)
        self.project = nn.Sequential(nn.Linear(inputs + classes, units, bias=not batch_norm))
        if batch_norm:  # per unit, not per channel as elsewhere: the offsets hold what all images have in common
            self.project.append(nn.BatchNorm1d(units))
        layers: list[nn.Module] = [activation()]
        for level, size in enumerate(sizes[1:]):
            last = level == len(outputs) - 1 and not last_stride_1
            normalised = batch_norm and not last
            layers.append(Double(widths[level], outputs[level], size, kernel=kernels[level], bias=not normalised))
            layers += [nn.BatchNorm2d(outputs[level])] if normalised else []
            layers += [] if last else [activation()]
        if last_stride_1:  # a transposed convolution of stride 1 is a convolution: written as one
            layers.append(nn.Conv2d(widths[-1], shape[0], kernels[-1], padding="same"))
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)

    def forward(self, vectors: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return image logits."""
        grid = self.project(join_vector(vectors, labels, self.classes)).unflatten(1, self.grid)
        return self.layers(grid.contiguous(memory_format=torch.channels_last))


def _plan(
    shape: Shape, width: int, channels: Sequence[int] | None, kernels: int | Sequence[int]
) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Sizes of all grids, image first; channels of all but the image; kernels between them."""
    sizes = grid_sizes(*shape[1:], halvings=len(channels) if channels else None)
    widths = list(channels) if channels else grid_channels(width, len(sizes) - 1)
    each = [kernels] * len(widths) if isinstance(kernels, int) else list(kernels)
    if len(each) != len(widths):
        raise ValueError(f"{len(each)} kernels for {len(widths)} halvings")
    return sizes, widths, each


class DenseEncoder(nn.Module):
    """Flattened image and one-hot label through linear layers of the given widths; `features` is the last of these.

    Each is followed by the activation, and by dropout if asked for.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        widths: Sequence[int],
        classes: int = 0,
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.layers = dense([shape[0] * shape[1] * shape[2] + classes, *widths], activation, dropout=dropout)
        self.features = widths[-1]

    def forward(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n features"]:
        """Return the features of the images."""
        return self.layers(join_vector(images.flatten(1), labels, self.classes))


class DenseDecoder(nn.Module):
    """Mirror of `DenseEncoder`: vector and one-hot label through the widths reversed, then linear to the image."""

    def __init__(
        self, inputs: int, shape: Shape, *, widths: Sequence[int], classes: int = 0, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.classes = classes
        self.layers = dense([inputs + classes, *reversed(widths)], batch_norm=batch_norm)
        self.to_image = nn.Sequential(nn.Linear(widths[0], shape[0] * shape[1] * shape[2]), nn.Unflatten(1, shape))

    def forward(self, vectors: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        """Return image logits."""
        return self.to_image(self.layers(join_vector(vectors, labels, self.classes)))


def dense(
    widths: Sequence[int],
    activation: Callable[[], nn.Module] = nn.ReLU,
    *,
    batch_norm: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Linear layers from each width to the next, each with (batch norm,) activation (and dropout)."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers.append(nn.Linear(inputs, outputs))
        layers += [nn.BatchNorm1d(outputs)] if batch_norm else []
        layers.append(activation())
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers)
