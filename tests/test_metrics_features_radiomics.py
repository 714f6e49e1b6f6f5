"""Radiomics features: numbers with names, checked against closed forms and against what they are meant to see."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bench.errors import UnavailableError
from bench.metrics.features import check_images
from bench.metrics.frechet import frechet_distance
from bench.metrics.radiomics import SPREADS, RadiomicsFeatures, grey, radiomics
from bench.registry import FEATURES


def textures(n=40, seed=0, side=32):
    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.normal(size=(n, 1, side, side)), (0, 0, 1.2, 1.2))
    return np.clip(rng.uniform(100, 150, (n, 1, 1, 1)) + 120 * fields, 0, 255).astype(np.uint8)


def named(image):
    return dict(zip(SPREADS, radiomics(image) * np.array(list(SPREADS.values())), strict=True))


def test_contract():
    extractor = RadiomicsFeatures()
    found = extractor(textures(70))
    assert FEATURES.get("radiomics") is RadiomicsFeatures
    assert found.features.shape == (70, extractor.dimensions == 36 and 36)
    assert found.logits is None
    extractor.self_check()
    alone = extractor(textures(70)[5:6]).features
    assert (alone == found.features[5:6]).all()


def test_grey_levels_in_closed_form():
    half = np.zeros((16, 16), np.uint8)
    half[:, 8:] = 255
    found = named(half)
    assert found["mean"] == pytest.approx(0.5)
    assert found["deviation"] == pytest.approx(0.5)
    assert found["skewness"] == pytest.approx(0, abs=1e-12)
    assert found["kurtosis"] == pytest.approx(np.log(2))  # the fourth moment of a fair coin is 1
    assert (found["percentile_5"], found["percentile_95"]) == (0, 1)
    assert found["entropy"] == pytest.approx(1)


def test_cooccurrence_in_closed_form():
    """Columns 0 and 31 in turn: every horizontal and diagonal pair at distance 1 differs by 31, no vertical one does."""
    stripes = np.tile(np.array([0, 255], np.uint8), (16, 8))
    found = named(stripes)
    assert found["contrast_1"] == pytest.approx(np.log(0.75 * 31**2 + 0.01))
    assert found["dissimilarity_1"] == pytest.approx(np.log(0.75 * 31 + 0.01))
    assert found["homogeneity_1"] == pytest.approx(0.75 / (1 + 31**2) + 0.25)


def test_patterns_are_shares():
    found = named(textures(1)[0, 0])
    assert sum(found[f"pattern_{index}"] ** 2 for index in range(10)) == pytest.approx(1)


def test_noise_is_estimated_right():
    rng = np.random.default_rng(0)
    noisy = np.rint(128 + rng.normal(0, 10, (128, 128))).astype(np.uint8)
    assert np.exp(named(noisy)["noise"]) - 1e-3 == pytest.approx(10 / 255, rel=0.05)


def test_numbers_are_finite_on_images_without_content():
    for value in (0, 128, 255):
        assert np.isfinite(radiomics(np.full((8, 8), value, np.uint8))).all()


def test_blur_noise_and_brightness_are_seen():
    extractor = RadiomicsFeatures()
    real, other = (extractor(textures(60, seed)).features for seed in (1, 2))
    floor = frechet_distance(real=real, generated=other)
    images = textures(60, 2)
    noise = np.random.default_rng(0).normal(0, 12, images.shape)
    for spoilt in (
        gaussian_filter(images, (0, 0, 0.8, 0.8)),
        np.clip(images + noise, 0, 255).astype(np.uint8),
        np.clip(images.astype(int) + 40, 0, 255).astype(np.uint8),
    ):
        assert frechet_distance(real=real, generated=extractor(spoilt).features) > 3 * floor


def test_colour_becomes_grey_by_luma():
    extractor = RadiomicsFeatures()
    images = textures(3)
    assert (extractor(images.repeat(3, axis=1)).features == extractor(images).features).all()
    red = np.zeros((1, 3, 9, 9), np.uint8)
    red[:, 0] = 255
    assert (grey(red) == 76).all()
    with pytest.raises(UnavailableError, match="2 channels"):
        extractor(images.repeat(2, axis=1))
    with pytest.raises(UnavailableError, match="8x8"):
        extractor(check_images((1, 7, 30)))


def test_a_wrong_checksum_is_refused(monkeypatch):
    monkeypatch.setattr(RadiomicsFeatures, "_CHECKSUMS", {1: 100.0})
    with pytest.raises(UnavailableError, match="check image 1"):
        RadiomicsFeatures().self_check()
