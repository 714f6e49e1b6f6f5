"""Feature extractors: random convolutions, and the networks trained on the data's own domain."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from bench.errors import InputError, UnavailableError
from bench.metrics import domain
from bench.metrics.domain import DomainFeatures
from bench.metrics.features import Extracted, FeatureExtractor, RandomFeatures, check_images
from bench.metrics.frechet import frechet_distance
from bench.registry import FEATURES


def textures(subjects=12, slices=4, classes=2, shape=(32, 32), seed=0):
    """Classes are scales of texture, subjects have a brightness of their own."""
    rng = np.random.default_rng(seed)
    out, labels, owners = [], [], []
    for subject in range(subjects):
        label, brightness = subject % classes, rng.uniform(100, 150)
        for _ in range(slices):
            field = gaussian_filter(rng.normal(size=shape), 0.8 + 1.2 * label)
            out.append(brightness + 30 * field / field.std())
            labels.append(label)
            owners.append(f"s{seed}-{subject}")
    return np.clip(out, 0, 255).astype(np.uint8)[:, None], np.array(labels), np.array(owners)


@pytest.fixture(scope="module")
def fitted():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(domain, "STEPS", 60)
        return DomainFeatures.fit(*textures(), num_classes=2, seed=0, threads=1)


@pytest.fixture(scope="module")
def extractors(fitted):
    return {"random": RandomFeatures(), "domain": fitted}


@pytest.mark.parametrize("name", ["random", "domain"])
def test_contract(extractors, name):
    extractor = extractors[name]
    images = textures()[0]
    found = extractor(images)
    assert isinstance(extractor, FeatureExtractor)
    assert isinstance(found, Extracted)
    assert found.features.shape == (len(images), extractor.dimensions)
    assert found.features.dtype == torch.float32
    assert (found.logits is not None) == extractor.has_logits
    assert extractor.name == name
    assert extractor.name in extractor.backend
    assert extractor.rule
    assert extractor.details["batch_size"] == extractor.batch_size
    extractor.self_check()


@pytest.mark.parametrize("name", ["random", "domain"])
def test_features_do_not_depend_on_the_company(extractors, name):
    """Alone, in another order or in a full batch: the same numbers, to the rounding of float32."""
    extractor = extractors[name]
    images = textures(50)[0][: extractor.batch_size + 5]
    found = extractor(images).features
    order = np.random.default_rng(0).permutation(len(images))
    assert torch.allclose(extractor(images[order]).features, found[torch.from_numpy(order)], rtol=1e-5, atol=1e-5)
    assert torch.allclose(extractor(images[3:4]).features, found[3:4], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["random", "domain"])
def test_blur_and_noise_are_seen(extractors, name):
    """Each fault moves the features further than other subjects do."""
    extractor = extractors[name]
    real, other = (extractor(textures(40, seed=seed)[0]).features for seed in (1, 2))
    floor = frechet_distance(real=real, generated=other)
    images = textures(40, seed=2)[0]
    noise = np.random.default_rng(0).normal(0, 25, images.shape)
    for spoilt in (gaussian_filter(images, (0, 0, 1.5, 1.5)), np.clip(images + noise, 0, 255).astype(np.uint8)):
        assert frechet_distance(real=real, generated=extractor(spoilt).features) > 3 * floor


@pytest.mark.parametrize("name", ["random", "domain"])
def test_unfit_images_are_refused(extractors, name):
    for images in (np.zeros((2, 1, 32, 32)), np.zeros((0, 1, 32, 32), np.uint8), np.zeros((32, 32), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            extractors[name](images)


def test_registered_names_lead_here():
    for name, expected in (("random", RandomFeatures), ("domain", DomainFeatures)):
        assert FEATURES.get(name) is expected
    assert FEATURES.get("inception").name == "inception"
    assert "64 numbers" in FEATURES.describe("random").summary


def test_random_features_are_the_same_in_another_process():
    code = (
        "from bench.metrics.features import RandomFeatures, check_images\n"
        "print(RandomFeatures()(check_images((3, 48, 80))).features.double().sum().item())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = RandomFeatures()(check_images((3, 48, 80))).features.double().sum().item()
    assert float(found.stdout) == pytest.approx(here, abs=1e-3)


def test_random_features_take_any_size_and_grey_like_colour():
    extractor = RandomFeatures()
    grey = check_images((1, 100, 70))
    assert torch.equal(extractor(grey).features, extractor(grey.repeat(3, axis=1)).features)
    with pytest.raises(UnavailableError, match="2 channels"):
        extractor(grey.repeat(2, axis=1))


def test_a_wrong_checksum_is_refused(monkeypatch):
    monkeypatch.setattr(RandomFeatures, "_CHECKSUMS", {0: 1.0})
    with pytest.raises(UnavailableError, match="check image 0"):
        RandomFeatures().self_check()


class Constant(FeatureExtractor):
    name, version, batch_size, rule, dimensions = "constant", "1", 4, "none", 3

    def _extract(self, images):
        return self.value.expand(len(images), -1), None


@pytest.mark.parametrize(
    ("value", "message"),
    [(torch.ones(1, 3), "same numbers"), (torch.full((1, 3), torch.nan), "not finite"), (torch.ones(1, 2), "promised")],
)
def test_self_check_finds_broken_extractors(value, message):
    extractor = Constant()
    extractor.value = value
    with pytest.raises(UnavailableError, match=message):
        extractor.self_check()


# ---- domain


def test_domain_features_learn_the_classes_and_say_how_well(fitted):
    assert fitted.dimensions == domain.NETWORKS * domain.WIDTH <= 64
    assert fitted.details["held_out_accuracy"] > 0.9
    assert set(fitted.details["held_out_r2"]) == set(domain.FAULTS)
    images, labels, _ = textures(20, seed=5)
    logits = fitted(images).logits
    assert logits.exp().sum(dim=1).numpy() == pytest.approx(1, abs=1e-5)
    assert (logits.argmax(dim=1).numpy() == labels).mean() > 0.9


def test_domain_features_are_of_unit_scale_on_fresh_images(fitted):
    features = fitted(textures(60, seed=7)[0]).features
    assert features.mean(dim=0).abs().max() < 1
    assert 0.4 < features.std(dim=0).median() < 2


def test_domain_features_are_deterministic(monkeypatch):
    monkeypatch.setattr(domain, "STEPS", 3)
    one, four, other = (
        DomainFeatures.fit(*textures(), num_classes=2, seed=seed, threads=threads)
        for seed, threads in ((0, 1), (0, 4), (1, 1))
    )
    assert one.backend == four.backend != other.backend


def test_domain_features_leave_the_global_state_alone(monkeypatch):
    monkeypatch.setattr(domain, "STEPS", 2)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    DomainFeatures.fit(*textures(), num_classes=2, seed=0, threads=1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_domain_features_survive_saving(fitted, tmp_path):
    path = tmp_path / "not" / "there" / "domain.safetensors"
    fitted.save(path)
    loaded = DomainFeatures.load(path)
    images = textures(5)[0]
    assert torch.equal(loaded(images).features, fitted(images).features)
    assert loaded.backend == fitted.backend
    assert loaded.details == fitted.details
    assert loaded.rule == fitted.rule
    assert [file.name for file in path.parent.iterdir()] == ["domain.safetensors"]


def test_a_damaged_file_is_refused(fitted, tmp_path):
    path = tmp_path / "domain.safetensors"
    fitted.save(path)
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"no tensors", b""):
        path.write_bytes(broken)
        with pytest.raises(UnavailableError, match="can't be read"):
            DomainFeatures.load(path)
    with pytest.raises(UnavailableError, match="can't be read"):
        DomainFeatures.load(tmp_path / "absent")


def test_folds_part_subjects_and_share_out_classes():
    _, labels, owners = textures(20, classes=2)
    folds = domain._folds(labels, owners, 0)
    for owner in np.unique(owners):
        assert len(set(folds[owners == owner])) == 1
    counts = np.array([np.bincount(folds[labels == label], minlength=4) for label in (0, 1)])
    assert counts.min() >= 8
    assert counts.max() <= 12


def test_one_class_has_no_logits_and_odd_shapes_work(monkeypatch):
    monkeypatch.setattr(domain, "STEPS", 2)
    images, _, owners = textures(5, shape=(20, 90))
    colour = images.repeat(2, axis=1)
    extractor = DomainFeatures.fit(colour, np.zeros(len(images), int), owners, num_classes=1, seed=0)
    assert extractor(colour).logits is None
    assert extractor.details["held_out_accuracy"] is None
    assert extractor.details["size"] == [14, 64]
    extractor.self_check()
    with pytest.raises(ValueError, match="fitted on 2"):
        extractor(images)


def test_unfit_training_data_are_refused():
    images, labels, owners = textures(2)
    with pytest.raises(InputError, match="two or more subjects"):
        DomainFeatures.fit(images[:4], labels[:4], owners[:4], num_classes=2, seed=0)
    with pytest.raises(InputError, match="don't match"):
        DomainFeatures.fit(images, labels[1:], owners, num_classes=2, seed=0)


@pytest.mark.slow
def test_domain_features_tell_the_phantoms_scanners_apart(tmp_path):
    """About a minute: 400 subjects, of whom 240 train; each network's accuracy is on the quarter it has not seen."""
    phantom = pytest.importorskip("bench.data.phantom")
    data = phantom.ScannerPhantom(phantom.ScannerPhantom.Options()).prepare(tmp_path)
    chosen = np.isin(data.subjects, np.unique(data.subjects)[:240])
    extractor = DomainFeatures.fit(
        data.bytes(np.flatnonzero(chosen)), data.labels[chosen], data.subjects[chosen], num_classes=4, seed=0
    )
    assert extractor.details["held_out_accuracy"] > 0.8
    rest = np.flatnonzero(~chosen)
    guessed = extractor(data.bytes(rest)).logits.argmax(dim=1).numpy()
    truth = data.labels[rest]
    assert np.mean([(guessed[truth == label] == label).mean() for label in range(4)]) > 0.87
