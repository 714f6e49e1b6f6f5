"""Utility: scores of classifiers against scikit-learn and closed forms, classifiers at equal budget, known-bad images."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from bench.metrics.classification import SCORES, classification_scores, resampled
from bench.metrics.utility import BATCH, SIDE, Labelled, Training, _moved, _reduced, predictions, utility_scores

CLASSES = 3


def guesses(n=90, classes=CLASSES, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=n - classes)])
    scores = rng.random((n, classes)) + 0.7 * np.eye(classes)[labels] * rng.random((n, 1))
    scores = np.round(scores, 1) + 0.1 if ties else scores
    return labels, scores / scores.sum(axis=1, keepdims=True)


def by_scikit_learn(labels, probabilities, weights=None):
    guess, given = probabilities.argmax(axis=1), {"sample_weight": weights}
    macro = {"average": "macro", "zero_division": 0.0, "labels": np.unique(labels), **given}
    if probabilities.shape[1] == 2:
        one, other = (metrics.roc_auc_score(labels == c, probabilities[:, c], **given) for c in (0, 1))
        area = (one + other) / 2
    else:
        area = metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro", **given)
    return {
        "accuracy": metrics.accuracy_score(labels, guess, **given),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, guess, **given),
        "macro_f1": metrics.f1_score(labels, guess, **macro),
        "macro_precision": metrics.precision_score(labels, guess, **macro),
        "macro_recall": metrics.recall_score(labels, guess, **macro),
        "roc_auc": area,
    }


# --- scores of predictions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("ties", [False, True])
def test_scores_agree_with_scikit_learn(classes, ties):
    labels, probabilities = guesses(classes=classes, ties=ties)
    weights = np.random.default_rng(1).integers(0, 4, size=(3, len(labels)))
    weights[:, :classes] = 1  # every class stays
    found = classification_scores(labels=labels, probabilities=probabilities, weights=weights)
    for number, row in enumerate(weights):
        for name, value in by_scikit_learn(labels, probabilities, row).items():
            assert found[name][number] == pytest.approx(value, rel=1e-12), name
    plain = classification_scores(labels=labels, probabilities=probabilities)
    assert {name: value[0] for name, value in plain.items()} == pytest.approx(by_scikit_learn(labels, probabilities))


def test_a_weight_is_a_repetition_and_order_is_nothing():
    labels, probabilities = guesses()
    rng = np.random.default_rng(2)
    rows = rng.integers(len(labels), size=len(labels))
    weights = np.bincount(rows, minlength=len(labels))[None]
    weighted = classification_scores(labels=labels, probabilities=probabilities, weights=weights)
    repeated = classification_scores(labels=labels[rows], probabilities=probabilities[rows])
    for name in SCORES:
        np.testing.assert_allclose(weighted[name], repeated[name], rtol=1e-12)


def test_scores_in_closed_form():
    """Classes of 8 and 2, all called the first: accuracy 0.8, recall 1 and 0, precision 0.8 and 0, F1 16/18 and 0; scores
    are equal, so the area is a half."""
    labels, probabilities = np.repeat([0, 1], [8, 2]), np.tile([0.6, 0.4], (10, 1))
    found = classification_scores(labels=labels, probabilities=probabilities)
    expected = {"accuracy": 0.8, "balanced_accuracy": 0.5, "macro_f1": 4 / 9, "macro_precision": 0.4}
    expected |= {"macro_recall": 0.5, "roc_auc": 0.5}
    assert {name: value[0] for name, value in found.items()} == pytest.approx(expected)
    perfect = classification_scores(labels=labels, probabilities=np.eye(2)[labels])
    assert {name: value[0] for name, value in perfect.items()} == dict.fromkeys(SCORES, 1.0)
    worst = classification_scores(labels=labels, probabilities=np.eye(2)[1 - labels])
    assert {name: value[0] for name, value in worst.items()} == dict.fromkeys(SCORES, 0.0)


def test_a_class_without_images_counts_nowhere_and_one_class_has_no_area():
    labels, probabilities = guesses()
    wider = np.column_stack([probabilities, np.zeros(len(labels))])
    narrow = classification_scores(labels=labels, probabilities=probabilities)
    for name, value in classification_scores(labels=labels, probabilities=wider).items():
        assert value == pytest.approx(narrow[name]), name
    alone = classification_scores(labels=np.zeros(4, int), probabilities=np.tile([0.9, 0.1], (4, 1)))
    assert alone["accuracy"] == 1
    assert np.isnan(alone["roc_auc"]).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": [0, 1, 3]}, "0 to 2"),
        ({"labels": [0, 1]}, "don't fit"),
        ({"probabilities": np.full((3, 3), np.nan)}, "finite"),
        ({"weights": np.zeros((1, 3))}, "not all 0"),
        ({"weights": [[-1, 1, 1]]}, "not negative"),
    ],
)
def test_what_is_no_prediction_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        classification_scores(**({"labels": [0, 1, 2], "probabilities": np.eye(3)} | change))


# --- resampling ---------------------------------------------------------------------------------------------------------


def test_subjects_and_classifiers_are_resampled():
    """Where a classifier is right on every image or on none, subjects make no difference, and the mean of K classifiers
    must have the variance s^2 / K with s^2 the sample variance over classifiers; here K = 4 and s^2 = 1/4 * 4/3."""
    labels = np.repeat([0, 1], 20)
    right, wrong = np.eye(2)[labels], np.eye(2)[1 - labels]
    found = resampled(labels, np.arange(40), np.stack([right, right, wrong, wrong]), 4000, seed=0)["accuracy"]
    assert found.values.tolist() == [1, 1, 0, 0]
    assert found.replicates.var() == pytest.approx(1 / 12, rel=0.06)
    # one classifier that is right on half of the images, each of a subject: binomial within each class
    half = np.where((np.arange(40) % 2)[:, None] == 0, right, wrong)
    found = resampled(labels, np.arange(40), np.stack([half, half]), 4000, seed=0)["accuracy"]
    assert found.replicates.var() == pytest.approx(0.25 / 40, rel=0.08)
    # ten images of each subject: as if there were four subjects
    found = resampled(labels, np.arange(40) // 10, np.stack([right, right]), 10, seed=0)["accuracy"]
    assert (found.replicates == 1).all()


def test_gains_are_paired():
    labels, probabilities = guesses()
    other = guesses(seed=5)[1]
    real = np.stack([probabilities, other])
    common = {"labels": labels, "subjects": np.arange(len(labels)) // 2, "replicates": 30, "seed": 3}
    same = utility_scores(real=real, generated=real, both=real, **common)
    for name in SCORES:
        assert same[f"tstr_{name}"].values.tolist() == same[f"augmented_{name}"].values.tolist()
        assert not same[f"gain_{name}"].values.any()
        assert not same[f"gain_{name}"].replicates.any()
    better = 0.3 * real + 0.7 * np.eye(CLASSES)[labels]
    more = utility_scores(real=real, generated=real, both=better, **common)
    assert (more["gain_accuracy"].values > 0).all()
    expected = more["augmented_accuracy"].replicates - same["augmented_accuracy"].replicates
    np.testing.assert_allclose(more["gain_accuracy"].replicates, expected)
    none = utility_scores(real=real, generated=real, both=better, **(common | {"replicates": 0}))
    assert none["gain_accuracy"].replicates.size == 0


# --- classifiers --------------------------------------------------------------------------------------------------------


def blobs(n, seed, side=16):
    """A class for each place of a bright blob, in noise that hides it from some pixels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    y, x = np.mgrid[:side, :side]
    at = np.array([[4, 4], [4, 11], [11, 8]])[labels] + rng.normal(0, 0.7, (n, 2))
    blob = np.exp(-((y - at[:, :1, None]) ** 2 + (x - at[:, 1:, None]) ** 2) / 8)
    images = (90 * blob + rng.normal(90, 25, (n, side, side))).clip(0, 255)
    return Labelled(images.astype(np.uint8)[:, None], labels.astype(np.int64))


