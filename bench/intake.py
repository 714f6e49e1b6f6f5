"""Two sets of images from anywhere, read so that they can be compared: files or arrays in, equal arrays and remarks out.

What does not fit is asked about and what is lost is told: sizes, colour, depth, transparency, files of other kinds, images
that stand on both sides. Nothing here scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data.dicom import SUFFIXES as DICOM
from bench.data.images import MAX_PIXELS
from bench.data.pixels import raw_values
from bench.data.rules import stretched, stretching
from bench.errors import InputError
from bench.sides import ARRAYS, Side, image_files, read_array

DARK = 32768
"""Half the range of 16 bits."""
SIDE_PIXELS = (8, 4096)


@dataclass(frozen=True)
class Look:
    """What a first look at one side finds."""

    sizes: Counter[tuple[int, int]]
    """Height and width -> number of images."""
    colour: bool
    """Whether any image has three different channels."""
    deep: tuple[float, float] | None = None
    """The least and greatest of the values, where any image has more than 8 bits."""
    mixed: bool = False
    """Whether others have 8 bits beside those."""
    kinds: frozenset[str] = frozenset()
    """'JPEG' and other formats of files."""
    classes: frozenset[str] = frozenset()
    """Folders that images lie in, where they don't lie in one; or an array's labels."""
    transparent: int = 0
    """Images with pixels that are not opaque."""
    left: str = ""
    """Files that are not read, by kind."""


def look(path: Path, option: str) -> Look:
    """Read all headers, and the pixels where they must tell of colour, depth or transparency.

    Raises:
        InputError: no such folder or array, or nothing in it that can be read.
    """
    if path.suffix.lower() in ARRAYS:
        stored = read_array(path, option)
        images, classes = stored.images, frozenset(() if stored.classes is None else stored.classes.tolist())
        colour = images.shape[1] == 3 and bool((images != images[:, :1]).any())
        return Look(Counter({images.shape[2:]: len(images)}), colour, classes=classes, left=stored.left)
    from PIL import Image

    sizes: Counter[tuple[int, int]] = Counter()
    colour, low, high, transparent, deep = False, np.inf, -np.inf, 0, 0
    kinds: set[str] = set()
    files, left = image_files(path, option)
    for file in files:
        try:
            if file.suffix.lower() in DICOM:
                raw, _ = raw_values(file, MAX_PIXELS)
                deep, low, high = deep + 1, min(low, float(raw.min())), max(high, float(raw.max()))
                sizes[raw.shape[0], raw.shape[1]] += 1
                kinds.add("DICOM")
                continue
            with Image.open(file) as image:
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                size = (image.width, image.height) if turned else (image.height, image.width)
                mode, kind = image.mode, str(image.format)
                if mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                    transparent += int(np.asarray(image.convert("RGBA"))[..., 3].min() < 255)
            if mode not in ("L", "LA", "1"):
                raw, bits = raw_values(file, MAX_PIXELS)
                if bits > 8:
                    deep += 1
                    finite = raw[np.isfinite(raw)]  # an image with others is left out, and named, when it is read
                    low, high = min(low, float(finite.min())), max(high, float(finite.max()))
                colour = colour or (raw.ndim == 3 and bool((raw != raw[..., :1]).any()))
        except Exception:  # whatever a decoder raises: the reader names and counts it
            continue
        sizes[size] += 1
        kinds.add(kind)
    if not sizes:
        raise InputError(f"{option}: none of the {len(files)} images in {path} can be read; {_first_reason(files[0])}")
    span = (low, high) if high >= low else None
    classes = frozenset(file.relative_to(path).parts[0] for file in files if file.parent != path)
    return Look(sizes, colour, span, 0 < deep < sizes.total(), frozenset(kinds), classes, transparent, left)


def common_shape(
    looks: Mapping[str, Look], image_size: tuple[int, int] | None, channels: int | None
) -> tuple[tuple[int, int], int]:
    """Height and width, and channels, that all sides are brought to: the real images' own if nothing else is said.

    Raises:
        InputError: sizes or colours differ, and nothing is said of what they shall become.
    """
    if image_size and not all(SIDE_PIXELS[0] <= side <= SIDE_PIXELS[1] for side in image_size):
        raise InputError(
            f"--image-size {image_size[0]} {image_size[1]}: a side has {SIDE_PIXELS[0]} to {SIDE_PIXELS[1]}"
        )
    real = looks["--real"]
    size = next(iter(real.sizes))
    for option, seen in looks.items():
        own = next(iter(seen.sizes))
        if image_size is None and len(seen.sizes) > 1:
            told = ", ".join(f"{h}x{w} ({count})" for (h, w), count in seen.sizes.most_common(3))
            raise InputError(f"{option}: images of {len(seen.sizes)} sizes: {told}; say --image-size HEIGHT WIDTH")
        if image_size is None and own != size:
            raise InputError(
                f"{option}: images of {own[0]}x{own[1]}, real ones of {size[0]}x{size[1]}; say --image-size HEIGHT WIDTH, "
                "to which all are resized"
            )
        if channels is None and seen.colour != real.colour:
            grey = "grey, these coloured" if seen.colour else "coloured, these grey"
            raise InputError(f"{option}: the real images are {grey}; say --channels 1 or --channels 3")
    if image_size is None and not all(SIDE_PIXELS[0] <= side <= SIDE_PIXELS[1] for side in size):
        raise InputError(f"--real: images of {size[0]}x{size[1]}; say --image-size with sides of 8 to 4,096")
    return image_size or size, channels or (3 if real.colour else 1)


def check_classes(looks: Mapping[str, Look]) -> None:
    """Refuse classes on both sides that are not the same.

    Raises:
        InputError: they differ.
    """
    real, generated = looks["--real"].classes, looks["--generated"].classes
    several = len(real) > 1 and len(generated) > 1
    only_one = max(len(real), len(generated)) > 1 and bool(real & generated)  # one of the other side's, under its name
    if real != generated and (several or only_one):
        raise InputError(
            f"--generated: classes {', '.join(sorted(generated))} against real {', '.join(sorted(real))}; "
            f"only on one side: {', '.join(sorted(real ^ generated))}. Give both the same folders, or put the images into one"
        )


def check_range(looks: Mapping[str, Look], window: tuple[float, float] | None) -> None:
    """Refuse values of more than 8 bits that leave most of their range empty: they would all be read as black.

    Raises:
        InputError: such values without a window, or a window that nothing needs.
    """
    if window is not None:
        if window[0] >= window[1]:
            raise InputError(f"--window {window[0]:g} {window[1]:g}: the first value must be below the second")
        if all(seen.deep is None for seen in looks.values()):
            raise InputError("--window: all images have 8 bits, which span black to white; leave it out")
        for option, seen in looks.items():
            if seen.mixed:
                raise InputError(
                    f"--window: {option} mixes images of 8 bits with deeper ones, and a window fits one kind; store all alike"
                )
        return
    for option, seen in looks.items():
        if seen.deep is not None and (seen.deep[1] < DARK or seen.deep[0] < 0 or seen.deep[1] > 65535):
            low, high = min(0.0, seen.deep[0]), seen.deep[1]
            full = ", or --window 0 65535 if they are meant so" if low == 0 and 1 < high <= 65535 else ""
            raise InputError(
                f"{option}: images of more than 8 bits with no value above {high:g} and none below {seen.deep[0]:g}; say "
                f"which values are black and white: --window {low:.10g} {high:.10g}{full}"
            )


def remarks(looks: Mapping[str, Look], sides: Mapping[str, Side], size: tuple[int, int], channels: int) -> list[str]:
    """Everything about the images that a reader of the scores should know, a line each."""
    found = []
    for option, seen in looks.items():
        if seen.left:
            found.append(f"{option}: not read: {seen.left}")
        if seen.transparent:
            found.append(f"warning: {option}: {seen.transparent:,} images have transparency, which is dropped")
        if set(seen.sizes) != {size}:
            found.append(f"{option}: resized to {size[0]}x{size[1]} (bicubic, antialiased)")
        if bent := stretching(seen.sizes, size):
            found.append(f"warning: {option}: {bent}, another aspect ratio: their content is distorted")
        if seen.colour and channels == 1:
            found.append(f"{option}: colour turned to grey (ITU-R BT.601)")
    real, generated = looks["--real"], looks["--generated"]
    if ("JPEG" in real.kinds) != ("JPEG" in generated.kinds) and real.kinds and generated.kinds:
        kinds = [" and ".join(sorted(seen.kinds)) for seen in (real, generated)]
        found.append(
            f"warning: real images are {kinds[0]}, generated ones {kinds[1]}: what JPEG does to an image is part of "
            "every distance"
        )
    told = []
    for option, side in sides.items():
        told.append(f"{option.lstrip('-')} {side.images.min()} to {side.images.max()}, mean {side.images.mean():.1f}")
    return [*found, f"grey levels of 255: {'; '.join(told)}", *_doubles(sides)]


def distorted(looks: Mapping[str, Look], size: tuple[int, int]) -> str:
    """Say in few words how many images of the two sides are stretched; '' if none is."""
    counts = {option.lstrip("-"): stretched(looks[option].sizes, size) for option in ("--real", "--generated")}
    told = " and ".join(f"{count} {side}" for side, count in counts.items() if count)
    return f"{told} images stretched" if told else ""


def known_images(real: Side, generated: Side) -> int:
    """Count generated images that equal a real one in every pixel."""
    there = _hashes(real.images)
    return sum(count for image, count in _hashes(generated.images).items() if image in there)


def _doubles(sides: Mapping[str, Side]) -> list[str]:
    found = []
    real, generated = sides["--real"], sides["--generated"]
    if same := known_images(real, generated):
        found.append(
            f"warning: {same:,} of {len(generated.images):,} generated images are real ones, pixel by pixel: the scores "
            "measure the copying"
        )
    if "--train" in sides and (shared := known_images(sides["--train"], real)):
        found.append(
            f"warning: {shared:,} real images are training images too; give --real images held out from training"
        )
    for name, side in (("real", real), ("generated", generated)):
        if again := len(side.images) - len(_hashes(side.images)):
            found.append(f"warning: {again:,} of {len(side.images):,} {name} images repeat another, pixel by pixel")
    return found


def _hashes(images: np.ndarray) -> Counter[bytes]:
    return Counter(image.tobytes() for image in images)


def _first_reason(file: Path) -> str:
    try:
        raw_values(file, MAX_PIXELS)
    except Exception as error:  # whatever it is, it is the reason to show
        return f"{file.name}: {(str(error).splitlines() or [''])[0] or type(error).__name__}"
    return f"the first is {file.name}"
