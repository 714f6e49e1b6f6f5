"""Splits: nobody on two sides, every class in its share, the same from the same seed, leaks counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.data.splits import Split, make_split, official_split, split_from_file
from bench.errors import InputError
from bench.suite import SplitSpec

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


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.5, 0.0), (0.6, 0.2, 0.1), (1.2, -0.1, -0.1)])
def test_fractions_are_checked(fractions):
    labels, subjects = images_of([(0, f"p{n}") for n in range(9)])
    with pytest.raises(InputError, match=r"three shares above 0 that add up to 1"):
        make_split(labels, subjects, fractions=fractions)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sets(st.integers(0, 2), min_size=1, max_size=2), min_size=3, max_size=7), st.integers(0, 50))
def test_what_can_be_split_is_split(sets, seed):
    """Against trying all ways: a few subjects with images of one or two classes each."""
    import itertools

    labels = np.array([label for own in sets for label in sorted(own)])
    subjects = np.array([f"p{n}" for n, own in enumerate(sets) for _ in own])
    used = set(labels.tolist())
    feasible = any(
        all(used == set().union(*(own for own, s in zip(sets, side, strict=True) if s == part)) for part in range(3))
        for side in itertools.product(range(3), repeat=len(sets))
    )
    try:
        split = make_split(labels, subjects, seed=seed)
    except InputError:
        assert not feasible
    else:
        assert all(set(labels[own].tolist()) == used for own in split.parts().values())
        assert split.leaking_subjects == 0


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_share_out_all_subjects(folds):
    labels, subjects = images_of([(n % 3, f"p{n}") for n in range(120)], 2)
    splits = [make_split(labels, subjects, fold=(k, folds)) for k in range(folds)]
    tests = np.sort(np.concatenate([split.test for split in splits]))
    assert np.array_equal(tests, np.arange(len(labels))), "each image is tested on once"
    for split in splits:
        assert split.leaking_subjects == 0
        assert np.array_equal(np.sort(np.concatenate(list(split.parts().values()))), np.arange(len(labels)))
        assert abs(len(split.test) - len(labels) / folds) <= 6
        assert len(split.validation) / (len(split.train) + len(split.validation)) == pytest.approx(0.2, abs=0.04)
    assert len({split.hash for split in splits}) == folds
    assert splits[0].by == f"subject, fold 0 of {folds}"


def test_folds_that_a_class_can_not_fill():
    labels, subjects = images_of([(0, f"a{n}") for n in range(9)] + [(1, f"b{n}") for n in range(4)])
    with pytest.raises(InputError, match="class 1 has 4 subjects; 5 folds need 5: add some, or leave the class out"):
        make_split(labels, subjects, fold=(0, 5))
    with pytest.raises(InputError, match="counted from 0"):
        make_split(labels, subjects, fold=(5, 5))


def table(tmp_path, text):
    (tmp_path / "split.csv").write_text(text)
    return tmp_path / "split.csv"


NAMES = tuple(f"{label}/{n}.png" for label in "ab" for n in range(4))
LABELS = np.repeat([0, 1], 4)
SUBJECTS = np.array([f"p{n}" for n in range(4)] * 2)


def test_a_table_gives_the_parts_by_subject_or_path(tmp_path):
    by_subject = table(tmp_path, "subject,split\np0,train\np1,Training\np2,val\np3,test\np9,test\n")
    split = split_from_file(LABELS, SUBJECTS, NAMES, by_subject)
    assert [own.tolist() for own in split.parts().values()] == [[0, 1, 4, 5], [2, 6], [3, 7]]
    assert (split.by, split.leaking_subjects) == ("file", 0)
    assert split.notes == ("split.csv names 1 subjects that the data lack",)
    parts = ["train", "validation", "test", "none", "train", "validation", "test", "train"]
    lines = "".join(f"{name},{part}\n" for name, part in zip(NAMES, parts, strict=True))
    split = split_from_file(LABELS, SUBJECTS, NAMES, table(tmp_path, f"path,split\n{lines}"))
    assert split.train.tolist() == [0, 4, 7]
    assert split.notes == ("split.csv leaves out 1 images",)
    assert split.leaking_subjects == 0
    lines = lines.replace("b/0.png,train", "b/0.png,test")
    assert split_from_file(LABELS, SUBJECTS, NAMES, table(tmp_path, f"path,split\n{lines}")).leaking_subjects == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,part\np0,train\n", "no column 'split'"),
        ("who,split\np0,train\n", "a column 'path' or 'subject' is needed"),
        ("subject,split\n", "no row below"),
        (
            "subject,split\np0,train\np1,trian\n",
            r"split\.csv:3: 'trian' is no part: write train, validation, test or none",
        ),
        ("subject,split\np0,train\np0,test\n", r"split\.csv:3: 'p0' was train before and is test here"),
        ("subject,split\np0,train\n", r"says nothing of 6 of 8 images, 'p1' first; give each subject a part"),
        ("subject,split\nx,train\n", r"none matches; the data have names like 'p0'"),
        ("subject,split\np0,train\np1,train\np2,val\np3,none\n", "split by file: test has no image of class 'a'; mend"),
    ],
)
def test_wrong_tables(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        split_from_file(LABELS, SUBJECTS, NAMES, table(tmp_path, text), class_names=("a", "b"))


def test_official_parts_that_lack_something():
    with pytest.raises(InputError, match="this source has no split of its own"):
        official_split(LABELS, SUBJECTS, None)
    with pytest.raises(InputError, match="no images for train; use by: subject"):
        official_split(LABELS, SUBJECTS, np.array(["test"] * 8))
    parts = np.array(["train", "train", "validation", "test", "train", "train", "validation", "train"])
    with pytest.raises(InputError, match=r"split by official: test has no image of class 'b'; .*leave the class out"):
        official_split(LABELS, SUBJECTS, parts, class_names=("a", "b"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"file": "x.csv", "by": "slice"}, "the table says all; leave by and folds out"),
        ({"file": "x.csv", "folds": 5}, "the table says all"),
        ({"by": "official", "folds": 5}, "the official split has none"),
        ({"fold": 1}, "give folds, how many there are"),
        ({"folds": 5, "fold": 5}, "0 to 4, of 5 folds"),
    ],
)
def test_a_suite_asks_for_one_split(given, message):
    with pytest.raises(ValidationError, match=message):
        SplitSpec.model_validate(given)
