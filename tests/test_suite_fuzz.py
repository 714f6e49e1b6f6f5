"""Whatever a suite file holds, the answer is a suite or one readable message with exit code 2; never a traceback."""

import copy
import json
from pathlib import Path

import pytest
from command_line import bench, make_images
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.errors import InputError
from bench.suite import Suite, load_suite, resolve

MUTATIONS, THROUGH_COMMAND_LINE = 2000, 50
BASE = {
    "name": "fuzzed",
    "description": "a suite to be broken",
    "data": {"source": "images", "root": "images", "image_size": [16, 16], "subject_pattern": "^(p[0-9]+)"},
    "split": {"by": "subject", "fractions": {"train": 0.5, "validation": 0.25, "test": 0.25}, "seed": 0},
    "generators": ["vae", {"name": "dcgan", "label": "mine", "hyperparameters": {"batch_size": 16, "width": 8}}],
    "seeds": [0, 1],
    "budget": {"images_seen": 160},
    "evaluation": {
        "draws": 2,
        "samples_per_draw": 10,
        "few": 10,
        "features": ["random"],
        "measures": ["frechet_distance", "precision_recall"],
        "extractors": {"inception": {"precision": "float32"}},
        "utility": {"classifiers": 2},
    },
    "progress": {"points": 2, "samples": 10},
    "unconditional": "pooled",
    "precision": "float32",
    "reported": [{"source": "a", "data": "b", "values": [{"system": "s", "measure": "m", "value": "1"}]}],
    "tracking": {"enabled": False},
    "threads": 1,
    "checkpoint_minutes": 5,
    "limits": {"minutes": 60, "memory_gb": 4},
    "patient_images": True,
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), TEXT,
    st.sampled_from(["vae", "../up", "!!python/object/apply:os.system", "&a *a", "0x10", "1e-4", "on", "~", "\u202e", "\x7f"]),
)  # fmt: skip
VALUE = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)


def places(node, where=()):
    """Every key path in a nested value."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        yield (*where, key)
        yield from places(value, (*where, key))


PLACES = list(places(BASE))


@st.composite
def mutated(draw):
    """The text of a suite with one to three things changed, or with its bytes cut, doubled or replaced."""
    content = copy.deepcopy(BASE)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(PLACES))
        node = content
        try:
            for part in parents:
                node = node[part]
            how = draw(st.sampled_from(["replace", "delete", "rename", "wrap"]))
            if how == "replace":
                node[last] = draw(VALUE)
            elif how == "delete":
                del node[last]
            elif how == "rename" and isinstance(node, dict):
                node[draw(TEXT)] = node.pop(last)
            else:
                node[last] = [node[last]] * draw(st.integers(0, 3))
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    text = json.dumps(content, indent=1, ensure_ascii=draw(st.booleans()))  # JSON is YAML
    if draw(st.integers(0, 3)) == 0:
        at, length = draw(st.integers(0, len(text))), draw(st.integers(0, 40))
        noise = draw(
            st.sampled_from(["", "\t", ": ", "- ", "{", "]", "'", "&a", "*a", "\x00", "%YAML 9\n", "---\n", "? "])
        )
        text = text[:at] + noise + text[at + length :]
    return text


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("fuzz")
    make_images(cwd / "images", 40)
    return cwd


def judge(path: Path) -> str | None:
    """Read the suite; return the message if it is refused, after making sure that it can be read."""
    try:
        suite = load_suite(path)
        assert isinstance(resolve(suite, path), Suite)
    except InputError as error:
        message = str(error)
        assert message.strip()
        assert "Traceback" not in message
        assert len(message) < 20_000
        assert str(path) in message.splitlines()[0]
        return message
    return None


def test_the_base_is_sound(place, monkeypatch):
    monkeypatch.chdir(place)
    (place / "base.yaml").write_text(json.dumps(BASE))
    assert judge(place / "base.yaml") is None


@pytest.mark.parametrize("mutations", [200, pytest.param(MUTATIONS, marks=pytest.mark.slow)])
def test_mutated_suites_are_refused_with_a_message(mutations, place, monkeypatch):
    monkeypatch.chdir(place)
    counts = {"refused": 0, "accepted": 0}

    @settings(
        max_examples=mutations, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(mutated())
    def check(text):
        path = place / "fuzzed.yaml"
        path.write_text(text, encoding="utf-8")
        counts["refused" if judge(path) else "accepted"] += 1

    check()
    assert sum(counts.values()) >= mutations, counts
    assert counts["refused"] > mutations / 2, counts


@pytest.mark.slow
def test_mutated_suites_through_the_command_line(place):
    refused = 0

    @settings(
        max_examples=THROUGH_COMMAND_LINE, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(mutated())
    def check(text):
        nonlocal refused
        (place / "command.yaml").write_text(text, encoding="utf-8")
        done = bench("check", "command.yaml", cwd=place, timeout=300)
        assert done.returncode in (0, 2), done.stderr
        if done.returncode == 2:
            refused += 1
            lines = done.stderr.splitlines()
            assert lines
            assert all(line.startswith("bench: ") for line in lines), done.stderr
            assert "command.yaml" in lines[0] or "images" in done.stderr

    check()
    assert refused >= THROUGH_COMMAND_LINE / 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "name: a\nname: b\n",
        "a: &x [*x]\n",
        "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d]\n",
        "!!python/object/apply:os.system [echo hacked]",
        "name: !!python/name:os.system ''",
        "[" * 2000,
        "name: \x00",
        "- " * 500,
    ],
    ids=["empty", "list", "twice", "cycle", "laughs", "object", "name", "deep", "nul", "nested"],
)
def test_hostile_yaml_is_refused_and_runs_nothing(text, place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    (place / "hostile.yaml").write_text(text, encoding="utf-8")
    assert judge(place / "hostile.yaml")
    assert "hacked" not in capfd.readouterr().out


def test_yaml_is_read_by_the_safe_reader_alone():
    """Nowhere in the packages is YAML, a pickle or a shell used that could run what a file says."""
    root = Path(__file__).resolve().parents[1]
    sources = [path for name in ("bench", "baselines") for path in (root / name).rglob("*.py")]
    for path in sources:
        text = path.read_text(encoding="utf-8")
        for word in (
            "import pickle",
            "import yaml",
            "shell=True",
            "os.system(",
            "eval(compile",
            "allow_pickle=True",
            'typ="unsafe"',
            "unsafe_load",
        ):
            assert word not in text, f"{path}: {word}"
        loads = text.count("torch.load(")
        assert loads == text.count("weights_only=True)"), f"{path}: torch.load only with weights_only"
