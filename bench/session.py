"""One `bench run`: prepare the data, plan, run what is missing, mirror it to MLflow, rebuild the report.

Decides what is to be done and in which order; training and scoring happen in the jobs' own processes (`bench.run`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from bench.divide import across, remarks
from bench.errors import BenchError, InputError
from bench.executors.jobs import Executor, Job
from bench.executors.local import Local
from bench.lock import locked
from bench.plan import Plan, Row, default_threads
from bench.prepared import Prepared, claim_of, job_spec, prepare, reference_job, training_job
from bench.recovery import recover
from bench.registry import suggestion
from bench.search import Search
from bench.spent import SPENT
from bench.store import SESSION_EVENTS, Events, Store, diverged, evaluated, read_json, write_bytes, write_json
from bench.studies import Searching, reason_of, renew_record, settled, with_best
from bench.suite import Suite
from bench.track import Tracker, default_uri


class Display(Protocol):
    """What a session tells while it runs; `bench.display` shows it."""

    def note(self, text: str) -> None:
        """Say a line."""

    def warn(self, text: str) -> None:
        """Say a line that should not be overlooked."""

    def preparing(self, done: int, total: int) -> None:
        """The data are being prepared."""

    def started(self, job: str, position: int, jobs: int) -> None:
        """A job begins."""

    def progress(self, job: str, phase: str, fraction: float, detail: str) -> None:
        """A job is at this share of a phase."""

    def ended(self, job: str, outcome: str) -> None:
        """A job is over."""

    def table(self, folder: Path) -> None:
        """The table of the folder has grown."""


@dataclass
class Outcome:
    """How a session ended."""

    folder: Path
    finished: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    """Rows that did not finish, with the reason."""
    did: int = 0
    """Jobs that were run."""


def run(
    suite: Suite,
    out: Path,
    *,
    only: Sequence[str] = (),
    executor: Executor | None = None,
    device: str = "auto",
    wait: bool = False,
    display: Display,
) -> Outcome:
    """Run a resolved suite to its report.

    Args:
        suite: with hyper-parameters filled in.
        out: root of the results.
        only: rows to run; the others stay as they are.
        executor: where jobs run; one at a time on this machine if left out. Costs are only comparable of jobs alone.
        device: 'auto', 'cpu' or 'cuda'.
        wait: whether to wait for another run that is at work in the same folder.
        display: is told what happens.

    Raises:
        InputError: nothing was started.
        BenchError: the real side could not be evaluated, so no score is possible.
    """
    rows_known = [spec.row for spec in suite.generators]
    for name in only:
        if name not in rows_known:
            raise InputError(f"--only {name}: no such row in the suite; {suggestion(name, rows_known)}")
    store = Store(out, suite.name)
    store.prepare()
    with locked(store.folder, wait=wait, say=display.note):
        SPENT.begin(psutil.Process().create_time())
        return _run(suite, out, store, only, executor or Local(), device, display)


@contextlib.contextmanager
def _accounted(store: Store, executor: Executor) -> Iterator[_Account]:
    """Keep the account of this command's time beside its results; a command that computes nothing leaves none."""
    tell = Events(store.folder / SESSION_EVENTS)
    tell("session", began=psutil.Process().create_time(), workers=executor.workers)
    account = _Account(store, tell)
    try:
        yield account
    finally:
        account.close()
        tell("spent", seconds=SPENT.told())
        tell.close()


class _Account:
    """When jobs were at work."""

    def __init__(self, store: Store, tell: Events) -> None:
        self._store, self._tell = store, tell
        self._began: dict[Path, tuple[str, float]] = {}

    def hear(self, job: Job, event: dict[str, Any], line: str) -> None:
        """Note a job's beginning and end; `line` is what its time stands under."""
        if event["type"] == "start":
            self._began[job.folder] = line, event["time"]
        elif event["type"] == "end":
            self._ended(job.folder)

    def close(self) -> None:
        """Note those that end with the command."""
        for folder in list(self._began):
            self._ended(folder)

    def _ended(self, job: Path) -> None:
        line, began = self._began.pop(job)
        where = job.resolve().relative_to(self._store.folder.resolve()).as_posix()
        self._tell("job_end", name=line, folder=where, started=began)


