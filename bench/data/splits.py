"""Who is trained on, who is looked at while training, who is tested on: by subject, with every class in its share.

Knows labels and subjects only, no images. The assignment is iterative stratification (Sechidis et al. 2011, "On the
stratification of multi-label data", ECML PKDD) with whole subjects in place of examples: the class with the fewest
subjects left goes first, and a subject goes to the part that has the least of its wanted share of that class. So every
part gets a subject of a class before any part gets a second one.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.errors import InputError
from bench.seeds import numpy_rng

PARTS = ("train", "validation", "test")
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Indices of the three parts, each sorted.

    `leaking_subjects` counts subjects with images in more than one part; 0 unless the split is by slice.
    """

    train: Indices
    validation: Indices
    test: Indices
    by: Literal["subject", "slice"]
    seed: int
    leaking_subjects: int

    @property
    def hash(self) -> str:
        """16 hex digits of everything in it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back."""
        parts = {part: getattr(self, part).tolist() for part in PARTS}
        return {"by": self.by, "seed": self.seed, "leaking_subjects": self.leaking_subjects, **parts}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Split:
        """Return the split that `to_json` wrote."""
        train, validation, test = (np.asarray(value[part], dtype=np.int64) for part in PARTS)
        return cls(train, validation, test, value["by"], value["seed"], value["leaking_subjects"])


def make_split(
    labels: NDArray[np.integer[Any]],
    subjects: NDArray[Any],
    *,
    fractions: Sequence[float] = (0.6, 0.15, 0.25),
    by: Literal["subject", "slice"] = "subject",
    seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> Split:
    """Split images into train, validation and test.

    Args:
        labels: class index of each image, shape [n].
        subjects: subject of each image, shape [n]; one subject may have images of several classes.
        fractions: wanted shares of the images, adding up to 1.
        by: 'subject' keeps a subject's images on one side; 'slice' takes every image for a subject of its own, as some
            papers do, and counts the subjects that leak.
        seed: another seed, another split.
        class_names: for messages.

    Raises:
        InputError: a class can't be in all three parts, because it has fewer than three subjects (or images).
    """
    owners = np.arange(len(labels)) if by == "slice" else np.unique(np.asarray(subjects), return_inverse=True)[1]
    counts = np.zeros((int(owners.max(initial=-1)) + 1, int(labels.max(initial=-1)) + 1), np.int64)
    np.add.at(counts, (owners, labels), 1)
    _check(counts, by, class_names)
    side = _assign(counts, np.asarray(fractions, dtype=np.float64), seed)[owners]
    parts = [np.flatnonzero(side == index).astype(np.int64) for index in range(3)]
    missing = [(part, c) for part, own in zip(PARTS, parts, strict=True) for c in np.setdiff1d(labels, labels[own])]
    if missing:
        part, label = missing[0]
        raise InputError(
            f"no image of class {_name(int(label), class_names)} could be put into {part}: its subjects are bound to "
            "other classes; use more subjects, or another split seed"
        )
    _, first = np.unique(np.asarray(subjects), return_inverse=True)
    sides = [np.unique(first[own]) for own in parts]
    leaking = int((np.bincount(np.concatenate(sides)) > 1).sum())
    train, validation, test = parts
    return Split(train, validation, test, by, seed, leaking)


def _check(counts: NDArray[np.int64], by: str, class_names: Sequence[str] | None) -> None:
    if not counts.size:
        raise InputError("there are no images to split")
    what = "subjects" if by == "subject" else "images"
    for label, own in enumerate((counts > 0).sum(axis=0)):
        if 0 < own < len(PARTS):
            raise InputError(
                f"class {_name(label, class_names)} has {own} {what}; three are needed, one each for train, validation "
                "and test: add some, or leave the class out"
            )


def _name(label: int, class_names: Sequence[str] | None) -> str:
    return repr(class_names[label]) if class_names is not None else str(label)


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
