"""Tuning through the command line: nothing of the test split reaches it, and a killed run goes on as if it had not been."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

SUITE = """
name: tuned
data: {{source: images, root: images, image_size: [16, 16], subject_pattern: "^(p[0-9]+)"}}
split: {{fractions: {{train: 0.5, validation: 0.25, test: 0.25}}}}
generators: [{{name: vae, hyperparameters: {{dense_widths: [32]}}}}]
budget: {{images_seen: 320}}
tuning: {{trials: {trials}, images_seen: 160, samples: 40, points: 2}}
progress: {{points: 0}}
evaluation: {{draws: 2, samples_per_draw: 20, few: 12, bootstrap: 0, features: [random], measures: [frechet_distance]}}
tracking: {{enabled: false}}
threads: 1
"""


def make(cwd: Path, trials: int) -> None:
    rng = np.random.default_rng(0)
    for name in ("level", "upright"):
        (cwd / "images" / name).mkdir(parents=True)
        for number in range(80):
            image = rng.normal(40, 12, (16, 16))
            at = rng.integers(3, 11)
            image[at : at + 3] += 150
            pixels = (image if name == "level" else image.T).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(cwd / "images" / name / f"p{number // 2:03d}_{number}.png")
    (cwd / "suite.yaml").write_text(SUITE.format(trials=trials))


def command(cwd: Path, out: str, *more: str) -> tuple[list[str], dict]:
    environment = {**os.environ, "BENCH_CACHE": str(cwd / "cache"), "COLUMNS": "160"}
    return [sys.executable, "-m", "bench", "run", "suite.yaml", "--out", out, *more], {"cwd": cwd, "env": environment}


def run(cwd: Path, out: str, *more: str) -> Path:
    arguments, how = command(cwd, out, *more)
    done = subprocess.run(arguments, **how, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd / out / "tuned"


def trials(folder: Path):
    """Everything of a study that isn't time."""
    (path,) = (folder / "tuning").glob("*/study.json")
    record = json.loads(path.read_text())
    told = [
        {key: trial[key] for key in ("number", "state", "parameters", "values", "looks")} for trial in record["trials"]
    ]
    return told, record["best"], record["study"]


def weights(folder: Path):
    (path,) = (folder / "runs").glob("vae-*/checkpoint.safetensors")
    return load_file(path)


def distance(folder: Path) -> str:
    rows = (folder / "results.csv").read_text().splitlines()
    return next(row for row in rows if row.startswith("vae,") and ",all,random,frechet_distance," in row)


@pytest.mark.slow
def test_no_test_image_reaches_tuning(tmp_path):
    make(tmp_path, trials=3)
    clean = run(tmp_path, "clean")
    split = json.loads((clean / "split.json").read_text())
    (pixels,) = (
        (tmp_path / "cache").rglob("*.npy")
        if len(list((tmp_path / "cache").rglob("*.npy"))) == 1
        else [path for path in (tmp_path / "cache").rglob("*.npy") if np.load(path, mmap_mode="r").ndim == 4]
    )
    content = np.lib.format.open_memmap(pixels, mode="r+")
    kept = np.array(content)
    content[split["test"]] = np.random.default_rng(1).integers(0, 2, content[split["test"]].shape) * 255
    content.flush()
    assert (np.array(content)[split["train"]] == kept[split["train"]]).all()
    assert (np.array(content)[split["test"]] != kept[split["test"]]).mean() > 0.5
    poisoned = run(tmp_path, "poisoned")
    assert trials(poisoned) == trials(clean), "suggestions, values on the way and at the end, best values: bit for bit"
    first, second = weights(clean), weights(poisoned)
    assert set(first) == set(second)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert distance(poisoned) != distance(clean), "the final score sees it"


@pytest.mark.slow
def test_killed_search_goes_on_as_if_it_had_not_been(tmp_path):
    make(tmp_path, trials=5)
    straight = run(tmp_path, "straight")
    arguments, how = command(tmp_path, "killed")
    for ended in (1, 3):  # killed in the second trial and in the fourth, or as soon after as a busy machine lets see
        with subprocess.Popen(arguments, **how, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 600
            while not _began(tmp_path / "killed", ended):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            os.kill(process.pid, signal.SIGKILL)
    killed = run(tmp_path, "killed")
    assert trials(killed) == trials(straight)
    first, second = weights(straight), weights(killed)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def _began(out: Path, number: int) -> bool:
    """Whether the trial of this number was taken."""
    told = "".join(path.read_text() for path in out.glob("tuned/tuning/*/jobs/*/events.jsonl"))
    return f'"type": "trial", "number": {number}' in told


@pytest.mark.slow
def test_two_workers_share_a_search(tmp_path):
    make(tmp_path, trials=4)
    told, _, _ = trials(run(tmp_path, "two", "--workers", "2"))
    assert [trial["number"] for trial in told] == [0, 1, 2, 3]
    assert len({json.dumps(trial["parameters"], sort_keys=True) for trial in told}) == 4
    assert all(trial["state"] in ("finished", "pruned") for trial in told)
