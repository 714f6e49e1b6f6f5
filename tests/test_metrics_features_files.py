"""Features of network files, TorchScript and ONNX: what they take, what is refused, and both give the same numbers."""

import hashlib
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.errors import UnavailableError
from bench.metrics.exported import ExportedFeatures, Input

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
TAKES = Input((24, 24), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def images(n=20, seed=0, channels=1, side=40):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, channels, 5, 5), dtype=np.uint8)
    return coarse.repeat(side // 5, axis=2).repeat(side // 5, axis=3)


def network(channels=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 6, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()).eval()


@pytest.fixture
def scripted(tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.script(network()).save(str(path))
    return path


def make(file, takes=TAKES, **options):
    return ExportedFeatures(name="own", file=file, takes=takes, **options)


def test_torchscript_equals_the_network_itself(scripted):
    extractor = make(scripted)
    extractor.self_check()
    batch = images()
    x = F.interpolate(torch.from_numpy(batch) / 255, size=(24, 24), mode="bilinear", antialias=True).expand(
        -1, 3, -1, -1
    )
    mean, std = torch.tensor(TAKES.mean).view(1, 3, 1, 1), torch.tensor(TAKES.std).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = network()((x - mean) / std)
    found = extractor(batch)
    assert found.logits is None
    assert extractor.dimensions == 24
    assert torch.allclose(found.features, expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(extractor(batch[3:4]).features, found.features[3:4], rtol=1e-5, atol=1e-6)


def test_the_rule_and_the_hash_are_told(scripted):
    extractor = make(scripted)
    digest = hashlib.sha256(scripted.read_bytes()).hexdigest()[:16]
    assert extractor.rule == (
        "grey repeated to 3 channels, resized to 24x24 (bilinear, antialiased), pixels in [0, 1], mean 0.4 0.5 0.6 taken "
        "out, divided by 0.2 0.3 0.4; first output of the TorchScript network net.pt, maps averaged over their places"
    )
    assert extractor.details["file"] == f"TorchScript sha256:{digest}"
    assert digest in extractor.backend
    assert make(scripted, Input((24, 24))).backend != extractor.backend


def test_colour_becomes_grey_where_one_channel_is_taken(tmp_path):
    path = tmp_path / "grey.pt"
    torch.jit.script(network(1)).save(str(path))
    extractor = make(path, Input((24, 24), channels=1, resize="bicubic"))
    grey = images()
    expected = extractor(grey).features
    assert torch.allclose(extractor(grey.repeat(3, axis=1)).features, expected, rtol=1e-4, atol=1e-5)
    assert extractor.rule.startswith("colour made grey by luma (Rec. 601), resized to 24x24 (bicubic")
    with pytest.raises(UnavailableError, match="2 channels"):
        extractor(grey.repeat(2, axis=1))


class Several(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.avg_pool2d(x, 4), x


def test_first_output_and_maps_are_averaged(tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.script(Several()).save(str(path))
    extractor = make(path, Input((24, 24)))
    found = extractor(images(channels=3)).features
    assert found.shape == (20, 3)
    x = F.interpolate(torch.from_numpy(images(channels=3)) / 255, size=(24, 24), mode="bilinear", antialias=True)
    assert torch.allclose(found, x.mean(dim=(2, 3)), atol=1e-6)


def test_bfloat16_is_stated(scripted):
    extractor = make(scripted, precision="bfloat16")
    extractor.self_check()
    assert extractor.backend.endswith("bfloat16-eager")
    assert 0 < extractor.details["deviation_from_float32"] < 0.05


class Flat(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(0, 2, 3))


def test_unfit_files_are_refused_in_one_line(scripted, tmp_path):
    whole = scripted.read_bytes()
    path = tmp_path / "broken.pt"
    for content in (whole[: len(whole) // 2], b"", b"<html>"):
        path.write_bytes(content)
        with pytest.raises(
            UnavailableError, match=r"^features 'own': .*broken.pt is damaged or no TorchScript file[^\n]*$"
        ):
            make(path)
    torch.save(network().state_dict(), path)
    with pytest.raises(UnavailableError, match=r"files of torch\.save are not read"):
        make(path)
    with pytest.raises(UnavailableError, match=r"absent\.pt can't be read"):
        make(tmp_path / "absent.pt")
    with pytest.raises(UnavailableError, match=r"the network fails on images \[16, 1, 24, 24\]"):
        make(scripted, Input((24, 24), channels=1))
    torch.jit.script(Flat()).save(str(path))
    with pytest.raises(UnavailableError, match=r"first output is \[3\], not \[16, features\]"):
        make(path)


def write_onnx(path, batch):
    """A convolution of stride 2 and a mean over places, by hand: exporting from torch needs a further package."""
    onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(6, 3, 5, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 24, 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 6])], [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return torch.from_numpy(weight)


@pytest.mark.parametrize("batch", ["n", 1])
def test_onnx_equals_torch(tmp_path, batch):
    pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    path = tmp_path / "net.onnx"
    weight = write_onnx(path, batch)
    extractor = make(path)
    extractor.self_check()
    x = TAKES(torch.from_numpy(images()))
    expected = F.relu(F.conv2d(x, weight, stride=2)).mean(dim=(2, 3))
    assert torch.allclose(extractor(images()).features, expected, rtol=1e-4, atol=1e-5)
    assert "ONNX" in extractor.rule
    assert "-onnx-sha256:" in extractor.backend


def test_a_damaged_onnx_file_is_refused(tmp_path):
    pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    path = tmp_path / "net.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(UnavailableError, match="damaged, no ONNX file"):
        make(path)


def test_onnx_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = tmp_path / "net.onnx"
    path.write_bytes(b"")
    with pytest.raises(UnavailableError, match="pip install onnxruntime"):
        make(path)
    with pytest.raises(UnavailableError, match="own precision"):
        make(path, precision="bfloat16")
