"""torch-fidelity's other networks: the same numbers as its own extractors, from small networks of random weights."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from bench.errors import UnavailableError
from bench.metrics import fidelity
from bench.metrics.fidelity import DINOv2Giant, VGG16Features, _CLIPFeatures, _DINOv2Features
from bench.metrics.vit import VisionTransformer
from bench.metrics.weights import ORIGINS
from bench.registry import FEATURES


def images(n=3, seed=0, channels=1, side=40):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, channels, 5, 5), dtype=np.uint8)
    return coarse.repeat(side // 5, axis=2).repeat(side // 5, axis=3)


def close(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def randomise(module, seed=0):
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=rng))
    return module.eval()


# ---- VGG-16


def small_vgg16(weights=None):
    """Of the real network's form: seven layers behind the features, 4,096 numbers after the second linear one."""
    network = nn.Module.__new__(torchvision.models.VGG)
    nn.Module.__init__(network)
    network.features = nn.Sequential(nn.Conv2d(3, 8, 7, stride=8), nn.ReLU())
    network.avgpool = nn.AdaptiveAvgPool2d(7)
    linear = [nn.Linear(8 * 49, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 4096), nn.ReLU(), nn.Dropout()]
    network.classifier = nn.Sequential(*linear, nn.Linear(4096, 3))
    return network


def test_vgg16_equals_torch_fidelity(monkeypatch, tmp_path):
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    monkeypatch.setattr(torchvision.models, "vgg16", small_vgg16)
    path = tmp_path / "vgg16.pth"
    torch.save(randomise(small_vgg16()).state_dict(), path)
    extractor = VGG16Features(weights=path)
    extractor.self_check()
    theirs = FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path=str(path))
    for channels in (1, 3):
        batch = images(channels=channels)
        expected = theirs(torch.from_numpy(batch).expand(-1, 3, -1, -1))[0]
        found = extractor(batch)
        assert found.features.shape == (3, 4096)
        assert found.logits is None
        assert found.features.min() == 0
        assert close(found.features, expected) < 1e-5
    with pytest.raises(UnavailableError, match="2 channels"):
        extractor(images(channels=2))


def test_vgg16_refuses_other_weights(tmp_path):
    path = tmp_path / "vgg16.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(UnavailableError, match=r"holds another network's weights.*BENCH_VGG16_WEIGHTS"):
        VGG16Features(weights=path)


# ---- CLIP


class SmallCLIP(_CLIPFeatures):
    name, dimensions, _side = "clip-vit-b-32", 16, 64


def clip_state(dimensions=16, side=64):
    from torch_fidelity.feature_extractor_clip import CLIPVisual

    tower = randomise(CLIPVisual(dimensions, side, vision_layers=2, vision_width=64, vision_patch_size=16))
    text = {
        "text_projection": torch.zeros(8, dimensions),
        "logit_scale": torch.zeros(()),
        "context_length": torch.zeros(()),
    }
    return {**tower.state_dict(), **text, "transformer.resblocks.0.ln_1.weight": torch.zeros(4)}


