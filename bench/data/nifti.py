"""NIfTI volumes (.nii, .nii.gz): a header that can be trusted, and no more bytes than the planes asked for need.

nibabel understands headers; the voxels are read here, plane by plane: an uncompressed file is read where the planes lie,
a compressed one is inflated in pieces up to the last plane, and neither is ever held whole as floating point. Extensions
are not read: their length is a number in the file, and may be anything.
"""

from __future__ import annotations

import gzip
import os
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bench.data.pixels import UnusableError

try:  # about twice as fast; has wheels for the usual systems
    from isal import igzip as _gzip
except ImportError:  # pragma: no cover
    _gzip = gzip

MAX_VOXELS = 2**27
"""Larger volumes are refused by their header (512 x 512 x 512 fit), before anything is allocated."""
MAX_SIDE = 4096
_BLOCK = 2**22
"""Bytes read at once."""
_SPACING = (0.01, 100.0)
"""Edges of a voxel in mm that can be of a scan."""


@dataclass(frozen=True)
class NiftiVolume:
    """A volume in its file, by its header."""

    path: Path
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    """From voxel to mm in space (right, front, top)."""
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    compressed: bool

    def planes(self, axis: int, indices: range) -> NDArray[Any]:
        """Read some planes of an axis.

        Returns:
            values, scaled as the header says, in the stored order of axes; `axis` has one entry per index. Whole numbers of
            up to 16 bits that the header doesn't scale come as such, all else as float32.

        Raises:
            UnusableError: the file ends early or is damaged as far as it was read.
        """
        first, last = min(indices), max(indices)
        x, y, z = self.shape
        sizes = [x, y, z]
        sizes[axis] = len(indices)
        scale = (self.slope, self.intercept) != (1.0, 0.0)
        plain = self.dtype.kind in "iu" and self.dtype.itemsize <= 2 and not scale
        kind = self.dtype.newbyteorder("=") if plain else np.dtype(np.float32)
        out = np.empty(sizes[::-1], kind)  # first index fastest in the file: [z, y, x] in memory
        chosen = np.array(indices)
        along = indices if axis == 2 else range(z)
        step = max(1, _BLOCK // (x * y * self.dtype.itemsize)) if axis != 2 or abs(indices.step) == 1 else 1
        with self._opened() as file:
            if axis == 1 and not self.compressed:
                along = range(0)
                out[...] = self._rows(file, first, last)[:, chosen - first]
            elif axis == 2:
                along = range(first, last + 1)
            position = 0
            for start in range(along.start, along.stop, step):
                stop = min(start + step, along.stop)
                position = self._skip(file, position, start * x * y * self.dtype.itemsize)
                block = np.empty((stop - start, y, x), self.dtype)
                self._fill(file, block)
                position += block.nbytes
                if axis == 2:
                    here = np.flatnonzero((chosen >= start) & (chosen < stop))
                    out[here] = block[chosen[here] - start]
                else:
                    out[start:stop] = block[:, chosen] if axis == 1 else block[:, :, chosen]
        if scale:
            out *= np.float32(self.slope)
            out += np.float32(self.intercept)
        return out.transpose(2, 1, 0)

    def _opened(self) -> IO[bytes]:
        file: IO[bytes] = _gzip.open(self.path, "rb") if self.compressed else self.path.open("rb")
        if not self.compressed:
            file.seek(self.offset)
        else:
            self._discard(file, self.offset)
        return file

    def _skip(self, file: IO[bytes], position: int, target: int) -> int:
        if target > position:
            if self.compressed:
                self._discard(file, target - position)
            else:
                file.seek(self.offset + target)
        return target

    def _discard(self, file: IO[bytes], count: int) -> None:
        while count > 0:
            try:
                got = len(file.read(min(count, _BLOCK)))
            except Exception as error:
                raise UnusableError(f"can't be inflated: {error}") from error
            if not got:
                raise UnusableError("ends before its last voxel: cut off?")
            count -= got

    def _rows(self, file: IO[bytes], first: int, last: int) -> NDArray[Any]:
        """Read [z, first to last, x] of an uncompressed file: of each z these lie together."""
        x, y, z = self.shape
        rows = np.empty((z, last + 1 - first, x), self.dtype)
        for k, block in enumerate(rows):
            file.seek(self.offset + (k * y + first) * x * self.dtype.itemsize)
            self._fill(file, block)
        return rows

    def _fill(self, file: IO[bytes], block: NDArray[Any]) -> None:
        view = block.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):
            try:
                got = file.readinto(view[done : done + _BLOCK])  # type: ignore[attr-defined]
            except Exception as error:  # a damaged stream raises what its decoder likes
                raise UnusableError(f"can't be inflated: {error}") from error
            if not got:
                raise UnusableError("ends before its last voxel: cut off?")
            done += got


