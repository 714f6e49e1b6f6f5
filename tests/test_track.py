"""The mirror in MLflow: one tree from a results folder, complete, sent once, and no matter if nobody listens."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from bench.errors import BenchError, InputError
from bench.store import Events
from bench.track import Tracker, sync
from bench.track.numbers import curves
from bench.usage import Usage

_spec = importlib.util.spec_from_file_location("report_fixture", Path(__file__).with_name("report_fixture.py"))
fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixture)

SEEDS = {"vae": 2, "cvae": 2}
RUNS = 1 + 2 + 7 + 9
"""The suite, two floors, seven families and controls, nine seeds of them."""


FEW = {name: fixture.DISTANCE[name] for name in ("floor_validation", "vae", "cvae", "dcgan", "training_copy")}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """An empty store: making its tables takes MLflow seconds."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("tables") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def results(tables, tmp_path):
    shutil.copy(tables, tmp_path)
    return tmp_path


def write(results: Path, **options) -> Path:
    options = {"distance": FEW, **options}
    folder = fixture.write_results(results / "example", **options)
    run = folder / "runs" / "cvae-seed0-0123456789ab"
    (run / "progress").mkdir()
    for step in (300, 600):
        Image.fromarray(np.full((8, 8), step % 256, np.uint8)).save(run / "progress" / f"{step:09d}.png")
    for seed_folder in (folder / "runs").iterdir():
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(seed_folder / "samples.png")
        if "seed" in seed_folder.name and not seed_folder.name.startswith("floor"):
            (seed_folder / "checkpoint.safetensors").write_bytes(b"weights")
    return folder


def client(results: Path):
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{results / 'mlflow.db'}")


def all_runs(results: Path):
    found = client(results)
    return found.search_runs([found.get_experiment_by_name("medgenbench").experiment_id])


def files(store, run_id: str, path: str | None = None) -> set[str]:
    found = store.list_artifacts(run_id, path)
    return {f.path for f in found if not f.is_dir} | {
        n for f in found if f.is_dir for n in files(store, run_id, f.path)
    }


def counts(results: Path) -> dict[str, int]:
    with sqlite3.connect(results / "mlflow.db") as store:
        tables = ("runs", "metrics", "params", "tags", "datasets", "inputs")
        return {table: store.execute(f"select count(*) from {table}").fetchone()[0] for table in tables}


