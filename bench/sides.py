"""One side's images: files of a folder, or an array, into bytes of one size and number of channels.

What the images of two sides should have in common is decided elsewhere (`bench.intake`).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from bench.data.files import visible
from bench.data.images import SUFFIXES, ImageFolder
from bench.data.naming import class_names
from bench.data.rules import coloured, resized
from bench.errors import InputError

LEAST = 10
"""Images on either side below which nothing is scored."""
ONE = "all"
"""Name of the only class of a set without classes."""
ARRAYS = (".npy", ".npz")
_PUT_UP_WITH = 0.02
"""Share of unusable images that is left out without more ado; a single one always is."""

Say = Callable[[str], None]


@dataclass
class Side:
    """One side's images as they were found."""

    images: np.ndarray
    """uint8 [n, C, H, W]."""
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    subjects: np.ndarray


def read_side(
    path: Path,
    option: str,
    *,
    size: tuple[int, int],
    channels: int,
    window: tuple[float, float] | None,
    subject_pattern: str | None,
    say: Say,
    progress: Callable[[int, int], None] | None = None,
) -> Side:
    """Read one side in this size and number of channels.

    Args:
        path: folder (a folder per class, or all in one), .npy or .npz.
        option: its name in messages.
        size: height and width.
        channels: 1 or 3.
        window: raw values that become black and white; for images of more than 8 bits.
        subject_pattern: regular expression for the subject in a file's name.
        say: is told what is left out.
        progress: is told (images done, images).

    Raises:
        InputError: too few images, or what `bench.data.images` refuses.
    """
    if path.suffix.lower() in ARRAYS:
        if subject_pattern:
            raise InputError(f"--subject-pattern: {option} {path.name} is an array, whose images have no names")
        side = _from_array(read_array(path, option), size, channels)
    else:
        side = _from_folder(path, option, size, channels, window, subject_pattern, say, progress)
    if len(side.images) < LEAST:
        raise InputError(
            f"{option} {path}: {len(side.images)} image{'s are' if len(side.images) > 1 else ' is'} too few; {LEAST} are the "
            "least, some hundreds wise"
        )
    if side.images.max() == 1:
        raise InputError(
            f"{option} {path}: no value above 1 of 255, so all is black; store 0 to 255, or floats in [0, 1]"
        )
    return side


def image_files(path: Path, option: str) -> tuple[list[Path], str]:
    """Images of a folder and of the folders in it, and what other files there are."""
    if not path.is_dir():
        what = "there is no such folder" if not path.exists() else "neither a folder nor a .npy or .npz file"
        raise InputError(f"{option} {path}: {what}")
    try:
        here = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        every = [entry for entry in here if not entry.is_dir()]
        for folder in here:  # one by one: a link to a folder counts as one
            if folder.is_dir():
                every += [entry for entry in visible(folder) if not entry.is_dir()]
    except OSError as error:
        raise InputError(f"{option} {path}: can't be read: {error.strerror}") from None
    files = [entry for entry in every if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    others = Counter(
        "links that lead nowhere" if not entry.exists() else entry.suffix.lower() or "files without suffix"
        for entry in every
        if entry not in set(files)
    )
    left = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common(5))
    if not files:
        there = f"; there are {left}" if left else ""
        raise InputError(f"{option} {path}: no images here ({' '.join(SUFFIXES)}; arrays as .npy or .npz){there}")
    return files, left


@dataclass(frozen=True)
class ArrayFile:
    """What a .npy or .npz holds."""

    images: np.ndarray
    """uint8 [n, C, H, W]."""
    classes: np.ndarray | None = None
    """The name of each image's class [n], as a folder's name would be; None without labels."""
    left: str = ""
    """Other arrays, which are not read."""


