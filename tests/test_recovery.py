"""What keeps a run upright, room by room: locks, memory, room on the disk, damaged files, settings of a process."""

import errno
import json
import mmap
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.checkpoint import FILE, InterruptedJobError, Keeper
from bench.data.dataset import SETTLED_SECONDS, sweep
from bench.data.mapped import mapped
from bench.divergence import GUARD_STEPS, Constancy, Losses
from bench.environment import settle
from bench.errors import BenchError, DivergedError, InputError
from bench.executors.memory import own_bytes
from bench.external import read_external
from bench.lock import LOCK, locked
from bench.recovery import recover
from bench.registry import Registry
from bench.sampling import quantised
from bench.store import Events, Store, Tail

BUILDING = ".images-0123456789abcdef-abcd1234"


def test_no_room_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="No space left"):
        mapped(tmp_path / "a.npy", np.uint8, (10, 10))
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no")))
    assert mapped(tmp_path / "b.npy", np.uint16, (3,)).shape == (3,)


def test_room_is_really_taken(tmp_path):
    mapped(tmp_path / "a.npy", np.uint8, (1_000_000,))
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 1_000_000


def test_only_what_nobody_builds_is_swept_away(tmp_path):
    """A process that holds the lock of its folder keeps it; one that was killed does not."""
    names = (
        BUILDING,
        BUILDING.replace("abcd1234", "live5678"),
        BUILDING.replace("abcd1234", "young_12"),
        ".volumes-parts",
    )
    left, live, young, parts = (tmp_path / name for name in names)
    for folder in (left, live, young, parts):
        folder.mkdir()
    old = young.stat().st_mtime - 2 * SETTLED_SECONDS
    code = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(1, flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(live)], **pipes) as holder:
        holder.stdout.readline()
        for folder in (left, live, parts):
            os.utime(folder, (old, old))
        sweep(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {live.name, young.name, parts.name}
        holder.kill()
    os.utime(live, (old, old))
    sweep(tmp_path)
    assert not live.exists()


def test_a_lock_that_cannot_be_had_is_told(tmp_path):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(InputError, match="can't be locked"), locked(tmp_path, wait=False, say=print):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_shared_memory_without_a_file_counts():
    before, size = own_bytes(os.getpid()), 60_000_000
    with mmap.mmap(-1, size) as held:
        held.write(bytes(size))
        assert own_bytes(os.getpid()) - before > 0.9 * size


def test_a_half_line_takes_no_event_with_it(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"type": "ha')
    tail = Tail(path, from_end=True)
    events = Events(path)
    events("whole")
    events.close()
    with path.open("ab") as file:
        file.write(b'5\n[1]\n{"time": 1}\n{"type": 3}\n\xff\xfe\n')
    assert [event["type"] for event in tail.read()] == ["whole"]


def test_settings_of_the_process_are_set_back():
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        settle(2)
        assert settle(2) == []
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(False)
        torch.set_grad_enabled(False)
        assert len(settle(2)) == 4
        assert torch.get_default_dtype() == torch.float32
        assert torch.is_grad_enabled()
        assert settle(2) == []
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=True)


def test_an_explosion_in_the_first_steps_is_one():
    losses = Losses()
    with pytest.raises(DivergedError, match="diverged at step 3: the loss 'a' exploded"):
        for step in range(1, GUARD_STEPS + 2):
            losses.add(step, {"a": torch.tensor(0.5 if step < 3 else 1e20), "b": torch.tensor(7.0)})


def test_a_loss_that_begins_at_nothing_may_grow():
    losses = Losses()
    for step in range(1, 3 * GUARD_STEPS):
        losses.add(
            step, {"kl": torch.tensor(0.0 if step < 10 else 5e5), "jump": torch.tensor(1e30 if step == 50 else 1.0)}
        )


def test_the_last_look_at_constant_images_is_enough():
    same, labels = torch.zeros(4, 1, 8, 8), torch.tensor([0, 0, 1, 1])
    constancy = Constancy()
    constancy.look(1, same, labels)
    constancy.look(2, torch.rand(4, 1, 8, 8), labels)
    constancy.look(3, same, labels)
    with pytest.raises(DivergedError, match="step 4: constant output"):
        constancy.look(4, same, labels)
    last = Constancy()
    last.last = True
    with pytest.raises(DivergedError, match="step 1: constant output"):
        last.look(1, same, labels)


@pytest.mark.parametrize("images", [None, np.zeros((2, 1, 8, 8)), torch.zeros(2, 1, 8, 8, dtype=torch.complex64)])
def test_what_is_no_tensor_of_numbers_is_named(images):
    with pytest.raises(BenchError, match=r"sample returned (NoneType|ndarray|complex numbers), expected a tensor"):
        quantised(images, (2, 1, 8, 8), "sample")


def keeper(folder, told):
    return Keeper(folder, "id", 0.0, lambda kind, **values: told.append(values.get("text")))


def test_a_state_that_no_file_can_hold_stops_no_training(tmp_path):
    told = []
    keeper(tmp_path, told).save({"odd": object()})
    assert told == ["no checkpoint: a checkpoint can't hold a object"]
    assert not (tmp_path / FILE).exists()


def test_a_checkpoint_of_other_code_is_set_aside(tmp_path):
    keeper(tmp_path, []).save({"a": torch.ones(2)})
    found = keeper(tmp_path, [])
    assert found.take() is not None
    with pytest.raises(BenchError, match="does not fit the family as it is now") as caught:
        found.refuse(RuntimeError("size mismatch for x"))
    assert "the same command trains it anew" in str(caught.value)
    assert not keeper(tmp_path, []).found


def test_a_request_to_stop_is_no_failure_of_whoever_is_at_work():
    assert not issubclass(InterruptedJobError, Exception)


@pytest.mark.parametrize("what", ["raise RuntimeError('at import')", "raise SystemExit(0)", "def ("])
def test_a_package_that_breaks_when_imported(what, tmp_path, monkeypatch):
    (tmp_path / "breaks_here.py").write_text(what)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry: Registry[object] = Registry("thing", builtin={"a": "breaks_here:A"})
    with pytest.raises(InputError, match=r"thing 'a' \(breaks_here:A\) can't be loaded: "):
        registry.get("a")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "a/../../secret.png"])
