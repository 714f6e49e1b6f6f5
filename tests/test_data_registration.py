"""Registration to the MNI grid: a known affine is found again, poses are kept, and without the library there is a way."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from bench.data import registration, volume_pool
from bench.data.registration import affine_pose, centred_pose, grid_affine, resample, template
from bench.data.slicing import Recipe
from bench.errors import InputError

_spec = importlib.util.spec_from_file_location("volume_fixture", Path(__file__).with_name("volume_fixture.py"))
_fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixture)

needs_dipy = pytest.mark.skipif(importlib.util.find_spec("dipy") is None, reason="dipy is not installed")


def known_pose() -> np.ndarray:
    """Turned by 8 degrees about one axis and 5 about another, 7 % larger, 15 mm away."""
    a, b = np.deg2rad([8, 5])
    nod = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    roll = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = nod @ roll @ np.diag([1.07, 0.95, 1.03])
    pose[:3, 3] = (9, -11, 5)
    return pose


@pytest.fixture(scope="module")
def moved() -> tuple[np.ndarray, np.ndarray]:
    """The template's brain after the known pose, in voxels of 3 mm, with noise."""
    from scipy import ndimage

    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = (-100, -140, -90)
    matrix = np.linalg.inv(grid_affine()) @ np.linalg.inv(known_pose()) @ affine
    t1 = ndimage.gaussian_filter(template().t1, 1.0)
    values = ndimage.affine_transform(t1, matrix[:3, :3], matrix[:3, 3], output_shape=(68, 84, 68), order=1)
    noise = np.random.default_rng(0).normal(0, 0.02, values.shape)
    return np.where(values > 0.02, values + noise, 0).clip(0).astype(np.float32) * 500, affine


def error_mm(pose: np.ndarray) -> float:
    """Mean distance between where the pose and the known one take the brain's points."""
    points = np.argwhere(template().brain)[::997]
    there = np.c_[points + registration.ORIGIN, np.ones(len(points))]
    return float(np.linalg.norm((there @ (pose - known_pose()).T)[:, :3], axis=1).mean())


@needs_dipy
def test_a_known_affine_is_found_again(moved):
    values, affine = moved
    centred, found = centred_pose(values, affine), affine_pose(values, affine)
    assert error_mm(centred) > 4, "else there is nothing to find"
    assert error_mm(found) < 1.5
    assert np.array_equal(found, affine_pose(values, affine)), "nothing is random"
    on_grid = resample(values, affine, found)
    brain = template().brain
    assert np.corrcoef(on_grid[brain], template().t1[brain])[0, 1] > 0.9


def test_centring_undoes_a_shift():
    brain = template().t1[::2, ::2, ::2]
    affine = grid_affine() @ np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] += (30, -20, 10)
    assert np.allclose(centred_pose(brain, affine)[:3, 3], (30, -20, 10), atol=1)


def test_resampling_to_the_grid_itself_changes_nothing():
    t1 = template().t1
    assert np.array_equal(resample(t1, grid_affine(), np.eye(4), axis=2, planes=range(60, 90, 10)), t1[:, :, 60:90:10])
    assert t1.shape == registration.SHAPE


def test_poses_are_kept(tmp_path, monkeypatch):
    """Another number of slices takes no second registration; another file does."""
    asked = []
    monkeypatch.setattr(
        registration, "affine_pose", lambda values, affine: asked.append(1) or centred_pose(values, affine)
    )
    path = _fixture.write_nifti(tmp_path / "v.nii", _fixture.phantom())

    def sliced(**options) -> object:
        recipe = Recipe(registration="affine", image_size=(32, 32), **options)
        return volume_pool.do_job(volume_pool.make_job(path, recipe, {"dipy": "1"}, tmp_path))

    assert sliced(slices=3).shape == (3, 32, 32)
    assert sliced(slices=5).shape == (5, 32, 32)
    assert len(asked) == 1
    _fixture.write_nifti(path, _fixture.phantom(seed=1))
    sliced(slices=3)
    assert len(asked) == 2


def test_without_the_library_the_way_out_is_named(monkeypatch):
    monkeypatch.setattr(registration.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'medgenbench\[registration\]', or set data.registration: none"):
        registration.library_versions("affine")
    assert "dipy" not in registration.library_versions("none")


def test_outside_the_brain_all_is_black_with_the_mask(tmp_path):
    path = _fixture.write_nifti(tmp_path / "v.nii", _fixture.phantom((80, 90, 80)))
    options = {"slices": 1, "image_size": (218, 182), "fit": "stretch"}
    whole, masked = (
        volume_pool.do_job(volume_pool.make_job(path, Recipe(brain_mask=masked, **options), {}, tmp_path))[0]
        for masked in (False, True)
    )
    outside = ~template().brain[:, :, 90].T[::-1]
    assert whole[outside].any()
    assert not masked[outside].any()
    assert masked.any()
