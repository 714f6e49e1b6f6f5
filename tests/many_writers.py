"""One of several writers to the same databases: takes trials of a study, and mirrors a training of its own in MLflow.

`python many_writers.py SEARCH.json FOLDER STORE`: prints as JSON what it wrote and what the mirror complained of.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from bench.search import Search
from bench.store import Events, write_json
from bench.track import Tracker
from bench.tune import Study

RUN = "vae-seed0-0123456789ab"
LOOKS = (250, 500, 750, 1000)
POINTS = 10
"""Events between two looks, of two numbers each."""


def begin(folder: Path) -> Path:
    """Write what a session has written when its first training begins; return the training's folder."""
    run = folder / "runs" / RUN
    row = {"generator": "vae", "role": "family", "seed": 0, "run": f"runs/{RUN}", "evaluation": "evaluation-0.json"}
    write_json(folder / "plan.json", {"schema": 1, "suite": folder.name, "rows": [row], "searches": []})
    write_json(folder / "suite.json", {"name": folder.name})
    write_json(run / "job.json", {"row": "vae", "seed": 0, "generator": {"name": "vae", "hyperparameters": {}}})
    return run


def work(search: Search, folder: Path, store: str) -> dict:
    run = begin(folder)
    complaints: list[str] = []
    tracker = Tracker(folder, store, complaints.append, complaints.append)
    tracker.started(run)
    emit, rng = Events(run / "events.jsonl"), random.Random(str(folder))
    trials: dict[int, float] = {}
    metrics: dict[str, list] = {"training/loss": [], "training/penalty": []}
    images = 0
    while taken := Study(search).take():
        for look in LOOKS:
            taken.report(look, rng.random(), last=look == LOOKS[-1])
            for _ in range(POINTS):
                images += 8
                values = {"loss": rng.random(), "penalty": rng.gauss(0, 1e-6)}
                emit("loss", split="training", step=images // 8, images_seen=images, values=values)
                for name, value in values.items():
                    metrics[f"training/{name}"].append([images, value])
            time.sleep(0.02)
        trials[taken.number] = rng.random()
        taken.finish([trials[taken.number]], images_seen=1000, seconds=0.1)
    base = {"schema": 1, "train_id": RUN[-12:], "generator": "vae", "seed": 0}
    write_json(run / "result.json", {**base, "status": "finished", "images_seen": images, "costs": {"parameters": 7}})
    score = {"measure": "frechet_distance", "features": "random", "class": "all", "mean": rng.random(), "std": 0.5}
    write_json(run / "evaluation-0.json", {**base, "eval_id": "0", "status": "finished", "scores": [score]})
    metrics["frechet_distance/random/all"] = [[images, score["mean"]]]
    metrics["cost/parameters"] = [[images, 7.0]]
    tracker.ended(run)
    tracker.close()
    return {"trials": trials, "metrics": metrics, "complaints": complaints}


if __name__ == "__main__":
    given = Search.from_json(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    sys.stdout.write(json.dumps(work(given, Path(sys.argv[2]), sys.argv[3])) + "\n")
