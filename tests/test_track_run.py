"""Real runs in MLflow: a server that goes away and comes back, a model that is read back, and its pages in a browser."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from bench.track import sync


def _load(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


browser = _load("browser").browser
make_images = _load("test_end_to_end").make_images
pytestmark = pytest.mark.slow

SUITE = """
name: shapes
data: {source: images, root: images, image_size: [16, 16], subject_pattern: "^(p[0-9]+)"}
split: {fractions: {train: 0.5, validation: 0.25, test: 0.25}}
generators:
  - {name: cvae, hyperparameters: {batch_size: 16}}
  - {name: dcgan, hyperparameters: {batch_size: 16}}
  - gaussian
budget: {images_seen: 640}
evaluation: {draws: 2, samples_per_draw: 20, few: 12, bootstrap: 20, features: [random], measures: [frechet_distance]}
progress: {points: 3, samples: 20}
threads: 1
"""


class Server:
    """An MLflow server on this machine that can be killed and started again on the same store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.process = folder, None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, start_new_session=True, env=environment, **quiet)
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return
            time.sleep(0.2)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def curves(self) -> int:
        with contextlib.suppress(sqlite3.Error), sqlite3.connect(self.folder / "server.db") as store:
            return store.execute("select count(*) from metrics where key like 'training/%'").fetchone()[0]
        return 0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("run")
    make_images(cwd / "images")
    (cwd / "suite.yaml").write_text(SUITE)
    return cwd


def start(cwd: Path, *more: str):
    environment = {**os.environ, "BENCH_CACHE": str(cwd / "cache")}
    command = [sys.executable, "-m", "bench", "run", "suite.yaml", *more]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def finished(home):
    run = start(home)
    said = run.communicate(timeout=900)[0]
    assert run.returncode == 0, said
    return home / "results"


def store_of(uri: str):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("medgenbench").experiment_id
    return client, experiment, {run.info.run_name: run for run in client.search_runs([experiment])}


def assert_complete(uri: str, folder: Path) -> None:
    """Every loss of every training is there once, and every final file."""
    client, _, runs = store_of(uri)
    assert len(runs) == len(client.search_runs([client.get_experiment_by_name("medgenbench").experiment_id])) == 8
    for row in ("cvae", "dcgan"):
        (run,) = (folder / "runs").glob(f"{row}-seed0-*")
        lines = [line.split(",") for line in (run / "losses.csv").read_text().splitlines()[1:]]
        mirrored = runs[f"{row} seed 0"]
        assert mirrored.info.status == "FINISHED"
        for split, name in {(line[2], line[3]) for line in lines}:
            expected = [(int(seen), float(value)) for _, seen, s, n, value in lines if (s, n) == (split, name)]
            history = client.get_metric_history(mirrored.info.run_id, f"{split}/{name}")
            assert [(point.step, point.value) for point in history] == expected, (row, split, name)
        held = {file.path for file in client.list_artifacts(mirrored.info.run_id)}
        assert {"samples.png", "result.json", "losses.csv", "model", "images"} <= held
        assert len(client.list_artifacts(mirrored.info.run_id, "images")) == 2 * len(list((run / "progress").iterdir()))


def test_a_server_that_is_killed_and_comes_back(home, tmp_path):
    server = Server(tmp_path)
    server.start()
    run = start(home, "--out", str(tmp_path / "results"), "--set", f"tracking.uri={server.uri}")
    try:
        until = time.monotonic() + 300
        while not server.curves() and time.monotonic() < until:
            time.sleep(0.05)
        server.kill()  # in the middle of the first training or of its scoring
        assert server.curves()
        said = []
        for line in run.stdout:
            said.append(line)
            if "does not answer" in line:
                break
        server.start()
        said += run.communicate(timeout=900)[0].splitlines(keepends=True)
        assert run.returncode == 0, said
        folder = tmp_path / "results" / "shapes"
        sync(folder, server.uri)  # nothing to do if the run ended later than the server was back
        assert sync(folder, server.uri)[2] == 0
        assert_complete(server.uri, folder)
    finally:
        run.kill()
        run.wait()
        run.stdout.close()
        server.kill()