def _run(
    suite: Suite, out: Path, store: Store, only: Sequence[str], executor: Executor, device: str, display: Display
) -> Outcome:
    with SPENT.on("data"):
        prepared = prepare(suite, out, device, display.preparing)
    plan = prepared.plan
    recover(plan, display.warn)
    _write_plan(prepared, store)
    for row in plan.trainings:
        if row.finished and row.search and not settled(row.search):  # its record was lost since
            renew_record(row.search, min(row.search.spec.samples, len(prepared.split.validation)))
    for path, reason in prepared.data.skipped[:5]:
        display.warn(f"left out: {path}: {reason}")
    if len(prepared.data.skipped) > 5:
        display.warn(f"and {len(prepared.data.skipped) - 5} more images were left out")
    for note in remarks(prepared.data, prepared.split, prepared.duplicates):
        display.warn(note)

    workers, cores = executor.workers, default_threads()
    if isinstance(executor, Local) and workers and workers > 1 and workers * plan.threads > cores:
        advice = f"threads: {max(1, cores // workers)} in the suite divides them, under ids of their own"
        display.note(f"{workers} workers of {plan.threads} threads share {cores} cores; {advice}")
    pending = [row for row in plan.trainings if not row.finished and (not only or row.name in only)]
    reference = reference_job(prepared)
    outcome = Outcome(store.folder)
    if pending or reference:
        with _accounted(store, executor) as account:
            _execute(prepared, store, out, reference, pending, executor, display, outcome, account)
    elif _report_is_stale(plan):
        _build_report(plan)
    done = [row.name for row in plan.trainings if row.finished and row not in pending]
    if done:
        display.note(f"already finished, not computed again: {', '.join(dict.fromkeys(done))}")
    for row in plan.trainings:
        if row.finished and not diverged(row.run):
            outcome.finished += 1
        elif not only or row.name in only:
            outcome.bad[f"{row.name} seed {row.seed}"] = _reason(row)
    return outcome


def _write_plan(prepared: Prepared, store: Store) -> None:
    suite, plan = prepared.suite, prepared.plan
    content = suite.model_dump(mode="json")
    _if_changed(store.folder / "suite.json", json.dumps(content, indent=1) + "\n")
    _if_changed(store.folder / "suite.yaml", _yaml(content))
    _if_changed(store.split, json.dumps(prepared.split.to_json()) + "\n")
    _if_changed(store.folder / "duplicates.json", json.dumps(across(prepared.split, prepared.duplicates)) + "\n")
    _if_changed(store.folder / "plan.json", json.dumps(plan.record(), indent=1) + "\n")
    if not suite.patient_images:  # an earlier run may have been allowed them
        (store.folder / "real.npz").unlink(missing_ok=True)


def _if_changed(path: Path, content: str) -> None:
    encoded = content.encode()
    if not path.exists() or path.read_bytes() != encoded:
        write_bytes(path, encoded)


def _yaml(content: dict[str, Any]) -> str:
    from ruamel.yaml import YAML

    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(content, stream)
    return stream.getvalue()


def _execute(
    prepared: Prepared,
    store: Store,
    out: Path,
    reference: Job | None,
    pending: list[Row],
    executor: Executor,
    display: Display,
    outcome: Outcome,
    account: _Account,
) -> None:
    tracking = prepared.suite.tracking
    uri = tracking.uri or default_uri(out)
    tracker = Tracker(store.folder, uri, display.note, display.warn) if tracking.enabled else None
    try:
        count = len(pending) + (reference is not None)
        position = 0

        def on_event(job: Job, event: dict[str, Any]) -> None:
            nonlocal position
            if event["type"] == "start":
                position += 1
                if (row := rows.get(job.name)) is not None:
                    _forget_failure(row)
                display.started(job.name, position, count)
            _show(display, job, event)
            account.hear(job, event, job.name)
            if tracker and event["type"] == "start":
                tracker.started(job.folder)
            if event["type"] == "failed":
                said[job.name] = event["reason"]
            if event["type"] == "end":
                outcome.did += 1
                said.setdefault(job.name, str(event["reason"]))
                if (row := rows.get(job.name)) is not None:
                    silent = f"the job's process ended without a word; its log: {job.folder / 'log.txt'}"
                    display.ended(job.name, _settle(row, event["reason"] or silent))
                if tracker:
                    tracker.ended(job.folder)
                display.table(store.folder)

        rows: dict[str, Row] = {}
        said: dict[str, str] = {}
        if reference:
            with SPENT.on("jobs"):
                executor.run([reference], on_event)
            state = read_json(store.reference) or {}
            if state.get("reference_id") != prepared.plan.reference_id:
                raise BenchError(f"{reference.name}: {said.get(reference.name, 'no reason known')}")
            if all(evaluated(row.run, row.eval_id) for row in prepared.plan.floors):
                display.ended(reference.name, "finished")
            else:  # a floor is missing: families are scored all the same, and the exit code tells
                outcome.bad[reference.name] = said.get(reference.name, "no reason known")
                display.ended(reference.name, f"failed: {outcome.bad[reference.name]}")
        outcome.did += _search(prepared, pending, executor, display, account)
        ready = []
        for row in pending:
            if row.search and (reason := reason_of(row.search)) is not None:
                display.ended(f"{row.name} seed {row.seed}", _settle(row, f"tuning: {reason}"))
            else:
                ready.append(with_best(row))
        rows = {f"{row.name} seed {row.seed}": row for row in ready}
        with SPENT.on("jobs"):
            executor.run([training_job(prepared, row) for row in ready], on_event)
        _build_report(prepared.plan)
    finally:
        if tracker:
            tracker.close()


