"""How a suite or `bench evaluate` says what features are computed with, and that ids follow."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bench.errors import InputError
from bench.extractors import build_extractor, state_of
from bench.plan import extractor_states
from bench.score import Request, score
from bench.suite import EvaluationSpec, Suite, load_suite, read_extractors

BASE = """
name: s
data: {source: scanner_phantom}
generators: [vae]
evaluation:
"""


def spec(**values):
    return EvaluationSpec.model_validate(values)


def refused(tmp_path, text):
    path = tmp_path / "suite.yaml"
    path.write_text(BASE + text)
    with pytest.raises(InputError) as error:
        load_suite(path)
    return str(error.value)


def test_mistakes_are_told_with_their_line(tmp_path):
    own = "  features: [random, own]\n  extractors:\n    own: "
    for text, message in (
        ("  features: [own]\n", "unknown feature 'own'"),
        ("  extractors: {incepton: {compiled: true}}\n", "unknown features 'incepton'; did you mean 'inception'?"),
        ("  extractors: {random: {compiled: true}}\n", "'random' features have no options"),
        ("  extractors: {inception: {file: a.pt, size: 64}}\n", "give a network of your own another name"),
        ("  extractors: {inception: {size: 64}}\n", "size is for a network of your own"),
        ("  extractors: {inception: {precison: bfloat16}}\n", "unknown key 'precison'; did you mean 'precision'?"),
        (own + "{file: a.pt}\n", "a file needs size"),
        (own + "{file: a.pt, size: [64, 4]}\n", "greater than or equal to 8"),
        (own + "{file: a.pt, size: 64, mean: [0.5]}\n", "mean needs 3 numbers, one per channel"),
        (own + "{file: a.pt, size: 64, std: [1, 0, 1]}\n", "greater than 0"),
        (own + "{file: a.pt, size: 64, compiled: true}\n", "compiled is for the known networks"),
        (own + "{file: a.onnx, size: 64, precision: bfloat16}\n", "own precision"),
        (own + "{file: a.pt, size: 64, weights: b.pt}\n", "holds its own weights"),
        ("  inception_weights: a\n  extractors: {inception: {weights: b}}\n", "give one of them"),
    ):
        found = refused(tmp_path, text)
        assert message in found
        assert "suite.yaml:" in found
        assert "\n" not in found


def test_without_a_suite_the_same_words_are_taken():
    own = "evaluation.extractors.own={file: a.pt, size: 64}"
    found = read_extractors(["evaluation.extractors.inception.precision=bfloat16", own])
    assert found["inception"].precision == "bfloat16"
    assert found["own"].size == (64, 64)
    with pytest.raises(InputError, match=r"only evaluation\.extractors"):
        read_extractors(["evaluation.draws=3"])
    with pytest.raises(InputError, match="did you mean 'compiled'"):
        read_extractors(["evaluation.extractors.inception.compile=true"])


def test_inception_weights_are_the_extractors():
    assert spec(inception_weights="a").extractor("inception").weights == "a"
    assert spec().extractor("inception").weights is None


def suite(**evaluation):
    values = {"name": "s", "data": {"source": "scanner_phantom"}, "generators": ["vae"], "evaluation": evaluation}
    return Suite.model_validate(values)


def test_ids_follow_options_and_content_and_not_places(tmp_path):
    first, moved, other = (tmp_path / name for name in ("a.pt", "b.pt", "c.pt"))
    first.write_bytes(b"one")
    moved.write_bytes(b"one")
    other.write_bytes(b"two")

    def state(file, **options):
        how = {"file": str(file), "size": 64, **options}
        return extractor_states(suite(features=["random", "own"], extractors={"own": how}))

    assert state(first) == state(moved) != state(other)
    assert state(first) != state(first, precision="bfloat16")
    assert state(first) != state(first, mean=[0.5, 0.5, 0.5])
    assert state(first) != state(tmp_path / "absent.pt")
    assert extractor_states(suite()) is None

    def inception(**how):
        return extractor_states(suite(features=["inception"], extractors={"inception": {"weights": str(first), **how}}))

    states = [inception(), inception(compiled=True), inception(precision="bfloat16")]
    assert all(states.count(one) == 1 for one in states)
    assert inception() == extractor_states(suite(features=["inception"], inception_weights=str(moved)))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_network_file_is_built_as_described(tmp_path):
    path = tmp_path / "net.pt"
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    torch.jit.script(net).save(str(path))
    how = spec(features=["own"], extractors={"own": {"file": str(path), "size": [16, 24]}})
    extractor = build_extractor("own", how, torch.device("cpu"))
    extractor.self_check()
    state = state_of(extractor)
    assert "resized to 16x24" in state["rule"]
    assert state["dimensions"] == 5
    assert extractor(np.zeros((2, 1, 30, 30), np.uint8)).features.shape == (2, 5)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_images_from_anywhere_are_scored_on_a_network_file(tmp_path):
    """What `bench evaluate` does with a TorchScript file; one that can't be had is named, and the rest goes on."""
    path = tmp_path / "net.pt"
    torch.jit.script(torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU(), torch.nn.AvgPool2d(8))).save(
        str(path)
    )
    rng = np.random.default_rng(0)
    for side in ("real", "generated"):
        np.save(tmp_path / f"{side}.npy", rng.integers(0, 256, (20, 24, 24), dtype=np.uint8))
    own = f"evaluation.extractors.own={{file: {path}, size: 24}}"
    absent = "evaluation.extractors.absent={file: absent.pt, size: 24}"
    request = Request(
        real=tmp_path / "real.npy", generated=tmp_path / "generated.npy", features=("own", "absent"),
        measures=("frechet_distance",), extractors=read_extractors([own, absent]), bootstrap=0,
    )  # fmt: skip
    told, lines = {}, []
    rows = score(request, lines.append, torch.device("cpu"), told=told)
    assert {row["features"] for row in rows} == {"own"}
    assert list(told) == ["own"]
    assert "first output of the TorchScript network net.pt" in told["own"]["rule"]
    assert "sha256:" in told["own"]["backend"]
    assert any("absent.pt can't be read" in line for line in lines)


def test_a_name_must_be_usable():
    with pytest.raises(ValidationError, match="can't be a name"):
        spec(extractors={"a/b": {"file": "a.pt", "size": 64}})
