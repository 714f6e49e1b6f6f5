"""Every measure that has a record, from images to number: direction, identity, order of images, size of batches, range.

A measure without a row in `CASES` fails the first test: what is not tested here may not be offered.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from bench.evaluate import class_accuracy
from bench.metrics import against, lpips, memorization, similarity
from bench.metrics.against import FeatureSide, ImageSide, reconstruction_scores
from bench.metrics.features import RandomFeatures
from bench.metrics.memorization import Memorization
from bench.metrics.records import COSTS, MEASURES

_spec = importlib.util.spec_from_file_location("lpips_fixture", Path(__file__).with_name("lpips_fixture.py"))
fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixture)

N, SIDE, CLASSES = 96, 48, 4
ALL = frozenset(MEASURES)
COVERED = {"features", "logits", "images", "reconstructions", "training images"}


def draw(seed: int, n: int = N) -> np.ndarray:
    """Images of four classes: a ring whose width is the class's, a spot anywhere, texture; uint8 [n, 1, SIDE, SIDE]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    images = gaussian_filter(rng.normal(0, 60, (n, SIDE, SIDE)), (0, 1, 1)) + 80
    for index, image in enumerate(images):
        a, b = rng.uniform(0.6, 0.9, 2)
        image += 60 * (np.abs((x / a) ** 2 + (y / b) ** 2 - 0.8) < 0.08 + 0.05 * (index % CLASSES))
        u, v = rng.uniform(-0.6, 0.6, 2)
        image += 70 * ((x - u) ** 2 + (y - v) ** 2 < 0.03)
    return np.clip(images, 0, 255).astype(np.uint8)[:, None]


LABELS = np.arange(N) % CLASSES
TRAINING, VALIDATION, REAL, OTHER = draw(1, 3 * N), draw(2), draw(3), draw(4)


def noise(images: np.ndarray, sigma: float = 50) -> np.ndarray:
    return np.clip(images + np.random.default_rng(0).normal(0, sigma, images.shape), 0, 255).astype(np.uint8)


def blur(images: np.ndarray, sigma: float = 2) -> np.ndarray:
    return gaussian_filter(images, (0, 0, sigma, sigma))


def dark(images: np.ndarray) -> np.ndarray:
    return (images // 2).astype(np.uint8)


def one_mode(images: np.ndarray) -> np.ndarray:
    return noise(np.repeat(images[:1], len(images), axis=0), 2)


def copies(_: np.ndarray) -> np.ndarray:
    return TRAINING[:N]


# ---- from images to numbers


KEPT: dict[tuple[int, int], torch.Tensor] = {}


def features(images: np.ndarray, batch: int = 32) -> torch.Tensor:
    key = hash(images.tobytes()), batch
    if key not in KEPT:
        extractor = RandomFeatures()
        extractor.batch_size = batch  # type: ignore[misc]
        KEPT[key] = extractor(images).features
    return KEPT[key]


def logits(images: np.ndarray) -> torch.Tensor:
    """A classifier of the ring's width: minus the squared distance to what real images of a class have on average."""
    width = (images.astype(float) > 120).mean(axis=(1, 2, 3)) * 60
    own = (TRAINING.astype(float) > 120).mean(axis=(1, 2, 3)) * 60
    centres = np.array([own[np.arange(len(own)) % CLASSES == c].mean() for c in range(CLASSES)])
    return torch.from_numpy(-((width[:, None] - centres) ** 2))


def by_features(name: str) -> Callable[..., float]:
    def value(real: np.ndarray, generated: np.ndarray, order: np.ndarray, batch: int = 32) -> float:
        side = FeatureSide(features(real, batch), ALL)
        found = side.scores(features(generated, batch)[order], logits(generated)[order], seed=0)
        assert name not in found.reasons
        return found.values[name]

    return value


def recognised(real: np.ndarray, generated: np.ndarray, order: np.ndarray, batch: int = 32) -> float:
    return class_accuracy(logits(generated[order]), LABELS[order])


def by_images(name: str) -> Callable[..., float]:
    def value(real: np.ndarray, generated: np.ndarray, order: np.ndarray, batch: int = 32) -> float:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(similarity, "_CHUNK", batch)
            return (
                ImageSide(lambda: real, {name, "intensity_kl"})
                .scores(generated[order], LABELS[order], seed=0)
                .values[name]
            )

    return value


def by_reconstruction(name: str) -> Callable[..., float]:
    def value(real: np.ndarray, generated: np.ndarray, order: np.ndarray, batch: int = 32) -> float:
        return reconstruction_scores(given=real[order], returned=generated[order], names={name}).values[name]

    return value


def nearness(name: str) -> Callable[..., float]:
    def value(real: np.ndarray, generated: np.ndarray, order: np.ndarray, batch: int = 32) -> float:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(memorization, "_CHUNK", batch)
            found = Memorization(training=TRAINING, validation=real)(generated[order])
        return {"memorization": found.c_t, "near_copies": found.near_copies}[name]

    return value


def perceived(real: np.ndarray, generated: np.ndarray, order: np.ndarray, batch: int = 32) -> float:
    few = order[order < 6]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lpips, "_CHUNK", 4 if batch < 32 else 6)
        return float(network().pairs(first=real[few], second=generated[few]).mean())


