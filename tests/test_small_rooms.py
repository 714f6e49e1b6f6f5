"""Seeds, registry, store: small, and everything stands on them."""

import json
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError, InputError
from bench.registry import GENERATORS, Registry, suggestion
from bench.seeds import derive, forked, numpy_rng, torch_rng
from bench.store import Events, Store, Tail, atomic, digest, read_json, write_json

GOLDEN = 7719416184543009126
names = st.lists(st.text() | st.integers(), max_size=4)


@given(st.integers(0, 2**40), names, names)
def test_streams_differ_exactly_when_their_names_do(root, first, second):
    same = [(type(name), name) for name in first] == [(type(name), name) for name in second]
    assert (derive(root, *first) == derive(root, *second)) == same
    assert 0 <= derive(root, *first) < 2**63


def test_streams_are_fixed_across_versions():
    # python -c "from bench.seeds import derive; print(derive(0, 'draw', 3))"; a change here changes every result
    assert derive(0, "draw", 3) == GOLDEN
    assert derive(0, "draw", "3") != GOLDEN
    assert torch.equal(torch.rand(3, generator=torch_rng(1, "a")), torch.rand(3, generator=torch_rng(1, "a")))
    assert numpy_rng(1, "a").integers(1 << 30) != numpy_rng(1, "b").integers(1 << 30)


def test_forked_leaves_the_global_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with forked(9, "weights"):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with forked(9, "weights"):
        assert torch.equal(torch.rand(2), inside)


def test_registry_names_the_nearest():
    with pytest.raises(InputError, match="unknown generator 'dcgen'; did you mean 'dcgan'"):
        GENERATORS.get("dcgen")
    assert suggestion("zzz", ["a", "b"]) == "known: a, b"


def test_registry_says_why_an_entry_cannot_be_loaded():
    registry: Registry[object] = Registry("thing", builtin={"a": "no_such_module:A", "b": "json:no_such_name"})
    for name in ("a", "b"):
        with pytest.raises(InputError, match=f"thing {name!r}"):
            registry.get(name)
    assert registry.describe("a").summary == ""


def test_registry_describes_without_importing():
    code = (
        "import sys; from bench.registry import GENERATORS; entry = GENERATORS.describe('vae');"
        "assert entry.attributes['family'] == 'vae' and entry.summary, entry; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digest_depends_on_content_not_order():
    assert digest({"a": 1, "b": [2.5]}) == digest({"b": [2.5], "a": 1}) != digest({"a": 1, "b": [2]})
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


def test_atomic_says_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="can't be written"):
        write_json(tmp_path / "file" / "a.json", {})


def test_damaged_json_counts_as_absent(tmp_path):
    path = tmp_path / "a.json"
    for content in ("", '{"a": ', "[1]", '{"schema": 99}', "\x00"):
        path.write_text(content)
        assert read_json(path) is None


def test_store_says_when_it_cannot_be_written(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(InputError, match="choose another folder with --out"):
        Store(tmp_path / "results", "suite").prepare()


def test_tail_returns_whole_events_once(tmp_path):
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    events = Events(path)
    events("a", value=1)
    with path.open("a") as file:
        file.write('{"type": "hal')
    assert [event["type"] for event in tail.read()] == ["a"]
    with path.open("a") as file:
        file.write('f"}\nnot json\n')
    assert [event["type"] for event in tail.read()] == ["half"]
    assert tail.read() == []
    events.close()


def test_concurrent_writers_leave_one_whole_file(tmp_path):
    path = tmp_path / "a.json"
    threads = [threading.Thread(target=write_json, args=(path, {"n": [n] * 1000})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = json.loads(path.read_text())
    assert len(set(content["n"])) == 1
    assert len(content["n"]) == 1000


def test_two_runs_may_meet_a_new_mlflow_store_at_once(tmp_path):
    """Both would create its tables; the second one used to fail on a column that the first had made."""
    code = (
        "import sys; from pathlib import Path; from bench.track.mirror import Mirror; "
        "Mirror(Path(sys.argv[1]), 'sqlite:///mlflow.db')._connect()"
    )
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    command = [sys.executable, "-W", "ignore", "-c", code]
    runs = [
        subprocess.Popen([*command, str(folder)], cwd=tmp_path, stderr=subprocess.PIPE, text=True) for folder in folders
    ]
    errors = [run.communicate(timeout=300)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    assert all((folder / "mlflow.json").exists() for folder in folders)
