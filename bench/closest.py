"""The pairs of generated and training image that lie closest, written beside a run to be looked at.

They hold patients: nothing is written, and what was written is removed, where a suite keeps patient images back.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.metrics.memorization import ClosestPairs
from bench.store import write_with

FILE = "closest.npz"


def write_closest(run: Path, pairs: ClosestPairs | None) -> None:
    """Write generated and training images (uint8 [n, C, H, W]), ratios [n] and threshold; None removes an older file."""
    path = run / FILE
    if pairs is None:
        path.unlink(missing_ok=True)
        return
    write_with(
        path,
        lambda file: np.savez_compressed(
            file,
            generated=pairs.generated,
            training=pairs.training,
            ratios=pairs.ratios,
            threshold=np.float64(pairs.threshold),
        ),
    )