@cache
def network() -> lpips.LPIPS:
    return lpips.LPIPS(folder=fixture.random_weights())


@dataclass(frozen=True)
class Case:
    """How a measure is computed, what it is of a set and itself, which fault it sees and which way, and how exactly."""

    value: Callable[..., float]
    identity: float | Callable[[float], bool]
    fault: Callable[[np.ndarray], np.ndarray]
    rises: bool
    """Whether the fault raises the number; for a record that calls one direction better it must be the other one."""
    loose: float = 0.0
    """Share of the number that the order of the images may change: where parts or pairs are taken at random."""
    slack: float = 1e-9
    """The same in units of the number, where that is about 0."""


def negative(value: float) -> bool:
    return value < 0


CASES = {
    "frechet_distance": Case(by_features("frechet_distance"), 0.0, blur, True),
    # the two sides' parts are different images, the whole is the same: below 0, like the kernels
    "frechet_distance_infinity": Case(by_features("frechet_distance_infinity"), negative, noise, True, slack=0.03),
    "kernel_distance": Case(by_features("kernel_distance"), negative, blur, True),
    "gaussian_kernel_distance": Case(by_features("gaussian_kernel_distance"), negative, blur, True),
    "inception_score": Case(by_features("inception_score"), lambda value: value > 1.5, one_mode, False),
    "inception_score_parts": Case(
        by_features("inception_score_parts"), lambda value: value > 1.5, one_mode, False, 0.05
    ),
    "inception_score_parts_std": Case(
        by_features("inception_score_parts_std"), lambda value: value > 0, one_mode, False, 0.8
    ),
    "precision": Case(by_features("precision"), 1.0, noise, False),
    "recall": Case(by_features("recall"), 1.0, one_mode, False),
    "density": Case(by_features("density"), lambda value: value > 0.9, noise, False),
    "coverage": Case(by_features("coverage"), 1.0, one_mode, False),
    "ssim_diversity": Case(by_images("ssim_diversity"), lambda value: value < 0.5, one_mode, True, 0.2),
    "ms_ssim_diversity": Case(by_images("ms_ssim_diversity"), lambda value: value < 0.5, one_mode, True, 0.2),
    "intensity_kl": Case(by_images("intensity_kl"), 0.0, dark, True),
    "intensity_js": Case(by_images("intensity_js"), 0.0, dark, True),
    "class_accuracy": Case(recognised, lambda value: value > 0.5, lambda images: np.roll(images, 1, axis=0), False),
    "ssim_reconstruction": Case(by_reconstruction("ssim_reconstruction"), 1.0, noise, False),
    "mse_reconstruction": Case(by_reconstruction("mse_reconstruction"), 0.0, noise, True),
    "psnr_reconstruction": Case(by_reconstruction("psnr_reconstruction"), similarity.MOST_PSNR, noise, False),
    "nmse_reconstruction": Case(by_reconstruction("nmse_reconstruction"), 0.0, noise, True),
    "lpips_reconstruction": Case(perceived, 0.0, noise, True),
    "memorization": Case(nearness("memorization"), 0.0, copies, False),
    "near_copies": Case(nearness("near_copies"), lambda value: value < 0.05, copies, True),
}
EACH = pytest.mark.parametrize("name", list(CASES))
AS_THEY_ARE = np.arange(N)


