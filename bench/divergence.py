"""The guard of a training: losses that are no numbers, that explode, and output that no longer depends on anything.

It looks every `GUARD_STEPS` steps, so that a training that is lost costs no more than these, and reads the device once
per look and not once per step. A loss that diverged is never averaged into a number.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from torch import Tensor

from bench.errors import BenchError, DivergedError

GUARD_STEPS = 100
"""Steps between two looks at the losses: divergence is found within as many."""
EXPLODED = 1e6
"""A loss has exploded when the median of its values since the last look is this many times as large as its first value (or
as 1), which no update has touched. No loss of a family here comes near: a KL divergence that starts at 0 ends in thousands.
The median, because a single step may jump and be forgotten."""
CONSTANT = 1e-5
"""Images that differ by less than this, of 1, are the same image."""


class Losses:
    """The losses since the last record, watched."""

    def __init__(self) -> None:
        self._pending: dict[str, list[Tensor]] = {}
        self._steps: dict[str, list[int]] = {}
        self._checked: dict[str, int] = {}
        self._recent: dict[str, list[tuple[int, float]]] = {}
        self._first: dict[str, float] = {}
        self._looked = 0

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        """Take the losses of a step, whose number is 1 for the first; look at them if it is time.

        Raises:
            BenchError: they are no dict of scalar tensors.
            DivergedError: with the number of the first step that was lost.
        """
        if not isinstance(losses, dict):
            raise BenchError(f"training_step returned {type(losses).__name__}, expected a dict of scalar tensors")
        for name, value in losses.items():
            if not isinstance(value, Tensor) or value.numel() != 1:
                what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise BenchError(f"training_step returned {what} as loss {name!r}, expected a scalar tensor")
            # most are detached scalars as they come
            plain = value if not value.ndim and not value.requires_grad else value.detach().reshape(())
            self._pending.setdefault(name, []).append(plain)
            self._steps.setdefault(name, []).append(step)
        if step - self._looked >= GUARD_STEPS:
            self.check()
            self._looked = step
            self._exploded()

    def check(self) -> None:
        """Look at everything that was not looked at yet.

        Raises:
            DivergedError: a loss is not finite.
        """
        lost: list[tuple[int, str]] = []
        for name, items in self._pending.items():
            done = self._checked.get(name, 0)
            if done == len(items):
                continue
            values = torch.stack(items[done:]).double().tolist()
            steps = self._steps[name][done:]
            self._checked[name] = len(items)
            self._recent.setdefault(name, []).extend(zip(steps, values, strict=True))
            bad = [(step, value) for step, value in zip(steps, values, strict=True) if not math.isfinite(value)]
            lost += [(step, f"the loss {name!r} is {value}") for step, value in bad[:1]]
        if lost:
            raise DivergedError(*min(lost))

    def _exploded(self) -> None:
        lost: list[tuple[int, str]] = []
        for name, seen in self._recent.items():
            sizes = [abs(value) for _, value in seen]
            limit = EXPLODED * self._first.setdefault(name, max(1.0, sizes[0]))
            if (size := statistics.median(sizes)) > limit:
                step = next(step for step, value in seen if abs(value) > limit)
                began = f"{self._first[name]:.3g} when it began"
                lost.append((step, f"the loss {name!r} exploded: {size:.3g}, and {began}"))
        self._recent = {}
        if lost:
            raise DivergedError(*min(lost))

    def flush(self) -> dict[str, float]:
        """Return the mean of every loss since the last flush, in double precision, and forget them.

        Raises:
            DivergedError: as `check`.
        """
        self.check()
        values = {name: torch.stack(items).double().mean().item() for name, items in self._pending.items()}
        self._pending, self._steps, self._checked = {}, {}, {}
        return values

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "pending": {name: list(items) for name, items in self._pending.items()},
            "steps": self._steps,
            "checked": self._checked,
            "recent": self._recent,
            "first": self._first,
            "looked": self._looked,
        }

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Take up what `state` returned."""
        self._pending = {name: [item.to(device) for item in items] for name, items in state["pending"].items()}
        self._steps, self._checked = state["steps"], state["checked"]
        self._recent, self._first, self._looked = state["recent"], state["first"], state["looked"]


class Constancy:
    """Tells a model whose images no longer depend on the noise they are made from.

    Twice in a row, because early images may be all alike for a moment; once where it is the last look.
    """

    def __init__(self) -> None:
        self._seen = 0
        self.last = False

    def look(self, step: int, images: Tensor, labels: Tensor) -> None:
        """Take images [n, c, h, w] in [0, 1] that were made from different noise, with their labels [n].

        Raises:
            DivergedError: for the second time in a row, or at last, all images of each label are the same.
        """
        same = all(_spread(images[labels == label]) < CONSTANT for label in labels.unique())
        self._seen = self._seen + 1 if same else 0
        if self._seen >= (1 if self.last else 2):
            raise DivergedError(step, "constant output: it draws one and the same image, whatever the noise")

    def state(self) -> int:
        """What a checkpoint keeps."""
        return self._seen

    def restore(self, state: int) -> None:
        """Take up what `state` returned."""
        self._seen = state


def _spread(images: Tensor) -> float:
    return float((images - images[:1]).abs().max()) if len(images) > 1 else math.inf
