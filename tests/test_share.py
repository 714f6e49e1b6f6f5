"""Files through an address: whatever changes here is the same there, and nothing half, stale or foreign ever is."""

import importlib
import io
import json
import os
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from s3_fixture import BUCKET, s3_server, use_here

from bench.data.dataset import ImageDataset, cache_folder
from bench.errors import BenchError, InputError
from bench.executors import depot as depots
from bench.executors import node, parcels, share
from bench.executors.depot import Depot, DepotError, patiently
from bench.executors.jobs import Job
from bench.executors.parcels import MANIFEST, Packer, Receiver, Sender, download, files_below, inside
from bench.executors.share import RECORD, Luggage, Share, luggage
from bench.search import TuningSpec
from bench.studies import refuse_apart


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("s3")) as environment, pytest.MonkeyPatch.context() as patch:
        use_here(environment, patch)
        yield f"s3://{BUCKET}"


@pytest.fixture(params=["file", "memory", "s3"])
def depot(request, tmp_path):
    if request.param == "s3":
        return Depot(f"{request.getfixturevalue('s3')}/{tmp_path.name}")
    return Depot({"file": str(tmp_path / "share"), "memory": f"memory://{tmp_path.name}"}[request.param])


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# --- an address -------------------------------------------------------------------------------------------------------


def test_objects_are_kept_listed_and_removed(depot, monkeypatch):
    depot.probe()
    assert depot.names("") == set(), "the probe is gone"
    assert depot.read("a/b") is None
    assert depot.size("a/b") is None
    assert depot.names("a") == set()
    depot.put_bytes("a/b", b"one")
    depot.put_bytes("a/b", b"other")
    depot.put_bytes("a/c/d", b"")
    assert (depot.read("a/b"), depot.size("a/b"), depot.read("a/c/d")) == (b"other", 5, b"")
    assert depot.names("a") == {"b", "c"}
    monkeypatch.setattr(depots, "SMALL_BYTES", 10)
    large = os.urandom(6_000_000)
    depot.put("large", io.BytesIO(large), 5_500_000)
    assert b"".join(depot.fetch("large", 5_500_000)) == large[:5_500_000]
    assert b"".join(depot.fetch("none", 5_500_000)) == b""
    depot.remove("a/b")
    depot.remove("a/b")
    assert depot.read("a/b") is None
    depot.clear("a")
    depot.clear("a")
    assert depot.read("a/c/d") is None
    assert depot.names("a") == set()


def test_a_store_that_takes_requests_and_answers_none_is_told_of_in_its_time(monkeypatch):
    pytest.importorskip("s3fs", reason="needs s3fs")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        told = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        use_here({**told, "FSSPEC_S3_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"}, monkeypatch)
        monkeypatch.setattr(depots, "ANSWER_SECONDS", 1.0)
        depot = Depot("s3://silent/bench")
        started = time.monotonic()
        with pytest.raises(InputError, match=r"--share s3://silent/bench: can't be written: no answer in 1 s"):
            depot.probe()
        calls = (depot.read, depot.size, depot.names, depot.remove, depot.clear)
        for call in calls:
            with pytest.raises(DepotError, match="no answer in 1 s"):
                call("x")
        assert time.monotonic() - started < 4 * (1 + len(calls)), "s3fs alone would go on for minutes"


def test_a_path_is_an_address_wherever_another_process_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Depot("share").put_bytes("x", b"1")
    monkeypatch.chdir("/")
    address = Depot(str(tmp_path / "share")).address
    assert Depot(address).read("x") == b"1"
    assert Depot(f"file://{tmp_path}/share").address == address


def test_no_reader_sees_half_a_file_of_a_folder(tmp_path, monkeypatch):
    depot, seen = Depot(str(tmp_path)), []
    depot.put_bytes("x", b"old")
    copy = depots._copy

    def slow(source, target, size):
        copy(source, target, size)
        target.flush()
        seen.append(depot.read("x"))

    monkeypatch.setattr(depots, "_copy", slow)
    depot.put_bytes("x", b"new")
    assert seen == [b"old"]
    assert depot.read("x") == b"new"
    assert depot.names("") == {"x"}


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense://bucket", "no address that fsspec knows"),
        ("s3://key:secret@bucket", "leave the password out of the address"),
        ("s3://key:sec/ret@bucket", "leave the password out of the address"),
        ("", "names nothing"),
        ("s3://", "names nothing"),
        ("s3:/bucket/x", "a URL or a folder"),
        ("s3:bucket/x", "a URL or a folder"),
        ("s3//bucket/x", "a URL or a folder"),
        ("/dev/null/share", "can't be written"),
        ("memory://x", "only this process sees it"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_line(address, said):
    with pytest.raises(InputError, match=said) as error, Share(address):
        pass
    assert len(str(error.value).splitlines()) == 1
    assert "secret" not in str(error.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.import_module("fsspec.registry"), "registry", {})  # it may be loaded already
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match="pip install s3fs, here and on every node"):
        Depot("s3://bucket/x")


