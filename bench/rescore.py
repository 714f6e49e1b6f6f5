"""A finished training scored again under another protocol, in results of its own: nothing is trained, nothing replaced."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import session
from bench.errors import InputError
from bench.prepared import prepare
from bench.store import Store, read_json, trained, write_json
from bench.suite import load_suite

_KEPT = ("checkpoint.safetensors", "external.npz", "losses.csv", "progress.csv")


def rescore(
    run: Path, overrides: Sequence[str], out: Path, *, device: str, display: session.Display
) -> session.Outcome:
    """Score one training anew.

    Args:
        run: its folder, results/SUITE/runs/...
        overrides: `evaluation.KEY=VALUE`; nothing else may change.
        out: root of the new results, another than the run's.
        device: where to score.
        display: is told what happens.

    Raises:
        InputError: no finished training there, other overrides, or data that are no longer those of the training.
    """
    job, before = read_json(run / "job.json"), read_json(run.parent.parent / "reference.json")
    if job is None or "generator" not in job or not trained(run):
        raise InputError(f"{run}: no finished training here; name a folder below results/SUITE/runs")
    if before is None:
        raise InputError(
            f"{run}: {run.parent.parent / 'reference.json'} is missing, which says what data it was trained on; move a "
            "results folder as a whole"
        )
    for override in overrides:
        if not override.startswith("evaluation."):
            raise InputError(f"--set {override}: only evaluation.* can change for a training that stands")
    if run.resolve().is_relative_to((out / job["suite"]["name"]).resolve()):
        raise InputError(f"--out {out}: holds the run itself; name another folder, so that its suite's table stays")
    only = {**job["suite"], "generators": [job["generator"]], "seeds": [job["seed"]]}
    only |= {"threads": job["threads"], "precision": job["precision"]}
    only["tuning"] = None  # the values that were found are the job's own
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "suite.yaml"
        file.write_text(json.dumps(only), encoding="utf-8")  # JSON is YAML
        try:
            suite = load_suite(file, overrides)
        except InputError as error:  # the file is of our making: what is wrong was said with --set or another option
            raise InputError(re.sub(re.escape(str(file)) + r"(:\d+)?", str(run), str(error))) from None
    prepared = prepare(suite, out, device, display.preparing)
    now: dict[str, Any] = {"data": prepared.data.fingerprint, "split": prepared.split.hash}
    then = {"data": before.get("data", {}).get("fingerprint"), "split": before.get("split", {}).get("hash")}
    for what in now:
        if now[what] != then[what]:
            raise InputError(
                f"{run}: the {what} is no longer the training's ({then[what]}, now {now[what]}); nothing was scored: bring "
                "back the data as they were, or train anew"
            )
    row = prepared.plan.trainings[0]
    if not row.trained:
        Store(out, suite.name).prepare()
        row.run.mkdir(parents=True, exist_ok=True)
        for name in _KEPT:
            if (run / name).exists():
                shutil.copyfile(run / name, row.run / name)
        result = read_json(run / "result.json") or {}
        write_json(row.run / "result.json", {**result, "train_id": row.train_id, "trained_as": result.get("train_id")})
    return session.run(suite, out, device=device, display=display)
