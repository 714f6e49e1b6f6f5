"""Suite -> Plan: which trainings and evaluations there are, each with the id that says when it must be done again.

An id hashes everything the result depends on and nothing else, so that what is finished is found again and what
changed is not. Pure bookkeeping: no torch, no writing.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.external import fingerprint as external_fingerprint
from bench.metrics.records import GROUPS, MEASURES
from bench.metrics.weights import EXPORTED_VERSION, ORIGINS, known_file, sha256
from bench.registry import FEATURES, GENERATORS
from bench.search import SHARE, Search, space
from bench.store import Store, digest, diverged, evaluated, trained
from bench.suite import GeneratorSpec, Suite

TRAINING_VERSION = 1
"""Raise it when the training loop's numbers change."""
EVALUATION_VERSION = 1
"""Raise it when the protocol's numbers change (a measure's own change: its `version`)."""
TUNING_VERSION = 1
"""Raise it when what trials try, or their objective, changes."""

FLOORS = ("floor_validation", "floor_fresh")
TUNED = ("family", "translator")
"""Roles whose hyper-parameters are tuned."""


@dataclass(frozen=True)
class Row:
    """One training and the evaluation of it; a floor has an evaluation only."""

    name: str
    role: str
    seed: int
    spec: GeneratorSpec | None
    train_id: str
    eval_id: str
    run: Path
    search: Search | None = None
    """What finds its hyper-parameters, where they are tuned."""

    @property
    def trained(self) -> bool:
        """Whether its training stands."""
        return self.spec is None or trained(self.run)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        if self.spec is not None and trained(self.run) and diverged(self.run):
            return True
        return self.trained and evaluated(self.run, self.eval_id)


@dataclass(frozen=True)
class Plan:
    """Everything a suite asks for."""

    suite: Suite
    store: Store
    reference_id: str
    threads: int
    device: str
    precision: str
    rows: tuple[Row, ...]

    @property
    def floors(self) -> list[Row]:
        """The rows that are real data against real data."""
        return [row for row in self.rows if row.spec is None]

    @property
    def trainings(self) -> list[Row]:
        """The rows of generators."""
        return [row for row in self.rows if row.spec is not None]

    @property
    def searches(self) -> list[Search]:
        """The searches of the rows that are tuned, each once."""
        found = {row.search.name: row.search for row in self.rows if row.search}
        return list(found.values())

    def record(self) -> dict[str, Any]:
        """The plan as stored for the report."""
        return {
            "schema": 1,
            "suite": self.suite.name,
            "reference_id": self.reference_id,
            "stamp": None if self.suite.for_results else "not for results",
            "rows": [
                {
                    "generator": row.name,
                    "role": row.role,
                    "seed": row.seed,
                    "run": row.run.relative_to(self.store.folder).as_posix(),
                    "evaluation": f"evaluation-{row.eval_id}.json",
                }
                for row in self.rows
            ],
            "searches": [
                {"generator": search.row, "folder": search.folder.relative_to(self.store.folder).as_posix()}
                for search in self.searches
            ],
        }


def resolve_device(device: str) -> str:
    """Return 'cpu' or 'cuda' for 'auto' by looking for the driver, so that planning imports no torch."""
    if device != "auto":
        return device
    return "cuda" if Path("/proc/driver/nvidia/version").exists() else "cpu"


