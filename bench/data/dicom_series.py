"""DICOM series: a folder of slices as one volume, in order along their normal, placed as the headers say.

One image per file, one series per folder. Headers are read first; pixel data only of the slices that are asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.nifti import MAX_SIDE, MAX_VOXELS, check_affine
from bench.data.pixels import UnusableError

SUFFIXES = (".dcm", ".dicom", ".ima")
MAX_FILES = 4096
_MAX_BYTES = 2**28
"""Of one file."""
_DEFLATED = "1.2.840.10008.1.2.1.99"
_TAGS = [
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "SeriesInstanceUID",
    "RescaleSlope",
    "RescaleIntercept",
]


@dataclass(frozen=True)
class _Slice:
    path: Path
    rows: int
    columns: int
    series: str
    orientation: NDArray[np.float64]
    """Direction of a row, then of a column, in the patient's left, back, top."""
    spacing: tuple[float, float]
    """Between rows, between columns; mm."""
    position: NDArray[np.float64]
    slope: float
    intercept: float

    @property
    def normal(self) -> NDArray[np.float64]:
        normal: NDArray[np.float64] = np.cross(self.orientation[:3], self.orientation[3:]).astype(np.float64)
        return normal


@dataclass(frozen=True)
class DicomVolume:
    """A series in its folder; axes are column, row, slice."""

    slices: tuple[_Slice, ...]
    affine: NDArray[np.float64]
    """From voxel to mm in space (right, front, top)."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        return self.slices[0].columns, self.slices[0].rows, len(self.slices)

    def planes(self, axis: int, indices: range) -> NDArray[np.float32]:
        """Read some planes of an axis: of the slice axis only those files.

        Raises:
            UnusableError: pixel data that are missing, damaged, or packed in a way that nothing installed can unpack.
        """
        chosen = np.array(indices)
        picked = [self.slices[k] for k in chosen] if axis == 2 else list(self.slices)
        sizes = [*self.shape[:2], len(picked)]
        if axis != 2:
            sizes[axis] = len(chosen)
        out = np.empty(sizes[::-1], np.float32)
        for k, one in enumerate(picked):
            pixels = _pixels(one)
            out[k] = pixels if axis == 2 else pixels[chosen] if axis == 1 else pixels[:, chosen]
        return out.transpose(2, 1, 0)


def series_files(folder: Path) -> Iterator[Path]:
    """Yield the DICOM files that lie in a folder: by suffix, or by the mark at byte 128 where the name has none."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or not path.is_file():
            continue
        # names like IM0001, or a UID whose last number looks like a suffix
        plain = path.suffix == "" or path.suffix[1:].isdecimal()
        if path.suffix.lower() in SUFFIXES or (plain and _marked(path)):
            yield path


def _marked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def open_series(folder: Path) -> DicomVolume:
    """Read the headers of a folder's files and order them.

    Raises:
        UnusableError: no series, several, or one with gaps, repeats, or slices that do not stand on each other.
        OSError: the folder can't be read.
    """
    paths = list(series_files(folder))
    if len(paths) > MAX_FILES:
        raise UnusableError(f"holds {len(paths)} DICOM files: too many for one series")
    if len(paths) < 2:
        raise UnusableError(f"is no volume: holds {len(paths)} DICOM file(s)")
    slices = [_header(path) for path in paths]
    first = slices[0]
    if first.rows * first.columns * len(slices) > MAX_VOXELS:
        raise UnusableError(f"{first.columns} x {first.rows} x {len(slices)} voxels are too many")
    for one in slices:
        if one.series != first.series:
            raise UnusableError("holds several series: give each a folder of its own")
        if (one.rows, one.columns) != (first.rows, first.columns):
            raise UnusableError(f"{one.path.name} has another size than {first.path.name}")
        if not np.allclose(one.orientation, first.orientation, atol=1e-3):
            raise UnusableError(f"{one.path.name} lies in another direction than {first.path.name}: a localizer?")
        if not np.allclose(one.spacing, first.spacing, rtol=1e-3):
            raise UnusableError(f"{one.path.name} has another pixel spacing than {first.path.name}")
    slices.sort(key=lambda one: float(one.normal @ one.position))
    return DicomVolume(tuple(slices), _stacked_affine(slices))


