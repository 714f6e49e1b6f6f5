"""The scanner phantom: individual subjects, scanners that differ as told, repeatable from a seed, fresh ones new."""

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bench.data.phantom import SCANNERS, Atlas, ScannerPhantom, acquire, simulate_anatomy
from bench.seeds import numpy_rng

GYROSCAN, INTERA, MAGNETOM, UNSPECIFIED = range(4)
COARSE = {"image_size": (32, 32), "slices": 2, "subjects": 12}


def phantom(**options):
    return ScannerPhantom(ScannerPhantom.Options(**options))


def describe(image):
    """Nine numbers a reader could name: brightness, contrast, percentiles, edges, sharpness at equal contrast."""
    image = image.astype(float)
    brain = image > 20
    values = image[brain]
    down, across = np.gradient(image)
    curvature = np.abs(4 * image[1:-1, 1:-1] - image[2:, 1:-1] - image[:-2, 1:-1] - image[1:-1, 2:] - image[1:-1, :-2])
    sharpness = curvature[brain[1:-1, 1:-1]].mean() / values.std()
    return [
        values.mean(),
        values.std(),
        *np.percentile(values, [5, 25, 50, 75, 95]),
        np.hypot(down, across)[brain].mean(),
        sharpness,
    ]


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """160 subjects, 40 of each scanner, 2 slices each, in the default size; and their descriptions."""
    source = phantom(proportions="balanced", subjects=160, slices=2)
    data = source.prepare(tmp_path_factory.mktemp("phantom"), None)
    return data, np.array([describe(image[0]) for image in data.pixels])


def test_what_the_set_says_of_itself(scanned):
    data, _ = scanned
    assert data.title == "scanner phantom (simulated)"
    assert data.simulated
    assert data.class_names == ("Gyroscan Intera", "Intera", "Magnetom TrioTim", "Unspecified")
    assert data.shape == (1, 64, 64)
    assert data.pixels.dtype == np.uint8
    assert data.names[3] == "phantom-0001-slice1"
    assert all(name.startswith(subject) for name, subject in zip(data.names, data.subjects, strict=True))
    assert np.bincount(data.labels).tolist() == [80] * 4
    for subject in np.unique(data.subjects):
        assert len(set(data.labels[data.subjects == subject])) == 1, "one scanner a subject"


def test_scanners_differ_as_told(scanned):
    data, descriptions = scanned
    mean, deviation, sharpness = (
        np.array([descriptions[data.labels == scanner, column].mean() for scanner in range(4)]) for column in (0, 1, -1)
    )
    assert mean.argmax() == INTERA
    assert deviation.argmax() == GYROSCAN
    assert sharpness.argmin() == UNSPECIFIED
    assert np.sort(mean)[-1] > np.sort(mean)[-2] + 8
    assert np.sort(deviation)[-1] > np.sort(deviation)[-2] + 5
    assert np.sort(sharpness)[0] < 0.85 * np.sort(sharpness)[1]


def test_scanners_are_told_apart_by_many_features_and_by_no_single_one(scanned):
    data, descriptions = scanned

    def accuracy(features):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
        found = cross_val_predict(model, features, data.labels, groups=data.subjects, cv=folds)
        return (found == data.labels).mean()

    assert accuracy(descriptions) > 0.85
    assert max(accuracy(descriptions[:, [column]]) for column in range(descriptions.shape[1])) < 0.75
    assert accuracy(data.pixels[:, 0, 36, 32][:, None].astype(float)) < 0.6, "not by a pixel"


def test_images_look_like_brains(scanned):
    data, _ = scanned
    images = data.pixels[:, 0]
    assert not images[:, [0, -1]].any(), "the brain ends inside the image"
    assert not images[:, :, [0, -1]].any()
    share = (images > 20).mean(axis=(1, 2))
    assert np.all((share > 0.25) & (share < 0.5))
    assert (images == 255).mean() < 1e-3, "no scanner is overexposed"
    ventricles = images[:, 26:38, 28:36].min(axis=(1, 2))
    white = np.percentile(images.reshape(len(images), -1), 95, axis=1)
    assert np.all(ventricles < 0.75 * white)


def test_every_subject_has_its_own_anatomy(scanned):
    data, _ = scanned
    images = data.floats(range(0, len(data), 2)).numpy()[:, 0]
    other = np.roll(images, 4, axis=0)  # the next subject of the same scanner
    between = np.abs(images - other).mean(axis=(1, 2))
    within = np.abs(images - data.floats(range(1, len(data), 2)).numpy()[:, 0]).mean(axis=(1, 2))
    assert between.min() > 1.5 * np.median(within), "neighbouring slices are alike, subjects are not"
    # without texture of their own, subjects would hardly be sharper than their mean
    mean = images[data.labels[::2] == MAGNETOM].mean(axis=0)
    assert describe(mean * 255)[7] < 0.7 * np.mean([describe(i * 255)[7] for i in images[data.labels[::2] == MAGNETOM]])


