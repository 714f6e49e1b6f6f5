"""Measures on features: closed forms, properties, agreement with torch-fidelity's own functions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

from bench.metrics import kernel
from bench.metrics.frechet import FrechetReference, frechet_distance, frechet_distance_infinity
from bench.metrics.gaussian_kernel import GaussianKernelReference, gaussian_kernel_distance
from bench.metrics.inception_score import inception_score
from bench.metrics.kernel import KernelReference, kernel_distance, kernel_distance_subsets
from bench.metrics.manifold import ManifoldReference, density_coverage, precision_recall

SHAPES = [(300, 16), (40, 64)]
"""More images than features, and fewer: the two routes of the Fréchet distance."""


def pair(n, d, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) / math.sqrt(d)
    return rng.normal(size=(n, d)), rng.normal(size=(n + 7, d)) @ mixing + 0.3


def with_moments(mean, covariance, n=50):
    """Samples whose sample mean and covariance are exactly these."""
    raw = np.random.default_rng(1).normal(size=(n, len(mean)))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    return white @ np.linalg.cholesky(covariance).T + np.asarray(mean)


# ---- Fréchet distance


def test_frechet_of_gaussians_that_commute():
    """For diagonal covariances d^2 = |mu difference|^2 + sum of (difference of deviations)^2 = 5 + 1 + 4."""
    real = with_moments([0, 0], np.diag([1.0, 1.0]))
    generated = with_moments([1, 2], np.diag([4.0, 9.0]))
    assert frechet_distance(real=real, generated=generated) == pytest.approx(10, abs=1e-9)


def test_frechet_of_gaussians_that_do_not_commute():
    """In two dimensions tr (S T)^(1/2) = sqrt(tr S T + 2 sqrt(det S T)), by the roots of the characteristic equation."""
    S, T = np.array([[2.0, 0.8], [0.8, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    root = math.sqrt(np.trace(S @ T) + 2 * math.sqrt(np.linalg.det(S @ T)))
    found = frechet_distance(real=with_moments([0, 0], S), generated=with_moments([0, 0], T))
    assert found == pytest.approx(3 + 4 - 2 * root, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_frechet_of_a_shift_is_its_square(n, d):
    real, _ = pair(n, d)
    assert frechet_distance(real=real, generated=real + 2.0) == pytest.approx(4.0 * d, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_frechet_equals_torch_fidelity(n, d):
    real, generated = pair(n, d)
    statistics = [metric_fid.fid_features_to_statistics(torch.from_numpy(side)) for side in (generated, real)]
    theirs = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(real=torch.from_numpy(real), generated=generated) == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_frechet_of_resamples_equals_that_of_the_rows(n, d):
    real, generated = pair(n, d)
    rng = np.random.default_rng(3)
    rows = [rng.integers(n, size=n), rng.integers(n, size=n // 2), np.arange(n)]
    direct = [frechet_distance(real=real[chosen], generated=generated) for chosen in rows]
    assert FrechetReference(real).resampled(generated, rows) == pytest.approx(direct, rel=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 20), st.integers(0, 10**6))
def test_frechet_properties(n, m, d, seed):
    rng = np.random.default_rng(seed)
    real, generated = rng.normal(size=(n, d)), 3 * rng.normal(size=(m, d)) + 1
    distance = frechet_distance(real=real, generated=generated)
    assert distance >= 0
    assert frechet_distance(real=generated, generated=real) == pytest.approx(distance, rel=1e-8, abs=1e-8)
    assert frechet_distance(real=real, generated=real) == pytest.approx(0, abs=1e-8)
    shuffled = rng.permutation(generated)
    assert frechet_distance(real=rng.permutation(real), generated=shuffled) == pytest.approx(distance, rel=1e-8)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    assert frechet_distance(real=real @ turn, generated=generated @ turn) == pytest.approx(distance, rel=1e-7, abs=1e-7)


def test_frechet_grows_with_the_fault():
    rng = np.random.default_rng(0)
    real, other = rng.normal(size=(200, 8)), rng.normal(size=(200, 8))
    distances = [frechet_distance(real=real, generated=other + shift) for shift in (0, 0.5, 1, 2)]
    assert distances == sorted(distances)
    collapsed = [frechet_distance(real=real, generated=other * spread) for spread in (1, 0.5, 0.1)]
    assert collapsed == sorted(collapsed)


@pytest.mark.parametrize(("n", "d"), [(150, 16), (300, 32)])
def test_extrapolation_takes_the_bias_out(n, d):
    """Gaussians of known distance: the plain estimate lies above it by many standard errors, the extrapolated one does not.

    With deviations 1 and s_i and means 0.2 apart, d^2 = 0.04 d + sum (s_i - 1)^2.
    """
    rng = np.random.default_rng(0)
    spread = np.linspace(0.4, 1.8, d)
    true = 0.04 * d + ((spread - 1) ** 2).sum()
    sides = [(rng.normal(size=(n, d)), rng.normal(size=(n, d)) * spread + 0.2) for _ in range(60)]
    plain = np.array([frechet_distance(real=a, generated=b) for a, b in sides])
    free = np.array([frechet_distance_infinity(real=a, generated=b) for a, b in sides])
    error = plain.std() / math.sqrt(60)
    assert plain.mean() - true > 8 * error
    assert abs(free.mean() - true) < 4 * error
    assert abs(free.mean() - true) < 0.25 * (plain.mean() - true)
    assert free.std() < 1.3 * plain.std(), "the line adds little noise of its own"


@pytest.mark.parametrize(("n", "m", "d"), [(300, 300, 16), (40, 60, 64), (90, 50, 60)])
def test_extrapolation_by_the_points_of_the_line(n, m, d):
    """The same parts through the plain distance, whichever route they take; equal to 1e-6."""
    from bench.metrics.frechet import FRACTIONS, ORDERS
    from bench.seeds import numpy_rng

    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(n, d)), rng.normal(size=(m, d)) * 1.3 + 0.2
    points = [(1.0, frechet_distance(real=real, generated=generated))]
    for fraction in FRACTIONS:
        k, j = round(fraction * n), round(fraction * m)
        found = []
        for number in range(ORDERS):
            order = numpy_rng(7, "frechet order", number)
            one, other = order.permutation(n), order.permutation(m)
            for part in range(2 if fraction == 0.5 else 1):
                rows, others = one[part * k : (part + 1) * k], other[part * j : (part + 1) * j]
                found.append(frechet_distance(real=real[rows], generated=generated[others]))
        points.append((np.mean([n / k, m / j]), np.mean(found)))
    expected = np.polyfit(*np.array(points).T, 1)[1]
    assert frechet_distance_infinity(real=real, generated=generated, seed=7) == pytest.approx(expected, rel=1e-6)


def test_extrapolation_of_features_that_depend_on_each_other():
    """A covariance without a Cholesky factor, as of a channel that is always 0."""
    real, generated = pair(200, 6)
    flat = [np.concatenate([side, side[:, :1], np.zeros((len(side), 1))], axis=1) for side in (real, generated)]
    twice = [np.concatenate([side, 0 * side[:, :1]], axis=1) * np.sqrt([2, *[1] * 6]) for side in (real, generated)]
    found, expected = (frechet_distance_infinity(real=a, generated=b) for a, b in (flat, twice))
    assert found == pytest.approx(expected, rel=1e-5), "two equal features are one of twice the variance"
    with pytest.raises(ValueError, match="4 or more images"):
        frechet_distance_infinity(real=real[:3], generated=generated)


@pytest.mark.parametrize(
    "measure",
    [
        frechet_distance,
        frechet_distance_infinity,
        kernel_distance,
        gaussian_kernel_distance,
        precision_recall,
        density_coverage,
    ],
)
def test_unfit_features_are_refused(measure):
    fine = np.random.default_rng(0).normal(size=(10, 3))
    with pytest.raises(ValueError, match="images"):
        measure(real=fine[:1], generated=fine)
    with pytest.raises(ValueError, match="not finite"):
        measure(real=fine, generated=np.full((10, 3), np.inf))
    with pytest.raises(ValueError, match="3 features per image, generated 2"):
        measure(real=fine, generated=fine[:, :2])


# ---- kernel distance


def test_kernel_distance_by_hand():
    """k(x, y) = (x y + 1)^3. Within real k(0, 1) = 1; within generated k(1, 2) = 27; across 1, 1, 8, 27 with mean 9.25."""
    found = kernel_distance(real=[[0.0], [1.0]], generated=[[1.0], [2.0]])
    assert found == pytest.approx(1 + 27 - 2 * 9.25)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_kernel_subsets_equal_torch_fidelity(n, d):
    real, generated = pair(n, d)
    settings_ = {"kid_subsets": 10, "kid_subset_size": 30, "rng_seed": 5, "verbose": False}
    theirs = metric_kid.kid_features_to_metric(torch.from_numpy(generated), torch.from_numpy(real), **settings_)
    mean, std = kernel_distance_subsets(
        real=real, generated=generated, subset_size=30, subsets=10, rng=np.random.RandomState(5)
    )
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-4)


def test_kernel_subsets_of_many_images_are_the_same_one_by_one(monkeypatch):
    """Beyond some thousands of images no whole matrix is held."""
    real, generated = pair(60, 9)
    options = {"real": real, "generated": generated, "subset_size": 20, "subsets": 7}
    whole = kernel_distance_subsets(**options, rng=np.random.RandomState(3))
    monkeypatch.setattr(kernel, "_AT_ONCE", 59)
    sizes, polynomial = set(), kernel._polynomial

    def seen(x, y, *options):
        sizes.update((len(x), len(y)))
        return polynomial(x, y, *options)

    monkeypatch.setattr(kernel, "_polynomial", seen)
    assert kernel_distance_subsets(**options, rng=np.random.RandomState(3)) == pytest.approx(whole, rel=1e-9)
    assert sizes == {20}


def test_kernel_distance_is_the_subset_estimate_with_everything_in():
    real, generated = pair(30, 5)
    mean, std = kernel_distance_subsets(
        real=real, generated=generated[:30], subset_size=30, subsets=2, rng=np.random.default_rng(0)
    )
    assert kernel_distance(real=real, generated=generated[:30]) == pytest.approx(mean)
    assert std == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="subset_size 31"):
        kernel_distance_subsets(real=real, generated=real, subset_size=31, subsets=1, rng=np.random.default_rng(0))


def test_kernel_distance_is_unbiased_at_small_n():
    """At n = 6 a mean over 4,000 repeats lies within 4 standard errors of 0."""
    rng = np.random.default_rng(0)
    values = [kernel_distance(real=rng.normal(size=(6, 2)), generated=rng.normal(size=(6, 2))) for _ in range(4000)]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))
    assert min(values) < 0


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 25), st.integers(2, 25), st.integers(1, 10), st.integers(0, 10**6))
def test_kernel_properties(n, m, d, seed):
    rng = np.random.default_rng(seed)
    real, generated = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 1
    distance = kernel_distance(real=real, generated=generated)
    assert kernel_distance(real=generated, generated=real) == pytest.approx(distance, rel=1e-9, abs=1e-9)
    assert kernel_distance(real=rng.permutation(real), generated=generated) == pytest.approx(
        distance, rel=1e-9, abs=1e-9
    )
    assert KernelReference(real).distance(generated) == pytest.approx(distance, rel=1e-9, abs=1e-9)
    assert KernelReference(real).resampled(generated, [np.arange(n)])[0] == pytest.approx(distance, rel=1e-9, abs=1e-9)


def test_resampling_does_not_bias_the_kernel_distance():
    """Pairs of an image with its own copy are left out, so replicates lie about the estimate (within 4 standard errors)."""
    real, generated = pair(60, 4)
    rng = np.random.default_rng(0)
    reference = KernelReference(real)
    replicates = reference.resampled(generated, [rng.integers(60, size=60) for _ in range(2000)])
    assert abs(replicates.mean() - reference.distance(generated)) < 4 * replicates.std() / math.sqrt(2000)
    with pytest.raises(ValueError, match="different images"):
        reference.resampled(generated, [np.zeros(5, dtype=int)])


# ---- Gaussian kernel distance


def test_gaussian_kernel_distance_of_gaussians():
    """Unbiased at every n: means over repeats lie within 4 standard errors of the closed form.

    For x ~ N(a, s^2 I), y ~ N(b, t^2 I) and bandwidth h
    E k(x, y) = (h^2 / v)^(d/2) exp(-|a - b|^2 / 2v),  v = h^2 + s^2 + t^2.
    """

    def mean_kernel(h, s, t, gap, d):
        v = h**2 + s**2 + t**2
        return (h**2 / v) ** (d / 2) * math.exp(-(gap**2) * d / (2 * v))

    rng = np.random.default_rng(0)
    h, s, t, gap, d = 2.0, 1.0, 1.5, 0.4, 3
    true = mean_kernel(h, s, s, 0, d) + mean_kernel(h, t, t, 0, d) - 2 * mean_kernel(h, s, t, gap, d)
    for n in (5, 40):
        found = [
            gaussian_kernel_distance(
                real=s * rng.normal(size=(n, d)), generated=t * rng.normal(size=(n, d)) + gap, bandwidth=h
            )
            for _ in range(1500)
        ]
        assert abs(np.mean(found) - true) < 4 * np.std(found) / math.sqrt(len(found))


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 25), st.integers(2, 25), st.integers(1, 10), st.integers(0, 10**6))
def test_gaussian_kernel_properties(n, m, d, seed):
    rng = np.random.default_rng(seed)
    real, generated = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 1
    distance = gaussian_kernel_distance(real=real, generated=generated)
    assert -2 <= distance <= 2
    shuffled = gaussian_kernel_distance(real=rng.permutation(real), generated=rng.permutation(generated))
    assert shuffled == pytest.approx(distance, rel=1e-9, abs=1e-9)
    scaled = gaussian_kernel_distance(real=100 * real + 7, generated=100 * generated + 7)
    assert scaled == pytest.approx(distance, rel=1e-6, abs=1e-9), "the median goes with the features' units"
    reference = GaussianKernelReference(real)
    assert reference.resampled(generated, [np.arange(n)])[0] == pytest.approx(distance, rel=1e-9, abs=1e-9)
    h = reference.bandwidth
    swapped = gaussian_kernel_distance(real=generated, generated=real, bandwidth=h)
    assert swapped == pytest.approx(distance, rel=1e-9, abs=1e-9)


def test_gaussian_kernel_sees_what_moments_do_not():
    """The same mean and covariance, two lumps against one: the Fréchet distance is 0, this is not."""
    rng = np.random.default_rng(0)
    one = with_moments([0, 0], np.eye(2), 400)
    two = np.concatenate([rng.normal(-3, 0.3, (200, 2)), rng.normal(3, 0.3, (200, 2))])
    two = (two - two.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(two.T))).T
    assert frechet_distance(real=one, generated=two) == pytest.approx(0, abs=1e-9)
    found = gaussian_kernel_distance(real=one, generated=two, bandwidth=0.4)
    other = gaussian_kernel_distance(real=one, generated=with_moments([0, 0], np.eye(2), 399), bandwidth=0.4)
    assert found > max(0.02, 4 * abs(other))


def test_gaussian_kernel_of_one_image_has_no_bandwidth():
    same = np.ones((5, 3))
    with pytest.raises(ValueError, match="bandwidth must be above 0"):
        gaussian_kernel_distance(real=same, generated=same)


# ---- Inception Score


def test_inception_score_of_certain_and_uncertain_images():
    certain = 1000 * np.eye(4)[np.arange(40) % 4]
    assert inception_score(logits=certain)[0] == pytest.approx(4)
    assert inception_score(logits=np.zeros((40, 4)))[0] == pytest.approx(1)
    assert inception_score(logits=certain[:1].repeat(40, axis=0))[0] == pytest.approx(1)


@pytest.mark.parametrize("splits", [1, 4])
def test_inception_score_equals_torch_fidelity(splits):
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(90, 10)) * 3)
    theirs = metric_isc.isc_features_to_metric(logits, splits=splits, shuffle=True, rng_seed=2020)
    mean, std = inception_score(logits=logits, splits=splits, rng=np.random.RandomState(2020))
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert std == pytest.approx(theirs["inception_score_std"], rel=1e-6, abs=1e-12)


def test_log_probabilities_serve_as_logits():
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    assert inception_score(logits=logits)[0] == pytest.approx(
        inception_score(logits=logits.log_softmax(1))[0], rel=1e-6
    )
    with pytest.raises(ValueError, match="10 or more"):
        inception_score(logits=logits[:9], splits=10)


# ---- precision, recall, density, coverage


def test_precision_and_recall_equal_torch_fidelity():
    """torch-fidelity 0.4.0: input1 is generated, input2 real."""
    real, generated = pair(120, 6)
    theirs = metric_prc.prc_features_to_metric(
        torch.from_numpy(generated), torch.from_numpy(real), prc_neighborhood=3, verbose=False
    )
    precision, recall = precision_recall(real=real, generated=generated, k=3)
    assert precision == pytest.approx(theirs["precision"], rel=1e-4)
    assert recall == pytest.approx(theirs["recall"], rel=1e-4)
    assert precision != pytest.approx(recall, abs=0.05)  # so an exchange of the two would be seen


def test_tight_fakes_in_a_wide_real_cloud():
    """The case that an exchange of precision and recall turns round."""
    rng = np.random.default_rng(0)
    wide, tight = rng.normal(size=(300, 3)), 0.05 * rng.normal(size=(300, 3))
    scores = ManifoldReference(wide).scores(tight)
    assert scores["precision"] > 0.95
    assert scores["recall"] < 0.05
    assert scores["coverage"] < 0.3
    assert precision_recall(real=tight, generated=wide) == pytest.approx((scores["recall"], scores["precision"]))


def test_copies_and_a_single_image():
    real = np.random.default_rng(0).normal(size=(50, 4))
    assert tuple(precision_recall(real=real, generated=real)) == (1, 1)
    assert density_coverage(real=real, generated=real).coverage == 1
    one = np.repeat(real.mean(axis=0, keepdims=True), 50, axis=0)
    assert precision_recall(real=real, generated=one).recall == 0


def test_density_and_coverage_of_equal_distributions():
    """Expected density is 1; expected coverage is 1 - (N-1)...(N-k) / ((M+N-1)...(M+N-k)) (Naeem 2020, lemmas 1 and 2)."""
    rng = np.random.default_rng(0)
    N, M, k = 60, 80, 5
    found = [density_coverage(real=rng.normal(size=(N, 3)), generated=rng.normal(size=(M, 3)), k=k) for _ in range(300)]
    density, coverage = np.array(found).T
    expected = 1 - math.prod((N - i) / (M + N - i) for i in range(1, k + 1))
    assert abs(density.mean() - 1) < 4 * density.std() / math.sqrt(300)
    assert abs(coverage.mean() - expected) < 4 * coverage.std() / math.sqrt(300)


def test_density_and_coverage_by_counting():
    real, generated = pair(20, 2)
    k, inside = 3, np.zeros((20, 27), dtype=bool)
    for i in range(20):
        radius = sorted(np.linalg.norm(real[i] - other) for other in real)[k]
        inside[i] = [np.linalg.norm(real[i] - point) <= radius for point in generated]
    density, coverage = density_coverage(real=real, generated=generated, k=k)
    assert density == pytest.approx(inside.sum() / (k * 27))
    assert coverage == pytest.approx(inside.any(axis=1).mean())


def test_too_few_neighbours_are_an_error():
    few = np.random.default_rng(0).normal(size=(3, 2))
    many = np.random.default_rng(1).normal(size=(9, 2))
    with pytest.raises(ValueError, match="real: the 3-th neighbour needs more than 3 images, got 3"):
        precision_recall(real=few, generated=many)
    with pytest.raises(ValueError, match="generated"):
        precision_recall(real=many, generated=few)
    assert density_coverage(real=many, generated=few).density >= 0


@settings(max_examples=20, deadline=None)
@given(st.integers(6, 25), st.integers(6, 25), st.integers(1, 6), st.integers(0, 10**6))
def test_manifold_properties(n, m, d, seed):
    rng = np.random.default_rng(seed)
    real, generated = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 0.5
    scores = ManifoldReference(real).scores(generated)
    assert all(0 <= scores[name] <= 1 for name in ("precision", "recall", "coverage"))
    assert 0 <= scores["density"] <= n / 5
    assert ManifoldReference(rng.permutation(real)).scores(rng.permutation(generated)) == pytest.approx(scores)
    assert precision_recall(real=generated, generated=real) == pytest.approx((scores["recall"], scores["precision"]))
