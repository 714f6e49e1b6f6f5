"""`bench init`: look at a folder, guess what its data are, write a commented suite. Reads headers and samples, not all.

A guess is never silent: what was seen stands as a comment beside the line that rests on it.
"""

from __future__ import annotations

import importlib.util
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.data.files import is_image
from bench.data.images import MAX_PIXELS
from bench.data.naming import ONE, natural
from bench.data.pixels import read_raw
from bench.data.volume_files import IXI_NAME
from bench.errors import InputError
from bench.registry import SOURCES
from bench.suite import NAME

SAMPLED = 60
"""Images that are opened."""
SIDE = 64
VOLUMES = (".nii", ".nii.gz")
SUBJECTS = (
    r"(?i:sub|subject|subj|patient|pat|person|case|ixi)[-_]?\d+",
    r"(?:[A-Za-z0-9]+-)?IM-\d+",
    r"\d+",
)
"""What names of patients look like at the start of a file's name; tried together, in this order."""
BRAIN = r"(?i)^ixi\d|t1w?(?![a-z0-9])|mprage|brain"
"""What names of brains' T1 look like."""
CROWD = 0.2
"""Share of all images that one subject may have before a pattern is thought wrong."""


@dataclass
class Found:
    """Lines of the suite's `data` block, and what to tell on the terminal."""

    lines: list[str]
    classes: int
    counts: Counter[str] = field(default_factory=Counter)
    split: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


def suite_name(folder: Path) -> str:
    """Return a name for the suite after the folder."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", folder.resolve().name).strip("_-") or "suite"
    return name if NAME.fullmatch(name) else f"suite_{name}"[:60]


def guess(folder: Path) -> tuple[str, list[str]]:
    """Return the text of a suite for this folder and lines that tell what it rests on.

    Raises:
        InputError: no such folder, or nothing in it that a source reads.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder (seen from {Path.cwd()})")
    try:
        found = _npz(folder) or _idx(folder) or _volumes(folder) or _images(folder)
    except OSError as error:
        raise InputError(f"{folder}: can't be read: {error.strerror or error}") from None
    if found is None:
        raise InputError(
            f"{folder}: no images (PNG, JPEG, TIFF, DICOM), volumes (.nii, .nii.gz), .npz or idx files here or in the folders "
            "below; images go into a folder per class"
        )
    return _suite(folder, found), found.told


def _suite(folder: Path, found: Found) -> str:
    conditional = ["  - cvae                     # told the class"] if found.classes > 1 else []
    lines = [
        f"# Written by bench init from {folder.resolve().name}: a first suite, small enough to finish in minutes.",
        "# Look at the data first (bench data show THIS_FILE), then at the time it takes (bench check THIS_FILE).",
        f"name: {suite_name(folder)}",
        "data:",
        *(f"  {line}" for line in found.lines),
        "split:",
        *(f"  {line}" for line in found.split or ["by: subject"]),
        "  seed: 0",
        "generators:",
        "  - vae",
        *conditional,
        "  - dcgan",
        "  - training_copy            # controls: a copy must be caught,",
        "  - mean_image               # one image has no diversity,",
        "  - gaussian                 # probabilistic PCA is the linear reference",
        "seeds: [0]                   # three or more before a winner may be named",
        "budget: {images_seen: 20000} # the same for every family; raise it for results",
        "progress: {points: 5}",
        "evaluation: {draws: 10, samples_per_draw: 100, features: [domain, random]}",
        *_imbalance(found.counts),
    ]
    return "\n".join(lines) + "\n"


def _imbalance(counts: Counter[str]) -> list[str]:
    if len(counts) > 1 and max(counts.values()) >= 3 * min(counts.values()):
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        return [
            f"# classes are unequal ({told}): balanced shows every family all classes equally often",
            "sampling: natural",
        ]
    return []


def _quoted(text: str) -> str:
    """A YAML string that means this text, whatever is in it."""
    return "'" + text.replace("'", "''") + "'"


# ---- arrays


def _npz(folder: Path) -> Found | None:
    usable = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with zipfile.ZipFile(path) as archive:
                names = {name.removesuffix(".npy") for name in archive.namelist()}
        except (OSError, zipfile.BadZipFile):
            continue
        if parts := [part for part in ("train", "val", "test") if {f"{part}_images", f"{part}_labels"} <= names]:
            usable.append((path, parts))
    if not usable:
        return None
    path, parts = usable[0]
    official = {"train", "test"} <= set(parts)
    split = ["by: official                # the parts that the file comes in"] if official else ["by: subject"]
    lines = [
        "source: npz",
        f"file: {_quoted(str(path))}   # arrays of {', '.join(parts)}",
        *(f"# another: {_quoted(str(other))}" for other, _ in usable[1:6]),
        "# classes: [first, second]   # names of the labels 0, 1, ...",
    ]
    return Found(lines, 2, split=split, told=[f"source npz: {path.name}, parts {', '.join(parts)}"])