REAL, TEST = blobs(240, 0), blobs(150, 1)
SHORT = Training(classifiers=2, images_seen=40 * BATCH, seed=7)


def read(training=SHORT, **sides):
    return predictions(**sides, test=TEST.images, num_classes=CLASSES, training=training)


def balanced(probabilities):
    scores = [classification_scores(labels=TEST.labels, probabilities=one) for one in probabilities]
    return float(np.mean([one["balanced_accuracy"] for one in scores]))


@pytest.fixture(scope="module")
def alone():
    """What classifiers of real images alone say."""
    return read(real=REAL)


def test_the_same_seed_gives_the_same_bits_whatever_the_threads(alone):
    before, state = torch.get_num_threads(), torch.get_rng_state()
    many = predictions(real=REAL, test=TEST.images, num_classes=CLASSES, training=SHORT, threads=2)
    np.testing.assert_array_equal(many, alone)
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert alone.shape == (2, len(TEST.labels), CLASSES)
    np.testing.assert_allclose(alone.sum(axis=2), 1)
    assert not np.array_equal(alone[0], alone[1])


def test_real_images_in_place_of_generated_ones_change_no_bit(alone):
    """The same draws of classes, images and shifts: budgets are equal, and copies bring nothing."""
    np.testing.assert_array_equal(read(real=REAL, generated=REAL), alone)
    np.testing.assert_array_equal(read(generated=REAL), alone)