def test_a_bucket_that_is_not_there_is_one_line(s3):
    with pytest.raises(InputError, match="no-such-bucket: can't be written") as error, Share("s3://no-such-bucket"):
        pass
    assert len(str(error.value).splitlines()) == 1


def test_a_store_that_is_away_for_a_while_is_asked_again(monkeypatch):
    monkeypatch.setattr(depots, "PAUSE_SECONDS", 0.01)
    left = [DepotError("away"), DepotError("away")]

    def ask():
        if left:
            raise left.pop()
        return "here"

    assert patiently(ask, 5.0) == "here"
    left = [DepotError("away")] * 1000
    with pytest.raises(DepotError):
        patiently(ask, 0.05)


# --- files that change ------------------------------------------------------------------------------------------------

NAMES = ("run/a.bin", "run/progress/b.png", "run/events.jsonl", "other", "not/sent")
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(NAMES), st.sampled_from([b"", b"one", b"two", b"longer"])),
        st.tuples(st.just("append"), st.sampled_from(NAMES), st.sampled_from([b"line\n", b"half a "])),
        st.tuples(st.just("remove"), st.sampled_from(NAMES), st.none()),
        st.tuples(st.sampled_from(["send", "fetch"]), st.none(), st.none()),
    ),
    max_size=30,
)


def coarse(file):
    """A file system whose times say nothing, and where a new file takes the number of the one it replaces."""
    return (os.fstat(file.fileno()).st_size,), False


@pytest.mark.parametrize("signature", [parcels._signature, coarse])
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(changes=CHANGES, kept=st.sets(st.sampled_from(NAMES)))
def test_after_any_changes_the_other_side_is_the_same(tmp_path_factory, signature, changes, kept):
    root = tmp_path_factory.mktemp("sides")
    here, there = root / "here", root / "there"
    depot = Depot(f"memory://{root.name}")
    for folder in (here, there):
        folder.mkdir()
    for name in kept:  # what was there before
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(b"before\n")
    before = {name: data for name, data in content(there).items() if name == "not/sent"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parcels, "_signature", signature)
        for name, sent in Packer(depot, "in").pack(there, sorted(kept)).items():
            assert download(depot, sent, here / name, mark=True)
        sender = Sender(depot, "out", here, ["run", "other"], kept)
        receiver = Receiver(depot, "out", there)
        for what, name, data in [*changes, ("send", None, None), ("fetch", None, None)]:
            if what == "send":
                sender.send()
            elif what == "fetch":
                receiver.fetch()
            elif what == "remove":
                (here / name).unlink(missing_ok=True)
            elif what == "append":
                (here / name).parent.mkdir(parents=True, exist_ok=True)
                with (here / name).open("ab") as file:
                    file.write(data)
            else:
                (here / name).parent.mkdir(parents=True, exist_ok=True)
                (here / f"{name}.new").write_bytes(data)
                (here / f"{name}.new").replace(here / name)
    wanted = {name: data for name, data in content(here).items() if name != "not/sent"}
    if "run/events.jsonl" in wanted:
        lines = wanted["run/events.jsonl"]
        wanted["run/events.jsonl"] = lines[: lines.rfind(b"\n") + 1]
    assert content(there) == {**wanted, **before}
    kept_there = {sent[0] for sent in json.loads(depot.read(f"out/{MANIFEST}"))["files"].values()}
    assert {f"out/{name}" for name in depot.names("out")} == {*kept_there, f"out/{MANIFEST}"}, "nothing is left over"