def _idx(folder: Path) -> Found | None:
    images = [path for path in sorted(folder.iterdir()) if re.search(r"images[-.]idx3", path.name)]
    if not images:
        return None
    both = any("train" in path.name for path in images) and any(re.search("t10k|test", path.name) for path in images)
    split = ["by: official                # train and test files"] if both else [
        "by: subject                 # one part only: split here; every image is a subject of its own"
    ]  # fmt: skip
    lines = ["source: idx", f"root: {_quoted(str(folder))}   # {', '.join(path.name for path in images)}"]
    return Found(lines, 2, split=split, told=[f"source idx: {', '.join(path.name for path in images)}"])


def _volumes(folder: Path) -> Found | None:
    files = [path for path in sorted(folder.rglob("*")) if path.name.lower().endswith(VOLUMES)]
    if not files:
        return None
    if "volumes" not in SOURCES.names():
        raise InputError(f"{folder}: {len(files)} NIfTI volumes, which this version has no source for")
    counts = Counter(path.relative_to(folder).parts[0] for path in files if path.parent != folder)
    named = ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda pair: natural(pair[0])))
    pattern = _pattern(files, "volume")
    if not counts and (sites := Counter(found.group(2) for path in files if (found := IXI_NAME.fullmatch(path.name)))):
        counts, named, pattern = sites, ", ".join(f"{site} {n}" for site, n in sites.items()), ["layout: ixi"]
    lines = [
        "source: volumes",
        f"root: {_quoted(str(folder))}",
        f"# {len(files)} NIfTI files{f' by class: {named}' if named else ', no folders: one class'}",
        *_space([path.name for path in files]),
        "slices: 10                 # central planes of each volume; plane: axial, coronal or sagittal",
        *pattern,
    ]
    told = [
        f"source volumes: {len(files)} NIfTI files{f' in {len(counts)} classes ({named})' if named else ''}",
        *pattern,
    ]
    return Found(lines, len(counts), told=told)


def _space(names: list[str]) -> list[str]:
    """Lines on the grid: MNI for what is named as a brain's T1, else the scan's own."""
    if not all(re.search(BRAIN, name) for name in names):
        return ["grid: native               # the scans' own planes; for brains: grid: mni, registration: affine"]
    grid = "grid: mni                  # names are those of brains' T1: laid on the MNI152 brain"
    if importlib.util.find_spec("dipy") is None:
        return [
            grid,
            "registration: none         # only centred, which heads with their skulls are not enough for: install",
            "                           # 'medgenbench[registration]' and write affine",
        ]
    return [grid, "registration: affine       # some 10 seconds a volume, once; look at the contact sheet"]


# ---- images


def _images(folder: Path) -> Found | None:
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    direct = {path.name: _within(path, deep=False) for path in inside}
    alone = [path for path in sorted(folder.iterdir()) if is_image(path)]
    if any(direct.values()):
        return _described([folder], {name: own for name, own in direct.items() if own})
    sets = [path for path in inside if any(_within(sub, deep=False) for sub in path.iterdir() if sub.is_dir())]
    if sets:
        counted: dict[str, list[Path]] = {}
        for root in sets:
            for sub in sorted(path for path in root.iterdir() if path.is_dir()):
                counted.setdefault(sub.name, []).extend(_within(sub, deep=True))
        return _described(sets, {name: own for name, own in counted.items() if own})
    return _described([folder], {ONE: alone}) if alone else None


def _within(folder: Path, *, deep: bool) -> list[Path]:
    return [path for path in sorted(folder.rglob("*") if deep else folder.iterdir()) if is_image(path)]


def _described(roots: list[Path], files: dict[str, list[Path]]) -> Found:
    classes = sorted(files, key=natural)
    counts = Counter({name: len(files[name]) for name in classes})
    every = [path for name in classes for path in files[name]]
    told = ", ".join(f"{name} {counts[name]:,}" for name in classes)
    where = _quoted(str(roots[0])) if len(roots) == 1 else f"[{', '.join(_quoted(str(root)) for root in roots)}]"
    lines = ["source: images", f"root: {where}"]
    if len(roots) > 1:
        lines.append(f"title: {_quoted(f'images of {roots[0].resolve().parent.name}')}")
    if len(roots) > 1:
        lines.append(
            f"# {len(roots)} folders with the same classes below; images of both are pooled, and split anew below"
        )
    if classes == [ONE]:
        lines.append("# no folders: one class; put images into a folder per class to tell them apart")
    else:
        names = ", ".join(_quoted(name) for name in classes)
        lines += [f"# images by class: {told}", f"classes: [{names}]"]
    pattern = _pattern(every)
    appearance = _appearance(every)
    return Found([*lines, *appearance, *pattern], len(classes), counts,
                 told=[f"source images: {len(every):,} in {len(classes)} classes ({told})", *pattern])  # fmt: skip


