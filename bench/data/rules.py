"""How values become pixels: intensity, colour, size. One rule each, the same for every source, training and scoring.

Pure functions on arrays; which files there are and what they hold is told elsewhere (`files`, `pixels`, `arrays`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Array = NDArray[np.float32]

STRETCH = 0.02
"""Change of the ratio of height to width up to which nobody calls an image stretched: rounding to whole pixels."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Grey from colour: ITU-R BT.601."""


def scaled(raw: Array, low: float, high: float) -> Array:
    """Return values in [0, 1]: `low` and below become 0, `high` and above 1."""
    found: Array = np.clip((raw - np.float32(low)) / np.float32(high - low), 0, 1, dtype=np.float32)
    return found


def coloured(values: Array, channels: int) -> Float[Any, "c h w"]:
    """Return channels first: colour made grey by luma, or grey repeated.

    Args:
        values: [height, width] or [height, width, 3].
        channels: 1 or 3.
    """
    if values.ndim == 2:
        return np.repeat(values[None], channels, axis=0)
    return values.transpose(2, 0, 1) if channels == 3 else (values @ LUMA)[None]


def resized(values: Array, size: tuple[int, int], fit: Literal["stretch", "pad"]) -> Float[Any, "c h w"]:
    """Return [channels, *size], bicubic and antialiased on the unrounded values (Pillow, mode F).

    Args:
        values: [channels, height, width] in [0, 1].
        size: height, width.
        fit: 'stretch' to the size, or keep the shape and 'pad' with 0.
    """
    from PIL import Image

    height, width = size
    inner = (height, width)
    if fit == "pad":
        scale = min(height / values.shape[1], width / values.shape[2])
        inner = (max(1, round(values.shape[1] * scale)), max(1, round(values.shape[2] * scale)))
    if values.shape[1:] != inner:
        wanted, method = (inner[1], inner[0]), Image.Resampling.BICUBIC
        planes = [np.asarray(Image.fromarray(np.ascontiguousarray(v)).resize(wanted, method)) for v in values]
        values = np.stack(planes).clip(0, 1)  # bicubic overshoots at edges
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    sides = ((0, 0), (top, height - inner[0] - top), (left, width - inner[1] - left))
    return np.pad(values, sides)


def stretched(shapes: Mapping[tuple[int, int], int], size: tuple[int, int]) -> int:
    """Count the images that get another shape by becoming `size`; `shapes`: height and width -> number of images."""
    return sum(count for shape, count in shapes.items() if _bends(shape, size))


def stretching(shapes: Mapping[tuple[int, int], int], size: tuple[int, int]) -> str:
    """Say which images get another shape by becoming `size`: '30 images of 40x60 and 3 of 2 other sizes are stretched ...'."""
    bent = {shape: count for shape, count in shapes.items() if _bends(shape, size)}
    if not bent:
        return ""
    height, width = max(bent, key=lambda shape: bent[shape])
    count = bent.pop((height, width))
    rest = f"{len(bent):,} other sizes" if len(bent) > 1 else "".join(f"{h}x{w}" for h, w in bent)
    others = f" and {sum(bent.values()):,} of {rest}" if bent else ""
    are = "is" if count == 1 and not bent else "are"
    return f"{count:,} image{'s' * (count > 1)} of {height}x{width}{others} {are} stretched to {size[0]}x{size[1]}"


def _bends(shape: tuple[int, int], size: tuple[int, int]) -> bool:
    return abs(shape[0] * size[1] - shape[1] * size[0]) > STRETCH * shape[0] * size[1]
