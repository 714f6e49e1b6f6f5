"""`compile: true`: which networks are compiled, what is said where nothing can, and a run from the command line."""

import csv
import json
import re
import shutil

import pytest
import torch
from command_line import bench, make_images

from bench.compiled import compile_networks, networks
from bench.errors import UnavailableError
from bench.per_class import PerClass
from bench.plan import make_plan
from bench.registry import GENERATORS
from bench.store import Store
from bench.suite import load_suite, resolve

CPU = torch.device("cpu")
SUITE = """
name: compiled
data: {source: images, root: images, image_size: [16, 16], subject_pattern: "^(p[0-9]+)"}
generators:
  - {name: vae, hyperparameters: {batch_size: 8, width: 4, latent_dim: 4}}
  - {name: wgan_gp, hyperparameters: {batch_size: 8, width: 4}}
budget: {images_seen: 160}
evaluation: {draws: 2, samples_per_draw: 15, few: 10, bootstrap: 10, features: [random]}
tracking: {enabled: false}
threads: 1
"""


def build(name, classes=2):
    family = GENERATORS.get(name)
    return family((1, 16, 16), classes, family.Hyperparameters())


@pytest.mark.parametrize("name", [name for name in GENERATORS.names() if GENERATORS.get(name).family != "control"])
def test_parts_that_are_called_are_compiled_in_families_that_allow_it(name):
    model = build(name)
    found = list(networks(model))
    assert bool(found) == model.compiles
    assert not any(isinstance(part, torch.nn.ModuleList | torch.nn.ModuleDict) for part in found)


def test_gradient_penalties_are_not():
    assert not GENERATORS.get("wgan_gp").compiles, "its critic's gradient is differentiated again"


def test_the_models_of_all_classes_are():
    family = GENERATORS.get("vae")
    one = len(list(networks(build("vae"))))
    assert len(list(networks(PerClass(family, (1, 16, 16), 3, family.Hyperparameters())))) == 3 * one


def test_weights_keep_their_names(monkeypatch):
    monkeypatch.setattr("bench.compiled.no_compiler", lambda device: "")
    model = build("vae")
    before = list(model.state_dict())
    assert compile_networks(model, CPU)
    assert list(model.state_dict()) == before


def test_without_a_compiler_it_is_said(monkeypatch):
    monkeypatch.setattr("bench.compiled.no_compiler", lambda device: "there is no C++ compiler")
    with pytest.raises(UnavailableError, match="no C\\+\\+ compiler; install it or leave `compile` out"):
        compile_networks(build("vae"), CPU)


def test_compiled_trainings_have_ids_of_their_own(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE)

    def ids(*overrides):
        suite = resolve(load_suite(path, overrides), path)
        known = {"fingerprint": "0" * 16, "split_hash": "0", "simulated": False, "fresh": False, "device": "cpu"}
        return {row.name: row.train_id for row in make_plan(suite, Store(tmp_path, suite.name), **known).trainings}

    assert ids() == ids("compile=false")
    assert not set(ids().values()) & set(ids("compile=true").values())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_suite_from_the_command_line(tmp_path):
    make_images(tmp_path / "images", 80)
    (tmp_path / "suite.yaml").write_text(SUITE + "compile: true\n")
    checked = {}
    for compiled in ("true", "false"):
        told = bench("check", "suite.yaml", "--set", f"compile={compiled}", cwd=tmp_path, check=0).stdout
        checked[compiled] = float(re.search(r"vae seed 0 .* about (\d+) s of training", told)[1])
    assert checked["true"] > checked["false"] + 2, f"compiling takes its time in each job: {checked}"
    bench(
        "run", "suite.yaml", "--out", "results", cwd=tmp_path, check=0, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "made")
    )
    said = {}
    for path in (tmp_path / "results" / "compiled" / "runs").glob("*/result.json"):
        record = json.loads(path.read_text())
        said[record["generator"]] = (record["status"], (record.get("policy") or {}).get("compiled"))
    assert said["vae"] == ("finished", True)
    assert said["wgan_gp"] == ("finished", None)
    assert list((tmp_path / "made").rglob("*.so")), "something was compiled"
    with (tmp_path / "results" / "compiled" / "results.csv").open(newline="") as file:
        assert {row["generator"] for row in csv.DictReader(file)} >= {"vae", "wgan_gp"}
