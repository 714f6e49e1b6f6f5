"""The values that an image file holds, as they were stored: depth, sign and polarity that Pillow alone would change.

Pillow gives 16-bit colour as its upper bytes, unsigned 32-bit values as signed ones, leaves 16-bit 'white is zero' as it
is, and shows the first page of many. Nothing here scales, resizes or names files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.data.dicom import SUFFIXES as DICOM
from bench.data.dicom import frames, read_dicom
from bench.data.faults import Raw, UnusableError

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

Array = NDArray[np.float32]

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_UNSIGNED = ((1,), 1, None)

__all__ = ["Raw", "UnusableError", "count_pages", "raw_values", "read_raw"]


def count_pages(path: Path) -> int:
    """Return how many pages or frames a file holds, by its headers.

    Raises:
        OSError: no image; a decoder may raise anything else on damaged bytes.
    """
    from PIL import Image

    if path.suffix.lower() in DICOM:
        return frames(path)
    with Image.open(path) as file:
        return int(getattr(file, "n_frames", 1)) if file.format in ("TIFF", "PNG") else 1


def read_raw(path: Path, most_pixels: int, *, page: int | None = None, own_window: bool = False) -> Raw:
    """Read one image with the range that its file declares: DICOM's stored bits or own window, else its full depth.

    Args:
        path: PNG, JPEG, TIFF or DICOM.
        most_pixels: larger images are refused.
        page: which page or frame, from 0; None refuses several.
        own_window: whether a DICOM file's own window is its range.

    Raises:
        UnusableError: several pages, too many pixels, or values that can't be had as they are stored.
        OSError: no image, or a damaged one; a decoder may raise anything else on damaged bytes.
    """
    if path.suffix.lower() in DICOM:
        return read_dicom(path, most_pixels, page=page, own_window=own_window)
    values, bits = raw_values(path, most_pixels, page)
    return Raw(values, bits, (0.0, float(2**bits - 1)) if bits <= 16 else None)


def raw_values(path: Path, most_pixels: int, page: int | None = None) -> tuple[Array, int]:
    """Read one image, upright as its EXIF says.

    Transparency is dropped; palettes become colours, CMYK becomes RGB by Pillow's rule.

    Args:
        path: PNG, JPEG or TIFF; of DICOM the values come without their range.
        most_pixels: larger images are refused.
        page: which page, from 0; None refuses several.

    Returns:
        Raw values [h, w] or [h, w, 3], and their bits: 8, 16, or 32 where no full range is known.

    Raises:
        UnusableError: several pages, too many pixels, or values that can't be had as they are stored.
        OSError: no image, or a damaged one; a decoder may raise anything else on damaged bytes.
    """
    from PIL import Image, ImageOps

    if path.suffix.lower() in DICOM:
        found = read_dicom(path, most_pixels, page=page)
        return found.values, found.bits
    with Image.open(path) as file:
        if file.format in ("TIFF", "PNG") and (pages := getattr(file, "n_frames", 1)) > 1:
            if page is None:
                raise UnusableError(f"holds {pages} pages: set data.pages to all or first, or save each as a file")
            file.seek(page)
        if file.width * file.height > most_pixels:
            raise UnusableError(f"{file.width} x {file.height} pixels are too many")
        if not _is_deep_colour(file):
            tags: Any = getattr(file, "tag_v2", {}) if file.format == "TIFF" else {}
            white_is_zero, unsigned = tags.get(_PHOTOMETRIC) == 0, tags.get(_SAMPLE_FORMAT) in _UNSIGNED
            deep = _deepest(tags.get(_BITS)) > 16
            raw, bits = _values(ImageOps.exif_transpose(file), unsigned and bool(tags), deep)
            if white_is_zero and bits > 8:  # Pillow inverts 8 bits itself
                if bits > 16:
                    raise UnusableError("32-bit values where white is zero: store them with black as zero")
                raw = np.float32(65535) - raw
            return raw, bits
    first, second = (_bytes_of_depth(path, last, page) for last in "BL")
    upper, lower = (first, second) if _is_big_endian(path, page) else (second, first)
    return upper.astype(np.float32) * 256 + lower.astype(np.float32), 16


def _deepest(bits: Any) -> int:
    """The bits per sample that a TIFF declares, 0 if it says nothing usable."""
    found = bits if isinstance(bits, tuple) else (bits,)
    return max((int(value) for value in found if isinstance(value, int)), default=0)


def _values(image: Image.Image, unsigned: bool, deep: bool) -> tuple[Array, int]:
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
    if bits == 32 and not deep and raw.dtype.kind in "iu" and raw.size and raw.min() >= 0 and raw.max() <= 65535:
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


def _is_big_endian(path: Path, page: int | None) -> bool:
    from PIL import Image

    with Image.open(path) as file:
        file.seek(page or 0)
        return _rawmode(file.tile[0][3])[-1] == "B"


def _bytes_of_depth(path: Path, last: str, page: int | None) -> NDArray[np.uint8]:
    """Decode 16-bit colour as if it were of this byte order: Pillow keeps the byte that is the upper one there."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        file.seek(page or 0)
        for index, tile in enumerate(file.tile):
            args: Any = tile[3]
            mode = _rawmode(args)[:-1] + last
            file.tile[index] = tile._replace(args=mode if isinstance(args, str) else (mode, *args[1:]))
        return np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