def test_a_table_of_images_made_elsewhere_names_none_outside_its_folder(path, tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "images.csv").write_text(f"path,label\n{path},a\n")
    with pytest.raises(InputError, match=r"images.csv:2: .* lies outside"):
        read_external(folder, ("a",), (1, 16, 16))


@pytest.mark.parametrize(
    "name",
    ["training/", "a//b", "training/../x", "./a", "a/", "/a", "data.classes.CT (axial)", "x" * 400, "", "Ω[0]", ".."],
)
def test_mlflow_takes_every_name(name):
    """One that it refused would keep the whole suite out of it."""
    from mlflow.utils.validation import _validate_metric_name, _validate_param

    from bench.track.numbers import legal

    _validate_metric_name(legal(name))
    _validate_param(legal(name), "1")
    assert legal("training/kl") == "training/kl"


def test_what_is_whole_is_left_alone_and_what_is_not_is_named(tmp_path):
    """Every kind of file that a plan's rows have, whole and then cut: one warning each, and only then."""
    store = Store(tmp_path, "suite")
    run, home = store.run("a", 0, "t"), store.folder / "runs" / "reference-r"
    run.mkdir(parents=True)
    home.mkdir()
    search = types.SimpleNamespace(folder=store.folder / "tuning" / "a")
    search.folder.mkdir(parents=True)
    (search.folder / "study.json").write_text("{}")
    floor = types.SimpleNamespace(run=run, eval_id="e", search=search)
    plan = types.SimpleNamespace(store=store, reference_id="r", rows=[floor])
    np.savez_compressed(run / "samples.npz", images=np.arange(999), labels=np.zeros(3))
    np.save(home / "utility-x.npy", np.arange(9))
    np.savez(store.folder / "real.npz", images=np.arange(99))
    (run / "losses.csv").write_text('step,images_seen,split,name,value\n1,2,training,"a,b",0.5\n2,4,training,a,nan\n')
    (run / "progress.csv").write_text("images_seen,class,features,measure,value,n\n1,all,f,m,0.5,3\n")
    (run / "result.json").write_text("{}")
    (run / "evaluation-e.json").write_text("{}")
    store.reference.write_text(json.dumps({"schema": 1}))
    told: list[str] = []
    recover(plan, told.append)
    assert told == []
    wholes = sorted(path for path in store.folder.rglob("*") if path.is_file())
    contents = {path: path.read_bytes() for path in wholes}
    for path in wholes:
        for whole, content in contents.items():
            whole.write_bytes(content)
        path.write_bytes(contents[path][: len(contents[path]) - 1 if path.suffix != ".csv" else -6])
        told.clear()
        recover(plan, told.append)
        assert len(told) == 1, (path, told)
        assert told[0].startswith(f"{path}: ")
        assert not path.exists()
        assert list(path.parent.glob(f"{path.name}.damaged-*"))
        if path.parent == home:
            assert not store.reference.exists(), "without its arrays the real side is done again"
    for whole, content in contents.items():
        whole.write_bytes(content)
    store.reference.write_text(json.dumps({"schema": 1, "sha256": {"features.safetensors": "0"}}))
    recover(plan, told.append)
    assert not store.reference.exists(), "nor without its features"
    assert (run / "result.json").exists()


@pytest.mark.parametrize("name", ["result.json", "checkpoint.safetensors", "samples.npz", "losses.csv"])
def test_what_cannot_be_read_is_not_taken_for_damaged(name, tmp_path, monkeypatch):
    """A disk that is away for a moment must cost no training."""
    store = Store(tmp_path, "suite")
    run = store.run("a", 0, "t")
    run.mkdir(parents=True)
    (run / name).write_bytes(b"whatever")
    plan = types.SimpleNamespace(
        store=store, reference_id="r", rows=[types.SimpleNamespace(run=run, eval_id="e", search=None)]
    )
    opened = Path.open

    def away(self, *given, **more):
        if self.name == name:
            raise OSError(errno.EIO, "Input/output error")
        return opened(self, *given, **more)

    monkeypatch.setattr(Path, "open", away)
    with pytest.raises(BenchError, match="can't be read: Input/output error; nothing was changed"):
        recover(plan, print)
    assert [path.name for path in run.iterdir()] == [name]
