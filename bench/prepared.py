"""A suite made ready: its data, split and plan, and the jobs that the plan consists of.

Writes nothing into the results and starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.data.dataset import ImageDataset, prepare_dataset
from bench.data.duplicates import Pair
from bench.data.splits import Split
from bench.divide import divide
from bench.executors.jobs import Claim, Job, Limits
from bench.plan import Plan, Row, default_threads, make_plan, resolve_device
from bench.registry import SOURCES
from bench.store import Store, evaluated, read_json
from bench.suite import Suite


@dataclass(frozen=True)
class Prepared:
    """A suite with its data, split and plan."""

    suite: Suite
    data: ImageDataset
    data_folder: Path
    split: Split
    plan: Plan
    duplicates: list[Pair]


def prepare(suite: Suite, out: Path, device: str, progress: Callable[[int, int], None] | None = None) -> Prepared:
    """Prepare data and split and lay out the plan; writes nothing into the results.

    Raises:
        InputError: the data can't be had or split.
    """
    options = dict(suite.data)
    name = options.pop("source")
    source = SOURCES.get(name)
    instance = source(source.Options.model_validate(options))
    data = prepare_dataset(name, instance, progress=progress)
    folder = Path(data.pixels.filename).parent  # type: ignore[attr-defined]
    split, duplicates = divide(data, suite.split, folder)
    plan = make_plan(
        suite,
        Store(out, suite.name),
        fingerprint=data.fingerprint,
        split_hash=split.hash,
        simulated=data.simulated,
        fresh=hasattr(instance, "fresh"),
        device=resolve_device(device),
    )
    return Prepared(suite, data, folder, split, plan, duplicates)


def job_spec(prepared: Prepared) -> dict[str, Any]:
    """What every job is told."""
    plan = prepared.plan
    return {
        "suite": prepared.suite.model_dump(mode="json"),
        "data": str(prepared.data_folder.resolve()),
        "results": str(plan.store.folder.resolve()),
        "threads": plan.threads,
        "device": plan.device,
        "precision": plan.precision,
        "reference_id": plan.reference_id,
    }


def reference_job(prepared: Prepared) -> Job | None:
    """The job of the real side, or None if it and the floors stand."""
    plan = prepared.plan
    record = read_json(plan.store.reference) or {}
    spec = prepared.suite.evaluation
    told = record.get("protocol", {})
    stands = record.get("reference_id") == plan.reference_id
    stands &= told.get("draws") == spec.draws and told.get("measures") == list(spec.measures)
    stands &= not prepared.suite.patient_images or (plan.store.folder / "real.npz").exists()
    pending = [row for row in plan.floors if not evaluated(row.run, row.eval_id)]
    if stands and not pending:
        return None
    floors = [{"name": row.name, "eval_id": row.eval_id, "run": str(row.run.resolve())} for row in pending]
    folder = plan.store.folder / "runs" / f"reference-{plan.reference_id}"
    given = {**job_spec(prepared), "kind": "reference", "floors": floors}
    limits, claim = _limits(prepared.suite), claim_of(plan.suite, plan.device)
    return Job("real data", folder, given, plan.threads, limits=limits, claim=claim)


def training_job(prepared: Prepared, row: Row) -> Job:
    """The job that trains and scores a row, whatever of it is missing."""
    assert row.spec is not None
    spec = {
        **job_spec(prepared),
        "kind": "generator",
        "tuned": row.search.name if row.search else None,
        "row": row.name,
        "role": row.role,
        "seed": row.seed,
        "generator": row.spec.model_dump(mode="json"),
        "train_id": row.train_id,
        "eval_id": row.eval_id,
        "run": str(row.run.resolve()),
        "train": not row.trained,
    }
    limits, need, claim = _limits(prepared.suite), _need(prepared, row), claim_of(prepared.suite, prepared.plan.device)
    return Job(f"{row.name} seed {row.seed}", row.run, spec, prepared.plan.threads, need, limits, claim)


def _limits(suite: Suite) -> Limits:
    given = suite.limits
    seconds, memory = given.minutes and given.minutes * 60, given.memory_gb and given.memory_gb * 1e9
    return Limits(seconds, memory, given.idle_minutes * 60)


def claim_of(suite: Suite, device: str) -> Claim:
    """What a cluster's node sets apart for each job of a suite."""
    given, limit = suite.resources, suite.limits.memory_gb
    memory = given.memory_gb or limit
    gpus = given.gpus if device == "cuda" else 0.0
    return Claim(given.cpus or suite.threads or default_threads(), gpus, int(memory * 1e9) if memory else None)


UNKNOWN_NEED = 1_500_000_000
"""Bytes that a job counts for in admission until a training of its family was measured in this folder."""


def _need(prepared: Prepared, row: Row) -> int:
    """The peak memory of the same family in this folder, measured, or a guess within the job's own limit."""
    found = [read_json(path) or {} for path in (prepared.plan.store.folder / "runs").glob("*/result.json")]
    same = [record for record in found if row.spec and record.get("family") == row.spec.name]
    peaks = [(record.get("costs") or {}).get("peak_memory_bytes") or 0 for record in same]
    limit = prepared.suite.limits.memory_gb
    return int(max(peaks, default=0)) or min(UNKNOWN_NEED, int(limit * 1e9) if limit else UNKNOWN_NEED)


def need_of_largest(prepared: Prepared) -> int:
    """Bytes that the largest training to come counts for in admission; 0 if there is none."""
    return max((_need(prepared, row) for row in prepared.plan.trainings if not row.finished), default=0)