def test_a_server_that_was_never_there(home, tmp_path):
    server = Server(tmp_path)
    run = start(home, "--out", str(tmp_path / "results"), "--set", f"tracking.uri={server.uri}")
    said = run.communicate(timeout=900)[0]
    assert run.returncode == 0, said
    folder = tmp_path / "results" / "shapes"
    assert said.count("bench sync") == 1, said
    server.start()
    try:
        for expected in (8, 0):
            assert sync(folder)[1:] == (8, expected)
        assert_complete(server.uri, folder)
    finally:
        server.kill()


def test_the_model_is_read_back(finished, tmp_path):
    client, _, runs = store_of(f"sqlite:///{finished / 'mlflow.db'}")
    copy = client.download_artifacts(runs["cvae seed 0"].info.run_id, "model", str(tmp_path))
    (run,) = (finished / "shapes" / "runs").glob("cvae-seed0-*")
    pictures = []
    for name, source in (("local", run), ("copy", copy)):
        command = [sys.executable, "-m", "bench", "sample", str(source), "--n", "12", "--out", str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True)
        pictures.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert len(pictures[0]) == 13
    assert pictures[0] == pictures[1]
    metrics = runs["cvae seed 0"].data.metrics
    assert metrics["system/memory_megabytes"] > 100


def test_families_are_compared_in_the_pages(finished, browser, tmp_path):
    _, experiment, runs = store_of(f"sqlite:///{finished / 'mlflow.db'}")
    command = [sys.executable, "-m", "bench", "ui", "--out", str(finished)]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        address = next(word for word in ui.stdout.readline().split() if word.startswith("http://127.0.0.1:"))
        watched = browser(1600, 1000)
        page = watched.page
        page.set_default_timeout(30_000)
        page.goto(f"{address}/#/experiments/{experiment}/runs")
        rows = page.locator(".ag-row")
        rows.filter(has=page.get_by_text("shapes", exact=True)).locator("button").first.click()  # its [+]
        families = ("cvae", "dcgan", "gaussian")
        for name in families:
            row = rows.filter(has=page.get_by_text(name, exact=True))
            row.locator("input[type=checkbox]").first.check(force=True)
        page.screenshot(path=tmp_path / "selected.png")
        page.get_by_role("button", name="Compare").first.click()
        page.get_by_text("Comparing 3 Runs").first.wait_for()
        page.get_by_text("Parallel Coordinates Plot").first.wait_for()
        page.get_by_text("frechet_distance/random/all", exact=True).first.wait_for()
        page.screenshot(path=tmp_path / "compare.png", full_page=True)
        text = page.inner_text("body")
        for name in families:
            value = runs[name].data.metrics["frechet_distance/random/all"]
            assert f"{value:.3g}"[:3] in text, (name, value)
        page.goto(f"{address}/#/experiments/{experiment}/runs/{runs['cvae seed 0'].info.run_id}/artifacts")
        page.get_by_text("samples.png").first.click()
        page.wait_for_function(
            "[...document.images].some(image => image.src.startsWith('blob:') && image.naturalWidth > 30)"
        )
        page.screenshot(path=tmp_path / "grid.png")
        assert watched.outside == []
        # MLflow's pages ask for traces and judges, of which there are none, and Chromium remarks on their layout
        ours = [text for text in watched.errors if "404" not in text and "ResizeObserver loop" not in text]
        assert ours == []
    finally:
        ui.send_signal(signal.SIGINT)
        ui.communicate(timeout=60)


def test_the_suite_mirrors_its_report(finished):
    client, _, runs = store_of(f"sqlite:///{finished / 'mlflow.db'}")
    root = runs["shapes"]
    assert root.data.tags["finished"] == "3 of 3"
    held = {file.path for file in client.list_artifacts(root.info.run_id)}
    assert {"report.html", "suite.yaml", "split.json", "table.md", "results.csv"} <= held
    assert json.loads(root.inputs.dataset_inputs[0].dataset.profile)["classes"].keys() == {"level", "upright", "rare"}
