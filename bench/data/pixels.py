"""The values that an image file holds, as they were stored: depth, sign and polarity that Pillow alone would change.

Pillow gives 16-bit colour as its upper bytes, unsigned 32-bit values as signed ones, leaves 16-bit 'white is zero' as it
is, and shows the first page of many. Nothing here scales, resizes or names files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

Array = NDArray[np.float32]

_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339
_UNSIGNED = ((1,), 1, None)


class UnusableError(Exception):
    """Why one image is left out."""


def raw_values(path: Path, most_pixels: int) -> tuple[Array, int]:
    """Read one image, upright as its EXIF says.

    Transparency is dropped; palettes become colours, CMYK becomes RGB by Pillow's rule.

    Args:
        path: PNG, JPEG or TIFF.
        most_pixels: larger images are refused.

    Returns:
        Raw values [h, w] or [h, w, 3], and their bits: 8, 16, or 32 where no full range is known.

    Raises:
        UnusableError: several pages, too many pixels, or values that can't be had as they are stored.
        OSError: no image, or a damaged one; a decoder may raise anything else on damaged bytes.
    """
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        if file.width * file.height > most_pixels:
            raise UnusableError(f"{file.width} x {file.height} pixels are too many")
        if file.format in ("TIFF", "PNG") and (pages := getattr(file, "n_frames", 1)) > 1:
            raise UnusableError(f"holds {pages} pages: save each as a file of its own")
        if not _is_deep_colour(file):
            tags: Any = getattr(file, "tag_v2", {}) if file.format == "TIFF" else {}
            white_is_zero, unsigned = tags.get(_PHOTOMETRIC) == 0, tags.get(_SAMPLE_FORMAT) in _UNSIGNED
            raw, bits = _values(ImageOps.exif_transpose(file), unsigned and bool(tags))
            if white_is_zero and bits > 8:  # Pillow inverts 8 bits itself
                if bits > 16:
                    raise UnusableError("32-bit values where white is zero: store them with black as zero")
                raw = np.float32(65535) - raw
            return raw, bits
    first, second = (_bytes_of_depth(path, last) for last in "BL")
    upper, lower = (first, second) if _is_big_endian(path) else (second, first)
    return upper.astype(np.float32) * 256 + lower.astype(np.float32), 16


def _values(image: Image.Image, unsigned: bool) -> tuple[Array, int]:
    if image.mode in ("P", "PA"):
        image = image.convert("RGB")
    if image.mode in ("LA", "La"):
        image = image.getchannel(0)
    if image.mode in ("RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    if image.mode == "1":
        image = image.convert("L")
    raw = np.asarray(image)
    bits = 8 if image.mode in ("L", "RGB") else 16 if image.mode.startswith("I;16") else 32
    if image.mode == "I" and unsigned and raw.min() < 0:
        raw = raw.astype(np.int32).view(np.uint32)
    if bits == 32 and raw.dtype.kind in "iu" and raw.size and raw.min() >= 0 and raw.max() <= 65535:
        bits = 16  # some decoders give 16-bit files as 32-bit integers
    return raw.astype(np.float32), bits


def _rawmode(args: Any) -> str:
    return str(args if isinstance(args, str) else args[0]) if args else ""


def _is_deep_colour(file: Image.Image) -> bool:
    """Whether Pillow would give 16-bit colour as 8 bits."""
    rawmodes = {_rawmode(tile[3]) for tile in getattr(file, "tile", [])}
    deep = {mode for mode in rawmodes if ";16" in mode and not mode.startswith("I;16")}
    if deep - {"RGB;16B", "RGB;16L", "RGBA;16B", "RGBA;16L"}:
        raise UnusableError(f"16-bit values in a layout that can't be read whole ({min(deep)}): save it as RGB or grey")
    return bool(deep)


def _is_big_endian(path: Path) -> bool:
    from PIL import Image

    with Image.open(path) as file:
        return _rawmode(file.tile[0][3])[-1] == "B"


def _bytes_of_depth(path: Path, last: str) -> NDArray[np.uint8]:
    """Decode 16-bit colour as if it were of this byte order: Pillow keeps the byte that is the upper one there."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        for index, tile in enumerate(file.tile):
            args: Any = tile[3]
            mode = _rawmode(args)[:-1] + last
            file.tile[index] = tile._replace(args=mode if isinstance(args, str) else (mode, *args[1:]))
        return np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