def test_every_measure_is_tested_here():
    known = {name for name, measure in MEASURES.items() if measure.needs in COVERED and name not in COSTS}
    assert set(CASES) == known


@EACH
def test_a_set_against_itself(name):
    case = CASES[name]
    value = case.value(REAL, REAL, AS_THEY_ARE)
    if callable(case.identity):
        assert case.identity(value), value
    else:
        assert value == pytest.approx(case.identity, abs=1e-6)


@EACH
def test_a_fault_moves_it_the_way_the_record_says(name):
    """Against fresh images of the same kind; reconstructions and nearness have none, there it is the set itself."""
    case, measure = CASES[name], MEASURES[name]
    start = REAL if measure.needs in ("reconstructions", "training images") or name == "class_accuracy" else OTHER
    fine, faulty = (case.value(REAL, images, AS_THEY_ARE) for images in (start, case.fault(start)))
    assert faulty > fine if case.rises else faulty < fine, (fine, faulty)
    assert abs(faulty - fine) > 0.02 * max(abs(fine), abs(faulty)), (fine, faulty)
    if measure.better != "none":
        assert case.rises == (measure.better == "lower"), "the record calls this better"
    for value in (fine, faulty):
        assert measure.low <= value <= measure.high + 1e-9, "outside the record's range"


@EACH
def test_the_order_of_the_images_does_not_matter(name):
    case = CASES[name]
    order = np.random.default_rng(5).permutation(N)
    one, other = case.value(REAL, OTHER, AS_THEY_ARE), case.value(REAL, OTHER, order)
    assert other == pytest.approx(one, rel=max(case.loose, 1e-6), abs=case.slack), (one, other)


@EACH
def test_the_size_of_batches_does_not_matter(name):
    case = CASES[name]
    one, other = (case.value(REAL, OTHER, AS_THEY_ARE, batch) for batch in (7, 64))
    assert other == pytest.approx(one, rel=1e-4, abs=1e-9), (one, other)


def test_what_can_not_be_measured_is_no_number_with_a_reason():
    """One draw of features that are not finite: every measure on them says so, none gives a number."""
    broken = features(OTHER).clone()
    broken[3, 5] = torch.nan
    found = FeatureSide(features(REAL), ALL).scores(broken, logits(OTHER), seed=0)
    on_features = {name for name, measure in MEASURES.items() if measure.needs == "features"}
    assert {name for name, value in found.values.items() if np.isnan(value)} == on_features
    assert all("1 of 96 rows" in found.reasons[name] for name in on_features)
    bad = logits(OTHER).clone()
    bad[0, 0] = torch.inf
    found = FeatureSide(features(REAL), ALL).scores(features(OTHER), bad, seed=0)
    assert {name for name, value in found.values.items() if np.isnan(value)} == {
        name for name in MEASURES if name.startswith("inception_score")
    }
    with pytest.raises(ValueError, match="not finite"):
        class_accuracy(bad, LABELS)
    rows = [np.arange(N)] * 2
    assert np.isnan(FeatureSide(features(REAL), ALL).resampled("frechet_distance", broken, rows)).all()


def test_measures_not_asked_for_are_not_computed(monkeypatch):
    for name in ("KernelReference", "GaussianKernelReference", "ManifoldReference", "IntensityReference"):
        monkeypatch.setattr(against, name, None)
    found = FeatureSide(features(REAL), {"frechet_distance"}).scores(features(OTHER), logits(OTHER))
    assert set(found.values) == {"frechet_distance"}
    assert ImageSide(lambda: REAL, {"ssim_diversity"}).scores(OTHER, LABELS, seed=0).values.keys() == {"ssim_diversity"}