def open_nifti(path: Path) -> NiftiVolume:
    """Read the header.

    Raises:
        UnusableError: no NIfTI in one file, not one volume of grey values, sizes or places that can't be.
        OSError: the file can't be opened.
    """
    import nibabel
    from nibabel.spatialimages import HeaderDataError

    size = path.stat().st_size
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    try:
        with _gzip.open(path, "rb") if compressed else path.open("rb") as file:
            head = file.read(540)
    except Exception as error:
        raise UnusableError(f"can't be inflated: {error}") from error
    kind, length = _kind(head)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            header = (nibabel.Nifti1Header if kind == 1 else nibabel.Nifti2Header)(head[:length], check=False)
            shape = _shape(header.get_data_shape())
            dtype = header.get_data_dtype()
            if dtype.kind not in "iuf" or dtype.itemsize > 8:
                what = "colour" if dtype.names else str(dtype)
                raise UnusableError(f"holds {what} voxels, not grey values")
            offset = int(header.get_data_offset())
            slope, intercept = header.get_slope_inter()
            affine = _affine(header)
    except UnusableError:
        raise
    except (HeaderDataError, ValueError, OverflowError, KeyError, TypeError, FloatingPointError) as error:
        raise UnusableError(f"its header can't be understood: {(str(error).splitlines() or ['?'])[0]}") from error
    needed = shape[0] * shape[1] * shape[2] * dtype.itemsize
    if not length <= offset <= 2**24:
        raise UnusableError(f"its voxels are said to begin at byte {offset}")
    if not compressed and size < offset + needed:
        raise UnusableError(f"has {size:,} bytes, its header promises {offset + needed:,}: cut off?")
    slope, intercept = (1.0 if slope is None else float(slope)), (0.0 if intercept is None else float(intercept))
    volume = NiftiVolume(path, shape, affine, dtype, offset, slope, intercept, compressed)
    if compressed and _promised(path, size) != (offset + needed) % 2**32:
        _inflate_whole(volume, needed)
    return volume


def _kind(head: bytes) -> tuple[int, int]:
    """Return the NIfTI version and the length of its header."""
    if not head:
        raise UnusableError("is empty")
    if len(head) < 352:
        raise UnusableError(f"has {len(head)} bytes, fewer than a header")
    size = {struct.unpack(order + "i", head[:4])[0] for order in "<>"}
    if 348 in size and head[344:348] in (b"n+1\0", b"n+1 "):
        return 1, 348
    if 540 in size and head[4:7] == b"n+2" and len(head) == 540:
        return 2, 540
    if 348 in size and head[344:346] == b"ni":
        raise UnusableError("is a header without voxels (.hdr/.img pair): convert it to one .nii file")
    raise UnusableError("is no NIfTI file")


def _shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        frames = " x ".join(map(str, shape[3:]))
        raise UnusableError(f"holds {frames} volumes (frames, echoes or directions): save one of them as a file")
    if len(shape) < 3 or min(shape) < 2:
        raise UnusableError(f"is no volume: its shape is {' x '.join(map(str, shape)) or 'empty'}")
    x, y, z = (int(n) for n in shape)
    if max(x, y, z) > MAX_SIDE or x * y * z > MAX_VOXELS:
        raise UnusableError(f"its header says {x} x {y} x {z} voxels: too many")
    return x, y, z


def _affine(header: Any) -> NDArray[np.float64]:
    """The header's affine, if it says one that can be."""
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        raise UnusableError("doesn't say how it lies in space (sform and qform codes are 0): set one of them")
    affine = np.array(header.get_best_affine(), dtype=np.float64)
    check_affine(affine)
    return affine


def check_affine(affine: NDArray[np.float64]) -> None:
    """Raise UnusableError where the affine is no place and shape of a scan's voxels."""
    if not np.isfinite(affine).all() or np.abs(affine).max() > 1e5:
        raise UnusableError("its affine isn't finite")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (_SPACING[0] <= spacing.min() and spacing.max() <= _SPACING[1]):
        raise UnusableError(f"its voxels are said to be {' x '.join(f'{s:g}' for s in spacing)} mm")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 0.1:
        raise UnusableError("its affine is degenerate: the axes lie in one plane")


def _promised(path: Path, size: int) -> int:
    """The inflated length (modulo 2**32) that a gzip file of one member tells in its last four bytes."""
    with path.open("rb") as file:
        file.seek(max(0, size - 4), os.SEEK_SET)
        return int.from_bytes(file.read(4), "little")


def _inflate_whole(volume: NiftiVolume, needed: int) -> None:
    """Inflate every voxel, keeping none: what a file needs whose end doesn't fit its header."""
    with volume._opened() as file:
        volume._discard(file, needed)