def _appearance(files: list[Path]) -> list[str]:
    """Lines on size, colour and depth, from a sample."""
    sizes: Counter[tuple[int, int]] = Counter()
    colour, deepest, high, low, paged = False, 8, -np.inf, np.inf, 0
    step = max(1, len(files) // SAMPLED)
    sample = files[::step][:SAMPLED]
    dicom = 0
    for path in sample:
        try:
            raw = read_raw(path, MAX_PIXELS, page=None)
        except Exception as error:  # the source names and counts it; here it is only not counted
            paged += "data.pages" in str(error)
            continue
        sizes[raw.values.shape[0], raw.values.shape[1]] += 1
        colour = colour or (raw.values.ndim == 3 and bool((raw.values != raw.values[..., :1]).any()))
        if path.suffix.lower() in (".dcm", ".dicom"):
            dicom += 1
        elif raw.bits > 8:
            deepest = max(deepest, raw.bits)
            high, low = max(high, float(raw.values.max())), min(low, float(raw.values.min()))
    lines = []
    if paged:
        lines.append(
            f"pages: all                 # {paged} of {len(sample)} sampled files hold several pages or frames"
        )
    seen = ", ".join(f"{h}x{w} ({count})" for (h, w), count in sizes.most_common(3)) or "none could be read"
    size, fit = _size(sizes)
    lines.append(f"image_size: [{size[0]}, {size[1]}]       # of {len(sample)} sampled files: {seen}")
    if fit == "pad":
        lines.append("fit: pad                   # shapes differ: none is stretched")
    kind = "colour in the sampled files" if colour else "no colour in the sampled files"
    lines.append(f"channels: {3 if colour else 1}                # {kind}")
    if high > -np.inf and (deepest > 16 or high < 32768 or low < 0):
        lines.append(
            f"intensity: global          # values from {low:g} to {high:g} in the sampled files, so their type tells no"
        )
        lines.append("                           # range; better, where you know them: window: [black, white]")
    if dicom:
        lines.append("# DICOM: the stored bits are the range; dicom_window: true takes each file's own window")
    return lines


def _size(sizes: Counter[tuple[int, int]]) -> tuple[tuple[int, int], str]:
    """A size of 64 pixels or less, and whether shapes differ too much to be stretched."""
    if not sizes:
        return (SIDE, SIDE), "stretch"
    (height, width), _ = sizes.most_common(1)[0]
    aspects = [h / w for h, w in sizes.elements()]
    if max(aspects) > 1.1 * min(aspects):
        return (SIDE, SIDE), "pad"
    scale = min(1.0, SIDE / max(height, width))
    rounded = [
        max(16, round(side * scale / 16) * 16) if max(height, width) >= 32 else max(8, side) for side in (height, width)
    ]
    return (rounded[0], rounded[1]), "stretch"


def _pattern(files: list[Path], what: str = "image") -> list[str]:
    """Lines on what names the subject: a pattern with how many it gives, or why there is none."""
    none = f"# subject_pattern: '^(...)'  # none seen: every {what} is a subject of its own. If patients"
    rest = "                            # have several, write it: otherwise they stand on both sides of the split"
    names = [path.name for path in files]
    needed = _needed(names)
    if not needed:
        return [none, rest]
    pattern = f"^({'|'.join(needed)})"
    subjects = Counter(match.group(1) for name in names if (match := re.search(pattern, name)))
    largest, most = subjects.most_common(1)[0]
    if len(subjects) == len(names) or most > max(2, CROWD * len(names)):
        return [f"# tried {pattern}: {len(subjects):,} subjects for {len(names):,} {what}s", none, rest]
    if all(re.fullmatch(pattern, Path(name).stem) for name in names):
        return [
            f"# names are numbers that come again in other folders ({pattern}); patients can't be told from them",
            none,
            rest,
        ]
    several = sum(count > 1 for count in subjects.values())
    told = f"{len(subjects):,} subjects for {len(names):,} {what}s; {several:,} have several, {largest!r} has {most}"
    return [
        f"subject_pattern: {_quoted(pattern)}",
        f"# guessed, check it: {told}",
    ]


def _needed(names: Iterable[str]) -> list[str]:
    """The kinds of names that together match every file, or none of them."""
    left = list(names)
    needed = []
    for kind in SUBJECTS:
        matched = [name for name in left if re.match(kind, name)]
        if matched:
            needed.append(kind)
            left = [name for name in left if not re.match(kind, name)]
    return [] if left else needed