@pytest.fixture(scope="module")
def mirrored(tables, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    shutil.copy(tables, results)
    folder = write(results, distance=fixture.DISTANCE, seeds=SEEDS, progress=True)
    return results, folder, sync(folder), {run.info.run_name: run for run in all_runs(results)}


def test_one_tree(mirrored):
    _, folder, (uri, count, new), runs = mirrored
    assert (count, new, len(runs)) == (RUNS, RUNS, RUNS)
    assert uri == f"sqlite:///{folder.parent / 'mlflow.db'}"
    parents = {name: run.data.tags.get("mlflow.parentRunId") for name, run in runs.items()}
    ids = {name: run.info.run_id for name, run in runs.items()}
    assert parents.pop("example") is None
    for name, parent in parents.items():
        assert parent == ids[name.split(" seed ")[0] if " seed " in name else "example"], name
    tags = runs["cvae seed 1"].data.tags
    expected = {"suite": "example", "data": "0011223344556677", "split": "8899aabbccddeeff", "generator": "cvae",
                "family": "cvae", "role": "family", "seed": "1", "level": "seed",
                "status": "finished", "eval_id": "ab12"}  # fmt: skip
    assert {name: tags.get(name) for name in expected} == expected
    assert runs["example"].data.tags["finished"] == "7 of 9"


def test_files_go_where_the_suite_says(results):
    folder = write(results)
    suite = json.loads((folder / "suite.json").read_text())
    suite["tracking"] = {**(suite.get("tracking") or {}), "artifacts": (results / "elsewhere").as_uri()}
    (folder / "suite.json").write_text(json.dumps(suite))
    sync(folder)
    assert client(results).get_experiment_by_name("medgenbench").artifact_location == (results / "elsewhere").as_uri()
    assert list((results / "elsewhere").rglob("result.json"))
    assert not (results / "mlartifacts").exists()


def test_what_failed_is_failed_with_its_reason(mirrored):
    runs = mirrored[3]
    for row, (status, reason) in fixture.ENDINGS.items():
        for name in (row, f"{row} seed 0"):
            assert runs[name].info.status == "FAILED"
            assert reason in runs[name].data.tags["reason"]
        assert runs[f"{row} seed 0"].data.tags["status"] == status
        assert reason in runs["example"].data.tags["reason"]
    bad = {name for name, run in runs.items() if run.info.status != "FINISHED"}
    assert bad == {"example", *fixture.ENDINGS, *(f"{row} seed 0" for row in fixture.ENDINGS)}


def test_scores_curves_and_parameters(mirrored):
    results, folder, _, runs = mirrored
    store, seeds = client(results), [runs["cvae seed 0"].data, runs["cvae seed 1"].data]
    for number, data in enumerate(seeds):
        record = json.loads((folder / f"runs/cvae-seed{number}-0123456789ab/evaluation-ab12.json").read_text())
        score = next(s for s in record["scores"] if (s["measure"], s["class"]) == ("frechet_distance", "Intera"))
        assert data.metrics["frechet_distance/domain/Intera"] == score["mean"]
        assert data.metrics["frechet_distance/domain/Intera/std"] == score["std"]
    assert seeds[0].params["latent_dim"] == "64"
    assert seeds[0].params["budget.images_seen"] == "60000"
    for name in ("frechet_distance/domain/all", "cost/training_seconds"):
        mean = (seeds[0].metrics[name] + seeds[1].metrics[name]) / 2
        assert runs["cvae"].data.metrics[name] == pytest.approx(mean)
    (mean,) = store.get_metric_history(runs["cvae"].info.run_id, "frechet_distance/domain/all")
    (one,) = store.get_metric_history(runs["cvae seed 0"].info.run_id, "frechet_distance/domain/all")
    assert (mean.step, one.step) == (2, 60000), "seeds that the mean is of; images seen"
    history = store.get_metric_history(runs["cvae seed 0"].info.run_id, "training/kl")
    assert [point.step for point in history] == [step * 64 for step in range(0, 900, 2)]
    progress = store.get_metric_history(runs["cvae seed 0"].info.run_id, "progress/domain/frechet_distance")
    assert [point.step for point in progress] == [6000 * point for point in range(1, 11)]
    assert runs["example"].data.params["budget.images_seen"] == "60000"


def test_files_grids_and_model(mirrored):
    results, _, _, runs = mirrored
    store = client(results)
    found = files(store, runs["cvae seed 0"].info.run_id)
    assert {"result.json", "losses.csv", "evaluation-ab12.json", "samples.png"} <= found
    assert {name for name in found if name.startswith("model/")} == {
        "model/checkpoint.safetensors",
        "model/result.json",
    }
    assert not any(name.endswith((".pkl", ".pt", ".pth", ".npz")) for name in found)
    grids = sorted(name for name in found if name.startswith("images/") and name.endswith(".png"))
    assert ["+step+300+" in grids[0], "+step+600+" in grids[1], len(grids)] == [True, True, 2]
    assert {"suite.yaml"} <= files(store, runs["example"].info.run_id)
    assert (results / "mlartifacts").is_dir(), "artifacts lie beside the store"


def test_the_data_set_is_an_input(mirrored):
    for name in ("example", "vae seed 1"):
        (entry,) = mirrored[3][name].inputs.dataset_inputs
        assert entry.dataset.digest == "0011223344556677"
        profile = json.loads(entry.dataset.profile)
        assert (profile["train"], profile["validation"], profile["test"]) == (2400, 600, 1000)
        assert profile["classes"]["Intera"] == {"train": 600, "validation": 150, "test": 325}
        assert json.loads(entry.dataset.source)["split"] == "8899aabbccddeeff"
        schema = json.loads(json.loads(entry.dataset.schema)["mlflow_tensorspec"]["features"])
        assert schema[0]["tensor-spec"]["shape"] == [-1, 1, 24, 24]


def test_sent_twice_is_there_once(mirrored):
    results, folder, _, _ = mirrored
    before = counts(results)
    assert sync(folder)[1:] == (RUNS, 0)
    notes = json.loads((folder / "mlflow.json").read_text())
    (folder / "mlflow.json").write_text(
        json.dumps({**notes, "stores": {}})
    )  # as if the power went before they were kept
    grids = set(
        files(client(results), next(r.info.run_id for r in all_runs(results) if r.info.run_name == "cvae seed 0"))
    )
    assert sync(folder)[1:] == (RUNS, RUNS)
    assert counts(results) == before
    again = set(
        files(client(results), next(r.info.run_id for r in all_runs(results) if r.info.run_name == "cvae seed 0"))
    )
    assert again == grids


def test_a_run_deleted_by_hand_comes_back(results):
    folder = write(results, seeds=SEEDS)
    count = sync(folder)[1]
    store = client(results)
    gone = next(run for run in all_runs(results) if run.info.run_name == "vae")
    store.delete_run(gone.info.run_id)
    assert sync(folder)[1:] == (count, 3), "the family, and its seeds that hang below it"
    runs = {run.info.run_name: run for run in all_runs(results)}
    assert len(runs) == count
    assert runs["vae"].data.metrics == gone.data.metrics
    assert runs["vae seed 1"].data.tags["mlflow.parentRunId"] == runs["vae"].info.run_id


def test_patients_stay_out(results):
    """What a control samples may be real images, its model may hold them, and the floor's samples are."""
    folder = write(results, patient_images=False)
    sync(folder)
    store = client(results)
    held = {run.info.run_name: files(store, run.info.run_id) for run in all_runs(results)}
    for name in ("training_copy seed 0", "floor_validation"):
        assert "result.json" in held[name]
        assert not {f for f in held[name] if f.endswith((".png", ".safetensors"))}, name
    assert {"samples.png", "model/checkpoint.safetensors"} <= held["vae seed 0"]


def test_a_family_that_copies_shows_nothing_where_patients_must_not_be_shown(results):
    """Nor does one that was not scored yet: nobody knows what its samples are."""
    folder = write(results, patient_images=False)
    for path in folder.glob("runs/vae-seed0-*/evaluation-*.json"):
        record = json.loads(path.read_text())
        near = {**record["scores"][0], "measure": "memorization", "features": "", "class": "all", "mean": -9.0}
        path.write_text(json.dumps({**record, "scores": [*record["scores"], near]}))
    for path in folder.glob("runs/cvae-seed0-*/evaluation-*.json"):
        path.unlink()
    sync(folder)
    held = {run.info.run_name: files(client(results), run.info.run_id) for run in all_runs(results)}
    for name in ("vae seed 0", "cvae seed 0"):
        assert "result.json" in held[name]
        assert not {f for f in held[name] if f.endswith((".png", ".webp", ".safetensors"))}, name


def test_what_is_new_is_sent_alone(results):
    folder = write(results, seeds=SEEDS)
    count = sync(folder)[1]
    run = folder / "runs" / "vae-seed0-0123456789ab"
    record = json.loads((run / "evaluation-ab12.json").read_text())
    record["scores"][0]["mean"] = 7.5
    (run / "evaluation-ab12.json").write_text(json.dumps(record))
    assert sync(folder)[1:] == (count, 2), "the seed, and the family's mean; the suite holds no scores"
    runs = {r.info.run_name: r.data.metrics for r in all_runs(results)}
    name = "frechet_distance/domain/all"
    assert runs["vae seed 0"][name] == 7.5
    assert runs["vae"][name] == (7.5 + runs["vae seed 1"][name]) / 2


def test_trials_hang_below_their_family(results):
    folder = write(results)
    home = folder / "tuning" / "vae-abc"
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(
        json.dumps({**plan, "searches": [{"generator": "vae", "folder": "tuning/vae-abc"}]})
    )
    common = {"images_seen": 500, "seconds": 3.0, "looks": {"250": 9.0, "500": 8.0}, "reason": ""}
    trials = [
        {**common, "number": 0, "state": "finished", "parameters": {"beta": 1.0}, "values": [8.0]},
        {**common, "number": 1, "state": "pruned", "parameters": {"beta": 9.0}, "values": [], "reason": "hopeless"},
        {**common, "number": 2, "state": "running", "parameters": {"beta": 3.0}, "values": []},
        {**common, "number": 3, "state": "waiting", "parameters": {}, "values": []},
    ]
    events = Events(home / "jobs" / "0000" / "events.jsonl")
    events("trial", number=1, parameters={})
    events("loss", split="training", images_seen=100, step=10, values={"loss": 3.0})
    events("trial", number=0, parameters={})
    events("loss", split="training", images_seen=100, step=10, values={"loss": 2.0})
    events.close()
    search = {"spec": {"objective": ["frechet_distance"], "features": "radiomics"}, "images_seen": 500}
    trials[0]["commit"] = "abc123"
    study = {"schema": 1, "study": "vae-abc", "search": search, "trials": trials}
    (home / "study.json").write_text(json.dumps(study))
    sync(folder)
    assert sync(folder)[2] == 0
    runs = {run.info.run_name: run for run in all_runs(results) if run.data.tags["level"] in ("trial", "family")}
    assert {name for name in runs if "trial" in name} == {f"vae/trial {number}" for number in range(3)}
    first, second, third = (runs[f"vae/trial {number}"] for number in range(3))
    assert all(one.data.tags["mlflow.parentRunId"] == runs["vae"].info.run_id for one in (first, second, third))
    assert [one.info.status for one in (first, second, third)] == ["FINISHED", "KILLED", "KILLED"]
    assert second.data.tags["reason"] == "hopeless"
    assert first.data.params["beta"] == "1.0"
    assert (first.data.tags["family"], first.data.tags["commit"]) == ("vae", "abc123")
    assert first.data.metrics["objective/frechet_distance"] == 8.0
    assert first.data.metrics["progress/radiomics/frechet_distance"] == 8.0
    assert (first.data.metrics["training/loss"], second.data.metrics["training/loss"]) == (2.0, 3.0)


def test_a_training_begun_anew_replaces_what_it_told(tmp_path):
    events = Events(tmp_path / "events.jsonl")
    for value in (5.0, 4.0):
        events("loss", split="training", images_seen=100, step=1, values={"loss": value, "odd": float(value)})
        events("system", values={"cpu_percent": 50.0})
    events.close()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"type": "loss", "split": "training", "images_')
    found = [(point.name, point.step, point.value) for point in curves(tmp_path)]
    load = [("system/cpu_percent", step, 50.0) for step in (0, 1)]
    assert found == [*load, ("training/loss", 100, 4.0), ("training/odd", 100, 4.0)]


def test_nobody_listens(results):
    """One note, one warning that says what to do, no long wait; and later everything is there."""
    folder = write(results)
    notes, warnings = [], []
    tracker = Tracker(folder, f"http://user:secret@127.0.0.1:{free_port()}", notes.append, warnings.append)
    run = folder / "runs" / "vae-seed0-0123456789ab"
    tracker.started(run)
    time.sleep(1)
    tracker.ended(run)
    started = time.monotonic()
    tracker.close()
    assert time.monotonic() - started < 30
    assert len(notes) == len(warnings) == 1, (notes, warnings)
    assert f"bench sync {folder}" in warnings[0]
    assert "secret" not in notes[0] + warnings[0]
    with pytest.raises(BenchError, match=r"no connection.*same command"):
        sync(folder, f"http://127.0.0.1:{free_port()}")
    assert sync(folder)[2] == len(all_runs(results)) > 10


def test_live_states(results):
    """A training at work is RUNNING; when the run has ended, what has no result was broken off."""
    folder = write(results, pending=("vae",))
    run = folder / "runs" / "vae-seed0-0123456789ab"
    run.mkdir()
    (run / "job.json").write_text(json.dumps({"row": "vae", "role": "family", "seed": 0, "generator": {"name": "vae"}}))
    tracker = Tracker(folder, f"sqlite:///{results / 'mlflow.db'}", pytest.fail, pytest.fail)
    tracker.started(run)
    events = Events(run / "events.jsonl")
    events("loss", split="training", images_seen=64, step=1, values={"loss": 2.0})
    events.close()
    states, until = {}, time.monotonic() + 60
    while states != {"RUNNING"} and time.monotonic() < until:
        time.sleep(0.5)
        runs = {r.info.run_name: r for r in all_runs(results)} if (folder / "mlflow.json").exists() else {}
        if "vae seed 0" in runs and "training/loss" in runs["vae seed 0"].data.metrics:
            states = {runs[name].info.status for name in ("example", "vae", "vae seed 0")}
    assert states == {"RUNNING"}
    with pytest.raises(InputError, match="at work here"):
        sync(folder)
    tracker.close()
    runs = {r.info.run_name: r for r in all_runs(results)}
    assert {runs[name].info.status for name in ("vae", "vae seed 0")} == {"KILLED"}
    assert runs["vae seed 0"].data.tags["reason"] == "ended before it had a result"
    assert sync(folder)[2] == 0


def test_sync_wants_results(tmp_path):
    with pytest.raises(InputError, match=r"plan\.json is missing"):
        sync(tmp_path)


def test_usage_counts_children():
    usage = Usage(lambda *_, **__: None, gpu=False)
    alone = usage.sample()["memory_megabytes"]
    assert alone > 10
    child = subprocess.Popen([sys.executable, "-c", "block = bytearray(300_000_000); import time; time.sleep(60)"])
    try:
        until = time.monotonic() + 20
        while usage.sample()["memory_megabytes"] < alone + 250 and time.monotonic() < until:
            time.sleep(0.1)
        assert usage.sample()["memory_megabytes"] > alone + 250
    finally:
        child.kill()
        child.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens_at(processes):
    """The addresses at which any of them takes connections; MLflow starts and ends some of its own as it likes."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {own.laddr.ip for own in process.net_connections("tcp") if own.status == "LISTEN"}
    return found


def test_ui_answers_here_alone_and_ends_with_all_it_started(mirrored):
    results, _, _, _ = mirrored
    with socket.socket() as taken:  # so that another port must be found
        try:
            taken.bind(("127.0.0.1", 5000))
            taken.listen()
        except OSError:
            pass  # someone else has it, which is as good
        command = [sys.executable, "-m", "bench", "ui", "--out", str(results)]
        ui = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        try:
            line = ui.stdout.readline()
            address = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
            assert not address.endswith(":5000")
            assert b"<html" in urllib.request.urlopen(address, timeout=20).read().lower()
            telemetry = urllib.request.urlopen(f"{address}/ajax-api/3.0/mlflow/ui-telemetry", timeout=20).read()
            assert json.loads(telemetry)["disable_ui_telemetry"] is True
            children = psutil.Process(ui.pid).children(recursive=True)
            assert children
            assert listens_at(children) == {"127.0.0.1"}
            ui.send_signal(signal.SIGINT)
            rest = ui.communicate(timeout=30)[0]
        finally:
            ui.kill()
            ui.communicate()
    assert ui.returncode == 0
    assert "closed" in rest
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_ui_says_what_is_missing(tmp_path):
    done = subprocess.run([sys.executable, "-m", "bench", "ui", "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no MLflow store" in done.stderr
    assert "bench sync" in done.stderr
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-m", "bench", "ui", "--out", str(tmp_path), "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "name another" in done.stderr
