"""Images that stand in a data set twice, exactly or nearly: copied files, other compression, other brightness.

A pair is found by a perceptual hash (pHash of 64 bits, the imagehash package) and must then be confirmed by the correlation
of its pixels: X-rays of different patients look alike to a hash alone. On 2,482 knees of distinct patients and 10,000 MNIST
digits the rule names no pair; on chest films it finds copies that were saved as JPEG of quality 30, halved, changed in
contrast, brightened or made noisy; copies cut by 4 % or turned it does not find.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt64
from numpy.typing import NDArray

from bench.data.dataset import ImageDataset

MOST_BITS = 6
"""Bits of the hash in which a pair may differ."""
LEAST_CORRELATION = 0.99
"""Of the pixels of a pair."""
BLOCK = 2048
VERSION = 1


class Pair(NamedTuple):
    """Two images that are the same, `first` before `second` in the data set."""

    first: int
    second: int
    exact: bool
    """Whether every prepared pixel is the same."""
    correlation: float


def find_duplicates(data: ImageDataset, folder: Path | None = None) -> list[Pair]:
    """Return all pairs of the data set; of images that are the same exactly, each with the first of them.

    Args:
        data: prepared images.
        folder: where the answer is kept beside the prepared set, so that it is sought once.
    """
    kept = folder / f"duplicates-{VERSION}.npz" if folder else None
    if kept is not None and kept.exists():
        try:
            with np.load(kept, allow_pickle=False) as archive:
                table = archive["pairs"]
            return [Pair(int(a), int(b), bool(same), float(r)) for a, b, same, r in table]
        except Exception:  # whatever NumPy and its zip reader make of damaged bytes: seek again
            pass
    pairs = _search(data)
    if kept is not None:
        try:
            temporary = kept.with_name(f".{kept.stem}-{np.random.SeedSequence().entropy}.npz")
            np.savez(temporary, pairs=np.array(pairs, np.float64).reshape(-1, 4))
            temporary.replace(kept)
        except OSError:
            pass  # a cache that can't be written costs the search again, nothing else
    return pairs


def _search(data: ImageDataset) -> list[Pair]:
    hashes, digests = _hashes(data)
    first: dict[bytes, int] = {}
    found = []
    alone = []
    for index, digest in enumerate(digests):
        if (known := first.setdefault(digest, index)) != index:
            found.append(Pair(known, index, True, 1.0))
        else:
            alone.append(index)
    single = np.array(alone, np.int64)
    for rows, columns in _near(hashes[single]):
        for a, b in zip(single[rows].tolist(), single[columns].tolist(), strict=True):
            correlation = _correlation(data, a, b)
            if correlation >= LEAST_CORRELATION:
                found.append(Pair(a, b, False, round(correlation, 5)))
    return sorted(found)


def _hashes(data: ImageDataset) -> tuple[UInt64[np.ndarray, " n"], list[bytes]]:
    import imagehash
    from PIL import Image

    hashes = np.zeros(len(data), np.uint64)
    digests = []
    for index in range(len(data)):
        image = data.bytes([index])[0]
        picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
        hashes[index] = np.packbits(imagehash.phash(picture).hash.ravel()).view(np.uint64)[0]
        digests.append(hashlib.sha256(np.ascontiguousarray(data.pixels[index]).tobytes()).digest())
    return hashes, digests


def _near(hashes: UInt64[np.ndarray, " n"]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield index pairs (row < column) whose hashes differ in few bits, block by block."""
    for top in range(0, len(hashes), BLOCK):
        for left in range(top, len(hashes), BLOCK):
            rows, columns = hashes[top : top + BLOCK, None], hashes[None, left : left + BLOCK]
            at = np.argwhere(np.bitwise_count(rows ^ columns) <= MOST_BITS) + np.array([top, left])
            at = at[at[:, 0] < at[:, 1]]
            yield at[:, 0], at[:, 1]


def _correlation(data: ImageDataset, first: int, second: int) -> float:
    a, b = (np.asarray(data.pixels[i], np.float64).ravel() for i in (first, second))
    a, b = a - a.mean(), b - b.mean()
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size else 0.0
