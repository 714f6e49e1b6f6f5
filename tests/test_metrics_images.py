"""Measures on images: similarity of pairs, copies of training images."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from bench.metrics import similarity
from bench.metrics.memorization import Memorization
from bench.metrics.similarity import _pairs, ms_ssim_pairs, mse_pairs, similar_within, ssim_diversity, ssim_pairs


def images(n, shape=(1, 32, 32), seed=0):
    return np.random.default_rng(seed).integers(0, 256, size=(n, *shape), dtype=np.uint8)


# ---- similarity


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 20, 33), (1, 11, 40)])
def test_ssim_equals_scikit_image(shape):
    first = images(5, shape)
    second = np.clip(0.5 * first + 0.5 * images(5, shape, 1), 0, 255).astype(np.uint8)
    theirs = [
        structural_similarity(
            a, b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=0
        )
        for a, b in zip(first, second, strict=True)
    ]
    assert ssim_pairs(first=first, second=second) == pytest.approx(theirs, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 30), st.integers(3, 30), st.integers(1, 3), st.integers(0, 1000))
def test_ssim_properties(height, width, channels, seed):
    first, second = images(3, (channels, height, width), seed), images(3, (channels, height, width), seed + 1)
    values = ssim_pairs(first=first, second=second)
    assert values == pytest.approx(ssim_pairs(first=second, second=first))
    assert (np.abs(values) <= 1 + 1e-9).all()
    assert ssim_pairs(first=first, second=first) == pytest.approx(1)
    assert ssim_pairs(first=first[1:2], second=second[1:2])[0] == pytest.approx(values[1])


def test_ssim_falls_with_the_fault():
    clean = gaussian_filter(images(20).astype(float), (0, 0, 2, 2)) * 3 - 256
    clean = np.clip(clean, 0, 255).astype(np.uint8)
    rng = np.random.default_rng(0)
    means = [
        ssim_pairs(first=clean, second=np.clip(clean + rng.normal(0, s, clean.shape), 0, 255).astype(np.uint8)).mean()
        for s in (0, 5, 20, 60)
    ]
    assert means[0] == pytest.approx(1)
    assert means == sorted(means, reverse=True)


def test_pairs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="equal shapes"):
        ssim_pairs(first=images(2), second=images(3))
    with pytest.raises(ValueError, match="uint8"):
        mse_pairs(first=images(2).astype(float), second=images(2).astype(float))
    with pytest.raises(ValueError, match="3 x 3 pixels or more"):
        ssim_pairs(first=images(1, (1, 2, 9)), second=images(1, (1, 2, 9)))


def test_squared_error_is_in_units_of_the_white_end():
    black, white = np.zeros((2, 1, 4, 4), np.uint8), np.full((2, 1, 4, 4), 255, np.uint8)
    assert mse_pairs(first=black, second=white).tolist() == [1, 1]
    assert mse_pairs(first=black, second=black).tolist() == [0, 0]


@pytest.mark.parametrize("n", [2, 3, 7])
def test_every_pair_can_be_drawn_and_none_twice(n):
    pairs = _pairs(n, 1000, np.random.default_rng(0))
    assert sorted(map(tuple, pairs.tolist())) == [(i, j) for i in range(n) for j in range(i)]


def test_diversity_compares_within_classes_only():
    one, two = images(1), images(1, seed=1)
    both = np.concatenate([one.repeat(5, axis=0), two.repeat(5, axis=0)])
    labels = np.repeat([0, 1], 5)
    assert ssim_diversity(images=both, labels=labels, seed=0) == pytest.approx(1)
    assert ssim_diversity(images=both, labels=np.zeros(10, int), seed=0) < 0.7
    assert ssim_diversity(images=images(10), labels=labels, pairs=5, seed=1) == ssim_diversity(
        images=images(10), labels=labels, pairs=5, seed=1
    )
    with pytest.raises(ValueError, match="two images"):
        ssim_diversity(images=images(2), labels=np.array([0, 1]))


@pytest.mark.parametrize("kept", [2**30, 0])
def test_pairs_within_a_set_are_those_of_the_pairs_themselves(monkeypatch, kept):
    """Whether each image's own part is kept or not."""
    monkeypatch.setattr(similarity, "_KEPT_BYTES", kept)
    data = images(9, (3, 45, 50))
    pairs = np.array([[0, 0, 7, 8, 3], [1, 8, 2, 0, 3]])
    single, multiple = similar_within(images=data, pairs=pairs, scales=3)
    assert single == pytest.approx(ssim_pairs(first=data[pairs[0]], second=data[pairs[1]]), rel=1e-12)
    assert multiple == pytest.approx(ms_ssim_pairs(first=data[pairs[0]], second=data[pairs[1]]), rel=1e-12)
    assert single[-1] == multiple[-1] == pytest.approx(1)
    with pytest.raises(ValueError, match="4 scales of images of 45 x 50"):
        similar_within(images=data, pairs=pairs, scales=4)


def test_diversity_is_fast_enough():
    data = images(100, (1, 64, 64))
    start = time.perf_counter()
    ssim_diversity(images=data, labels=np.zeros(100, int), pairs=200)
    assert time.perf_counter() - start < 5  # a tenth of a second on an idle machine


