"""A data set and the suite's `split` -> the split, with the images that stand on two of its sides found (and dropped)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.data.dataset import ImageDataset
from bench.data.duplicates import Pair, find_duplicates
from bench.data.splits import Split, make_split, mixed_subjects, official_split, split_from_file, without
from bench.errors import InputError
from bench.suite import SplitSpec

IMBALANCE = 3
"""Largest to smallest class from which on the difference is remarked on."""


def divide(data: ImageDataset, spec: SplitSpec, folder: Path | None = None) -> tuple[Split, list[Pair]]:
    """Return the split and every pair of repeated images, across its borders or not.

    Simulated images are never sought for repeats: they are all made from one template.

    Args:
        data: prepared images.
        spec: the suite's `split`.
        folder: of the prepared set; what was found of repeats is kept there.

    Raises:
        InputError: the split can't be had as asked.
    """
    if spec.label_per == "subject" and (mixed := mixed_subjects(data.labels, data.subjects)):
        own = sorted({data.class_names[label] for label in data.labels[data.subjects == mixed[0]]})
        raise InputError(
            f"split.label_per: subject: {len(mixed)} subjects have images of several classes, the first is {mixed[0]!r} "
            f"({', '.join(own)}); mend the labels or data.subject_pattern, or leave label_per out: such subjects are then "
            "counted and stay on one side"
        )
    shares = (spec.fractions.train, spec.fractions.validation, spec.fractions.test)
    how: dict[str, Any] = {"seed": spec.seed, "class_names": data.class_names}
    if spec.file is not None:
        split = split_from_file(data.labels, data.subjects, data.names, Path(spec.file).expanduser(), **how)
    elif spec.by == "official":
        split = official_split(data.labels, data.subjects, data.official, fractions=shares, **how)
    else:
        fold = (spec.fold, spec.folds) if spec.folds is not None else None
        split = make_split(data.labels, data.subjects, fractions=shares, by=spec.by, fold=fold, **how)
    pairs = [] if data.simulated else find_duplicates(data, folder)
    return (_dropped(data, split, pairs) if spec.duplicates == "drop" else split), pairs


def sides_of(split: Split) -> dict[int, int]:
    """Return the part of each image that is in one: 0 train, 1 validation, 2 test."""
    return {int(index): number for number, own in enumerate(split.parts().values()) for index in own}


def crossing(split: Split, pairs: list[Pair]) -> list[Pair]:
    """Return the pairs whose images are on two sides of the split."""
    side = sides_of(split)
    return [p for p in pairs if p.first in side and p.second in side and side[p.first] != side[p.second]]


def across(split: Split, pairs: list[Pair]) -> dict[str, int]:
    """Count what `duplicates.json` says: pairs in all, pairs across borders, and those that are the same exactly."""
    borders = crossing(split, pairs)
    return {"pairs": len(pairs), "across": len(borders), "exact_across": sum(pair.exact for pair in borders)}


def remarks(data: ImageDataset, split: Split, pairs: list[Pair]) -> list[str]:
    """What a user should know of the split, a line each."""
    found = [*data.notes, *split.notes]
    if split.leaking_subjects:
        found.append(f"{split.leaking_subjects} subjects have images on more than one side of the split")
    if mixed := mixed_subjects(data.labels, data.subjects):
        where = "are counted" if split.leaking_subjects else "stay on one side"
        found.append(f"{len(mixed)} subjects have images of several classes and {where}")
    if borders := crossing(split, pairs):
        exact = sum(pair.exact for pair in borders)
        found.append(
            f"{len(borders)} pairs of images on two sides of the split are the same ({exact} exactly): see bench data show, "
            "or set split.duplicates: drop"
        )
    counts = np.bincount(data.labels[split.train], minlength=data.num_classes)
    if counts.min() and counts.max() >= IMBALANCE * counts.min():
        most, least = data.class_names[int(counts.argmax())], data.class_names[int(counts.argmin())]
        found.append(
            f"classes are unequal: {counts.max():,} training images of {most!r}, {counts.min():,} of {least!r}; "
            "sampling: balanced shows all classes equally often"
        )
    return found


def _dropped(data: ImageDataset, split: Split, pairs: list[Pair]) -> Split:
    """Take out of the earlier part (train, then validation) what repeats an image of a later one."""
    side = sides_of(split)
    groups = _groups(pairs)
    latest: dict[int, int] = {}
    for index, group in groups.items():
        if index in side:
            latest[group] = max(latest.get(group, -1), side[index])
    gone = sorted(index for index, group in groups.items() if index in side and side[index] < latest[group])
    if not gone:
        return split
    found = without(split, np.array(gone), f"{len(gone)} images that repeat one of a later part were dropped")
    for part, own in found.parts().items():
        if len(lost := np.setdiff1d(data.labels[split.parts()[part]], data.labels[own])):
            raise InputError(
                f"split.duplicates: drop: {part} would lose its last image of class {data.class_names[lost[0]]!r}; use "
                "duplicates: report"
            )
    return found


def _groups(pairs: list[Pair]) -> dict[int, int]:
    """Return the least index of the images that are linked to each image, by pairs of pairs too."""
    root: dict[int, int] = {}

    def find(index: int) -> int:
        while root.setdefault(index, index) != index:
            index = root[index]
        return index

    for pair in pairs:
        a, b = find(pair.first), find(pair.second)
        root[max(a, b)] = min(a, b)
    return {index: find(index) for index in list(root)}
