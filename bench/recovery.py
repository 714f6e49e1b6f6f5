"""What a crash, a full disk or a bad sector left behind is put right before anything runs.

Only while the results folder is locked: nobody else writes there then.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.checkpoint import FILE
from bench.plan import Plan
from bench.store import is_whole, read_json, set_aside, trained


def recover(plan: Plan, warn: Callable[[str], None]) -> None:
    """Remove files that were left half written, and set aside those of the plan's rows that are damaged.

    Args:
        plan: whose rows are looked at.
        warn: is told of every file that is set aside; its work is done again.
    """
    folder = plan.store.folder
    for path in folder.rglob(".*.part"):
        path.unlink(missing_ok=True)
    _judge(plan.store.reference, warn)
    for row in plan.rows:
        record, weights = row.run / "result.json", row.run / "checkpoint.safetensors"
        _judge(record, warn)
        _judge(row.run / f"evaluation-{row.eval_id}.json", warn)
        if weights.exists() and not is_whole(weights):
            _aside(weights, "not whole: its training is done again", warn)
        if trained(row.run):
            (row.run / FILE).unlink(missing_ok=True)  # ended between the last two writes of the training


def _judge(path: Path, warn: Callable[[str], None]) -> None:
    if path.exists() and read_json(path) is None:
        _aside(
            path, f"not whole or not of this version ({_fault(path)}): what it was the result of is done again", warn
        )


def _aside(path: Path, why: str, warn: Callable[[str], None]) -> None:
    warn(f"{path}: {why}; set aside as {set_aside(path).name}")


def _fault(path: Path) -> str:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return str(error).splitlines()[0]
    return f"schema {value.get('schema')}" if isinstance(value, dict) else "no object"