# ---- memorization


class Anatomy:
    """Images of subjects: a template, a field of the subject's own, and less of each slice's own; then noise."""

    def __init__(self):
        self.template = self._field(0, 4) * 25

    def _field(self, seed, scale):
        field = gaussian_filter(np.random.default_rng(seed).normal(size=(64, 64)), scale, mode="wrap")
        return field / field.std()

    def draw(self, first, count, slices=4):
        out = []
        for subject in range(first, first + count):
            own = self._field((1, subject), 2)
            for index in range(slices):
                image = 128 + self.template + 20 * own + 8 * self._field((2, subject, index), 2)
                out.append(image + np.random.default_rng((3, subject, index)).normal(0, 4, (64, 64)))
        pixels = np.clip(out, 0, 255).astype(np.uint8)[:, None]
        return pixels, np.repeat(np.arange(first, first + count), slices)


@pytest.fixture(scope="module")
def anatomy():
    source = Anatomy()
    training, _ = source.draw(0, 80)
    validation, owners = source.draw(1000, 40)
    measure = Memorization(training=training, validation=validation, validation_subjects=owners)
    return source, training, measure


def copies(training):
    rng = np.random.default_rng(0)
    yield "exact", training
    yield "noise", np.clip(training + rng.normal(0, 6, training.shape), 0, 255).astype(np.uint8)
    yield "requantised", (training // 16 * 16).astype(np.uint8)
    yield "contrast", (training * 0.7 + 20).astype(np.uint8)
    yield "blur", gaussian_filter(training, (0, 0, 1, 1))


def test_copies_are_caught(anatomy):
    _, training, measure = anatomy
    for name, images_ in copies(training[::3]):
        found = measure(images_)
        assert found.c_t < -5, name
        assert found.near_copies > 0.95, name
        assert np.mean(found.nearest == np.arange(0, len(training), 3)) > 0.95, name


def test_fresh_images_of_other_subjects_are_no_copies(anatomy):
    source, _, measure = anatomy
    scores = []
    for start in range(2000, 2400, 50):
        fresh, owners = source.draw(start, 25)
        found = measure(fresh, owners)
        scores.append(found.c_t)
        assert found.near_copies < 0.06
    assert np.abs(scores).max() < 3


def test_blur_and_the_mean_image_are_no_copies(anatomy):
    source, training, measure = anatomy
    mean = np.repeat(training.mean(axis=0, keepdims=True).astype(np.uint8), 100, axis=0)
    found = measure(mean)
    assert found.c_t > 3
    assert found.near_copies == 0
    fresh, owners = source.draw(3000, 25)
    plain = measure(fresh, owners).c_t
    for sigma in (1, 2, 4):
        found = measure(gaussian_filter(fresh, (0, 0, sigma, sigma)), owners)
        assert found.c_t > plain - 3, sigma
        assert found.near_copies < 0.12, sigma
    # the plain distance, which this measure does not use, calls every mean image a copy
    flat, middle = training.reshape(len(training), -1).astype(float), mean[0].reshape(-1).astype(float)
    apart = np.linalg.norm(fresh.reshape(len(fresh), 1, -1) - flat[None], axis=2).min(axis=1)
    assert np.linalg.norm(flat - middle, axis=1).min() < apart.min()


def test_a_few_copies_among_many_are_counted_and_shown(anatomy):
    source, training, measure = anatomy
    fresh, _ = source.draw(4000, 45, slices=1)
    found = measure(np.concatenate([training[100:105], fresh]))
    assert 0.1 <= found.near_copies < 0.16
    assert sorted(found.closest(5)) == [(i, 100 + i) for i in range(5)]


def test_subjects_widen_the_deviation(anatomy):
    source, training, measure = anatomy
    validation, _ = source.draw(1000, 40)
    plain = Memorization(training=training, validation=validation)
    ours, theirs = measure(training[:50]).c_t, plain(training[:50]).c_t
    assert theirs < ours < -3


def test_z_score_is_that_of_scipy():
    """Without ties: scipy's asymptotic test without continuity correction."""
    from scipy.stats import mannwhitneyu, norm

    from bench.metrics.memorization import _mann_whitney_z

    rng = np.random.default_rng(0)
    generated, validation = rng.normal(size=40), rng.normal(0.5, 1, size=60)
    p = mannwhitneyu(generated, validation, alternative="less", method="asymptotic", use_continuity=False).pvalue
    assert _mann_whitney_z(generated, validation, 1, 1) == pytest.approx(norm.ppf(p))
    generated, validation = generated.round(), validation.round()
    p = mannwhitneyu(generated, validation, alternative="less", method="asymptotic", use_continuity=False).pvalue
    assert _mann_whitney_z(generated, validation, 1, 1) == pytest.approx(norm.ppf(p))


def test_unfit_images_are_refused(anatomy):
    _, training, measure = anatomy
    with pytest.raises(ValueError, match="3 training"):
        Memorization(training=training[:2], validation=training)
    with pytest.raises(ValueError, match="against training images"):
        measure(images(3))
    with pytest.raises(ValueError, match="no images"):
        measure(training[:0])
    with pytest.raises(ValueError, match="2 subjects for 5 images"):
        measure(training[:5], ["a", "b"])
