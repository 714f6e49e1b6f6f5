"""Means, resampling of subjects, intervals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.metrics import memorization
from bench.metrics.statistics import (
    bootstrap_indices,
    feature_matrix,
    interval,
    mean_std,
)


def test_deviation_is_that_of_a_sample():
    assert mean_std([1.0, 2.0, 3.0]) == (2.0, 1.0)
    mean, std = mean_std([5.0])
    assert mean == 5.0
    assert math.isnan(std)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(0, 1000))
def test_subjects_enter_whole(subjects, seed):
    names = np.array([f"s{number}" for number in subjects])
    for chosen in bootstrap_indices(names, 3, seed):
        drawn = np.bincount(chosen, minlength=len(names))
        per_subject = [set(drawn[names == name].tolist()) for name in np.unique(names)]
        assert all(len(times) == 1 for times in per_subject)
        assert sum(times.pop() for times in per_subject) == len(np.unique(names))


def test_resamples_are_a_function_of_seed_and_number():
    subjects = np.repeat(np.arange(10), 3)
    few, many = bootstrap_indices(subjects, 3, 1), bootstrap_indices(subjects, 5, 1)
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))
    assert not np.array_equal(few[0], few[1])
    assert not np.array_equal(few[0], bootstrap_indices(subjects, 1, 2)[0])


def test_strata_keep_their_numbers_of_subjects():
    subjects = np.repeat(np.arange(12), 5)
    classes = np.repeat([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2], 5)
    for chosen in bootstrap_indices(subjects, 20, 0, strata=classes):
        assert np.bincount(classes[chosen]).tolist() == [40, 15, 5]
    shares = {tuple(np.bincount(classes[chosen], minlength=3)) for chosen in bootstrap_indices(subjects, 20, 0)}
    assert len(shares) > 1


def test_no_subjects_is_an_error():
    with pytest.raises(ValueError, match="no subjects"):
        bootstrap_indices([], 3, 0)


def test_interval_is_centred_on_the_estimate():
    replicates = 100 + np.linspace(-1, 1, 2001)  # biased by 90, which must not matter
    low, high = interval(10.0, replicates)
    assert low == pytest.approx(10 - 0.95)
    assert high == pytest.approx(10 + 0.95)
    with pytest.raises(ValueError, match="two or more"):
        interval(1.0, [1.0])
    with pytest.raises(ValueError, match="finite"):
        interval(1.0, [1.0, math.nan])


def test_intervals_over_subjects_cover_and_intervals_over_images_do_not():
    """40 subjects of 5 images that share 80 % of their variance: what counts is 40 rather than 200.

    A true 95 % interval covers 380 of 400 trials, deviation 4.4; percentiles fall some 2 points short at 40 subjects.
    """
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(40), 5)

    def weights(resamples):
        return np.array([np.bincount(chosen, minlength=200) / len(chosen) for chosen in resamples])

    by_subject, by_image = (weights(bootstrap_indices(owner, 1000, 0)) for owner in (subjects, np.arange(200)))
    covered = {"subjects": 0, "images": 0}
    for _ in range(400):
        values = np.repeat(rng.normal(0, 2, 40), 5) + rng.normal(0, 1, 200)
        for name, shares in (("subjects", by_subject), ("images", by_image)):
            low, high = interval(values.mean(), shares @ values)
            covered[name] += low <= 0 <= high
    assert 356 <= covered["subjects"] <= 395
    assert covered["images"] < 290


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((1, 3)), "2 or more images are needed, got 1"),
        (np.zeros(3), "shape"),
        (np.zeros((3, 0)), "shape"),
        (np.array([[1.0, np.nan], [0.0, 0.0]]), "1 of 2 rows"),
    ],
)
def test_unfit_features_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        feature_matrix(values, "real")


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0], [5.0, 1.0, 5.0, 2.0, 5.0], list(np.arange(20) % 7 * 0.1)])
def test_ranks_are_scipys(values):
    from scipy.stats import rankdata

    assert memorization._ranks(np.array(values)).tolist() == rankdata(values).tolist()