def test_the_same_size_within_the_clock_s_step_is_another_file(depot, tmp_path, monkeypatch):
    def fstat(descriptor):
        """As a file system tells it whose times are even seconds (FAT, some network's)."""
        found = os.fstat(descriptor)
        times = {name: getattr(found, name) // 2 * 2 for name in ("st_mtime", "st_ctime")}
        nanoseconds = {f"{name}_ns": int(value * 10**9) for name, value in times.items()}
        return SimpleNamespace(st_ino=found.st_ino, st_size=found.st_size, **times, **nanoseconds)

    monkeypatch.setattr(parcels, "os", SimpleNamespace(fstat=fstat, utime=os.utime))
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    sender, receiver, packer = Sender(depot, "out", here, ["x"]), Receiver(depot, "out", there), Packer(depot, "in")
    for data in (b"one", b"two", b"six"):
        with (here / "x").open("wb") as file:  # in place: even the file's number stays
            file.write(data)
        sender.send()
        receiver.fetch()
        assert (there / "x").read_bytes() == data
        assert depot.read(packer.pack(here, ["x"])["x"].key) == data


def test_what_was_received_goes_back_only_if_it_was_written(depot, tmp_path):
    command, work = tmp_path / "command", tmp_path / "node"
    command.mkdir()
    for name in ("same", "again", "gone"):
        (command / name).write_bytes(b"failed")
    files = Packer(depot, "in").pack(command, ["same", "again", "gone"])
    assert all(download(depot, sent, work / name, mark=True) for name, sent in files.items())
    for name in files:  # the command forgets an earlier failure when a job begins
        (command / name).unlink()
    (work / "again").write_bytes(b"failed")
    (work / "gone").unlink()
    (command / "gone").write_bytes(b"failed")
    Sender(depot, "out", work, ["same", "again", "gone"], files).send()
    Receiver(depot, "out", command).fetch()
    assert content(command) == {"again": b"failed"}


@pytest.mark.parametrize("half", [b"", b"{", b'{"files": {"x": ["out/0"', b"[]", b'{"files": 3, "gone": []}'])
def test_half_a_manifest_is_none(depot, tmp_path, half):
    (tmp_path / "x").write_bytes(b"old")
    depot.put_bytes(f"out/{MANIFEST}", half)
    Receiver(depot, "out", tmp_path).fetch()
    assert (tmp_path / "x").read_bytes() == b"old"


def test_half_an_object_is_waited_for(depot, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (here / "x").write_bytes(b"whole")
    (there / "x").write_bytes(b"old")
    Sender(depot, "out", here, ["x"]).send()
    (key, *_) = json.loads(depot.read(f"out/{MANIFEST}"))["files"]["x"]
    receiver = Receiver(depot, "out", there)
    for seen in (b"who", b"other", None):
        depot.put_bytes(key, seen) if seen else depot.remove(key)
        receiver.fetch()
        assert content(there) == {"x": b"old"}
    depot.put_bytes(key, b"whole")
    receiver.fetch()
    assert content(there) == {"x": b"whole"}


def test_events_never_tell_of_files_that_are_not_there(tmp_path):
    """Whatever is written while a sender is at work: an event comes after what it tells of."""
    here, there, depot = tmp_path / "here", tmp_path / "there", Depot(str(tmp_path / "share"))
    here.mkdir()
    over = threading.Event()

    def write():
        for number in range(300):
            (here / f"{number}.png").write_bytes(b"x")
            with (here / "events.jsonl").open("a") as file:
                file.write(f"{number}\n")
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    sender, receiver = Sender(depot, "out", here, ["."]), Receiver(depot, "out", there)
    while not over.is_set():
        sender.send(everything=False)
        receiver.fetch()
        if (there / "events.jsonl").exists():
            told = (there / "events.jsonl").read_text().split()
            assert all((there / f"{number}.png").exists() for number in told)
    writer.join()
    sender.send()
    receiver.fetch()
    assert content(here) == content(there)


def test_temporaries_and_locks_stay(tmp_path):
    for name in ("a", ".lock", ".a.x.part", "b.part", "study.journal.lock", "job.json", "sub/.hidden", "sub/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert set(files_below(tmp_path, ["."])) == {"a", "sub/c"}
    assert set(files_below(tmp_path, ["a", "none", "sub"])) == {"a", "sub/c"}


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", ""])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    with pytest.raises(BenchError, match="no name of a file below"):
        inside(tmp_path, name)


def test_a_slow_file_is_not_sent_all_the_time(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    log = tmp_path / "here" / "log.txt"
    depot = Depot(f"memory://{tmp_path.name}")
    now = [0.0]
    monkeypatch.setattr(parcels.time, "monotonic", lambda: now[0])
    put = Depot.put

    def slow(self, key, source, size):
        now[0] += 3.0
        put(self, key, source, size)

    monkeypatch.setattr(Depot, "put", slow)
    sender, receiver = Sender(depot, "out", tmp_path / "here", ["."]), Receiver(depot, "out", tmp_path / "there")
    log.write_text("1")
    sender.send(everything=False)
    log.write_text("12")
    now[0] += 10
    sender.send(everything=False)
    receiver.fetch()
    assert (tmp_path / "there" / "log.txt").read_text() == "1"
    now[0] += 30
    sender.send(everything=False)
    receiver.fetch()
    assert (tmp_path / "there" / "log.txt").read_text() == "12"
    log.write_text("123")
    sender.send()
    receiver.fetch()
    assert (tmp_path / "there" / "log.txt").read_text() == "123"


# --- jobs -------------------------------------------------------------------------------------------------------------


def training(results: Path, data: Path, name: str = "vae-seed0-abc") -> Job:
    run = results / "runs" / name
    spec = {"kind": "generator", "suite": {"name": "s"}, "data": str(data), "results": str(results), "run": str(run)}
    return Job("vae seed 0", run, {**spec, "reference_id": "ref"}, 1)


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "command" / "s"
    for name, text in {
        "split.json": "split",
        "reference.json": "reference",
        "results.csv": "not for jobs",
        "runs/reference-ref/features.safetensors": "features",
        "runs/vae-seed0-abc/events.jsonl": "{}\n",
        "runs/vae-seed0-abc/unfinished.safetensors": "half way",
        "runs/other-seed0-def/result.json": "another's",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "node-cache"))
    pixels = np.arange(4 * 4, dtype=np.uint8).reshape(4, 1, 2, 2)
    labels, names = np.zeros(4, dtype=np.int64), ("a", "b", "c", "d")
    made = ImageDataset(pixels, labels, ("x",), np.array(names), names, "f" * 16, "title", False)
    made.save(tmp_path / "command-cache" / "images-1")
    return tmp_path / "command-cache" / "images-1"


@pytest.fixture
def shared(tmp_path, results):
    with Share(str(tmp_path / "share")) as one:
        yield one


def test_a_job_s_node_has_what_it_needs_and_leaves_what_it_writes(tmp_path, results, data, shared):
    job = training(results, data)
    parcel, awaited = shared.pack(job)
    seen = {}

    def work(there):
        root = Path(there.spec["results"])
        seen.update(content(root))
        assert there.folder == Path(there.spec["run"]) == root / "runs" / "vae-seed0-abc"
        assert not there.folder.is_relative_to(tmp_path / "command")
        assert Path.cwd() == root
        assert len(ImageDataset.open(Path(there.spec["data"]))) == 4
        (there.folder / "job.json").write_text("the node's paths")
        with (there.folder / "events.jsonl").open("a") as file:
            file.write('{"type": "placed"}\n')
        (there.folder / "result.json").write_text("finished")
        (there.folder / "unfinished.safetensors").unlink()
        (root / "split.json").write_text("never comes back")
        return {"type": "end", "code": 1, "reason": f"its log: {there.folder}/log.txt", "limit": False}

    end = node.carried(parcel, work)
    assert end["reason"] == f"its log: {job.folder}/log.txt", "as it is called where the command is"
    assert set(seen) == {
        "split.json",
        "reference.json",
        "runs/reference-ref/features.safetensors",
        "runs/vae-seed0-abc/events.jsonl",
        "runs/vae-seed0-abc/unfinished.safetensors",
    }
    shared.look([awaited])
    assert json.loads((job.folder / "job.json").read_text()) == {**job.spec, "parent": os.getpid()}
    (job.folder / "job.json").unlink()
    assert content(job.folder) == {"events.jsonl": b'{}\n{"type": "placed"}\n', "result.json": b"finished"}
    assert (results / "split.json").read_text() == "split"
    shared.conclude(awaited)
    assert Depot(shared.address).names(awaited.receiver.place) == set()
    assert [path.name for path in cache_folder().iterdir() if path.is_dir()] == [parcel.data.name], "no scratch is left"


def test_a_result_that_is_gone_from_the_address_is_not_taken_for_none(results, data, shared, monkeypatch):
    monkeypatch.setattr(share, "PAUSE_SECONDS", 0.01)
    job = training(results, data)
    parcel, awaited = shared.pack(job)

    def work(there):
        (there.folder / "result.json").write_text("finished")
        return {"type": "end", "code": 0, "reason": None, "limit": False}

    node.carried(parcel, work)
    depot = Depot(shared.address)
    for name in depot.names(awaited.receiver.place) - {"manifest.json"}:
        depot.remove(f"{awaited.receiver.place}/{name}")
    assert not shared.conclude(awaited)

    parcel, awaited = shared.pack(job)
    assert not shared.conclude(awaited), "its node has told nothing yet"
    parcel, awaited = shared.pack(job)
    node.carried(parcel, work)
    assert shared.conclude(awaited)
    assert (job.folder / "result.json").read_text() == "finished"


def test_what_a_killed_command_left_goes_whatever_address_the_next_one_has(results, data, shared, tmp_path):
    shared.pack(training(results, data))
    left = Depot(shared.address)
    assert left.names("runs")
    with share.Share(str(tmp_path / "elsewhere")) as other:
        other.pack(training(results, data))
        assert not left.names("runs")


def test_an_interrupted_job_s_checkpoint_comes_back(results, data, shared):
    job = training(results, data)
    parcel, awaited = shared.pack(job)

    def work(there):
        try:
            raise KeyboardInterrupt
        finally:
            (there.folder / "unfinished.safetensors").write_text("further")

    with pytest.raises(KeyboardInterrupt):
        node.carried(parcel, work)
    shared.conclude(awaited)
    assert (job.folder / "unfinished.safetensors").read_text() == "further"


def test_what_a_job_writes_comes_while_it_is_at_work_and_an_attempt_that_was_given_up_harms_nobody(
    results, data, shared, monkeypatch
):
    monkeypatch.setattr(node, "SEND_SECONDS", 0.02)
    job = training(results, data)
    go, given_up = threading.Event(), threading.Event()

    def forlorn(there):
        (there.folder / "unfinished.safetensors").write_text("first")
        assert given_up.wait(20)
        (there.folder / "unfinished.safetensors").write_text("late")
        (there.folder / "result.json").write_text("late")
        return {"type": "end", "code": 0, "reason": None, "limit": False}

    first, awaited = shared.pack(job)
    monkeypatch.setattr(node.os, "chdir", lambda folder: None)  # two nodes, one process
    thread = threading.Thread(target=lambda: (node.carried(first, forlorn), go.set()))
    thread.start()
    while (job.folder / "unfinished.safetensors").read_text() != "first":
        shared.look([awaited])
    shared.conclude(awaited)  # its node counts as lost, and is not
    second, awaited = shared.pack(job)
    end = {"type": "end", "code": 0, "reason": None, "limit": False}

    def going_on(there):
        assert (there.folder / "unfinished.safetensors").read_text() == "first"
        (there.folder / "unfinished.safetensors").write_text("second")
        given_up.set()
        assert go.wait(20)
        return end

    assert node.carried(second, going_on) == end
    thread.join()
    shared.conclude(awaited)
    assert (job.folder / "unfinished.safetensors").read_text() == "second"
    assert not (job.folder / "result.json").exists()


def test_a_node_that_cannot_send_says_so_and_counts_as_lost(results, data, shared, monkeypatch):
    monkeypatch.setattr(node, "PATIENCE_SECONDS", 0.0)
    parcel, _ = shared.pack(training(results, data))

    def work(there):
        (there.folder / "result.json").write_text("finished")

        def refuse(*_):
            raise DepotError("no route to host")

        monkeypatch.setattr(Depot, "put", refuse)
        return {"type": "end", "code": 0, "reason": None, "limit": False}

    end = node.carried(parcel, work)
    assert end["code"] == 1
    assert "could not send what it wrote (no route to host)" in end["lost"]


def test_data_are_put_once_and_fetched_once(results, data, shared, monkeypatch):
    parcel, _ = shared.pack(training(results, data))
    fetched = []
    monkeypatch.setattr(share, "download", lambda *given: (fetched.append(given), download(*given))[1])
    first = parcel.data.folder()
    assert np.array_equal(ImageDataset.open(first).pixels, ImageDataset.open(data).pixels)
    assert len(fetched) == 2
    assert parcel.data.folder() == first
    with Share(shared.address) as another:
        assert another.lend(data) == parcel.data
    assert len(fetched) == 2
    (first / "dataset.json").write_text("damaged")
    assert len(ImageDataset.open(parcel.data.folder())) == 4
    assert len(fetched) == 4


def test_data_that_are_damaged_there_are_one_line_and_are_put_anew(results, data, shared, tmp_path):
    lent = shared.lend(data)
    for path in (tmp_path / "share" / "data" / lent.name).iterdir():
        if path.name != MANIFEST:
            path.write_bytes(b"half")
    with pytest.raises(BenchError, match="are not whole; remove them") as error:
        lent.folder()
    assert len(str(error.value).splitlines()) == 1
    assert not list(cache_folder().glob("shared-*"))
    with Share(shared.address) as another:
        assert another.lend(data) == lent
    assert len(ImageDataset.open(lent.folder())) == 4


def test_a_node_without_the_address_is_named(results, data, shared, tmp_path, monkeypatch):
    parcel, _ = shared.pack(training(results, data))
    elsewhere = replace(parcel, data=replace(parcel.data, address="nonsense://bucket"))
    with pytest.raises(BenchError, match=r"the node \S+: --share nonsense://bucket: no address that fsspec knows"):
        node.carried(elsewhere, lambda job: {})
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BenchError, match=r"the node \S+: .*cache: can't be written .*; set BENCH_CACHE"):
        node.carried(parcel, lambda job: {})


def test_nothing_of_a_command_stays_but_data_and_a_killed_one_s_goes_with_the_next(tmp_path, results, data):
    address = tmp_path / "share"
    with Share(str(address)) as one:
        one.pack(training(results, data))
        assert len(list((address / "runs").iterdir())) == 1
        assert (results / RECORD).exists()
        told = (results / RECORD).read_bytes()
    assert not (results / RECORD).exists()
    assert not list((address / "runs").iterdir())
    assert len(list((address / "data").iterdir())) == 1
    left = address / json.loads(told)["room"] / "in" / "x"  # as a killed command leaves it
    left.parent.mkdir(parents=True)
    left.touch()
    (results / RECORD).write_bytes(told)
    with Share(str(address)) as one:
        one.pack(training(results, data))
        assert not left.exists()
        assert len(list((address / "runs").iterdir())) == 1


def test_each_kind_of_job_takes_what_it_opens(tmp_path):
    spec = {"reference_id": "ref", "floors": [{"name": "floor_validation", "run": "runs/floor"}]}
    own = Path("runs/reference-ref")
    told = luggage(Job("real data", own, {"kind": "reference", **spec}, 1))
    assert set(told.leaves) == {"runs/reference-ref", "reference.json", "real.npz", "runs/floor"}
    assert set(told.brings) == {*told.leaves, "split.json"}
    spec = {"kind": "trial", "search": {"folder": "tuning/vae"}}
    told = luggage(Job("trial", Path("tuning/vae/jobs/0001"), spec, 1))
    study = {"tuning/vae/study.journal", "tuning/vae/study.db", "tuning/vae/study.db-journal"}
    assert (set(told.leaves), set(told.after)) == ({"tuning/vae/jobs/0001"}, study)
    assert study <= set(told.brings)
    assert isinstance(told, Luggage)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"workers": 2}, "tuning.workers: 2: with --share the journal of a search is at one node at a time"),
        ({"workers": 4, "storage": "sqlite"}, "leave workers out, or name storage: postgresql://"),
        ({"storage": "sqlite:///study.db"}, "nodes don't see that file"),
    ],
)
def test_a_study_that_cannot_be_shared_is_refused_in_one_line(spec, said):
    with pytest.raises(InputError, match=said) as error:
        refuse_apart(TuningSpec(**spec), {})
    assert len(str(error.value).splitlines()) == 1


def test_other_studies_can_be_shared():
    refuse_apart(None, {"generators.mine.folder": "/images"})
    for spec in ({}, {"workers": 1}, {"storage": "sqlite"}, {"workers": 8, "storage": "postgresql://host/database"}):
        refuse_apart(TuningSpec(**spec), {})
