"""What a suite costs when there is twice as much of one thing: families, seeds, draws, images, pixels.

    python tests/benchmarks/growth.py [--only draws] [--doublings 2]

Each suite is run as a user runs it, `bench run`, in results and a cache of its own. Told are the processor's seconds of all
its processes (others on the machine hardly count), the peak memory of the largest of them, and both as a ratio to the size
before. Not a test and not in CI: half an hour on a quiet machine. The table of docs/scale.md comes from here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

BASE: dict[str, Any] = {
    "name": "growth",
    "data": {"source": "scanner_phantom", "image_size": [32, 32], "subjects": 100, "proportions": "balanced"},
    "split": {"fractions": {"train": 0.5, "validation": 0.25, "test": 0.25}},
    "generators": [{"name": "dcgan"}],
    "seeds": [0],
    "budget": {"images_seen": 8000},
    "progress": {"points": 0},
    "evaluation": {"draws": 5, "samples_per_draw": 40, "few": 20, "bootstrap": 50, "features": ["random"]},
    "threads": 1,
}
"""One family, 1,000 images."""


def varied(what: str, times: int) -> dict[str, Any]:
    """The base suite with so many times as much of one thing."""
    suite = json.loads(json.dumps(BASE))
    match what:
        case "families":
            suite["generators"] = [{"name": "dcgan", "label": f"dcgan_{number}"} for number in range(times)]
        case "seeds":
            suite["seeds"] = list(range(times))
        case "draws":
            suite["evaluation"]["draws"] *= times
        case "images":
            suite["data"]["subjects"] *= times
        case "pixels":
            suite["data"]["image_size"] = [32 * times, 32]
    return suite


AXES = ("families", "seeds", "draws", "images", "pixels")

ONE = """
import json, resource, subprocess, sys
from time import perf_counter
start = perf_counter()
code = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
found = {"wall": perf_counter() - start, "processor": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss * 1024}
print(json.dumps({"code": code, **found}))
"""
"""In a process of its own, whose children are those of one suite."""


def measure(suite: dict[str, Any]) -> dict[str, float]:
    """Run it; seconds by the clock, processor seconds and the largest process's peak memory in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "suite.yaml"
        file.write_text(json.dumps(suite))  # JSON is YAML
        run = [sys.executable, "-m", "bench", "run", str(file), "--out", f"{folder}/results"]
        environment = {**os.environ, "BENCH_CACHE": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
        # the data are prepared before: their cost is once for all suites
        prepare = [sys.executable, "-m", "bench", "data", "prepare", str(file)]
        subprocess.run(prepare, env=environment, check=True, stdout=subprocess.DEVNULL)
        done = subprocess.run([sys.executable, "-c", ONE, *run], env=environment, capture_output=True, text=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if found.pop("code"):
        raise SystemExit(f"the suite did not finish: {done.stderr}")
    return found


def main() -> None:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description="Measure what twice as much of one thing costs.")
    parser.add_argument("--only", choices=AXES, action="append", help="one of the things; may be repeated")
    parser.add_argument("--doublings", type=int, default=2)
    given = parser.parse_args()
    sys.stdout.write("| doubled | times | processor, s | ratio | clock, s | peak memory, MB | ratio |\n")
    sys.stdout.write("| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n")
    base = measure(BASE)
    for what in given.only or AXES:
        before = base
        for doubling in range(given.doublings + 1):
            found = measure(varied(what, 2**doubling)) if doubling else base
            ratios = [f"{found[name] / before[name]:.2f}" if doubling else "" for name in ("processor", "peak")]
            sys.stdout.write(
                f"| {what} | {2**doubling} | {found['processor']:.1f} | {ratios[0]} | {found['wall']:.0f} "
                f"| {found['peak'] / 1e6:.0f} | {ratios[1]} |\n"
            )
            sys.stdout.flush()
            before = found


if __name__ == "__main__":
    main()