def test_the_same_seed_gives_the_same_set(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    first = phantom(**COARSE).prepare(tmp_path / "a", None)
    told = []
    again = phantom(**COARSE).prepare(tmp_path / "b", lambda *done: told.append(done))
    assert first.fingerprint == again.fingerprint
    assert (tmp_path / "a" / "pixels.npy").read_bytes() == (tmp_path / "b" / "pixels.npy").read_bytes()
    assert told == [(done, 12) for done in range(1, 13)]


def test_a_subject_is_the_same_whatever_the_total(tmp_path):
    sets = {}
    for name, options in (("few", {}), ("more", {"subjects": 16}), ("other", {"seed": 1})):
        (tmp_path / name).mkdir()
        sets[name] = phantom(**{**COARSE, **options}).prepare(tmp_path / name, None)
    few, more, other = sets["few"], sets["more"], sets["other"]
    assert np.array_equal(few.pixels, more.pixels[: len(few)])
    assert np.array_equal(few.labels, more.labels[: len(few)])
    assert len({few.fingerprint, more.fingerprint, other.fingerprint}) == 3
    assert all((one != two).any() for one, two in zip(few.pixels, other.pixels, strict=True))


@pytest.mark.parametrize(("total", "expected"), [(1075, [322, 185, 494, 74]), (400, [120, 69, 184, 27])])
def test_natural_proportions(total, expected):
    counts = np.bincount(phantom(subjects=total).scanners(), minlength=4)
    assert np.abs(counts - expected).max() <= 1
    assert counts.sum() == total
    exact = np.array([scanner.subjects for scanner in SCANNERS]) / 1075
    order = np.array(phantom(subjects=total).scanners())
    for k in (10, 50, 200):
        assert np.all(np.abs(np.bincount(order[:k], minlength=4) - exact * k) < 1.5), "every prefix is in proportion"


def test_balanced_proportions():
    assert np.bincount(phantom(subjects=40, proportions="balanced").scanners()).tolist() == [10] * 4


def test_fresh_subjects_are_in_no_set(tmp_path):
    source = phantom(**COARSE)
    data = source.prepare(tmp_path, None)
    images, labels, subjects = source.fresh(5, seed=3)
    assert images.shape == (20, 1, 32, 32)
    assert images.dtype == np.uint8
    assert labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert len(set(subjects)) == 12, "two slices a subject, the last one gives one"
    assert not set(subjects) & set(data.subjects)
    known = {image.tobytes() for image in data.pixels}
    assert not known & {image.tobytes() for image in images}
    again, _, _ = phantom(**COARSE).fresh(5, seed=3)
    assert np.array_equal(images, again)
    fewer, _, _ = source.fresh(3, seed=3)
    assert np.array_equal(fewer[:3], images[:3])
    other, _, _ = source.fresh(5, seed=4)
    assert not {image.tobytes() for image in other} & {image.tobytes() for image in images}


def test_fresh_of_nothing():
    images, labels, subjects = phantom(**COARSE).fresh(0, seed=0)
    assert images.shape == (0, 1, 32, 32)
    assert len(labels) == len(subjects) == 0


@pytest.mark.parametrize("size", [(218, 182), (96, 64), (40, 96)])
def test_one_scale_in_both_directions(size):
    source = phantom(image_size=size, slices=1, subjects=4)
    images, _, _ = source.fresh(1, seed=0)
    assert images.shape == (4, 1, *size)
    pixel = max(218 / size[0], 182 / size[1])
    for image in images[:, 0] > 20:
        tall, wide = np.ptp(np.flatnonzero(image.any(axis=1))) + 1, np.ptp(np.flatnonzero(image.any(axis=0))) + 1
        assert 150 < tall * pixel < 205, "a brain's length in mm"
        assert 115 < wide * pixel < 165, "and its width"


def test_the_brain_stays_where_the_grid_looks():
    """Points that are taken for air by the atlas must never be inside a subject's brain."""
    atlas = Atlas((32, 32), 1)
    for k in range(60):
        _, brain = simulate_anatomy(atlas, numpy_rng(1, k))
        assert not brain[~atlas.inside].any()


def test_noise_is_rician_and_independent_of_the_grid():
    """Zero signal gives the Rayleigh mean sigma * sqrt(pi / 2); strong signal keeps its value and deviation sigma."""
    atlas = Atlas((218, 182), 2)
    quiet = SCANNERS[MAGNETOM].__class__("test", 1, 1.0, 0.0, 1.0, bias=0.0, blur=1e-3, noise=0.05)
    anatomy = np.full((2, 218, 182), 0.56, np.float32)
    ratios = [float(acquire(atlas, anatomy, quiet, numpy_rng(0, k)).std()) for k in range(20)]
    assert np.exp(np.mean(np.log(ratios))) == pytest.approx(0.05, rel=0.1)
    dark = acquire(atlas, anatomy * 0 - 1, quiet, numpy_rng(0, 0))
    assert dark.mean() == pytest.approx(np.sqrt(np.pi / 2) * ratios[0], rel=0.02)


def test_manifest_names_the_templates_package():
    assert set(phantom().manifest()) == {"nilearn"}


@pytest.mark.parametrize(
    "options", [{"image_size": (8, 64)}, {"subjects": 3}, {"proportions": "equal"}, {"slice": 10}, {"slices": 0}]
)
def test_wrong_options(options):
    with pytest.raises(ValidationError):
        phantom(**options)
