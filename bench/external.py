"""Images made elsewhere: a folder of them competes like a family; nothing here trains.

Read once, brought to the data's shape by one rule, kept at 8 bits; every draw takes a random part without repetition.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data.images import MAX_PIXELS
from bench.data.naming import inside, rows_of
from bench.data.pixels import UnusableError, raw_values
from bench.data.rules import stretching
from bench.errors import InputError
from bench.registry import suggestion
from bench.seeds import numpy_rng

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})


@dataclass(frozen=True)
class ExternalImages:
    """A folder's images, ready to be scored."""

    images: np.ndarray
    """uint8 [n, C, H, W]."""
    labels: np.ndarray | None
    """Class indices [n], or None where the folder has no classes."""
    rule: str = ""
    """How the files became images of the data's shape."""
    warning: str | None = None
    """What a user should know of it."""

    @property
    def conditional(self) -> bool:
        """Whether every image has a class."""
        return self.labels is not None

    def draw(self, wanted: np.ndarray, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return images for the wanted labels, none twice; fewer where the folder has fewer."""
        rng = numpy_rng(seed, "external", number)
        if self.labels is None:
            chosen = rng.permutation(len(self.images))[: len(wanted)]
            return self.images[chosen], wanted[: len(chosen)]
        parts = [
            rng.permutation(np.flatnonzero(self.labels == label))[:count]
            for label, count in zip(*np.unique(wanted, return_counts=True), strict=True)
        ]
        chosen = np.concatenate(parts)
        return self.images[chosen], self.labels[chosen]


def fingerprint(folder: Path) -> str:
    """Return a hash of every file's name and content: the row is scored anew when one changes."""
    total = hashlib.sha256()
    for file in _files(folder):
        total.update(file.relative_to(folder).as_posix().encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]


def read_external(folder: Path, class_names: tuple[str, ...], shape: tuple[int, int, int]) -> ExternalImages:
    """Read a folder: one subfolder per class, or images.csv (path, label) as `bench sample` writes it, or images alone.

    Args:
        folder: where they lie.
        class_names: of the data; with subfolders or labels, each must have images.
        shape: channels, height, width of the data.

    Raises:
        InputError: no images, an unreadable one, an unknown class or one without images.
    """
    entries = _entries(folder, class_names)
    if not entries:
        raise InputError(f"{folder}: no images (PNG, JPEG, TIFF, BMP) here")
    read = [_read(path, shape) for path, _ in entries]
    images = np.stack([pixels for pixels, _, _ in read])
    told = _told(Counter(size for _, size, _ in read), sum(coloured for _, _, coloured in read), shape)
    if any(label is None for _, label in entries):
        return ExternalImages(images, None, *told)
    labels = np.array([label for _, label in entries])
    missing = [name for index, name in enumerate(class_names) if not (labels == index).any()]
    if missing:
        raise InputError(
            f"{folder}: no image of class {', '.join(missing)}; add them, or put all images into one folder "
            "without classes"
        )
    return ExternalImages(images, labels, *told)


def _told(sizes: Counter[tuple[int, int]], coloured: int, shape: tuple[int, int, int]) -> tuple[str, str | None]:
    """Say how files of these (height, width) became images of this shape, and what may be wrong with that."""
    channels, height, width = shape
    rule = "read as 8 bits"
    if other := {size: count for size, count in sizes.items() if size != (height, width)}:
        h, w = max(other, key=lambda size: other[size])
        more = f" and {len(other) - 1} other sizes" if len(other) > 1 else ""
        rule += f", {sum(other.values()):,} resized from {h}x{w}{more} to {height}x{width} (bicubic, antialiased)"
    if coloured and channels == 1:
        rule += f", {coloured:,} turned from colour to grey"
    bent = stretching(sizes, (height, width))
    return rule, f"{bent}, another aspect ratio: their content is distorted" if bent else None


def load_external(run: Path) -> ExternalImages:
    """Return the images as they were taken in."""
    with np.load(run / "external.npz", allow_pickle=False) as archive:
        labels = archive["labels"]
        return ExternalImages(archive["images"], labels if len(labels) else None)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES or p.name == "images.csv")


def _entries(folder: Path, class_names: tuple[str, ...]) -> list[tuple[Path, int | None]]:
    table = folder / "images.csv"
    if table.is_file():
        return [
            (
                inside(folder, row["path"], f"{table}:{line}", allow_outside=False),
                _label(row["label"], class_names, table),
            )
            for line, row in rows_of(table, ("path", "label"))
        ]
    alone = [(path, None) for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    below = [
        (path, sub.name)
        for sub in sorted(p for p in folder.iterdir() if p.is_dir())
        for path in sorted(sub.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if alone and below:
        raise InputError(
            f"{folder}: images both here ({alone[0][0].name}) and in folders below ({below[0][1]}); a folder per class, "
            "or all in one without classes"
        )
    return list(alone) or [(path, _label(name, class_names, folder)) for path, name in below]


def _label(name: str, class_names: tuple[str, ...], where: Path) -> int | None:
    if name in class_names:
        return class_names.index(name)
    if not name:
        return None
    raise InputError(f"{where}: {name!r} is no class of the data; {suggestion(name, list(class_names))}")


def _read(path: Path, shape: tuple[int, int, int]) -> tuple[np.ndarray, tuple[int, int], bool]:
    """Return one image of this shape, the file's height and width, and whether it has colours."""
    from PIL import Image

    channels, height, width = shape
    try:
        raw, bits = raw_values(path, MAX_PIXELS)
    except UnusableError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # a decoder raises what it likes on damaged bytes
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: can't be read as an image: {told}") from None
    if bits > 8:
        raise InputError(f"{path}: more than 8 bits; save it with 8 bits, scaled as the data are")
    coloured = channels == 1 and raw.ndim == 3 and bool((raw != raw[..., :1]).any())
    picture = Image.fromarray(raw.astype(np.uint8)).convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=None)
    pixels = np.asarray(picture, dtype=np.uint8)
    return (pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)), raw.shape[:2], coloured
