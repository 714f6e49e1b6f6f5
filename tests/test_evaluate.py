"""The protocol: equal n on both sides, every subject shown, the test split's proportions, rows for small classes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.dataset import ImageDataset
from bench.evaluate import ALL, Scorer, make_protocol
from bench.metrics.features import Extracted
from bench.suite import EvaluationSpec


def world(counts, per_subject=4, seed=0):
    """A data set whose three parts hold `counts` images of each class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.tile(np.arange(len(counts)), 3), np.tile(counts, 3))
    pixels = rng.integers(0, 200, (len(labels), 1, 12, 12), dtype=np.uint8) + labels[:, None, None, None].astype(
        np.uint8
    )
    data = ImageDataset(
        pixels=pixels,
        labels=labels,
        class_names=tuple("abcdef"[: len(counts)]),
        subjects=np.array([f"s{index // per_subject}" for index in range(len(labels))]),
        names=tuple(str(index) for index in range(len(labels))),
        fingerprint="0" * 16,
        title="test",
        simulated=True,
        skipped=(),
    )
    train, validation, test = np.split(np.arange(len(labels)), 3)
    return data, SimpleNamespace(train=train, validation=validation, test=test, seed=seed)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(3, 90), min_size=1, max_size=5), st.integers(10, 60), st.integers(10, 50))
def test_protocol_is_equal_and_proportional(counts, samples, few):
    data, split = world(counts)
    spec = EvaluationSpec(samples_per_draw=samples, few=few)
    protocol = make_protocol(data, split, spec)
    enough = [count for count in counts if count >= few]
    assert protocol.n_class == (min([samples, *enough]) if enough else 0)
    for name, indices in protocol.reference.items():
        assert set(indices) <= set(split.test), "only test images are compared with"
        assert len(set(indices)) == len(indices)
        if name != ALL:
            assert len(indices) == protocol.n_class
    assert len(protocol.reference[ALL]) == protocol.n_all <= len(split.test)
    exact = np.array(counts) / sum(counts) * protocol.n_all
    assert np.all(np.abs(np.array(protocol.shares) - exact) < 1), "the test split's proportions"
    for conditional in (True, False):
        labels = protocol.labels(conditional)
        parts = protocol.parts(labels, conditional)
        assert len(parts[ALL]) == protocol.n_all
        if conditional:
            assert set(parts) == set(protocol.reference)
            assert all(len(parts[name]) == len(protocol.reference[name]) for name in parts), "equal n on both sides"
            assert np.array_equal(np.bincount(labels[parts[ALL]], minlength=len(counts)), protocol.shares)
        else:
            assert set(parts) == {ALL}


def test_reference_shows_every_subject_before_any_twice():
    data, split = world([80, 80], per_subject=8)
    protocol = make_protocol(data, split, EvaluationSpec(samples_per_draw=10, few=10))
    for name in "ab":
        subjects = data.subjects[protocol.reference[name]]
        assert len(set(subjects)) == len(subjects) == 10


class Pixels:
    """Mean grey of the four quarters: features whose distances can be worked out."""

    dimensions = 4
    calls = 0

    def __call__(self, images):
        self.calls += 1
        blocks = images.reshape(len(images), 2, 6, 2, 6).astype(np.float64).mean(axis=(2, 4)).reshape(len(images), 4)
        return Extracted(torch.from_numpy(blocks), None)


@pytest.fixture
def scorer():
    data, split = world([60, 40, 12])
    spec = EvaluationSpec(draws=4, samples_per_draw=30, few=20, bootstrap=12)
    protocol = make_protocol(data, split, spec)
    extractor = Pixels()
    real = {"pixels": extractor(data.bytes(protocol.union))}
    return data, split, protocol, extractor, Scorer(data, split, protocol, spec, {"pixels": extractor}, real)


def score(scorer, images_of, conditional=True):
    _, _, protocol, _, subject = scorer
    labels = protocol.labels(conditional)
    return subject.score(
        lambda number: (images_of(labels, number), labels, None), conditional=conditional, emit=lambda *_, **__: None
    )


def test_the_reference_itself_is_at_distance_zero(scorer):
    data, _, protocol, _, subject = scorer
    own = {name: protocol.reference[name] for name in protocol.reference}
    indices = own[ALL]
    scores, _ = subject.score(
        lambda number: (data.bytes(indices), data.labels[indices], None), conditional=False, emit=lambda *_, **__: None
    )
    value = {(row["class"], row["measure"]): row for row in scores}
    assert value[ALL, "frechet_distance"]["mean"] == pytest.approx(0, abs=1e-6)
    assert value[ALL, "precision"]["mean"] == value[ALL, "recall"]["mean"] == 1.0


def test_every_row_says_n_draws_and_interval(scorer):
    rng = np.random.default_rng(1)
    scores, replicates = score(scorer, lambda labels, _: rng.integers(0, 256, (len(labels), 1, 12, 12), dtype=np.uint8))
    frechet = {row["class"]: row for row in scores if row["measure"] == "frechet_distance"}
    assert set(frechet) == {ALL, "a", "b", "c"}
    assert frechet["c"]["flag"] == "too few"
    assert frechet["c"]["mean"] is None
    for name in (ALL, "a", "b"):
        row = frechet[name]
        assert row["n_real"] == row["n_generated"]
        assert row["draws"] == len(row["values"]) == 4
        assert row["mean"] == pytest.approx(np.mean(row["values"]))
        assert row["std"] == pytest.approx(np.std(row["values"], ddof=1))
        assert row["lower"] < row["mean"] < row["upper"]
        assert len(replicates[f"{name}/pixels/frechet_distance"]) == 12
        assert all(value > 0 for value in replicates[f"{name}/pixels/frechet_distance"])


def test_each_image_goes_through_the_extractor_once(scorer):
    extractor = scorer[3]
    before = extractor.calls
    score(
        scorer,
        lambda labels, _: np.zeros((len(labels), 1, 12, 12), np.uint8) + labels[:, None, None, None].astype(np.uint8),
    )
    assert extractor.calls - before == 4, "one pass per draw serves every class and measure"
