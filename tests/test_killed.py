"""Killed at random moments and continued each time, a suite ends with the results of one that was never disturbed.

SIGKILL to the command, its jobs and all else it started: nothing can be tidied up. What must not differ is everything in
results.csv but costs, to the last digit, on one processor type with equal threads and packages.
"""

import csv
import json
import random
import shutil
import sys
import time
from collections import Counter

import pytest
from command_line import bench, kill_group, make_images, scores, start

KILLS = 25
TUNING_KILLS = 5
"""The first ones: trials come before everything else."""
SEED = 7
SUITE = """
name: killed
data: {source: images, root: images, image_size: [16, 16], subject_pattern: "^(p[0-9]+)"}
split: {fractions: {train: 0.5, validation: 0.25, test: 0.25}}
generators:
  - {name: vae, tune: false, hyperparameters: {batch_size: 8, width: 4, latent_dim: 4}}
  - {name: cvae, hyperparameters: {batch_size: 8, width: 4, latent_dim: 4}}
  - {name: logcosh_cvae, tune: false, hyperparameters: {batch_size: 8, width: 4, latent_dim: 4}}
  - {name: gan, tune: false, hyperparameters: {batch_size: 8, dense_widths: [32], dropout: 0.2}}
  - {name: dcgan, hyperparameters: {batch_size: 8, conditional: true, width: 4}}
  - {name: wgan_gp, tune: false, hyperparameters: {batch_size: 8, conditional: true, width: 4, critic_steps: 2}}
  - {name: vae_gan, tune: false, hyperparameters: {batch_size: 8, conditional: true, width: 4}}
  - {name: ddim, tune: false, hyperparameters: {batch_size: 8, conditional: true, channels: [16, 16], sampling_steps: 5}}
budget: {images_seen: 2400}
tuning: {trials: 3, images_seen: 800, samples: 20, points: 2}
progress: {points: 3, samples: 20}
evaluation: {draws: 3, samples_per_draw: 20, few: 12, bootstrap: 20, features: [random]}
checkpoint_minutes: 0.002
threads: 1
"""


@pytest.mark.slow
def test_killed_at_random_moments_and_continued_the_results_are_the_same(tmp_path, capsys):
    make_images(tmp_path / "images", 80)
    (tmp_path / "suite.yaml").write_text(SUITE)
    started = time.monotonic()
    bench("run", "suite.yaml", "--out", "whole", cwd=tmp_path, check=0)
    whole = time.monotonic() - started

    rng = random.Random(SEED)
    found: Counter[str] = Counter()
    families: Counter[str] = Counter()
    resumed = 0
    folder = tmp_path / "parts" / "killed"
    for number in range(KILLS):
        before = events(folder)
        process = start("run", "suite.yaml", "--out", "parts", cwd=tmp_path, log=tmp_path / "log.txt")
        moment = rng.uniform(0.0, 1.0)
        wanted = in_a_trial if number < TUNING_KILLS else WANTED[number % len(WANTED)]
        until = time.monotonic() + 90
        while process.poll() is None and time.monotonic() < until:
            new = events(folder)[len(before) :]
            if wanted(new):
                break
            time.sleep(0.002)
        time.sleep(moment * 0.4)
        if process.poll() is not None:
            assert process.returncode == 0, (tmp_path / "log.txt").read_text()
        kill_group(process)
        what, row = moment_of(folder, events(folder)[len(before) :])
        found[what] += 1
        families[row] += 1
        with capsys.disabled():
            sys.stdout.write(f"\nkill {number + 1}: {what} {row}")
        if process.returncode == 0:  # it was quicker: what is left to be killed is done again
            forget(folder, rng)
    done = bench("run", "suite.yaml", "--out", "parts", cwd=tmp_path, check=0)
    assert "Traceback" not in done.stdout
    resumed = sum(event["type"] == "resumed" for event in events(folder))
    with capsys.disabled():
        sys.stdout.write(
            f"\n{KILLS} kills: {dict(found)} in {dict(families)}; {resumed} times a training went on; {whole:.0f} s whole"
        )
    assert scores(tmp_path / "whole" / "killed") == scores(folder)
    assert trials(tmp_path / "whole" / "killed") == trials(folder)
    assert len(scores(folder)) > 100
    assert resumed >= 5
    assert found["training"] >= 5
    assert found["evaluating"] >= 3
    assert found["tuning"] >= 3
    assert not list(folder.rglob("*.part"))
    assert not list(folder.rglob("*.damaged-*"))
    assert not list(folder.rglob("unfinished.safetensors"))


def events(folder):
    """Every event of every job so far, with the job's folder's name, in the order of their times."""
    told = []
    for path in (*folder.glob("runs/*/events.jsonl"), *folder.glob("tuning/*/jobs/*/events.jsonl")):
        job = path.parent if path.parent.parent.name == "runs" else path.parent.parent.parent
        for line in path.read_text().splitlines():
            try:
                told.append({**json.loads(line), "job": job.name, "tuning": job.parent.name == "tuning"})
            except ValueError:
                continue
    return sorted(told, key=lambda event: event["time"])


def trials(folder):
    """Number, state, values and objectives of every trial: all but the time it took."""
    told = []
    for path in sorted(folder.glob("tuning/*/trials.csv")):
        with path.open(newline="") as file:
            rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
        told.append((path.parent.name, rows))
    return told


def in_a_trial(new):
    """Whether a trial has begun."""
    return any(event["type"] == "trial" for event in new)


WANTED = [
    lambda new: any(event["type"] == "progress" and not event["tuning"] for event in new),
    lambda new: any(event["type"] == "phase" and event["phase"] == "scoring" for event in new),
    lambda new: any(event["type"] == "progress" and event["fraction"] > 0.5 and not event["tuning"] for event in new),
    lambda new: any(
        event["type"] == "phase" and event["phase"] == "scoring" and event["fraction"] == 1 for event in new
    ),
    lambda new: any(event["type"] == "progress" and event["fraction"] == 1 and not event["tuning"] for event in new),
]
"""What is waited for before the other kills, in turn, so that kills fall into every phase; then a random while more."""


def moment_of(folder, new):
    """What was going on when the kill fell, and in which row."""
    told = [event for event in new if event["type"] not in ("system", "spent")]  # told at any time, and at the end
    if not told:
        return "starting", "-"
    last = told[-1]
    row = last["job"].rsplit("-", 1)[0].rsplit("-seed", 1)[0]
    if last["tuning"]:
        return "tuning", row
    if last["type"] in ("progress", "loss", "alive", "progress_scores", "resumed"):
        return ("writing" if last.get("fraction") == 1 else "training"), row
    if last.get("phase") == "scoring":
        return ("writing" if last["fraction"] == 1 else "evaluating"), row
    return last.get("phase", last["type"]), row


def forget(folder, rng):
    """Undo one row, as a user would who deletes its folder."""
    rows = sorted(path for path in folder.glob("runs/*-seed0-*") if not path.name.startswith("floor"))
    chosen = rng.choice(rows)
    for path in chosen.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "events.jsonl":
            path.unlink()
