"""What is said of one image: its values as they were read, or why it is left out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class UnusableError(Exception):
    """Why one image is left out."""


class Raw(NamedTuple):
    """One image's values as its file means them."""

    values: NDArray[np.float32]
    """[height, width] or [height, width, 3]."""
    bits: int
    """8 or 16, or 32 where no full range is known."""
    full: tuple[float, float] | None
    """Which values are black and white if nothing else is said; None where the file doesn't tell."""
    inverted: bool = False
    """Whether white is the least value."""
    clips: bool = False
    """Whether values outside `full` are meant to be clipped (a window that the file itself declares)."""
