"""Splits: nobody on two sides, every class in its share, the same from the same seed, leaks counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.splits import Split, make_split
from bench.errors import InputError

PARTS = ("train", "validation", "test")


def images_of(subject_classes, per_subject=1):
    labels = np.repeat([label for label, _ in subject_classes], per_subject)
    subjects = np.repeat([subject for _, subject in subject_classes], per_subject)
    return labels, subjects


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(3, 60), min_size=1, max_size=5),
    st.integers(1, 10),
    st.sampled_from([(0.6, 0.15, 0.25), (0.34, 0.33, 0.33), (0.8, 0.1, 0.1)]),
    st.integers(0, 1000),
)
def test_subjects_of_one_class_each(sizes, per_subject, fractions, seed):
    pairs = [(label, f"{label}-{n}") for label, size in enumerate(sizes) for n in range(size)]
    labels, subjects = images_of(pairs, per_subject)
    split = make_split(labels, subjects, fractions=fractions, seed=seed)
    parts = [getattr(split, part) for part in PARTS]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels))), "each image once"
    owners = [set(subjects[part]) for part in parts]
    assert not owners[0] & owners[1] | owners[0] & owners[2] | owners[1] & owners[2]
    assert split.leaking_subjects == 0
    for label, size in enumerate(sizes):
        for part, fraction in zip(parts, fractions, strict=True):
            own = (labels[part] == label).sum() / per_subject
            assert own >= 1
            if size * fraction >= 1:
                assert abs(own - size * fraction) <= 2, "within two subjects of the wanted share"


@settings(max_examples=100, deadline=None)
@given(st.integers(40, 150), st.integers(0, 1000))
def test_patients_with_two_knees_of_two_grades(patients, seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, size=2 * patients, p=[0.4, 0.3, 0.2, 0.1])
    subjects = np.repeat(np.arange(patients), 2)
    try:
        split = make_split(labels, subjects, seed=seed)
    except InputError:
        assert min(np.bincount(labels, minlength=4)) < 8, "only what is rare can fail"
        return
    assert split.leaking_subjects == 0
    for part, fraction in zip(PARTS, (0.6, 0.15, 0.25), strict=True):
        own = np.bincount(labels[getattr(split, part)], minlength=4)
        assert np.all(np.abs(own - fraction * np.bincount(labels, minlength=4)) <= 5)


def test_seed_and_content_decide():
    labels, subjects = images_of([(n % 3, f"p{n}") for n in range(90)], 3)
    first, same, other = (make_split(labels, subjects, seed=seed) for seed in (1, 1, 2))
    assert first.hash == same.hash != other.hash
    assert Split.from_json(first.to_json()).hash == first.hash


def test_by_slice_counts_the_leak():
    labels, subjects = images_of([(n % 2, f"p{n}") for n in range(40)], 10)
    split = make_split(labels, subjects, by="slice")
    assert split.by == "slice"
    assert split.leaking_subjects == len(
        {s for s in subjects if sum(s in subjects[getattr(split, part)] for part in PARTS) > 1}
    )
    assert split.leaking_subjects > 30


@pytest.mark.parametrize(("size", "by", "what"), [(2, "subject", "subjects"), (1, "slice", "images")])
def test_a_class_too_small_is_named(size, by, what):
    labels, subjects = images_of([(0, f"a{n}") for n in range(9)] + [(1, f"b{n}") for n in range(size)])
    with pytest.raises(InputError, match=f"class 'rare' has {size} {what}; three are needed"):
        make_split(labels, subjects, by=by, class_names=("common", "rare"))


def test_no_images():
    with pytest.raises(InputError, match="no images"):
        make_split(np.array([], dtype=int), np.array([]))