def resolve_precision(precision: str, device: str) -> str:
    """Return 'bfloat16' for 'auto' where the machine computes in it natively, else 'float32'."""
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bfloat16" if _compute_capability() >= 8 else "float32"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "float32"
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def _compute_capability() -> float:
    """Of the first NVIDIA GPU as its driver tells it; 0 if it doesn't."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        return float(subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split()[0])
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return 0.0


def default_threads() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def extractor_states(suite: Suite, features: Sequence[str] | None = None) -> dict[str, Any] | None:
    """What decides features beside their code: options, and the hash of the weights; None where nothing does.

    Known without loading anything; a file that comes, goes or changes changes it, one that is only moved doesn't.
    Of the evaluation's features if none are named.
    """
    spec = suite.evaluation
    states: dict[str, Any] = {}
    for name in spec.features if features is None else features:
        how = spec.extractor(name)
        options = how.model_dump(mode="json", exclude={"weights", "file"}, exclude_defaults=True)
        if how.file is not None:
            path = Path(how.file).expanduser()
            states[name] = [options, path.suffix.lower(), sha256(path) if path.is_file() else None]
        elif name in ORIGINS:
            found = known_file(name, how.weights)
            states[name] = [options, sha256(found) if found else None]
    return states or None


def feature_version(name: str) -> Any:
    """Version of the code behind features."""
    return FEATURES.describe(name).attributes.get("version") if name in FEATURES.names() else EXPORTED_VERSION


def make_plan(
    suite: Suite, store: Store, *, fingerprint: str, split_hash: str, simulated: bool, fresh: bool, device: str
) -> Plan:
    """Lay out trainings and evaluations of a resolved suite.

    Args:
        suite: with hyper-parameters filled in (`bench.suite.resolve`).
        store: where the results lie.
        fingerprint: of the data set.
        split_hash: of the split.
        simulated: whether the data are a phantom.
        fresh: whether the source can draw fresh real subjects.
        device: 'cpu' or 'cuda'.
    """
    threads = suite.threads or default_threads()
    conditions = {"data": fingerprint, "split": split_hash, "threads": threads, "device": device}
    precision = resolve_precision(suite.precision, device)
    # what extractors depend on lies in the reference's id, by content and not by path
    unused = {"inception_weights", "extractors"} | ({"utility"} - set(suite.evaluation.measures))
    protocol = suite.evaluation.model_dump(mode="json", exclude=unused)
    features = {key: protocol[key] for key in ("features", "samples_per_draw", "few", "bootstrap")}
    # of the measures asked for, or taken of the real side itself: a new one elsewhere leaves what stands
    real_side = [MEASURES[name].version for name in ("frechet_distance", "inception_score")]
    versions = {name: MEASURES[name].version for group in suite.evaluation.measures for name in GROUPS[group]}
    extractors = {name: feature_version(name) for name in suite.evaluation.features}
    progress = suite.progress.model_dump(mode="json")
    reference_id = digest(
        [conditions, features, progress["samples"], extractors, extractor_states(suite), EVALUATION_VERSION, real_side]
    )
    rows = []
    for name in FLOORS if fresh else FLOORS[:1]:
        eval_id = digest([name, reference_id, protocol, versions])
        rows.append(Row(name, "floor", 0, None, reference_id, eval_id, store.run(name, 0, reference_id)))
    for spec in suite.generators:
        role, what = _what(spec)
        trials = [conditions, what, precision, *([suite.sampling] if suite.sampling != "natural" else [])]
        trials += ["compiled"] if suite.compile else []
        search = _search(suite, store, spec, trials) if role in TUNED else None
        if search:
            what = {**what, "search": search.study_id}
        for seed in suite.seeds if spec.folder is None else suite.seeds[:1]:
            trained_by = {"seed": seed, "budget": suite.budget.model_dump(mode="json"), "precision": precision}
            trained_by |= {"sampling": suite.sampling} if suite.sampling != "natural" else {}
            trained_by |= {"compile": True} if suite.compile else {}
            train_id = digest([conditions, what, trained_by, progress, TRAINING_VERSION])
            if spec.folder is not None:
                train_id = digest([conditions, what, seed])
            eval_id = digest([train_id, reference_id, protocol, versions])
            run = store.run(spec.row, seed, train_id)
            rows.append(Row(spec.row, role, seed, spec, train_id, eval_id, run, search))
    return Plan(suite, store, reference_id, threads, device, precision, tuple(rows))


def _what(spec: GeneratorSpec) -> tuple[str, dict[str, Any]]:
    """A row's role, and what of it goes into its id."""
    if spec.folder is not None:
        return "external", {"external": external_fingerprint(Path(spec.folder))}
    family = GENERATORS.get(spec.name)
    roles = {"control": "control", "translation": "translator"}
    otherwise = "family" if spec.default_of is None else "default"
    what = {"family": spec.name, "version": family.version, "hyperparameters": spec.hyperparameters}
    return roles.get(family.family, otherwise), {**what, "unconditional": spec.unconditional}


def _search(suite: Suite, store: Store, spec: GeneratorSpec, what: list[Any]) -> Search | None:
    """The search of a row's hyper-parameters; None where the suite doesn't tune, or there is nothing to tune.

    Its id is known before anything is found, and so is the id of the training that takes what was found: both say how it is
    searched, not what comes of it. Where trials are stored, and how many run at once, is left out.
    """
    tuning = suite.tuning
    if tuning is None or not spec.tune or spec.folder is not None:
        return None
    names = [*tuning.parameters, *(spec.tune if isinstance(spec.tune, tuple) else ())]
    if tuning.parameters and isinstance(spec.tune, tuple):
        names = [name for name in tuning.parameters if name in spec.tune]
        if not names:
            return None
    ranges = space(GENERATORS.get(spec.name), spec.hyperparameters, names)
    if not ranges:
        return None
    images_seen = tuning.images_seen or max(2, round(SHARE * (suite.budget.images_seen or 0)))
    protocol = tuning.model_dump(
        mode="json",
        exclude={"images_seen", "parameters", "workers", "storage", "compare_default", "allow_same_features"},
    )
    told = [
        *what,
        {name: within.to_json() for name, within in ranges.items()},
        {**protocol, "images_seen": images_seen},
        feature_version(tuning.features),
        extractor_states(suite, (tuning.features,)),
        [TRAINING_VERSION, TUNING_VERSION],
    ]
    study_id = digest(told)
    return Search(spec.row, study_id, store.folder / "tuning" / f"{spec.row}-{study_id}", ranges, images_seen, tuning)
