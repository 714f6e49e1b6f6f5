"""What a crash, a full disk or a bad sector left behind is put right before anything runs.

Only while the results folder is locked: nobody else writes there then.
"""

from __future__ import annotations

import csv
import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.checkpoint import FILE
from bench.plan import Plan
from bench.store import is_whole, read_json, set_aside, there, trained

Warn = Callable[[str], None]
SHOWN = ("samples.npz", "samples.png", "closest.npz", "interpolations.npz")
"""Written by an evaluation, beside its numbers."""
RECORDS = ("losses.csv", "progress.csv")
"""Written by a training; only a training could write them again."""


def recover(plan: Plan, warn: Warn) -> None:
    """Remove files that were left half written, and set aside those of the plan's rows that are damaged.

    Args:
        plan: whose rows are looked at.
        warn: is told of every file that is set aside; its work is done again.

    Raises:
        BenchError: a file can't be read at all: its disk may be away, or it belongs to somebody else.
    """
    folder = plan.store.folder
    for path in folder.rglob(".*.part"):
        path.unlink(missing_ok=True)
    _real_side(plan, warn)
    for row in plan.rows:
        record, weights, external = (
            row.run / name for name in ("result.json", "checkpoint.safetensors", "external.npz")
        )
        evaluation = row.run / f"evaluation-{row.eval_id}.json"
        _judge(record, warn)
        _judge(evaluation, warn)
        if there(weights) and not is_whole(weights):
            _aside(weights, "not whole: its training is done again", warn)
        if there(external) and not _opens(external):
            _aside(external, "not whole: the images are taken in again", warn)
        for path in (row.run / name for name in SHOWN):
            if there(path) and not _opens(path):
                _aside(path, "not whole: its row is scored again", warn)
                evaluation.unlink(missing_ok=True)
        for path in (row.run / name for name in RECORDS):
            if there(path) and not _is_table(path):
                _aside(path, "not as it was written: its curve is lost, the scores are not", warn)
        if row.search:
            _judge(row.search.folder / "study.json", warn)
        if trained(row.run):
            (row.run / FILE).unlink(missing_ok=True)  # ended between the last two writes of the training


def _real_side(plan: Plan, warn: Warn) -> None:
    """Without any of its files the real side is done again as a whole, which ends in the same numbers."""
    reference, real = plan.store.reference, plan.store.folder / "real.npz"
    _judge(reference, warn)
    if there(real) and not _opens(real):
        _aside(real, "not whole: the images are taken anew", warn)
    home = plan.store.folder / "runs" / f"reference-{plan.reference_id}"
    told = (read_json(reference) or {}).get("sha256") or {}
    if any(not (home / name).exists() for name in told):
        reference.unlink(missing_ok=True)
    for path in sorted([*home.glob("*.safetensors"), *home.glob("*.npy")]):
        if not there(path):
            continue
        if not (is_whole(path) if path.suffix == ".safetensors" else _maps(path)):
            why = "not whole"
        elif path.name in told and told[path.name] != hashlib.sha256(path.read_bytes()).hexdigest():
            why = "its content is not what was written"
        else:
            continue
        _aside(path, f"{why}: the real side is done again", warn)
        reference.unlink(missing_ok=True)


def _judge(path: Path, warn: Warn) -> None:
    if there(path) and read_json(path) is None:
        _aside(
            path, f"not whole or not of this version ({_fault(path)}): what it was the result of is done again", warn
        )


def _aside(path: Path, why: str, warn: Warn) -> None:
    warn(f"{path}: {why}; set aside as {set_aside(path).name}")


def _fault(path: Path) -> str:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return str(error).splitlines()[0]
    return f"schema {value.get('schema')}" if isinstance(value, dict) else "no object"


def _opens(path: Path) -> bool:
    """Whether every part of an archive or picture is what its checksum says."""
    try:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.verify()
            return True
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (
        OSError,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        SyntaxError,
        zipfile.BadZipFile,
        zlib.error,
    ):
        return False


def _maps(path: Path) -> bool:
    """Whether an array's file is as long as its head says."""
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError):
        return False
    return True


def _is_table(path: Path) -> bool:
    """Whether a record is a table of text whose rows are as long as its head, with a number where there are numbers."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        value = rows[0].index("value")
        return all(len(row) == len(rows[0]) and (float(row[value]), int(row[0])) is not None for row in rows[1:])
    except (OSError, ValueError, IndexError, csv.Error):
        return False
