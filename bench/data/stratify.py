"""Iterative stratification of whole subjects: which part each gets, so that every part has its share of every class.

After Sechidis et al. 2011, "On the stratification of multi-label data" (ECML PKDD), with subjects in place of examples: the
class with the fewest subjects left goes first, and a subject goes to the part that has the least of its wanted share of that
class. So every part gets a subject of a class before any part gets a second one. What that leaves without a class is mended
by moving and swapping subjects.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from bench.seeds import derive, numpy_rng

TRIES = 30
"""Orders of the subjects that are tried, where moves and swaps don't help."""
SEARCHED = 60
"""Subjects on either side of a move or swap that are looked at."""


def stratify(
    counts: Int[np.ndarray, "subjects classes"], fractions: Float[np.ndarray, " parts"], seed: int
) -> Int[np.ndarray, " subjects"]:
    """Return the part of each subject, every class in every part wherever a way was found.

    Args:
        counts: images of each subject in each class.
        fractions: wanted share of each part.
        seed: another seed, another order of the subjects.
    """
    first: NDArray[np.int64] | None = None
    for attempt in range(TRIES):
        own = seed if attempt == 0 else derive(seed, "split again", attempt)
        side = _mended(_assign(counts, fractions, own), counts, len(fractions))
        first = side if first is None else first
        if not _missing(side, counts, len(fractions)):
            return side
    assert first is not None
    return first


def _assign(counts: NDArray[np.int64], fractions: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Return the part of each subject; counts [subjects, classes]."""
    rng = numpy_rng(seed, "split")
    wanted = fractions[:, None] * counts.sum(axis=0)
    given = np.zeros_like(wanted)
    side = np.full(len(counts), -1)
    # shuffled, then large ones first (the sort is stable): small subjects level out what large ones leave uneven
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    queues = {label: deque(s for s in order.tolist() if counts[s, label]) for label in range(counts.shape[1])}
    left = (counts > 0).sum(axis=0)
    while (left > 0).any():
        label = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
        while side[subject := queues[label].popleft()] >= 0:
            pass
        own = counts[subject] > 0
        share = given[:, label] / wanted[:, label]
        overall = (given[:, own] / wanted[:, own]).mean(axis=1)
        part = min(range(len(fractions)), key=lambda p: (share[p], overall[p], -fractions[p]))
        side[subject] = part
        given[part] += counts[subject]
        left -= own
    return side


def _missing(side: NDArray[np.int64], counts: NDArray[np.int64], parts: int) -> list[tuple[int, int]]:
    """(part, class) that have no image though the class has."""
    held = _held(side, counts, parts)
    return [(int(p), int(c)) for p, c in np.argwhere((held == 0) & (counts.sum(axis=0) > 0))]


def _held(side: NDArray[np.int64], counts: NDArray[np.int64], parts: int) -> NDArray[np.int64]:
    """Subjects of each class in each part."""
    held = np.zeros((parts, counts.shape[1]), np.int64)
    np.add.at(held, side, (counts > 0).astype(np.int64))
    return held


def _mended(side: NDArray[np.int64], counts: NDArray[np.int64], parts: int) -> NDArray[np.int64]:
    """Give each part that lacks a class one subject of it, as long as that leaves fewer gaps."""
    side = side.copy()
    while gaps := _missing(side, counts, parts):
        for part, label in gaps:
            better = _better(side, counts, parts, part, label, len(gaps))
            if better is not None:
                side = better
                break
        else:
            return side
    return side


def _better(
    side: NDArray[np.int64], counts: NDArray[np.int64], parts: int, part: int, label: int, gaps: int
) -> NDArray[np.int64] | None:
    """The first move into `part`, or swap with one of its subjects, that leaves fewer gaps; small subjects first."""
    order = np.argsort(counts.sum(axis=1), kind="stable")
    givers = [s for s in order if counts[s, label] and side[s] != part][:SEARCHED]
    for giver in givers:
        moved = side.copy()
        moved[giver] = part
        if len(_missing(moved, counts, parts)) < gaps:
            return moved
    for giver in givers:
        for taker in order[side[order] == part][:SEARCHED]:
            moved = side.copy()
            moved[giver], moved[taker] = part, side[giver]
            if len(_missing(moved, counts, parts)) < gaps:
                return moved
    return None