def _stacked_affine(slices: list[_Slice]) -> NDArray[np.float64]:
    places = np.array([one.normal @ one.position for one in slices])
    gaps = np.diff(places)
    if gaps.min() < 1e-3:
        raise UnusableError("several images lie at one place (time points, echoes or repeats): keep one of each")
    if gaps.max() > 1.05 * gaps.min() + 1e-2:
        raise UnusableError(
            f"the distance between slices runs from {gaps.min():.3g} to {gaps.max():.3g} mm: some missing?"
        )
    first, last = slices[0], slices[-1]
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[:3] * first.spacing[1]
    affine[:3, 1] = first.orientation[3:] * first.spacing[0]
    affine[:3, 2] = (last.position - first.position) / (len(slices) - 1)  # a tilted gantry shears the volume
    affine[:3, 3] = first.position
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM's axes point to the left and back
    check_affine(affine)
    return affine


def _read(path: Path, **options: Any) -> Any:
    import pydicom

    if path.stat().st_size > _MAX_BYTES:
        raise UnusableError(f"{path.name} has more than {_MAX_BYTES // 2**20} MB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("rb") as file:
                file.seek(128)
                # pydicom inflates a deflated file whole, whatever its length
                if file.read(4) == b"DICM" and _syntax(path) == _DEFLATED:
                    raise UnusableError(f"{path.name} is deflated: store it without")
            return pydicom.dcmread(path, force=False, **options)
    except UnusableError:
        raise
    except Exception as error:  # a damaged file makes the parser raise anything
        raise UnusableError(f"{path.name} can't be read: {_first_line(error)}") from error


def _syntax(path: Path) -> str:
    from pydicom.filereader import read_file_meta_info

    return str(getattr(read_file_meta_info(path), "TransferSyntaxUID", ""))


def _header(path: Path) -> _Slice:
    header = _read(path, stop_before_pixels=True, specific_tags=_TAGS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if int(header.get("NumberOfFrames") or 1) > 1:
                raise UnusableError(f"{path.name} holds several frames: convert it to NIfTI, or to a file per slice")
            if int(header.get("SamplesPerPixel") or 1) != 1 or header.get("PhotometricInterpretation") != "MONOCHROME2":
                found = header.get("PhotometricInterpretation")
                raise UnusableError(f"{path.name} is {found}: grey values with black as the smallest are needed")
            rows, columns = int(header.Rows), int(header.Columns)
            orientation = np.array([float(v) for v in header.ImageOrientationPatient])
            position = np.array([float(v) for v in header.ImagePositionPatient])
            between_rows, between_columns = (float(v) for v in header.PixelSpacing)
            slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
            series = str(header.get("SeriesInstanceUID", ""))
    except UnusableError:
        raise
    except AttributeError as error:
        missing = str(error).rpartition("attribute ")[2] or error
        raise UnusableError(f"{path.name} doesn't say its {missing}") from error
    except Exception as error:
        raise UnusableError(f"{path.name} can't be understood: {_first_line(error)}") from error
    if not (1 < rows <= MAX_SIDE and 1 < columns <= MAX_SIDE):
        raise UnusableError(f"{path.name} is said to have {columns} x {rows} pixels")
    if orientation.shape != (6,) or position.shape != (3,):
        raise UnusableError(f"{path.name} says no place in space")
    if not np.isfinite([*orientation, *position, between_rows, between_columns, slope, intercept]).all():
        raise UnusableError(f"{path.name} says numbers that aren't finite")
    lengths = [np.linalg.norm(orientation[:3]), np.linalg.norm(orientation[3:])]
    if not np.allclose(lengths, 1, atol=1e-2) or abs(orientation[:3] @ orientation[3:]) > 1e-2:
        raise UnusableError(f"{path.name}: its directions are not at right angles")
    spacing = (between_rows, between_columns)
    return _Slice(path, rows, columns, series, orientation, spacing, position, slope, intercept)


def _pixels(one: _Slice) -> NDArray[np.float32]:
    """Return the slice's values, [rows, columns]."""
    dataset = _read(one.path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = np.asarray(dataset.pixel_array)
    except Exception as error:
        raise UnusableError(f"{one.path.name}: its pixels can't be read: {_first_line(error)}") from error
    if raw.shape != (one.rows, one.columns):
        raise UnusableError(f"{one.path.name}: its pixels have the shape {raw.shape}")
    values: NDArray[np.float32] = raw.astype(np.float32) * np.float32(one.slope) + np.float32(one.intercept)
    return values


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
