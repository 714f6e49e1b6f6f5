"""Batches for training: which images stand in which, and their pixels straight from the memory map."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bench.data.dataset import ImageDataset
from bench.seeds import derive, numpy_rng

AHEAD_BYTES = 2**20
"""Batches are fetched several at once while together they take no more than this: small ones cost a call each otherwise.
What fits a core's cache is still there when its turn comes."""
AHEAD = 16
RESIDENT_SHARE = 0.25
"""Of a GPU's free memory that pixels may take, so that they are copied there once and not batch by batch."""


def batches(indices: np.ndarray, size: int, seed: int, taken: int = 0) -> Iterator[np.ndarray]:
    """Yield batches of `size` from endless epochs, each a fresh permutation; a rest below `size` is left out.

    Args:
        indices: of the images.
        size: of a batch, bounded by the number of images.
        seed: root of the permutations.
        taken: batches that a training before has had already: the stream goes on after them.
    """
    size = min(size, len(indices))
    epoch, skipped = divmod(taken, len(indices) // size)
    while True:
        order = numpy_rng(seed, "epoch", epoch).permutation(indices)
        for start in range(skipped * size, len(order) - size + 1, size):
            yield order[start : start + size]
        epoch, skipped = epoch + 1, 0


def balanced(indices: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Return indices in which every class stands as often as the largest one: all of its images, then some again."""
    own = [indices[labels[indices] == label] for label in np.unique(labels[indices])]
    most = max(len(part) for part in own)
    rng = numpy_rng(seed, "balanced")
    again = [np.concatenate([rng.permutation(part) for _ in range(-(-most // len(part)))])[:most] for part in own]
    return np.concatenate(again)


def balanced_batches(
    indices: np.ndarray, labels: np.ndarray, size: int, seed: int, taken: int = 0
) -> Iterator[np.ndarray]:
    """Yield batches as `batches` does, from epochs in which all classes stand equally often."""
    size = min(size, len(indices))
    epoch, skipped = divmod(taken, len(balanced(indices, labels, seed)) // size)  # every epoch is as long
    while True:
        again = balanced(indices, labels, derive(seed, "epoch", epoch))
        order = numpy_rng(seed, "epoch", epoch).permutation(again)
        for start in range(skipped * size, len(order) - size + 1, size):
            yield order[start : start + size]
        epoch, skipped = epoch + 1, 0


def bounded(stream: Iterator[np.ndarray], size: int, images: int | None) -> Iterator[np.ndarray]:
    """Yield batches until `images` are spent, endlessly if it is None; each in the order in which its images lie.

    Every family sees exactly as many images: the last two batches share what is left. Sorted to read the memory map in one
    direction, and only after that: the first of a sorted batch are of one class.
    """
    for chosen in stream:
        if images is not None:
            if images <= 0:
                return
            chosen = chosen[: max(2, images if images <= size else images // 2)]
            images -= len(chosen)
        yield np.sort(chosen)


def fetched(data: ImageDataset, stream: Iterator[np.ndarray], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and labels of each batch, on the device.

    Where that is no CPU, the whole set of pixels stays there if it is small beside the memory that is free.
    """
    labels = torch.from_numpy(data.labels).to(device)
    pixels = resident(data, device)
    if pixels is not None:
        for chosen in stream:
            where = torch.from_numpy(chosen).to(device, non_blocking=True)
            yield scaled(pixels.index_select(0, where)), labels.index_select(0, where)
        return
    each = 4 * int(np.prod(data.shape))
    while True:
        group: list[np.ndarray] = []
        for chosen in stream:
            group.append(chosen)
            if len(group) == AHEAD or (sum(map(len, group)) + len(chosen)) * each > AHEAD_BYTES:
                break
        if not group:
            return
        joined = np.concatenate(group)
        images = data.floats(joined).to(device, non_blocking=True)
        of_them = labels[torch.from_numpy(joined).to(device)]
        sizes = [len(chosen) for chosen in group]
        yield from zip(images.split(sizes), of_them.split(sizes), strict=True)


def resident(data: ImageDataset, device: torch.device) -> Tensor | None:
    """Return all pixels as they are stored, on a GPU with room for them; None where they are to be fetched."""
    if device.type != "cuda" or data.pixels.dtype != np.uint8:
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if data.pixels.nbytes > free * RESIDENT_SHARE:
        return None
    return torch.from_numpy(np.array(data.pixels)).to(device)


def scaled(pixels: Tensor) -> Tensor:
    """Return 8-bit pixels as `ImageDataset.floats` does, to the last bit.

    Divided by a number that lies on the device: by one of the host's CUDA multiplies with its reciprocal, which is another
    float for half of the levels.
    """
    return pixels.to(torch.float32).div_(torch.full((), 255.0, device=pixels.device))