def test_known_bad_images_are_seen(alone):
    """Real images are learnt from, fresh real ones as much; noise and labels that know nothing of the image are chance, and
    the latter harm beside real images where they are most of what is seen."""
    rng = np.random.default_rng(0)
    unrelated = Labelled(REAL.images, np.arange(len(REAL.labels)) // CLASSES % CLASSES)  # each class has every label
    noise = Labelled(rng.integers(0, 256, REAL.images.shape, dtype=np.uint8), REAL.labels)
    assert balanced(alone) > 0.9
    assert balanced(read(generated=blobs(240, 2))) > 0.9
    assert balanced(read(generated=unrelated)) == pytest.approx(1 / CLASSES, abs=0.15)
    assert balanced(read(generated=noise)) == pytest.approx(1 / CLASSES, abs=0.15)
    mostly = Training(classifiers=2, images_seen=SHORT.images_seen, ratio=30.0, seed=7)
    assert balanced(read(mostly, real=REAL, generated=unrelated)) < balanced(alone) - 0.1


def test_a_class_on_one_side_only_is_taken_from_there():
    some = Labelled(REAL.images[REAL.labels < 2], REAL.labels[REAL.labels < 2])
    brief = Training(classifiers=1, images_seen=5 * BATCH)
    assert read(brief, real=some, generated=REAL).shape == (1, len(TEST.labels), CLASSES)


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        ({}, "are needed"),
        ({"real": Labelled(REAL.images[:, :, :8], REAL.labels)}, r"shape \[1, 16, 16\]"),
        ({"real": Labelled(REAL.images, np.zeros_like(REAL.labels))}, "two or more classes"),
    ],
)
def test_what_can_not_be_trained_on_is_refused(sides, said):
    with pytest.raises(ValueError, match=said):
        read(**sides)


def test_images_are_moved_by_whole_pixels_and_borders_repeat():
    image = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8)
    for draw, offset in ((0.0, -1), (0.5, 0), (0.99, 1)):
        moved = _moved(image, np.full((2, 1), draw))
        at = (np.arange(8) + offset).clip(0, 7)
        np.testing.assert_array_equal(moved, image[:, :, at][..., at])


def test_large_images_are_reduced_and_small_ones_are_not_touched():
    images = np.full((3, 1, 200, 100), 77, np.uint8)
    assert _reduced(images).shape == (3, 1, SIDE, SIDE // 2)
    assert (_reduced(images) == 77).all()
    assert _reduced(REAL.images) is REAL.images
