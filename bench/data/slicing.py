"""From one volume to a few pictures: canonical axes, the MNI grid or the scan's own, grey levels, size.

The order of steps, stated once for training and scoring: axes to the right, front and top; onto the grid (if asked for),
by a pose; the planes; grey levels between two percentiles of the foreground of these planes; picture; size. Knows no
label, subject, cache or set.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from jaxtyping import Float32, UInt
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.data import registration
from bench.data.dicom_series import open_series
from bench.data.levels import normalised
from bench.data.nifti import open_nifti
from bench.data.pixels import UnusableError

NIFTI_SUFFIXES = (".nii", ".nii.gz")
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}

Side = Annotated[int, Field(ge=8, le=4096)]
Slab = Float32[np.ndarray, "x y z"]
Poser = Callable[[Callable[[], NDArray[np.float64]]], NDArray[np.float64]]
"""Gives a pose: one kept from before, or that of the function."""


class Recipe(BaseModel):
    """Everything that decides what a volume's slices look like."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    registration: Literal["none", "affine"] = Field(
        "none",
        description="affine: every volume is registered to the MNI152 brain (needs medgenbench[registration], seconds per "
        "volume); none: on the MNI grid volumes are only centred, by their centre of mass",
    )
    grid: Literal["mni", "native"] = Field(
        "mni", description="the MNI152 grid (1 mm, 182 x 218 x 182), or the scan's own planes, for knees and the like"
    )
    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    slices: int = Field(10, ge=1, le=1024, description="central slices per volume")
    step: int = Field(1, ge=1, le=64, description="distance between slices, in planes of the grid")
    offset: int = Field(
        0, ge=-512, le=512, description="planes by which the middle is moved to the right, front or top"
    )
    brain_mask: bool = Field(
        False, description="whether all outside the template's brain is black; takes the skull off after registration"
    )
    percentiles: tuple[float, float] = Field(
        (1.0, 99.5),
        description="of a volume's foreground (all above the smallest value of its slices): black and white",
    )
    image_size: tuple[Side, Side] = Field((64, 64), description="height, width in pixels")
    fit: Literal["pad", "stretch"] = Field(
        "pad",
        description="pad: the same mm per pixel in both directions, black at the sides; stretch: fills the picture",
    )
    bits: Literal[8, 16] = Field(8, description="depth of the pictures; generated images are scored with 8")

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError("percentiles: from 0 to 100, the first below the second")
        if self.grid == "native" and self.registration == "affine":
            raise ValueError("registration: affine puts volumes on the MNI grid; grid: mni belongs to it")
        if self.grid == "native" and self.brain_mask:
            raise ValueError("brain_mask is known on the MNI grid only; set grid: mni")
        return self


class Scan(Protocol):
    """A volume that lies on disk."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the stored axes."""

    @property
    def affine(self) -> NDArray[np.float64]:
        """From voxel to mm to the right, front and top."""

    def planes(self, axis: int, indices: range) -> NDArray[Any]:
        """Values of some planes of a stored axis, in the stored order of axes; whole numbers or float32."""


def open_scan(path: Path) -> Scan:
    """Open a NIfTI file, or the folder of a DICOM series."""
    return open_series(path) if path.is_dir() else open_nifti(path)


class Canonical:
    """A scan whose axes run to the right, front and top (nearest of the six directions each), whatever is stored."""

    def __init__(self, scan: Scan) -> None:
        from nibabel.orientations import inv_ornt_aff, io_orientation

        self._scan = scan
        orientation = io_orientation(scan.affine)
        if np.isnan(orientation).any():
            raise UnusableError("its affine is degenerate")
        self._stored = [int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in range(3)]
        self._forward = [orientation[stored, 1] > 0 for stored in self._stored]
        self.shape = tuple(scan.shape[stored] for stored in self._stored)
        self.affine = scan.affine @ inv_ornt_aff(orientation, scan.shape)

    def planes(self, axis: int, indices: range) -> NDArray[Any]:
        """Values of some planes of an axis (0: sagittal, 1: coronal, 2: axial), [x, y, z]."""
        stored = indices
        if not self._forward[axis]:
            last = self.shape[axis] - 1
            stored = range(last - indices[-1], last - indices[0] + 1, indices.step)
        values = self._scan.planes(self._stored[axis], stored).transpose(self._stored)
        return values[tuple(slice(None, None, 1 if forward else -1) for forward in self._forward)]

    def whole(self) -> NDArray[np.float32]:
        """Every value, [x, y, z]."""
        return np.ascontiguousarray(self.planes(2, range(self.shape[2])), dtype=np.float32)


