"""The values that a DICOM file holds, in its own units (Hounsfield, say), with the range and polarity it declares.

Sizes are read and judged before anything is decoded. Nothing here scales, resizes or names files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.data.faults import Raw, UnusableError

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = (".dcm", ".dicom")
DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")
"""Transfer syntaxes that unpack in one go, whatever their size."""
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")


def frames(path: Path) -> int:
    """Return how many frames the header declares, 1 if it declares more than the file could hold.

    Raises:
        UnusableError: a kind of file that is not read.
        OSError: no DICOM file; pydicom may raise anything else on damaged bytes.
    """
    count = _count(_header(path))
    return count if count <= path.stat().st_size else 1


def read_dicom(path: Path, most_pixels: int, *, page: int | None = None, own_window: bool = False) -> Raw:
    """Read one frame: rescaled by slope and intercept, its range that of the stored bits or the file's own window.

    MONOCHROME1 (white is the least value) is told by `inverted`, so that a window in the file's units still fits.

    Args:
        path: a DICOM file.
        most_pixels: larger images are refused.
        page: the frame, from 0; None refuses several.
        own_window: whether the file's first WindowCenter and WindowWidth give the range, in place of the stored bits.

    Raises:
        UnusableError: what can't be had as it was stored, with the reason.
        OSError: no DICOM file; pydicom may raise anything else on damaged bytes.
    """
    from pydicom.pixels.processing import apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    head = _header(path)
    rows, columns, count = int(head.Rows), int(head.Columns), _count(head)
    samples, kind = int(head.get("SamplesPerPixel", 1)), str(head.get("PhotometricInterpretation", ""))
    if rows * columns > most_pixels:
        raise UnusableError(f"{columns} x {rows} pixels are too many")
    if rows * columns < 1 or count < 1:
        raise UnusableError("declares no pixels")
    if count > 1 and page is None:
        raise UnusableError(f"holds {count} frames: set data.pages to all or first, or save each as a file of its own")
    grey = kind in ("MONOCHROME1", "MONOCHROME2") and samples == 1
    if not grey and not (kind in COLOURS and samples == 3):
        raise UnusableError(f"{samples} samples of {kind or 'no kind'} can't be read: save it as grey or RGB")
    stored = pixel_array(path, index=page or 0)
    bits = int(head.BitsStored)
    if not grey:
        if bits > 8:
            raise UnusableError(f"colour of {bits} bits can't be read: save it with 8 bits or as grey")
        return Raw(stored.astype(np.float32), 8, (0.0, 255.0))
    values: NDArray[Any] = apply_modality_lut(stored, head)
    span = _window(head) if own_window else _stored_range(head, bits)
    return Raw(values.astype(np.float32), 8 if bits <= 8 else 16, span, kind == "MONOCHROME1", own_window)


def _header(path: Path) -> Any:
    import pydicom
    from pydicom.filereader import read_file_meta_info

    meta = read_file_meta_info(path)
    if (syntax := str(meta.get("TransferSyntaxUID", ""))) in DEFLATED:
        raise UnusableError("a deflated DICOM file: store it without deflation")
    head = pydicom.dcmread(path, stop_before_pixels=True)
    if not syntax:
        raise UnusableError("says no transfer syntax")
    return head


def _count(head: Any) -> int:
    return int(head.get("NumberOfFrames") or 1)


def _stored_range(head: Any, bits: int) -> tuple[float, float] | None:
    """The least and greatest value that the stored bits can mean, rescaled; None where a table decides."""
    if not 1 <= bits <= 16 or "ModalityLUTSequence" in head:
        return None
    signed = int(head.get("PixelRepresentation", 0)) == 1
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, intercept = float(head.get("RescaleSlope", 1)), float(head.get("RescaleIntercept", 0))
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return (ends[0], ends[1]) if ends[0] < ends[1] else None


def _window(head: Any) -> tuple[float, float]:
    """The file's first window (DICOM PS3.3 C.11.2.1.2)."""

    def first(value: Any) -> float:
        return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)

    if head.get("WindowCenter") is None or head.get("WindowWidth") is None:
        raise UnusableError("has no window of its own: leave data.dicom_window out, or give data.window")
    centre, width = first(head.WindowCenter), first(head.WindowWidth)
    function = str(head.get("VOILUTFunction", "LINEAR"))
    if function not in ("LINEAR", "LINEAR_EXACT"):
        raise UnusableError(f"its window is a {function}: leave data.dicom_window out, or give data.window")
    if function == "LINEAR":  # the edges of the outermost grey levels
        centre, width = centre - 0.5, width - 1
    if not (np.isfinite(centre) and np.isfinite(width) and width > 0):
        raise UnusableError("its window has no width")
    return centre - width / 2, centre + width / 2