def _shown(plan: Plan) -> dict[str, list[int]]:
    """The files that the report is made of, each with its size and time: equal means unchanged, whatever the clock did."""
    shown = [plan.store.folder / "plan.json", plan.store.reference]
    shown += [row.search.folder / "study.json" for row in plan.rows if row.search]
    shown += [row.run / name for row in plan.rows for name in ("result.json", f"evaluation-{row.eval_id}.json")]
    found = {path.relative_to(plan.store.folder).as_posix(): path.stat() for path in shown if path.exists()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}


def _search(prepared: Prepared, pending: list[Row], executor: Executor, display: Display, account: _Account) -> int:
    """Run the trials of the rows that are tuned; return how many jobs that took."""
    rows = {row.search.name: row for row in pending if row.search and not settled(row.search)}
    spec = prepared.suite.tuning
    if not rows or spec is None:
        return 0

    def make(search: Search) -> dict[str, Any]:
        generator = rows[search.name].spec
        assert generator is not None
        told = {"kind": "trial", "search": search.to_json(), "generator": generator.model_dump(mode="json")}
        return {**job_spec(prepared), **told}

    def show(search: Search, job: Job, event: dict[str, Any]) -> None:
        _show(display, job, event)
        account.hear(job, event, f"{search.row} tuning")

    searching = Searching(
        make=make,
        threads=prepared.plan.threads,
        claim=claim_of(prepared.suite, prepared.plan.device),
        executor=executor,
        workers=spec.workers or executor.workers,
        in_turn=executor.apart and spec.in_a_file,
        validation=min(spec.samples, len(prepared.split.validation)),
        display=display,
        show=show,
    )
    searching.run([row.search for row in rows.values() if row.search])
    return searching.did


def _report_is_stale(plan: Plan) -> bool:
    """Whether the report was made of other files (another plan, say, all of whose rows were there), or is damaged."""
    made = read_json(plan.store.folder / "report.json") or {}
    return made.get("files") != _shown(plan) or made.get("written") != _written(plan.store.folder, made.get("written"))


def _build_report(plan: Plan) -> None:
    from bench.report.page import write_report

    folder, files = plan.store.folder, _shown(plan)
    with SPENT.on("report"):
        written = write_report(folder).files
    names = [path.relative_to(folder).as_posix() for path in written]
    write_json(folder / "report.json", {"schema": 1, "files": files, "written": _written(folder, names)})


def _written(folder: Path, names: Iterable[str] | None) -> dict[str, str | None]:
    """SHA-256 of the report's files, None for one that is gone: a damaged table is no result."""
    paths = {name: folder / name for name in names or ()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None for name, path in paths.items()
    }


def _show(display: Display, job: Job, event: dict[str, Any]) -> None:
    if event["type"] == "phase":
        display.progress(job.name, event["phase"], event.get("fraction", 0.0), event.get("detail", ""))
    elif event["type"] == "progress":
        display.progress(job.name, "training", event["fraction"], f"step {event['step']:,}")
    elif event["type"] == "loss" and event["split"] == "training":
        values = ", ".join(f"{name} {value:.4g}" for name, value in event["values"].items())
        display.progress(job.name, "training", -1.0, f"step {event['step']:,}  {values}")
    elif event["type"] == "progress_scores":
        values = ", ".join(f"{name} {value:.3g}" for name, value in event["values"].items())
        display.progress(job.name, "training", -1.0, f"{event['images_seen']:,} images  {values}")
    elif event["type"] in ("warning", "lost"):
        display.warn(f"{job.name}: {event['text']}")


def _forget_failure(row: Row) -> None:
    """Why an earlier attempt failed says nothing of this one."""
    for path in (row.run / "result.json", row.run / f"evaluation-{row.eval_id}.json"):
        if (read_json(path) or {}).get("status") in ("failed", "interrupted"):
            path.unlink(missing_ok=True)


def _settle(row: Row, reason: str) -> str:
    """Make sure that a job that ended without a word has left one; return the outcome for people."""
    if row.finished:
        return "diverged" if diverged(row.run) else "finished"
    result = read_json(row.run / "result.json")
    if result is None or result.get("status") not in ("finished", "failed"):
        base = {"schema": 1, "train_id": row.train_id, "generator": row.name, "role": row.role, "seed": row.seed}
        write_json(row.run / "result.json", {**base, "status": "failed", "reason": reason})
    elif row.trained and read_json(row.run / f"evaluation-{row.eval_id}.json") is None:
        base = {"schema": 1, "eval_id": row.eval_id, "train_id": row.train_id, "generator": row.name, "seed": row.seed}
        failed = {**base, "status": "failed", "reason": reason, "scores": [], "replicates": {}}
        write_json(row.run / f"evaluation-{row.eval_id}.json", failed)
    return f"failed: {_reason(row)}"


def _reason(row: Row) -> str:
    result = read_json(row.run / "result.json") or {}
    if result.get("status") not in (None, "finished"):
        return str(result.get("reason") or result["status"])
    evaluation = read_json(row.run / f"evaluation-{row.eval_id}.json") or {}
    return str(evaluation.get("reason") or "not finished")