def central(recipe: Recipe, count: int) -> range:
    """Return the indices of the recipe's planes among `count`.

    Raises:
        UnusableError: they would reach beyond the volume.
    """
    span = (recipe.slices - 1) * recipe.step + 1
    start = (count - span) // 2 + recipe.offset
    if start < 0 or start + span > count:
        raise UnusableError(
            f"has {count} {recipe.plane} planes, too few for {recipe.slices} slices {recipe.step} apart"
        )
    return range(start, start + span, recipe.step)


def slices_of(path: Path, recipe: Recipe, poser: Poser = lambda find: find()) -> UInt[np.ndarray, "n h w"]:
    """Return a volume's pictures, uint8 or uint16 by `recipe.bits`.

    Axial: front up, the patient's left on the left. Coronal: top up, left on the left. Sagittal: top up, front on the left.

    Args:
        path: a NIfTI file, or the folder of a DICOM series.
        recipe: how.
        poser: asked for the pose of a registration; it may keep it.

    Raises:
        UnusableError: why the volume can't be used.
        OSError: it can't be read.
    """
    with np.errstate(all="ignore"):  # absurd values become infinite, which is found below
        scan = Canonical(open_scan(path))
        axis = AXES[recipe.plane]
        if recipe.grid == "native":
            slab = scan.planes(axis, central(recipe, scan.shape[axis]))
            _check_values(slab)
            spacing = np.linalg.norm(scan.affine[:3, :3], axis=0)
            inside = None
        else:
            slab, inside = _on_grid(scan, recipe, axis, poser)
            spacing = np.ones(3)
        pictures, mm = _pictures(slab, axis, spacing)
        pictures = normalised(
            pictures, recipe.percentiles, None if inside is None else _pictures(inside, axis, spacing)[0]
        )
        sized = np.stack([_sized(picture, recipe, mm) for picture in pictures])
    top = 2**recipe.bits - 1
    return np.rint(sized * np.float32(top)).astype(np.uint8 if recipe.bits == 8 else np.uint16)


def _check_values(values: NDArray[Any]) -> None:
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UnusableError("holds values that are not finite")
    if low == high:
        raise UnusableError("constant: every voxel is the same")


def _on_grid(
    scan: Canonical, recipe: Recipe, axis: int, poser: Poser
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Return the planes of the MNI grid, and with `brain_mask` where they lie in the brain."""
    planes = central(recipe, registration.SHAPE[axis])
    whole = scan.whole()
    _check_values(whole)
    whole -= whole.min()  # what is added beyond the volume is 0: its darkest value
    if recipe.registration == "affine":
        try:
            pose = poser(lambda: registration.affine_pose(whole, scan.affine))
        except ValueError as error:
            raise UnusableError(str(error)) from error
    else:
        pose = registration.centred_pose(whole, scan.affine)
    slab = registration.resample(whole, scan.affine, pose, axis=axis, planes=planes)
    if not slab.any():
        raise UnusableError("nothing of it lies on the slices of the MNI grid")
    if not recipe.brain_mask:
        return slab, None
    cut: list[Any] = [slice(None)] * 3
    cut[axis] = slice(planes.start, planes.stop, planes.step)
    return slab, registration.template().brain[tuple(cut)]


def _pictures(
    values: NDArray[Any], axis: int, spacing: NDArray[np.float64]
) -> tuple[NDArray[Any], tuple[float, float]]:
    """Return [n, rows, columns] as seen on a screen, and the mm of a row's and a column's pixel."""
    if axis == 2:
        seen, mm = values[:, ::-1].transpose(2, 1, 0), (spacing[1], spacing[0])
    elif axis == 1:
        seen, mm = values[:, :, ::-1].transpose(1, 2, 0), (spacing[2], spacing[0])
    else:
        seen, mm = values[:, ::-1, ::-1].transpose(0, 2, 1), (spacing[2], spacing[1])
    return np.ascontiguousarray(seen), mm


def _sized(picture: NDArray[np.float32], recipe: Recipe, mm: tuple[float, float]) -> NDArray[np.float32]:
    """Bicubic with antialiasing (Pillow, mode F), as for images."""
    from PIL import Image

    height, width = recipe.image_size
    inner = (height, width)
    if recipe.fit == "pad":
        extent = (picture.shape[0] * mm[0], picture.shape[1] * mm[1])
        scale = min(height / extent[0], width / extent[1])
        inner = (max(1, min(height, round(extent[0] * scale))), max(1, min(width, round(extent[1] * scale))))
    if picture.shape != inner:
        resized = Image.fromarray(np.ascontiguousarray(picture)).resize((inner[1], inner[0]), Image.Resampling.BICUBIC)
        picture = np.asarray(resized).clip(0, 1)  # bicubic overshoots at edges
    if inner == (height, width):
        return picture
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    return np.pad(picture, ((top, height - inner[0] - top), (left, width - inner[1] - left)))