def as_archive(state, path):
    """Write tensors as CLIP's files are: a TorchScript archive."""

    class Holder(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Holder()
    for name, value in state.items():
        *parents, last = name.split(".")
        node = root
        for part in parents:
            if part not in dict(node.named_children()):
                node.add_module(part, Holder())
            node = getattr(node, part)
        node.register_buffer(last, value)
    torch.jit.script(root).save(str(path))
    return path


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_clip_equals_torch_fidelity(tmp_path, monkeypatch):
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP

    archive = as_archive(clip_state(), tmp_path / "clip.pt")
    plain = tmp_path / "clip.pth"
    torch.save(clip_state(), plain)
    theirs = FeatureExtractorCLIP("clip-vit-b-32", ["clip"], feature_extractor_weights_path=str(archive))
    batch = images(channels=3)
    expected = theirs(torch.from_numpy(batch))[0]
    published = dataclasses.replace(ORIGINS["clip-vit-b-32"], digest=hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setitem(ORIGINS, "clip-vit-b-32", published)
    for path, kind in ((archive, "official"), (plain, "custom sha256:")):
        extractor = SmallCLIP(weights=path)
        extractor.self_check()
        assert close(extractor(batch).features, expected) < 1e-5
        assert extractor.details["weights"].startswith(kind)


class Hostile(nn.Module):
    """Writes a file as soon as it is read."""

    def __init__(self, path):
        super().__init__()
        self.path: str = path
        self.kept = torch.zeros(1, dtype=torch.uint8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        written = torch.from_file(state[0], shared=True, size=16, dtype=torch.uint8)
        self.kept = written.fill_(65)
        self.path = state[0]
        self.training = state[1]


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_code_within_an_archive_of_weights_is_not_run(tmp_path):
    path, target = tmp_path / "clip.pt", tmp_path / "written"
    torch.jit.script(Hostile(str(target))).save(str(path))
    torch.jit.load(path)
    assert target.exists(), "the attack works where it is let"
    target.unlink()
    with pytest.raises(UnavailableError, match="may hold code, and not the published one"):
        SmallCLIP(weights=path)
    assert not target.exists()


def test_clip_refuses_what_is_not_its_size_or_not_clip(tmp_path):
    path = tmp_path / "clip.pth"
    torch.save(clip_state(dimensions=24), path)
    with pytest.raises(UnavailableError, match="24 numbers from 64 pixels, not 16 from 64"):
        SmallCLIP(weights=path)
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(UnavailableError, match="another network"):
        SmallCLIP(weights=path)
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(UnavailableError, match="damaged"):
        SmallCLIP(weights=path)


# ---- DINOv2


class SmallDINOv2(_DINOv2Features):
    name, dimensions, _depth, _heads = "dinov2-vit-s-14", 24, 2, 3


def small_vit(gated=False):
    return randomise(VisionTransformer(24, depth=2, heads=3, gated=gated))


def test_dinov2_equals_torch_fidelity(monkeypatch, tmp_path):
    """torch-fidelity's resizing and normalisation around the same transformer, which it would have fetched by torch.hub."""
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    path = tmp_path / "vit.pth"
    torch.save(small_vit().state_dict(), path)
    monkeypatch.setattr(torch.hub, "load", lambda *_, **__: small_vit())
    monkeypatch.setenv("XFORMERS_DISABLED", "1")  # torch-fidelity sets it
    theirs = FeatureExtractorDinoV2("dinov2-vit-s-14", ["dinov2"])
    extractor = SmallDINOv2(weights=path)
    extractor.self_check()
    batch = images()
    assert close(extractor(batch).features, theirs(torch.from_numpy(batch).expand(-1, 3, -1, -1))[0]) < 1e-5


@pytest.mark.parametrize("gated", [False, True])
def test_the_transformer_equals_its_authors(gated):
    theirs = pytest.importorskip("dinov2.models.vision_transformer", reason="the package dinov2 is not installed")
    from dinov2.layers import MemEffAttention, NestedTensorBlock

    def block(**options):
        return NestedTensorBlock(**options, attn_class=MemEffAttention)

    network = theirs.DinoVisionTransformer(
        img_size=518, patch_size=14, embed_dim=24, depth=2, num_heads=3, init_values=1.0, block_chunks=0,
        ffn_layer="swiglufused" if gated else "mlp", block_fn=block,
    )  # fmt: skip
    mine = small_vit(gated)
    network.load_state_dict(mine.state_dict())
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert close(mine(x), network.eval()(x)) < 1e-5


def test_a_block_equals_torchs_own():
    """With layer scales of 1, a block is the pre-norm transformer layer of torch."""
    mine = small_vit().blocks[0]
    nn.init.ones_(mine.ls1.gamma)
    nn.init.ones_(mine.ls2.gamma)
    theirs = nn.TransformerEncoderLayer(
        24, 3, 96, activation="gelu", batch_first=True, norm_first=True, layer_norm_eps=1e-6
    )
    names = {
        "self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.", "norm1.": "norm1.", "norm2.": "norm2.",
    }  # fmt: skip
    state = mine.state_dict()
    theirs.load_state_dict({a + kind: state[b + kind] for a, b in names.items() for kind in ("weight", "bias")})
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert close(mine(x), theirs.eval()(x)) < 1e-5


def test_dinov2_refuses_other_weights(tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(VisionTransformer(36, depth=2, heads=3).state_dict(), path)
    with pytest.raises(UnavailableError, match=r"holds another network's weights: size mismatch"):
        SmallDINOv2(weights=path)


def test_the_largest_has_the_published_number_of_weights():
    with torch.device("meta"):
        network = VisionTransformer(1536, depth=DINOv2Giant._depth, heads=DINOv2Giant._heads, gated=DINOv2Giant._gated)
        small = VisionTransformer(384, depth=12, heads=6)
    counts = [sum(p.numel() for name, p in n.named_parameters() if name != "mask_token") for n in (network, small)]
    assert [round(count / 1e6) for count in counts] == [1136, 22]  # as their authors print: 1,100 M and 21 M


# ---- all of them


def test_every_network_of_torch_fidelity_is_offered():
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    assert set(FEATURE_EXTRACTORS_REGISTRY) - {"inception-v3-compat"} <= set(FEATURES.names())


@pytest.mark.parametrize("name", sorted(ORIGINS))
def test_without_weights_one_line_says_what_to_do(name, monkeypatch, tmp_path):
    from bench.metrics import weights

    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(weights.variable(name), raising=False)
    monkeypatch.setattr(weights.urllib.request, "urlopen", refuse)
    found = FEATURES.get(name)
    assert found.name == name
    assert found.rule
    assert FEATURES.describe(name).attributes["network"] is True
    with pytest.raises(UnavailableError, match=f"no route to host.*{weights.variable(name)}"):
        found()
    assert not list(Path(tmp_path).rglob("*.part"))


def test_known_hashes_make_weights_official():
    from bench.metrics.weights import described, doubt

    assert described("vgg16", "397923af" + 56 * "0") == "official"
    assert described("dinov2-vit-s-14", 64 * "1").startswith("custom")  # their authors tell no hash
    assert doubt("vgg16", "397923af" + 56 * "0") == ""
    assert doubt("vgg16", 64 * "0") == f"weights not the official ones (sha256 {16 * '0'})"
    assert doubt("dinov2-vit-s-14", 64 * "1").startswith("weights unverified: ")
    assert fidelity._DINOv2Features.version == "1"
