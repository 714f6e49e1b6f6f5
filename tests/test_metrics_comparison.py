"""Comparison of families: Student's t, coverage on simulated families, Holm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.metrics.comparison import compare, holm, over_trainings, student_cdf, student_quantile

SUBJECTS = 40


@pytest.mark.parametrize("freedom", [1, 1.7, 2, 4.5, 30, 199, 9999])
def test_students_t_is_scipys(freedom):
    for t in (-60.0, -4.3, -1.0, 0.0, 0.3, 2.0, 8.0):
        assert student_cdf(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), rel=1e-6)
    for probability in (0.5, 0.8, 0.975, 0.9995):
        assert student_quantile(probability, freedom) == pytest.approx(
            stats.t.ppf(probability, freedom), rel=1e-6, abs=1e-9
        )


def family(rng, mean, seeds, training, subjects, resamples, own=0.1):
    """A family's numbers: expected number + training seed + mean over its subjects' effects (shared) and its own ones.

    Returns the mean of each training, and its replicates over the resamples of subjects (weights [B, n]).
    """
    effects = subjects + rng.normal(0, own, (seeds, SUBJECTS))
    trainings = mean + rng.normal(0, training, seeds)
    return trainings + effects.mean(axis=1), trainings[:, None] + effects @ resamples.T


def simulate(trials, *, seeds, training, gap):
    """Share of trials whose interval covers: of the first family's expected number, and of the difference."""
    rng = np.random.default_rng(0)
    resamples = np.array([np.bincount(rng.integers(SUBJECTS, size=SUBJECTS), minlength=SUBJECTS) for _ in range(200)])
    covered, probabilities = np.zeros(2), []
    for _ in range(trials):
        subjects = rng.normal(0, 1, SUBJECTS)
        (one, first), (two, second) = (
            family(rng, mean, seeds, training, subjects, resamples / SUBJECTS) for mean in (3.0, 3.0 + gap)
        )
        low, high = over_trainings(one, first)
        found = compare(first=one, second=two, first_replicates=first, second_replicates=second)
        covered += (low <= 3.0 <= high, found.lower <= -gap <= found.upper)
        probabilities.append(found.lower_probability)
    return covered / trials, np.array(probabilities)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("training", [0.02, 0.15, 1.0])
def test_intervals_cover_whether_seeds_or_subjects_prevail(seeds, training):
    """400 trials of a true 95 % interval cover within 0.95 ± 0.033 (three deviations); a difference may cover more.

    The deviation of a number over subjects is 0.16, so that training is an eighth, the same, and six times of it.
    """
    covered, _ = simulate(400, seeds=seeds, training=training, gap=0.5)
    assert (covered > 0.91).all(), covered
    assert (covered < 0.993).all(), covered


def test_probability_is_even_for_equals_and_calibrated():
    """Of two equal families the probability is uniform: its mean is 0.5 and a share of 0.05 lies below 0.05."""
    _, found = simulate(800, seeds=3, training=0.15, gap=0.0)
    assert found.mean() == pytest.approx(0.5, abs=0.035)
    assert (found < 0.05).mean() == pytest.approx(0.05, abs=0.025)
    _, apart = simulate(200, seeds=3, training=0.15, gap=3.0)
    assert np.median(apart) > 0.995
    assert apart.min() > 0.9


def test_one_seed_is_the_interval_over_subjects():
    """Known variance, no training: the half width is t(B - 1) times the deviation of the replicates."""
    replicates = np.random.default_rng(1).normal(50, 2, 2000)  # biased: only their spread may count
    low, high = over_trainings([10.0], [replicates])
    half = stats.t.ppf(0.975, 1999) * replicates.std(ddof=1)
    assert (low, high) == pytest.approx((10 - half, 10 + half))


def test_without_spread_over_subjects_it_is_welchs_test():
    one, two = [1.0, 2.0, 4.0], [5.0, 5.5, 9.0, 6.0]
    flat = {"first_replicates": [np.zeros(10)] * 3, "second_replicates": [np.zeros(10)] * 4}
    found = compare(first=one, second=two, **flat)
    test = stats.ttest_ind(one, two, equal_var=False)
    ends = test.confidence_interval()
    assert (found.lower, found.upper) == pytest.approx((ends.low, ends.high))
    assert 2 * (1 - found.lower_probability) == pytest.approx(test.pvalue)


def test_shared_subjects_drop_out_and_seeds_do_not_pair():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 5, 400)
    one, two = np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0])
    found = compare(
        first=one, second=two, first_replicates=one[:, None] + shared, second_replicates=two[:, None] + shared
    )
    assert found.difference == -1
    # each mean has the variance 1/3: t(4) * sqrt(2/3), though seed by seed the difference is always -1
    assert found.upper - found.lower == pytest.approx(2 * stats.t.ppf(0.975, 4) * np.sqrt(2 / 3))
    back = compare(
        first=two, second=one, first_replicates=two[:, None] + shared, second_replicates=one[:, None] + shared
    )
    assert back.lower_probability == pytest.approx(1 - found.lower_probability)
    assert (back.lower, back.upper) == pytest.approx((-found.upper, -found.lower))


def test_identical_families_are_even():
    rows = [np.arange(5.0)] * 3
    equal = {"first_replicates": rows, "second_replicates": rows}
    assert compare(first=[1.0] * 3, second=[1.0] * 3, **equal) == (0.0, 0.0, 0.0, 0.5)
    assert compare(first=[1.0] * 3, second=[2.0] * 3, **equal).lower_probability == 1


@pytest.mark.parametrize(
    ("means", "rows"),
    [
        ([], []),
        ([1.0], [[1.0]]),
        ([1.0], [[1.0, np.nan]]),
        ([1.0, 2.0], [[1.0, 2.0]]),
        ([1.0, 2.0], [[1.0, 2.0], [1.0, 2.0, 3.0]]),
        ([np.inf], [[1.0, 2.0]]),
    ],
)
def test_unfit_replicates_are_refused(means, rows):
    with pytest.raises(ValueError, match="replicates"):
        over_trainings(means, rows)


def test_unpaired_replicates_are_refused():
    with pytest.raises(ValueError, match="not paired: 5 and 4"):
        compare(first=[1.0], second=[2.0], first_replicates=[np.arange(5)], second_replicates=[np.arange(4)])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_adjusts_upwards_and_keeps_the_order(values):
    adjusted = holm(values)
    assert (adjusted >= values).all()
    assert (adjusted <= 1).all()
    order = np.argsort(values, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_holm_of_a_known_case():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with pytest.raises(ValueError, match="p-values"):
        holm([1.2])
