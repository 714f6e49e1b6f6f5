"""Inception features: finding and checking the weights, and the same numbers as torch-fidelity."""

import hashlib
import importlib.util
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity import calculate_metrics, feature_extractor_inceptionv3

from bench.errors import UnavailableError
from bench.metrics import networks
from bench.metrics import weights as origin
from bench.metrics.frechet import frechet_distance
from bench.metrics.inception import InceptionFeatures, _Convolution, weights_at_hand
from bench.metrics.inception_score import inception_score
from bench.metrics.kernel import kernel_distance_subsets
from bench.metrics.manifold import precision_recall
from bench.metrics.weights import Origin, find_weights

_spec = importlib.util.spec_from_file_location("random_weights", Path(__file__).with_name("random_weights.py"))
random_weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(random_weights)
VARIABLE = "BENCH_INCEPTION_WEIGHTS"


def images(n, seed=0, side=32):
    rng = np.random.default_rng(seed)
    smooth = rng.normal(size=(n, 1, 4, 4)).repeat(side // 4, axis=2).repeat(side // 4, axis=3)
    return np.clip(128 + 60 * smooth + rng.normal(0, 10, (n, 1, side, side)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return random_weights.write_inception_weights(tmp_path_factory.mktemp("inception") / "weights.pth")


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


def test_one_pass_on_packed_weights_gives_the_bits_of_two(weights, extractor):
    """By oneDNN, four images at a time, and by torch's own operators, which are taken where gradients may be recorded."""
    batch = torch.from_numpy(images(16))
    features = extractor(batch).features
    convolutions = [m for m in extractor._runner._trunk.modules() if type(m).__name__ == "_Convolution"]
    assert len(convolutions) == 94
    if torch.backends.mkldnn.is_available():
        assert all(set(one._packed) == {torch.float32} and one._packed[torch.float32] for one in convolutions)
    with torch.enable_grad():
        plain = extractor._runner(extractor._prepare(batch))[0]
    assert torch.equal(features, plain)


def test_packed_weights_follow_those_that_are_loaded():
    """In place, by another tensor, and into the convolution alone: never the old ones."""
    torch.manual_seed(0)
    first, second = (torch.nn.Conv2d(3, 8, 3).requires_grad_(False) for _ in range(2))
    one, x = _Convolution(first), torch.randn(2, 3, 9, 9)

    def expected():
        return torch.relu(one.convolution(x))

    with torch.inference_mode():
        before = one(x)
        torch.testing.assert_close(before, expected())
        one.load_state_dict(_Convolution(second).state_dict())
        torch.testing.assert_close(one(x), expected())
        assert not torch.allclose(one(x), before)
        one.convolution.load_state_dict({"weight": second.weight / 2, "bias": second.bias + 1})
        torch.testing.assert_close(one(x), expected())
    one.convolution.weight = torch.nn.Parameter(second.weight + 1, requires_grad=False)
    with torch.inference_mode():
        torch.testing.assert_close(one(x), expected())


def test_details_name_the_weights(weights, extractor):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
    assert extractor.details["weights"] == f"custom sha256:{digest}"
    assert digest in extractor.backend
    assert extractor.doubt == f"weights not the official ones (sha256 {digest})"
    assert extractor.has_logits
    extractor.self_check()


def test_the_environment_names_a_file(weights, monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(weights))
    assert find_weights("inception") == weights
    monkeypatch.setenv(VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(UnavailableError, match=f"{VARIABLE}: there is no file"):
        find_weights("inception")
    assert find_weights("inception", weights) == weights
    assert origin.variable("clip-vit-b-32") == "BENCH_CLIP_VIT_B_32_WEIGHTS"


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


@pytest.mark.parametrize(("value", "message"), [(0.0, "the same numbers"), (torch.nan, "not finite")])
def test_weights_that_compute_nothing_are_refused(weights, tmp_path, monkeypatch, value, message):
    """Of the right names and shapes: the last block's in one case, the classifier's in the other."""
    state = torch.load(weights, weights_only=True)
    for name in state:
        if name.startswith("fc." if value else "Mixed_7c") and name.endswith("weight"):
            state[name] = torch.full_like(state[name], value)
    torch.save(state, tmp_path / "weights.pth")
    monkeypatch.setattr(InceptionFeatures, "batch_size", 2)
    with pytest.raises(UnavailableError, match=message):
        InceptionFeatures(weights=tmp_path / "weights.pth").self_check()


@pytest.fixture
def nothing_cached(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_torchs_cache_is_where_torch_has_it(nothing_cached, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    assert not weights_at_hand()
    assert str(origin.cache_file("inception").parent) == str(Path(torch.hub.get_dir()) / "checkpoints")


def test_without_network_one_sentence_says_what_to_do(nothing_cached, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(origin.urllib.request, "urlopen", refuse)
    with pytest.raises(UnavailableError, match=rf"no route to host.*{VARIABLE}"):
        InceptionFeatures()


def test_a_silent_network_is_given_up(nothing_cached, monkeypatch):
    monkeypatch.setattr(origin, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(origin.urllib.request, "urlopen", lambda *_, **__: time.sleep(1))
    start = time.perf_counter()
    with pytest.raises(UnavailableError, match="no answer"):
        find_weights("inception")
    assert time.perf_counter() - start < 0.9


@pytest.mark.parametrize("right", [True, False])
def test_a_download_is_checked_before_it_is_kept(nothing_cached, monkeypatch, tmp_path, right):
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    prefix = hashlib.sha256(b"weights").hexdigest()[:8] if right else "00000000"
    monkeypatch.setitem(origin.ORIGINS, "inception", Origin(f"https://example.org/w-{prefix}.pth", prefix))
    monkeypatch.setattr(origin.urllib.request, "urlopen", lambda *_, **__: source.open("rb"))
    if right:
        assert find_weights("inception").read_bytes() == b"weights"
        find_weights("inception").write_bytes(b"rotten")
        with pytest.raises(UnavailableError, match="cache are damaged"):
            find_weights("inception")
    else:
        with pytest.raises(UnavailableError, match="wrong hash"):
            find_weights("inception")
    assert [file.suffix for file in nothing_cached.iterdir()] == ([".pth"] if right else [])


def test_addresses_and_hashes_are_torch_fidelitys():
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS
    from torchvision.models import VGG16_Weights

    found = origin.ORIGINS["inception"]
    assert found.url == feature_extractor_inceptionv3.URL_INCEPTION_V3
    assert found.url.endswith(f"-{found.digest}.pth")
    assert origin.ORIGINS["vgg16"].url == VGG16_Weights.IMAGENET1K_V1.url
    for name, url in MODEL_URLS.items():
        found = origin.ORIGINS[name]
        assert (found.url, found.digest) == (url, MODEL_METADATA[name]["hash"])
        assert found.file_name == f"{name}-{found.digest}.pt"


# ---- faster


@pytest.fixture
def few(monkeypatch):
    """Smaller batches: these tests are about what is said, not about speed."""
    monkeypatch.setattr(InceptionFeatures, "batch_size", 2)
    monkeypatch.setattr(networks, "CHECKED", 4)


def test_bfloat16_says_how_far_off_it_is(weights, extractor, few):
    lowered = InceptionFeatures(weights=weights, precision="bfloat16")
    lowered.self_check()
    assert extractor.backend.endswith("-float32-eager")
    assert lowered.backend.endswith("-bfloat16-eager")
    assert 0 < lowered.details["deviation_from_float32"] < 0.05
    assert lowered.details["deviation_over_spread"] > lowered.details["deviation_from_float32"]
    batch = images(2)
    expected = extractor(batch).features
    assert 0 < ((lowered(batch).features - expected).norm() / expected.norm()).item() < 0.05
    assert "deviation_from_float32" not in extractor.details


def test_a_backend_that_computes_something_else_is_refused(weights, few, monkeypatch):
    lowered = InceptionFeatures(weights=weights, precision="bfloat16")
    run = lowered._runner._run
    monkeypatch.setattr(lowered._runner, "_run", lambda x: (run(x)[0] * 1.2, None))
    with pytest.raises(UnavailableError, match=r"bfloat16-eager gives other features than plain float32"):
        lowered.self_check()


def test_without_a_compiler_one_line_says_so(weights, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UnavailableError, match=r"there is no C\+\+ compiler.*leave `compiled` out"):
        InceptionFeatures(weights=weights, compiled=True)


def small_trunk():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )

    class Trunk(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            return self.layers(x), None

    return Trunk().eval().requires_grad_(False)


@pytest.mark.slow
@pytest.mark.skipif(bool(networks.no_compiler(torch.device("cpu"))), reason="no C++ compiler")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_trunk_gives_the_same_numbers(precision):
    runner = networks.Runner(
        small_trunk(), name="small", device=torch.device("cpu"), precision=precision, compiled=True
    )
    x = torch.randn(16, 3, 20, 20)
    with torch.inference_mode():
        found, expected = runner(x)[0].float(), runner(x, plain=True)[0]
    assert runner.backend == f"{precision}-compiled"
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[precision]
    assert torch.allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_what_a_compiler_says_becomes_one_line(monkeypatch):
    def fail(*_):
        raise RuntimeError("CppCompileError: no header\nand a page of output")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    monkeypatch.setattr(networks, "no_compiler", lambda _: "")
    runner = networks.Runner(small_trunk(), name="small", device=torch.device("cpu"), compiled=True)
    with pytest.raises(UnavailableError, match=r"'small' can't be compiled here \(CppCompileError: no header\)"):
        runner(torch.zeros(1, 3, 20, 20))


def test_images_may_lie_on_a_device(extractor, few):
    batch = images(2)
    assert torch.equal(extractor(torch.from_numpy(batch)).features, extractor(batch).features)


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
