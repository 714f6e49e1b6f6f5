"""How values become pixels: intensity, colour, size. One rule each, the same for every source, training and scoring.

Pure functions on arrays; which files there are and what they hold is told elsewhere (`files`, `pixels`, `arrays`).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Array = NDArray[np.float32]

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
