"""The suite file: everything that can be wrong with it becomes one clear InputError."""

import json
import string
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import InputError
from bench.registry import GENERATORS
from bench.suite import find_suite, json_schema, load_suite, resolve

GOOD = """
name: tiny
data: {source: scanner_phantom, image_size: [32, 32], subjects: 20}
generators:
  - vae
  - name: cvae
    label: cvae-wide
    hyperparameters: {beta: 1e-1}
budget: {images_seen: 100}
evaluation: {draws: 3}
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "suite.yaml"
        path.write_text(text)
        return path

    return write


def test_good_suite_is_read(write):
    suite = load_suite(write(GOOD))
    assert [spec.row for spec in suite.generators] == ["vae", "cvae-wide"]
    assert suite.generators[1].hyperparameters == {"beta": 0.1}, "1e-1 is a number, not text"
    assert suite.data["image_size"] == [32, 32]
    assert suite.evaluation.draws == 3


def test_resolve_fills_in_every_hyperparameter(write):
    suite = resolve(load_suite(write(GOOD)))
    assert suite.generators[1].hyperparameters["beta"] == 0.1
    assert "batch_size" in suite.generators[0].hyperparameters


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("draws: 3", "drawz: 3"), [":10", "evaluation", "unknown key 'drawz'", "did you mean 'draws'"]),
        (("name: tiny\n", "name: tiny\nseedz: [1]\n"), [":3", "unknown key 'seedz'", "'seeds'"]),
        (("- vae", "- vea"), [":5", "unknown generator 'vea'", "did you mean 'vae'"]),
        (("draws: 3", "draws: three"), [":10", "evaluation.draws", "integer", "'three'"]),
        (("subjects: 20", "subjects: many"), [":3", "data.subjects", "'many'"]),
        (("subjects: 20", "subjectz: 20"), [":3", "unknown key 'subjectz'", "'subjects'"]),
        (("scanner_phantom", "scanner_fantom"), [":3", "unknown source", "did you mean 'scanner_phantom'"]),
        (("source: scanner_phantom, ", ""), [":3", "source is missing"]),
        (("name: tiny", "name: ../tiny"), [":2", "name", "can't be a name"]),
        (("name: tiny", "name: a/b"), [":2", "can't be a name"]),
        (("name: tiny", "name: 'tiny.'"), [":2", "can't be a name"]),
        (("label: cvae-wide", "label: floor_fresh"), [":7", "can't be a name"]),
        (("label: cvae-wide", "label: vae"), [":6", "a second row 'vae'"]),
        (("budget: {images_seen: 100}", "budget: {images_seen: 100, epochs: 2}"), [":9", "exactly one"]),
        (("budget: {images_seen: 100}", "budget: {images_seen: 0}"), ["greater than or equal to 1"]),
        (("evaluation: {draws: 3}", "evaluation: {draws: 3, features: [domian]}"), ["did you mean 'domain'"]),
        (("evaluation: {draws: 3}", "evaluation: {measures: [fid]}"), ["unknown measure 'fid'"]),
        (("evaluation: {draws: 3}", "split: {fractions: {train: 0.9, validation: 0.3, test: 0.2}}"), ["must be 1"]),
        (("evaluation: {draws: 3}", "draws: [1, 2"), ["not valid YAML"]),
        (("name: tiny\n", "name: tiny\nname: twice\n"), [":3", "duplicate key"]),
        (("name: tiny\n", ""), ["the key 'name' is missing"]),
        (("name: tiny\n", "name: tiny\nseeds: [0, 0]\n"), ["twice"]),
        (("name: tiny\n", "name: tiny\n3: x\n"), ["must be text"]),
    ],
)
def test_mistakes_are_named_with_place_and_remedy(write, change, expected):
    assert change[0] in GOOD
    with pytest.raises(InputError) as caught:
        resolve(load_suite(write(GOOD.replace(*change))))
    message = str(caught.value)
    for part in ["suite.yaml", *expected]:
        assert part in message


def test_all_errors_are_told_at_once(write):
    with pytest.raises(InputError) as caught:
        load_suite(write(GOOD.replace("draws: 3", "draws: x, few: y")))
    assert "evaluation.draws" in str(caught.value)
    assert "evaluation.few" in str(caught.value)


def test_unknown_hyperparameter_is_named_with_line(write):
    path = write(GOOD.replace("beta: 1e-1", "betta: 1"))
    with pytest.raises(InputError, match=r"suite\.yaml:8: .*unknown key 'betta'; did you mean 'beta'"):
        resolve(load_suite(path), path)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "just text", "a: &a [*a]", "{" * 2000])
def test_what_is_no_suite_is_refused(write, content):
    with pytest.raises(InputError):
        load_suite(write(content))


def test_tags_make_no_objects(write):
    suite = load_suite(write(GOOD.replace("name: tiny", "name: !!python/object/apply:os.system tiny")))
    assert suite.name == "tiny"


def test_multiplying_aliases_are_refused(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(InputError, match="too many values"):
        load_suite(write("\n".join(lines)))


def test_unreadable_files(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="can't be read"):
        load_suite(tmp_path / "binary.yaml")
    with pytest.raises(InputError, match="this is a folder"):
        load_suite(tmp_path)
    with pytest.raises(InputError, match=r"no such suite file; did you mean 'mri_scanner'"):
        load_suite(Path("mri_scaner.yaml"))


def test_shipped_suites_are_found_by_name_and_valid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mri_scanner", "smoke"):
        for path in (Path(name), Path(f"suites/{name}.yaml")):
            assert load_suite(path).name == name
    assert find_suite(Path("smoke.yaml")).name == "smoke.yaml"


@pytest.mark.parametrize(
    ("override", "expected"),
    [("evaluation.draws=7", 7), ("evaluation={draws: 9}", 9)],
)
def test_overrides(write, override, expected):
    assert load_suite(write(GOOD), [override]).evaluation.draws == expected


def test_overrides_reach_into_lists_and_replace_the_budget(write):
    suite = load_suite(write(GOOD), ["generators.1.hyperparameters.beta=2", "budget.epochs=3"])
    assert suite.generators[1].hyperparameters["beta"] == 2
    assert suite.budget.epochs == 3
    assert suite.budget.images_seen is None


@pytest.mark.parametrize("override", ["draws", "=3", "evaluation.draws=[", "generators.7.name=vae", "name.x=1"])
def test_wrong_overrides(write, override):
    with pytest.raises(InputError):
        load_suite(write(GOOD), [override])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_suites_never_escape_as_another_error(tmp_path_factory, data):
    text = list(GOOD)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at] = data.draw(st.sampled_from(string.printable + "é\u2028"))
    path = tmp_path_factory.mktemp("fuzz") / "suite.yaml"
    path.write_text("".join(text), encoding="utf-8")
    try:
        load_suite(path)
    except InputError as error:
        assert str(error).strip()


def test_schema_names_every_source_and_generator():
    schema = json_schema()
    sources = [variant["properties"]["source"]["const"] for variant in schema["properties"]["data"]["oneOf"]]
    assert {"scanner_phantom", "images"} <= set(sources)
    assert "vae" in schema["properties"]["generators"]["items"]["anyOf"][0]["enum"]


def test_reading_a_suite_imports_no_torch(write):
    code = (
        "import sys; from pathlib import Path; from bench.suite import load_suite;"
        f"load_suite(Path({str(write(GOOD))!r}));"
        "assert 'torch' not in sys.modules and 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "hyperparameters", "said"),
    [
        ("vae", {"learning_rate": float("inf")}, "learning_rate"),
        ("vae", {"dense_widths": [0, 5]}, "dense_widths"),
        ("ddim", {"channels": [64, 0]}, "channels"),
        ("ddim", {"sampling_steps": 2000}, "sampling_steps: 2000, but train_timesteps are 1000"),
        ("ddim", {"guidance": 3.0}, "guidance: needs conditional"),
        ("ddim", {"guidance": 3.0, "conditional": True, "label_dropout": 0.0}, "guidance: needs label_dropout"),
        ("vae_gan_knee", {"channels": [8, 8]}, "kernels: 4 for 2 channels"),
        ("vae_gan_knee", {"kernels": [9, 3, 2, 2]}, "kernels"),
        ("hvae", {"batch_norm": True}, "batch_norm"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_runs(write, name, hyperparameters, said):
    generators = json.dumps([{"name": name, "hyperparameters": hyperparameters}]).replace("Infinity", ".inf")
    with pytest.raises(InputError, match=said):
        resolve(load_suite(write(f"name: tiny\ndata: {{source: scanner_phantom}}\ngenerators: {generators}\n")))


@pytest.mark.parametrize(
    ("name", "hyperparameters"),
    [
        ("ddim", {"channels": (48, 64)}),
        ("ddim", {"channels": (24, 36)}),
        ("ddim", {"channels": (16, 16)}),
        ("vqvae", {"grid": 64}),
    ],
)
def test_unusual_sizes_work(name, hyperparameters):
    """Channels that share no power of two; a grid of codes as large as the image."""
    import torch

    family = GENERATORS.get(name)
    model = family((1, 20, 16), 2, family.Hyperparameters(**hyperparameters)).eval()
    with torch.no_grad():
        assert model.sample(torch.zeros(2, dtype=torch.int64), torch.Generator()).shape == (2, 1, 20, 16)
