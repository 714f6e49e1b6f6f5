"""Grey levels of a volume's slices: two percentiles of the foreground become black and white.

Scanners store whole numbers. These are counted, and each that occurs is scaled once, which is several times as fast as
sorting and scaling every voxel; to the last bit the result is that of `np.percentile` and `rules.scaled`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.faults import UnusableError
from bench.data.rules import Array, scaled

_EXACT = 2**24
"""float32 holds every whole number up to it."""
_COUNTED = 2**16
"""Whole numbers in a range this wide are counted."""


def normalised(values: NDArray[Any], percentiles: Sequence[float], inside: NDArray[np.bool_] | None = None) -> Array:
    """Return values in [0, 1]: 0 and 1 are percentiles of the foreground; outside `inside` all is 0.

    Background is what equals the smallest value: the 0 around an extracted brain, which would otherwise decide.

    Args:
        values: finite numbers, of any shape.
        percentiles: two, from 0 to 100.
        inside: where the foreground lies, of the same shape; everywhere if left out.

    Raises:
        UnusableError: there is no foreground, or all of it has one value.
    """
    if (levels := _levels(values)) is None:
        values = values.astype(np.float32, copy=False)
        chosen = values if inside is None else values[inside]
        foreground = chosen[chosen > values.min()]
        if not foreground.size:
            raise UnusableError("its slices are empty")
        low, high = _distinct(np.percentile(foreground, percentiles))
        found = scaled(values, low, high)
    else:
        counts = np.bincount(levels.ravel() if inside is None else levels[inside])
        counts[:1] = 0
        if not counts.any():
            raise UnusableError("its slices are empty")
        least = int(values.min())
        low, high = _distinct(_percentiles(counts, least, percentiles))
        every = np.arange(least, int(values.max()) + 1).astype(np.float32)
        found = scaled(every, low, high).take(levels)
    return found if inside is None else found * inside


def _distinct(ends: Sequence[float]) -> tuple[float, float]:
    low, high = (float(end) for end in ends)
    if not low < high:
        raise UnusableError("its slices hold one value beside their background")
    return low, high


def _levels(values: NDArray[Any]) -> NDArray[np.intp] | None:
    """Whole numbers, counted from the smallest; None where they are no such, or too far apart."""
    least, most = float(values.min()), float(values.max())
    if not (least >= -_EXACT and most <= _EXACT and most - least < _COUNTED):
        return None
    if values.dtype.kind == "f":
        whole = values.astype(np.int32)
        if not np.array_equal(whole.astype(values.dtype), values):
            return None
        values = whole
    return np.subtract(values, int(least), dtype=np.intp, casting="unsafe")


def _percentiles(counts: NDArray[np.intp], least: int, wanted: Sequence[float]) -> list[float]:
    """Percentiles where `counts[i]` values are `least` + i, interpolated linearly by NumPy's formula."""
    until = np.cumsum(counts)
    last = int(until[-1]) - 1
    found = []
    for percent in wanted:
        place = last * (percent / 100)
        index = min(int(place), last)
        below, above = (least + int(np.searchsorted(until, at, side="right")) for at in (index, min(index + 1, last)))
        share = place - index
        found.append(above - (above - below) * (1 - share) if share >= 0.5 else below + (above - below) * share)
    return found
