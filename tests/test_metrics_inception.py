"""Inception features: finding and checking the weights, and the same numbers as torch-fidelity."""

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch_fidelity import calculate_metrics, feature_extractor_inceptionv3

from bench.errors import UnavailableError
from bench.metrics import inception
from bench.metrics.frechet import frechet_distance
from bench.metrics.inception import InceptionFeatures, find_weights
from bench.metrics.inception_score import inception_score
from bench.metrics.kernel import kernel_distance_subsets
from bench.metrics.manifold import precision_recall


def images(n, seed=0, side=32):
    rng = np.random.default_rng(seed)
    smooth = rng.normal(size=(n, 1, 4, 4)).repeat(side // 4, axis=2).repeat(side // 4, axis=3)
    return np.clip(128 + 60 * smooth + rng.normal(0, 10, (n, 1, side, side)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights: torch-fidelity's own network, built without loading anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        network = feature_extractor_inceptionv3.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    rng = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # weights of this size keep signals alive through all layers
            fan_in = module.weight[0].numel()
            module.weight.copy_(torch.randn(module.weight.shape, generator=rng) * (2 / fan_in) ** 0.5)
        elif isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=rng))
            module.running_var.copy_(0.8 + 0.4 * torch.rand(module.running_var.shape, generator=rng))
        elif isinstance(module, nn.Linear):
            module.weight.copy_(torch.randn(module.weight.shape, generator=rng))
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def extractor(weights):
    return InceptionFeatures(weights=weights)


def test_features_equal_torch_fidelity(weights, extractor):
    """Folding batch norms and another memory layout change the last bits only."""
    theirs = feature_extractor_inceptionv3.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )
    batch = images(3)
    features, logits = theirs(torch.from_numpy(batch).expand(-1, 3, -1, -1))
    found = extractor(batch)
    assert ((found.features - features).norm() / features.norm()).item() < 1e-5
    assert ((found.logits - logits).norm() / logits.norm()).item() < 1e-5


def test_details_name_the_weights(weights, extractor):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
    assert extractor.details["weights"] == f"custom sha256:{digest}"
    assert digest in extractor.backend
    assert extractor.has_logits
    extractor.self_check()


def test_the_environment_names_a_file(weights, monkeypatch, tmp_path):
    monkeypatch.setenv(inception.VARIABLE, str(weights))
    assert find_weights() == weights
    monkeypatch.setenv(inception.VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(UnavailableError, match=f"{inception.VARIABLE}: there is no file"):
        find_weights()
    assert find_weights(weights) == weights


class Danger:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_unfit_files_are_refused(weights, tmp_path):
    path, mark = tmp_path / "weights.pth", tmp_path / "executed"
    whole = weights.read_bytes()
    for content, message in ((whole[: len(whole) // 2], "damaged"), (b"", "damaged"), (b"<html>", "damaged")):
        path.write_bytes(content)
        with pytest.raises(UnavailableError, match=message):
            InceptionFeatures(weights=path)
    torch.save({"weight": Danger(mark)}, path)
    with pytest.raises(UnavailableError, match="damaged or holds no weights"):
        InceptionFeatures(weights=path)
    assert not mark.exists()
    torch.save([torch.ones(3)], path)
    with pytest.raises(UnavailableError, match="something else"):
        InceptionFeatures(weights=path)
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(UnavailableError, match="another network"):
        InceptionFeatures(weights=path)


@pytest.fixture
def nothing_cached(monkeypatch, tmp_path):
    monkeypatch.delenv(inception.VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


def test_without_network_one_sentence_says_what_to_do(nothing_cached, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(inception.urllib.request, "urlopen", refuse)
    with pytest.raises(UnavailableError, match=rf"no route to host.*{inception.VARIABLE}"):
        InceptionFeatures()


def test_a_silent_network_is_given_up(nothing_cached, monkeypatch):
    monkeypatch.setattr(inception, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(inception.urllib.request, "urlopen", lambda *_, **__: time.sleep(1))
    start = time.perf_counter()
    with pytest.raises(UnavailableError, match="no answer"):
        find_weights()
    assert time.perf_counter() - start < 0.9


@pytest.mark.parametrize("right", [True, False])
def test_a_download_is_checked_before_it_is_kept(nothing_cached, monkeypatch, tmp_path, right):
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    prefix = hashlib.sha256(b"weights").hexdigest()[:8] if right else "00000000"
    monkeypatch.setattr(inception, "_official", lambda: (f"https://example.org/w-{prefix}.pth", prefix))
    monkeypatch.setattr(inception.urllib.request, "urlopen", lambda *_, **__: source.open("rb"))
    if right:
        assert find_weights().read_bytes() == b"weights"
        find_weights().write_bytes(b"rotten")
        with pytest.raises(UnavailableError, match="cache are damaged"):
            find_weights()
    else:
        with pytest.raises(UnavailableError, match="wrong hash"):
            find_weights()
    assert [file.suffix for file in nothing_cached.iterdir()] == ([".pth"] if right else [])


class Colour(torch.utils.data.Dataset):
    def __init__(self, pixels):
        self.pixels = torch.from_numpy(pixels.repeat(3, axis=1))

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return self.pixels[index]


@pytest.mark.slow
def test_scores_equal_torch_fidelity_from_images_on(weights, extractor):
    """The same images and weights through torch-fidelity's own command: all four of its scores."""
    real, generated = images(24, 0), images(24, 1) // 2 + 64
    theirs = calculate_metrics(
        input1=Colour(generated),
        input2=Colour(real),
        feature_extractor_weights_path=str(weights),
        feature_extractor="inception-v3-compat",  # its default for precision and recall is VGG16
        feature_layer_prc="2048",
        fid=True,
        kid=True,
        isc=True,
        prc=True,
        isc_splits=2,
        kid_subsets=5,
        kid_subset_size=20,
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
        batch_size=12,
    )
    first, second = extractor(real), extractor(generated)
    sides = {"real": first.features, "generated": second.features}
    assert frechet_distance(**sides) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    kernel = kernel_distance_subsets(**sides, subset_size=20, subsets=5, rng=np.random.RandomState(2020))
    assert kernel[0] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    score = inception_score(logits=second.logits, splits=2, rng=np.random.RandomState(2020))
    assert score[0] == pytest.approx(theirs["inception_score_mean"], rel=1e-4)
    assert precision_recall(**sides) == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-4)