def read_array(path: Path, option: str) -> ArrayFile:
    """Read an array of images, and the labels beside it.

    Taken: [n, H, W], [n, C, H, W] or [n, H, W, C] with 1 or 3 channels; uint8, or floats in [0, 1]. An .npz must hold one
    array, or one named 'images'; one named 'labels' beside it, a whole number or a text for each image, names its class.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{option} {path}: there is no such file") from None
    except Exception as error:  # whatever NumPy and its zip reader make of damaged bytes
        raise InputError(
            f"{option} {path}: can't be read as an array: {(str(error).splitlines() or [''])[0]}"
        ) from None
    labels, left = None, ""
    if isinstance(loaded, np.lib.npyio.NpzFile):
        archive = loaded
        name = "images" if "images" in archive.files else archive.files[0] if len(archive.files) == 1 else None
        if name is None:
            raise InputError(f"{option} {path}: holds {', '.join(archive.files) or 'nothing'}; name one array 'images'")
        loaded = _member(archive, name, path, option)
        if "labels" in archive.files and name != "labels":
            labels = _member(archive, "labels", path, option)
        left = ", ".join(f"array {other!r}" for other in archive.files if other not in (name, "labels"))
    return ArrayFile(_as_images(loaded, path, option), _as_classes(labels, len(loaded), path, option), left)


def _member(archive: np.lib.npyio.NpzFile, name: str, path: Path, option: str) -> np.ndarray:
    try:
        return archive[name]
    except Exception as error:  # a member of the archive that is damaged
        raise InputError(f"{option} {path}: can't read {name!r}: {(str(error).splitlines() or [''])[0]}") from None


def _as_classes(labels: np.ndarray | None, count: int, path: Path, option: str) -> np.ndarray | None:
    """Names of classes, as folders would bear them."""
    if labels is None:
        return None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,) or labels.dtype.kind not in "iubU":
        raise InputError(
            f"{option} {path}: 'labels' are {labels.dtype} {list(labels.shape)} beside {count} images; store one whole "
            "number or text for each image, or leave them out"
        )
    return labels.astype(np.int64).astype(str) if labels.dtype.kind in "iub" else labels


def _as_images(loaded: np.ndarray, path: Path, option: str) -> np.ndarray:
    if loaded.ndim == 3:
        loaded = loaded[:, None]
    if loaded.ndim == 4 and loaded.shape[1] not in (1, 3) and loaded.shape[3] in (1, 3):
        loaded = loaded.transpose(0, 3, 1, 2)
    if loaded.ndim != 4 or loaded.shape[1] not in (1, 3) or not loaded.size:
        raise InputError(
            f"{option} {path}: expected images [n, H, W], [n, C, H, W] or [n, H, W, C], got {loaded.shape}"
        )
    if loaded.dtype == np.uint8:
        return np.ascontiguousarray(loaded)
    if loaded.dtype.kind != "f":
        raise InputError(f"{option} {path}: {loaded.dtype} has no known range; store uint8, or floats in [0, 1]")
    if not (finite := np.isfinite(loaded)).all():
        bad = int((~finite.all(axis=(1, 2, 3))).sum())
        raise InputError(f"{option} {path}: {bad:,} of {len(loaded):,} images hold values that are not finite")
    if loaded.min() < 0 or loaded.max() > 1:
        raise InputError(
            f"{option} {path}: floats must lie in [0, 1], found {loaded.min():g} to {loaded.max():g}; "
            + (
                "for [-1, 1] store (x + 1) / 2"
                if loaded.min() < 0
                else "store 0 to 255 as uint8, or divide by their white"
            )
        )
    return np.rint(np.ascontiguousarray(loaded, dtype=np.float64) * 255).astype(np.uint8)


def _from_array(file: ArrayFile, size: tuple[int, int], channels: int) -> Side:
    images = file.images
    names: tuple[str, ...] = (ONE,)
    if images.shape[1:] != (channels, *size):
        images = np.stack([_brought(image, channels, size) for image in images])
    labels = None
    if file.classes is not None and len(np.unique(file.classes)) > 1:  # in the order that folders of these names have
        names = class_names(None, set(file.classes.tolist()))
        labels = np.array([names.index(name) for name in file.classes.tolist()], np.int64)
    return Side(images, labels, names, np.array([str(index) for index in range(len(images))]))


def _brought(image: np.ndarray, channels: int, size: tuple[int, int]) -> np.ndarray:
    """Bring one image [c, h, w] to these channels and this size, by the rule for files."""
    values = image.astype(np.float32) / np.float32(255)
    upright = values[0] if len(values) == 1 else values.transpose(1, 2, 0)
    return np.rint(resized(coloured(upright, channels), size, "stretch") * 255).astype(np.uint8)


def _from_folder(
    path: Path,
    option: str,
    size: tuple[int, int],
    channels: int,
    window: tuple[float, float] | None,
    subject_pattern: str | None,
    say: Say,
    progress: Callable[[int, int], None] | None,
) -> Side:
    files, _ = image_files(path, option)
    flat = [file for file in files if file.parent == path]  # a folder per class, or one without classes
    if flat and len(flat) != len(files):
        raise InputError(f"{option} {path}: images both here and in folders below; a folder per class, or all in one")
    options = {"image_size": size, "channels": channels, "subject_pattern": subject_pattern, "window": window}
    options |= {"keep_constant": option == "--generated", "max_skipped_fraction": max(_PUT_UP_WITH, 1 / len(files))}
    with tempfile.TemporaryDirectory() as scratch:
        where = path.resolve()
        if flat and where.name.startswith("."):  # as a class's folder it would be taken for a hidden one
            shown = Path(scratch) / "root" / (where.name.lstrip(".") or "images")
            shown.parent.mkdir()
            shown.symlink_to(where, target_is_directory=True)
            where = shown
        options |= {"root": str(where.parent), "classes": (where.name,)} if flat else {"root": str(where)}
        try:
            data = ImageFolder(ImageFolder.Options.model_validate(options)).prepare(Path(scratch), progress)
        except ValidationError as error:
            raise InputError(f"{option}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        except InputError as error:
            raise InputError(f"{option}: {_reworded(str(error))}") from None
        for name, reason in data.skipped[:5]:
            say(f"left out: {name}: {reason}")
        if len(data.skipped) > 5:
            say(f"and {len(data.skipped) - 5} more images were left out")
        images = data.bytes(np.arange(len(data)))
    classes = len(data.class_names) > 1
    return Side(images, data.labels if classes else None, data.class_names if classes else (ONE,), data.subjects)


def _reworded(message: str) -> str:
    """A data source's message in this command's terms."""
    message = message.partition(", or raise data.max_skipped_fraction")[0]
    replaced: Iterable[tuple[str, str]] = (
        ("data.window", "--window"),
        ("widen it, or set data.clip: true", "widen it"),
        ("data.subject_pattern", "--subject-pattern"),
        ("fill it, remove it, or name the others in data.classes", "fill it or remove it"),
        ("data.root: ", ""),
        ("data.", ""),
    )
    for old, new in replaced:
        message = message.replace(old, new)
    return message
