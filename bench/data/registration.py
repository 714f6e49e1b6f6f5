"""Volumes onto the MNI152 grid: 1 mm, 182 x 218 x 182 voxels, axes to the right, front and top.

Knows voxels, affines and the template that nilearn ships; no files, slices, labels or cache. A *pose* is a 4 x 4 matrix that
takes a point of the grid (mm of MNI space) to the same anatomical point of the volume (mm of its own scanner space).

The registration is dipy's (mutual information, rigid, then affine), at 3 mm inside the template's brain with a margin: the
template has no skull, and what a volume has outside the brain has no say. Since a head's centre lies far below its brain's,
a coarse search over shifts and tilts finds where to begin. Nothing is random, so a volume's pose is always the same.
"""

from __future__ import annotations

import importlib.util
import itertools
import warnings
from functools import cache
from importlib.metadata import version as package_version
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32
from numpy.typing import NDArray

from bench.errors import InputError

SHAPE = (182, 218, 182)
ORIGIN = (-91.0, -126.0, -72.0)
"""MNI coordinates of the first voxel, mm."""
VERSION = 1
"""Of the method: its settings are part of a prepared set's fingerprint by this number."""

_WORKING_MM, _COARSE_MM = 3.0, 6.0
_MARGIN_MM = 4
"""How far around the brain voxels are looked at: the dark skull and fluid around it hold it in place."""
_SHIFTS = (range(-10, 11, 10), range(-30, 31, 10), range(-20, 81, 10))
"""Where the search looks for the brain's centre, mm to the right, front and top of the volume's centre of mass."""
_TILTS = (-36, -24, -12, 0, 12, 24, 36)
"""Degrees about the left-right axis: heads nod in the scanner."""
_STARTS = 2
"""Tilts from which the registration begins; the better end goes on."""
_BINS = 32

Affine = Float[np.ndarray, "4 4"]
Volume = Float32[np.ndarray, "x y z"]


def grid_affine() -> Affine:
    """Return the affine of the grid: from voxel to MNI coordinates in mm."""
    affine = np.eye(4)
    affine[:3, 3] = ORIGIN
    return affine


def require_registration() -> str:
    """Return dipy's version.

    Raises:
        InputError: it isn't installed.
    """
    if importlib.util.find_spec("dipy") is None:
        raise InputError(
            "data.registration: affine needs dipy, which isn't installed; pip install 'medgenbench[registration]', or set "
            "data.registration: none (volumes are then only centred)"
        )
    return package_version("dipy")


class Template(NamedTuple):
    """The MNI152 average brain on the grid."""

    t1: Volume
    """Without skull, 0 to 1."""
    brain: Bool[np.ndarray, "x y z"]


@cache
def template() -> Template:
    """Return the template, resampled from nilearn's own grid (1 mm as well, so by whole voxels)."""
    from nilearn import datasets

    t1, mask = (
        resample(np.asarray(image.dataobj, dtype=np.float32), image.affine, np.eye(4), order=0)
        for image in (datasets.load_mni152_template(resolution=1), datasets.load_mni152_brain_mask(resolution=1))
    )
    return Template(t1, mask > 0.5)


def resample(
    values: Volume, affine: Affine, pose: Affine, *, axis: int = 0, planes: range = range(SHAPE[0]), order: int = 1
) -> Volume:
    """Return the volume's values on planes of the grid, read linearly; 0 beyond the volume.

    Args:
        values: the volume.
        affine: from its voxels to its space.
        pose: from the grid's space to the volume's.
        axis: which axis of the grid the planes cut.
        planes: indices of the planes along that axis, evenly spaced.
        order: 1 for linear, 0 for nearest.
    """
    from scipy import ndimage

    to_grid = grid_affine()
    to_grid[axis, 3] += planes.start
    to_grid[:3, axis] *= planes.step
    matrix = np.linalg.inv(affine) @ pose @ to_grid
    shape = [len(planes) if axis == i else SHAPE[i] for i in range(3)]
    return ndimage.affine_transform(
        values, matrix[:3, :3], matrix[:3, 3], output_shape=tuple(shape), order=order, output=np.float32
    )


def centred_pose(values: Volume, affine: Affine) -> Affine:
    """Return the pose that lays the volume's centre of mass on the template's: no turn, no scale.

    The mass is the number of voxels above the mean: the brain's where the skull is taken off, else the head's.
    """
    pose = np.eye(4)
    pose[:3, 3] = _centre_of_mass(values, affine) - _template_centre()
    return pose


