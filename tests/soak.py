"""A soak, run by hand or nightly (nox -s soak -- --minutes 60): a small suite again and again, with random kills.

Afterwards, and after every round: no process is left, no file half written, no shared memory, no temporary folder, every
undisturbed result is the same, and neither the jobs nor the command take more memory in the last rounds than in the first.
Exit code 1 says what was found.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from command_line import bench, kill_group, make_images, scores, start

SUITE = """
name: soak
data: {source: images, root: images, image_size: [16, 16], subject_pattern: "^(p[0-9]+)"}
generators:
  - {name: cvae, hyperparameters: {batch_size: 8, width: 4, latent_dim: 4}}
  - {name: wgan_gp, hyperparameters: {batch_size: 8, width: 4}}
  - {name: ddim, hyperparameters: {batch_size: 8, channels: [16, 16], sampling_steps: 5}}
  - mean_image
budget: {images_seen: 800}
progress: {points: 2, samples: 20}
evaluation: {draws: 2, samples_per_draw: 15, few: 10, bootstrap: 10, features: [random]}
checkpoint_minutes: 0.002
threads: 1
"""
GROWTH = 1.1
"""Memory of the last rounds over that of the first, at most."""


def watch(process, peaks: list[int]) -> threading.Thread:
    """Keep the peak of the command's own memory while it runs, without its jobs."""

    def look() -> None:
        peak = 0
        while process.poll() is None:
            try:
                peak = max(peak, psutil.Process(process.pid).memory_info().rss)
            except psutil.Error:
                break
            time.sleep(0.05)
        peaks.append(peak)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    return thread


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the soak was ended"))
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        cwd = Path(name)
        home = cwd / "tmp"  # everything temporary of the command and its jobs, to be found again
        home.mkdir()
        os.environ["TMPDIR"] = str(home)
        make_images(cwd / "images", 80)
        (cwd / "suite.yaml").write_text(SUITE)
        shared = set(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else set()
        bench("run", "suite.yaml", "--out", "whole", cwd=cwd, check=0)
        expected = scores(cwd / "whole" / "soak")
        commands: list[int] = []
        jobs: list[int] = []
        rounds = kills = 0
        until = time.monotonic() + options.minutes * 60
        while time.monotonic() < until:
            out = cwd / "round"
            shutil.rmtree(out, ignore_errors=True)
            while True:
                process = start("run", "suite.yaml", "--out", "round", cwd=cwd, log=cwd / "log.txt")
                watcher = watch(process, commands)
                deadline = time.monotonic() + rng.uniform(4, 25) if rng.random() < 0.7 else float("inf")
                try:
                    while process.poll() is None and time.monotonic() < deadline:
                        time.sleep(0.02)
                    ended = process.poll()
                finally:  # whoever ends the soak ends what it started
                    kill_group(process)
                watcher.join()
                if ended is not None:
                    break
                kills += 1
                commands.pop()  # a command that was cut short says nothing about memory
            if ended:
                faults.append(f"round {rounds + 1}: exit code {ended}: {(cwd / 'log.txt').read_text()[-500:]}")
            elif scores(out / "soak") != expected:
                faults.append(f"round {rounds + 1}: other results than undisturbed")
            for pattern in ("*.part", "unfinished.safetensors", "*.damaged-*"):
                faults += [f"round {rounds + 1}: left behind: {path}" for path in out.rglob(pattern)]
            for path in (out / "soak" / "runs").glob("cvae-*/result.json"):
                jobs.append(int(json.loads(path.read_text())["costs"]["peak_memory_bytes"]))
            rounds += 1
        mine = [p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get("TMPDIR") == str(home)]
        faults += [f"orphan process {p.pid}" for p in mine if p.pid != os.getpid()]
        if Path("/dev/shm").is_dir():
            faults += [f"shared memory left: {item}" for item in set(Path("/dev/shm").iterdir()) - shared]
        left = sorted(path.name for path in home.iterdir())
        if len(left) > rounds:  # a library may keep one cache folder, but none per run
            faults.append(f"temporary files left: {left[:10]}")
        for what, peaks in (("the command", commands), ("a job", jobs)):
            third = max(1, len(peaks) // 3)
            first, last = statistics.median(peaks[:third] or [0]), statistics.median(peaks[-third:] or [0])
            sys.stdout.write(f"{what}: {first / 1e6:.0f} MB at first, {last / 1e6:.0f} MB at last\n")
            if first and last > GROWTH * first:
                faults.append(f"{what} grew from {first / 1e6:.0f} to {last / 1e6:.0f} MB")
    sys.stdout.write(f"{rounds} rounds, {kills} kills, {len(faults)} faults\n")
    for fault in faults:
        sys.stdout.write(f"  {fault}\n")
    return 1 if faults or not rounds else 0


if __name__ == "__main__":
    raise SystemExit(main())
