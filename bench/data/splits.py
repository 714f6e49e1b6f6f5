"""Who is trained on, who is looked at while training, who is tested on: by subject, with every class in its share.

Knows labels, subjects and names, no images. `make_split` assigns (`stratify` says how); `official_split` and
`split_from_file` take what a source or a table says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.data.naming import rows_of
from bench.data.stratify import stratify
from bench.errors import InputError
from bench.seeds import derive

PARTS = ("train", "validation", "test")
NONE = "none"
"""What a table calls an image that is in no part."""
SYNONYMS = {"training": "train", "val": "validation", "valid": "validation", "testing": "test", "": NONE}
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Indices of the three parts, each sorted.

    `leaking_subjects` counts subjects with images in more than one part; 0 unless the split is by slice or was given.
    """

    train: Indices
    validation: Indices
    test: Indices
    by: str
    """'subject', 'slice', 'official' or 'file', with the fold where there is one."""
    seed: int
    leaking_subjects: int
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What a reader should know of how it came to be; no part of the hash."""

    @property
    def hash(self) -> str:
        """16 hex digits of everything in it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def parts(self) -> dict[str, Indices]:
        """The three parts by name."""
        return {part: getattr(self, part) for part in PARTS}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back."""
        parts = {part: indices.tolist() for part, indices in self.parts().items()}
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
    fold: tuple[int, int] | None = None,
) -> Split:
    """Split images into train, validation and test.

    Args:
        labels: class index of each image, shape [n].
        subjects: subject of each image, shape [n]; one subject may have images of several classes.
        fractions: wanted shares of the images, each above 0, adding up to 1; met within about two subjects of a class.
        by: 'subject' keeps a subject's images on one side; 'slice' takes every image for a subject of its own, as some
            papers do, and counts the subjects that leak.
        seed: another seed, another split.
        class_names: for messages.
        fold: (k, K): test is the k-th of K parts of equal shares, from 0; the rest is train and validation in the
            proportion of their fractions. The K test parts of one seed are disjoint and cover all images.

    Raises:
        InputError: wrong fractions or fold; a class can't be in all parts, because it has too few subjects (or images).
    """
    _check_request(fractions, fold)
    owners = np.arange(len(labels)) if by == "slice" else np.unique(np.asarray(subjects), return_inverse=True)[1]
    counts = np.zeros((int(owners.max(initial=-1)) + 1, int(labels.max(initial=-1)) + 1), np.int64)
    np.add.at(counts, (owners, labels), 1)
    _check(counts, by, class_names, fold)
    wanted = np.asarray(fractions, dtype=np.float64)
    side = (stratify(counts, wanted, seed) if fold is None else _folded(counts, wanted, seed, fold))[owners]
    parts = [np.flatnonzero(side == index).astype(np.int64) for index in range(3)]
    missing = [(part, c) for part, own in zip(PARTS, parts, strict=True) for c in np.setdiff1d(labels, labels[own])]
    if missing:
        part, label = missing[0]
        raise InputError(
            f"no image of class {_name(int(label), class_names)} could be put into {part}: its subjects are bound to "
            "other classes; use more subjects, or another split seed"
        )
    called = by if fold is None else f"{by}, fold {fold[0]} of {fold[1]}"
    train, validation, test = parts
    return Split(train, validation, test, called, seed, _leaking(subjects, parts))


def official_split(
    labels: NDArray[np.integer[Any]],
    subjects: NDArray[Any],
    official: NDArray[Any] | None,
    *,
    fractions: Sequence[float] = (0.6, 0.15, 0.25),
    seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> Split:
    """Take the parts that the source gives; where it has no validation part, a share of train by subject becomes it.

    Args:
        labels: class index of each image, shape [n].
        subjects: subject of each image, shape [n].
        official: 'train', 'validation' or 'test' of each image, shape [n]; None where the source has no split.
        fractions: validation's share of train and validation together, where it must be made.
        seed: for that.
        class_names: for messages.

    Raises:
        InputError: no official split, no train or test part in it, a class that a part lacks.
    """
    if official is None:
        raise InputError(
            "split.by: official: this source has no split of its own; use by: subject, or name a file with split.file"
        )
    for part in ("train", "test"):
        if not (official == part).any():
            raise InputError(f"split.by: official: the source has no images for {part}; use by: subject")
    side = np.array(official, dtype="<U10")
    notes: tuple[str, ...] = ()
    if not (side == "validation").any():
        known = np.flatnonzero(side == "train")
        share = fractions[1] / (fractions[0] + fractions[1])
        _, owners = np.unique(np.asarray(subjects)[known], return_inverse=True)
        counts = np.zeros((int(owners.max()) + 1, int(labels.max()) + 1), np.int64)
        np.add.at(counts, (owners, labels[known]), 1)
        held = stratify(counts, np.array([1 - share, share]), derive(seed, "official validation"))
        side[known[held[owners] == 1]] = "validation"
        notes = (f"the official split has no validation part: {share:.0%} of its training part became it",)
    return _from_sides(labels, subjects, side, "official", seed, notes, class_names)


def split_from_file(
    labels: NDArray[np.integer[Any]],
    subjects: NDArray[Any],
    names: Sequence[str],
    table: Path,
    *,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> Split:
    """Take the parts from a CSV file with the column 'split' and one of 'path' (an image's name) and 'subject'.

    Parts are train, validation (or val) and test; 'none' leaves an image out. Lines of unknown names are counted.

    Raises:
        InputError: the file can't be used, contradicts itself, or says nothing of some image; a class that a part lacks.
    """
    key, told = _told(table)
    known = [str(value) for value in (subjects if key == "subject" else names)]
    silent = [value for value in known if value not in told]
    if silent:
        matched = "" if len(silent) < len(known) else f" (none matches; the data have names like {known[0]!r})"
        raise InputError(
            f"{table}: says nothing of {len(silent)} of {len(known)} images, {silent[0]!r} first{matched}; give each "
            f"{key} a part (train, validation, test), or 'none' to leave it out"
        )
    side = np.array([told[value] for value in known], dtype="<U10")
    notes = []
    if left := int((side == NONE).sum()):
        notes.append(f"{table.name} leaves out {left} images")
    if unknown := len(set(told) - set(known)):
        notes.append(f"{table.name} names {unknown} {'subjects' if key == 'subject' else 'images'} that the data lack")
    return _from_sides(labels, subjects, side, "file", seed, tuple(notes), class_names)


def without(split: Split, left_out: NDArray[np.integer[Any]], note: str) -> Split:
    """Return the split without some images, of whatever part."""
    kept = {part: np.setdiff1d(own, left_out).astype(np.int64) for part, own in split.parts().items()}
    return replace(split, **kept, notes=(*split.notes, note))  # type: ignore[arg-type]  # the names are PARTS


def mixed_subjects(labels: NDArray[np.integer[Any]], subjects: NDArray[Any]) -> list[str]:
    """Return the subjects that have images of several classes, in their order."""
    _, owners = np.unique(np.asarray(subjects), return_inverse=True)
    pairs = np.unique(np.stack([owners, np.asarray(labels, np.int64)]), axis=1)[0]
    several = np.flatnonzero(np.bincount(pairs) > 1)
    return [str(name) for name in np.unique(np.asarray(subjects))[several]]


def _told(table: Path) -> tuple[str, dict[str, str]]:
    """Which column names images, and the part of each."""
    key = "path"
    told: dict[str, str] = {}
    for line, row in rows_of(table, ("split",)):
        if not told:
            key = next((name for name in ("path", "subject") if name in row), "")
            if not key:
                raise InputError(f"{table}: a column 'path' or 'subject' is needed beside 'split'")
        said = row["split"].lower()
        part = SYNONYMS.get(said, said)
        if part not in (*PARTS, NONE):
            raise InputError(f"{table}:{line}: {row['split']!r} is no part: write train, validation, test or none")
        if told.setdefault(row[key], part) != part:
            raise InputError(f"{table}:{line}: {row[key]!r} was {told[row[key]]} before and is {part} here")
    return key, told


def _from_sides(
    labels: NDArray[np.integer[Any]],
    subjects: NDArray[Any],
    side: NDArray[Any],
    by: str,
    seed: int,
    notes: tuple[str, ...],
    class_names: Sequence[str] | None,
) -> Split:
    parts = [np.flatnonzero(side == part).astype(np.int64) for part in PARTS]
    used = np.unique(np.concatenate([labels[own] for own in parts]))
    for part, own in zip(PARTS, parts, strict=True):
        if len(lost := np.setdiff1d(used, labels[own])):
            raise InputError(
                f"split by {by}: {part} has no image of class {_name(int(lost[0]), class_names)}; mend the split, leave "
                "the class out (data.classes), or use split.by: subject"
            )
    train, validation, test = parts
    return Split(train, validation, test, by, seed, _leaking(subjects, parts), notes)


def _leaking(subjects: NDArray[Any], parts: Sequence[Indices]) -> int:
    _, first = np.unique(np.asarray(subjects), return_inverse=True)
    sides = [np.unique(first[own]) for own in parts]
    return int((np.bincount(np.concatenate(sides)) > 1).sum())


def _check_request(fractions: Sequence[float], fold: tuple[int, int] | None) -> None:
    if len(fractions) != len(PARTS) or not all(0 < f < 1 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(
            f"fractions {list(fractions)}: three shares above 0 that add up to 1 (train, validation, test)"
        )
    if fold is not None and not (fold[1] >= 2 and 0 <= fold[0] < fold[1]):
        raise InputError(f"fold {fold[0]} of {fold[1]}: two folds or more, counted from 0")


def _check(counts: NDArray[np.int64], by: str, class_names: Sequence[str] | None, fold: tuple[int, int] | None) -> None:
    if not counts.size:
        raise InputError("there are no images to split")
    what = "subjects" if by == "subject" else "images"
    least = len(PARTS) if fold is None else max(fold[1], 4 if fold[1] == 2 else 3)
    why = "three are needed, one each for train, validation and test"
    if fold is not None:
        why = f"{fold[1]} folds need {least}"
    for label, own in enumerate((counts > 0).sum(axis=0)):
        if 0 < own < least:
            raise InputError(
                f"class {_name(label, class_names)} has {own} {what}; {why}: add some, or leave the class out"
            )


def _folded(
    counts: NDArray[np.int64], fractions: NDArray[np.float64], seed: int, fold: tuple[int, int]
) -> NDArray[np.int64]:
    """Return the part of each subject (0 train, 1 validation, 2 test) where test is one fold of several."""
    number, folds = fold
    side = np.full(len(counts), 2)
    rest = np.flatnonzero(stratify(counts, np.full(folds, 1 / folds), seed) != number)
    shares = fractions[:2] / fractions[:2].sum()
    side[rest] = stratify(counts[rest], shares, derive(seed, "fold", number, folds))
    return side


def _name(label: int, class_names: Sequence[str] | None) -> str:
    return repr(class_names[label]) if class_names is not None else str(label)