def affine_pose(values: Volume, affine: Affine) -> Affine:
    """Return the pose found by affine registration to the template.

    Takes about 10 processor seconds a volume (7 to 14, measured on 19 heads on a busy machine).

    Raises:
        InputError: dipy isn't installed.
        ValueError: the optimisation left the volume (nothing of it lies on the template).
    """
    require_registration()
    from dipy.align.imaffine import AffineRegistration, MutualInformationMetric
    from dipy.align.transforms import AffineTransform3D, RigidTransform3D

    low, high = np.percentile(values[values > values.min()], (1, 99.5))
    moving, moving_affine = _coarsened(np.clip(values, low, high) - low, affine, _WORKING_MM)
    target = _targets(_WORKING_MM)

    def improved(pose: Affine, transform: Any, iterations: list[int], factors: list[int]) -> tuple[Affine, float]:
        """Return the pose after some more steps, and minus its mutual information."""
        method = AffineRegistration(
            metric=MutualInformationMetric(nbins=_BINS, sampling_proportion=None),
            level_iters=iterations,
            sigmas=[factor - 1.0 for factor in factors],
            factors=factors,
            verbosity=0,
        )
        found, _, cost = method.optimize(
            target.t1,
            moving,
            transform,
            None,
            static_grid2world=target.affine,
            moving_grid2world=moving_affine,
            starting_affine=pose,
            static_mask=target.mask.astype(np.int32),
            ret_metric=True,
        )
        return found.affine, float(cost)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of divisions by 0 in empty corners of the histogram
        starts = [improved(start, RigidTransform3D(), [60], [2]) for start in _searched(moving, moving_affine)]
        pose, _ = min(starts, key=lambda pair: pair[1])
        pose, _ = improved(pose, AffineTransform3D(), [100, 60], [2, 1])
    if not np.isfinite(pose).all() or not 0.3 < np.linalg.det(pose[:3, :3]) < 3:
        raise ValueError("the registration to the template failed")
    return pose


# ---- where to begin


class _Target(NamedTuple):
    t1: NDArray[np.float32]
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_]


@cache
def _targets(mm: float) -> _Target:
    from scipy import ndimage

    whole = template()
    near = ndimage.binary_dilation(whole.brain, iterations=_MARGIN_MM).astype(np.float32)
    t1, affine = _coarsened(whole.t1, grid_affine(), mm)
    return _Target(t1, affine, _coarsened(near, grid_affine(), mm)[0] > 0.5)


@cache
def _template_centre() -> NDArray[np.float64]:
    return _centre_of_mass(template().t1, grid_affine())


def _centre_of_mass(values: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy import ndimage

    centre = ndimage.center_of_mass(values > values.mean(dtype=np.float64))
    return (affine @ np.array([*centre, 1.0]))[:3]


def _coarsened(
    values: NDArray[np.float32], affine: NDArray[np.float64], mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the volume with voxels of about `mm`, smoothed before; axes that are as coarse already stay."""
    from scipy import ndimage

    sides = np.linalg.norm(affine[:3, :3], axis=0)
    steps = np.maximum(mm / sides, 1.0)
    smooth = ndimage.gaussian_filter(values, 0.4 * np.sqrt(steps**2 - 1)) if (steps > 1).any() else values
    shape = tuple(int(n) for n in np.maximum(np.rint(np.array(values.shape) / steps), 1))
    scaling = np.diag([*steps, 1.0])
    scaling[:3, 3] = (steps - 1) / 2
    coarse = ndimage.affine_transform(
        smooth, np.diag(steps), scaling[:3, 3], output_shape=shape, order=1, output=np.float32, mode="nearest"
    )
    return coarse, affine @ scaling


def _searched(values: NDArray[np.float32], affine: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return the best poses of some tilts: those whose grey levels tell most of the template's inside its mask."""
    target = _targets(_COARSE_MM)
    coarse, coarse_affine = _coarsened(values, affine, _COARSE_MM)
    to_voxel = np.linalg.inv(coarse_affine)
    points = (target.affine @ np.stack([*np.nonzero(target.mask), np.ones(target.mask.sum())]))[:3]
    middle, start = _template_centre(), _centre_of_mass(values, affine)
    static = _binned(target.t1[target.mask])
    moving = np.pad(_binned(coarse), 1)  # a rim of black, where points beyond the volume are read
    most = np.array(moving.shape)[:, None] - 1
    found = []
    for tilt in _TILTS:
        cos, sin = np.cos(np.deg2rad(tilt)), np.sin(np.deg2rad(tilt))
        turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
        turned = to_voxel[:3, :3] @ turn @ (points - middle[:, None])
        for shift in itertools.product(*_SHIFTS):
            pose = np.eye(4)
            pose[:3, :3] = turn
            pose[:3, 3] = start + shift - turn @ middle
            origin = (to_voxel @ np.array([*(start + shift), 1.0]))[:3, None] + 1
            voxel = np.clip(np.rint(turned + origin), 0, most).astype(np.intp)
            found.append((_mutual_information(static, moving[tuple(voxel)]), tilt, pose))
    best = {tilt: max((one for one in found if one[1] == tilt), key=lambda one: one[0]) for tilt in _TILTS}
    return [pose for _, _, pose in sorted(best.values(), key=lambda one: -one[0])[:_STARTS]]


_LEVELS = 16


def _binned(values: NDArray[np.float32]) -> NDArray[np.int64]:
    top = max(float(values.max()), 1e-12)
    return np.clip(values * (_LEVELS / top), 0, _LEVELS - 1).astype(np.int64)


def _mutual_information(left: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """Return the mutual information of two binned images, in nats."""
    joint = np.bincount(left * _LEVELS + right, minlength=_LEVELS**2).reshape(_LEVELS, _LEVELS) / len(left)
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / product[seen])).sum())


def library_versions(registration: Any) -> dict[str, str]:
    """Return the versions on which a volume on the grid depends."""
    found = {"nilearn": package_version("nilearn"), "method": str(VERSION)}
    return {**found, "dipy": require_registration()} if registration == "affine" else found
