"""The protocol: equal n on both sides, every subject shown, the test split's proportions, rows for small classes."""

import json
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
    doubt = ""
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


def rows_of(scorer, images_of, conditional=True):
    return {(row["class"], row["features"], row["measure"]): row for row in score(scorer, images_of, conditional)[0]}


def noisy(seed=1):
    rng = np.random.default_rng(seed)
    return lambda labels, _: rng.integers(0, 256, (len(labels), 1, 12, 12), dtype=np.uint8)


def test_rows_say_what_belongs_to_a_measures_name(scorer):
    rows = rows_of(scorer, noisy())
    assert rows[ALL, "", "ms_ssim_diversity"]["about"] == "1 scale"
    assert rows[ALL, "", "intensity_kl"]["about"] == "256 bins"
    assert rows["a", "pixels", "gaussian_kernel_distance"]["about"].startswith("bandwidth ")
    assert rows["a", "pixels", "frechet_distance_infinity"]["about"] == "n times 0.5, 0.625, 0.75, 1 in 2 orders"
    assert rows[ALL, "pixels", "frechet_distance"]["about"] == ""
    assert rows["a", "pixels", "gaussian_kernel_distance"]["lower"] is not None, "resampled over subjects"


class Broken(Pixels):
    """Gives a value that is not finite for the first image of its second draw."""

    def __call__(self, images):
        found = super().__call__(images).features
        if self.calls == self.broken_at:
            found[0, 0] = torch.nan
        return Extracted(found, None)


def test_a_draw_that_fails_is_never_averaged_away():
    data, split = world([60, 40])
    spec = EvaluationSpec(draws=3, samples_per_draw=30, few=20, bootstrap=6)
    protocol = make_protocol(data, split, spec)
    extractor = Broken()
    extractor.broken_at = 3  # one call for the real side, then one for each draw
    real = {"pixels": extractor(data.bytes(protocol.union))}
    subject = Scorer(data, split, protocol, spec, {"pixels": extractor}, real)
    labels, images_of = protocol.labels(True), noisy()
    found, replicates = subject.score(
        lambda number: (images_of(labels, number), labels), conditional=True, emit=lambda *_, **__: None
    )
    rows = {(row["class"], row["measure"]): row for row in found}
    broken = rows[ALL, "frechet_distance"]
    assert broken["mean"] is broken["std"] is broken["lower"] is None
    assert [value is None for value in broken["values"]] == [False, True, False], "the others stay to be seen"
    expected = "no Fréchet distance of 1 of 3 draws: generated: 1 of 60 rows hold values that are not finite"
    assert expected in broken["flag"]
    assert not set(",;") & set(expected)
    assert rows[ALL, "precision"]["mean"] is None
    assert rows["b", "frechet_distance"]["mean"] > 0, "the class without the broken image stands"
    assert rows[ALL, "ssim_diversity"]["mean"] is not None
    assert [value is None for value in replicates[f"{ALL}/pixels/frechet_distance"]] == [False, True, False] * 2
    json.dumps(found, allow_nan=False)
    json.dumps(replicates, allow_nan=False)


def test_too_few_images_for_neighbours_are_a_reason_and_no_crash():
    data, split = world([40])
    spec = EvaluationSpec(draws=2, samples_per_draw=30, few=20, bootstrap=0)
    protocol = make_protocol(data, split, spec)
    extractor = Pixels()
    real = {"pixels": extractor(data.bytes(protocol.union))}
    subject = Scorer(data, split, protocol, spec, {"pixels": extractor}, real)
    images = noisy()(np.zeros(3), 0)
    found, _ = subject.score(lambda _: (images, np.zeros(3, int)), conditional=False, emit=lambda *_, **__: None)
    rows = {row["measure"]: row for row in found}
    assert rows["recall"]["mean"] is None
    assert "needs more than 3 images" in rows["recall"]["flag"]
    assert "4 or more images" in rows["frechet_distance_infinity"]["flag"]
    assert rows["frechet_distance"]["mean"] > 0


def test_the_closest_pairs_of_all_draws_are_kept(scorer):
    data, split, protocol, _, subject = scorer
    images_of = noisy()

    def draw(number):
        labels = protocol.labels(True)
        images = images_of(labels, number)
        images[number] = data.bytes(split.train[[number + 5]])[0]  # each draw holds one copy
        return images, labels

    subject.score(draw, conditional=True, emit=lambda *_, **__: None)
    pairs = subject.closest
    assert len(pairs.generated) == 8
    assert (np.diff(pairs.ratios) >= 0).all()
    copied = {pair.tobytes() for pair in pairs.training[:4]}
    assert copied == {image.tobytes() for image in data.bytes(split.train[5:9])}
    assert np.array_equal(pairs.generated[:4], pairs.training[:4])
    assert (pairs.ratios[:4] < pairs.threshold).all()


def test_reconstructions_are_measured_and_lpips_says_what_it_lacks(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_LPIPS_WEIGHTS", str(tmp_path))
    data, split = world([60])
    measures = ("ssim", "psnr", "lpips")
    spec = EvaluationSpec(draws=2, samples_per_draw=30, few=20, bootstrap=0, measures=measures)
    protocol = make_protocol(data, split, spec)
    extractor = Pixels()
    subject = Scorer(
        data, split, protocol, spec, {"pixels": extractor}, {"pixels": extractor(data.bytes(protocol.union))}
    )
    half = SimpleNamespace(reconstruct=lambda images, labels: images / 2)
    rows = {row["measure"]: row for row in subject.reconstructions(half, torch.device("cpu"))}
    given = data.bytes(protocol.reference[ALL]).astype(float)
    returned = np.rint(given.astype(np.float32) / 255 / 2 * 255)
    error = ((given - returned) ** 2).mean(axis=(1, 2, 3))
    assert rows["mse_reconstruction"]["mean"] == pytest.approx(error.mean() / 255**2, rel=1e-6)
    assert rows["psnr_reconstruction"]["mean"] == pytest.approx(np.mean(10 * np.log10(255**2 / error)), rel=1e-6)
    assert rows["nmse_reconstruction"]["mean"] == pytest.approx(
        np.mean(error / (given**2).mean(axis=(1, 2, 3))), rel=1e-6
    )
    assert rows["lpips_reconstruction"]["mean"] is None
    assert "BENCH_LPIPS_WEIGHTS" in rows["lpips_reconstruction"]["flag"]
    assert "lpips" not in EvaluationSpec().measures
    assert subject.reconstructions(SimpleNamespace(reconstruct=lambda *_: None), torch.device("cpu")) == []
