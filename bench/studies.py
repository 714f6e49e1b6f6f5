"""The searches of a suite, as the command sees them: run the trials that are missing, keep their record, hand on the best.

A search's folder holds study.json and trials.csv, from which the report is made; the study's own storage may lie elsewhere.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from bench.errors import InputError
from bench.executors.jobs import Claim, Executor, Job
from bench.plan import Row
from bench.search import Search, TuningSpec
from bench.spent import SPENT
from bench.store import read_json, write_bytes, write_json

POLL_SECONDS = 2.0


class Display(Protocol):
    """What of a session's display is used here."""

    def note(self, text: str) -> None:
        """Say a line."""

    def started(self, job: str, position: int, jobs: int) -> None:
        """A job begins."""

    def ended(self, job: str, outcome: str) -> None:
        """A job is over."""


def refuse_apart(spec: TuningSpec | None, paths: Mapping[str, str]) -> None:
    """See that a suite can be had where jobs have copies of the results only.

    Args:
        spec: its tuning.
        paths: what it names besides, by the key that names it.

    Raises:
        InputError: it can't, and what would do.
    """
    for key, path in paths.items():
        if not Path(path).is_absolute():
            why = "with --share nodes don't see the folder that it counts from"
            raise InputError(f"{key}: {path}: {why}; give an absolute path that is there on every node")
    remedy = "storage: postgresql://host/database, which nodes reach"
    if spec and spec.in_a_file and (spec.workers or 1) > 1:
        why = f"with --share the {spec.storage} of a search is at one node at a time"
        raise InputError(f"tuning.workers: {spec.workers}: {why}; leave workers out, or name {remedy}")
    if spec and spec.storage.startswith("sqlite:"):
        why = "with --share nodes don't see that file"
        raise InputError(f"tuning.storage: {spec.storage}: {why}; journal, sqlite, or name {remedy}")


def settled(search: Search) -> bool:
    """Whether every trial has ended, by the record alone."""
    return (read_json(search.folder / "study.json") or {}).get("status") in ("finished", "failed")


def with_best(row: Row) -> Row:
    """Return the row with the values that its search found best.

    Raises:
        KeyError: its search found none.
    """
    if row.search is None or row.spec is None:
        return row
    best = (read_json(row.search.folder / "study.json") or {})["best"]["parameters"]
    tuned = row.spec.model_copy(update={"hyperparameters": {**row.spec.hyperparameters, **best}})
    return replace(row, spec=tuned)


def reason_of(search: Search) -> str | None:
    """Why a search has no best values; None if it has."""
    record = read_json(search.folder / "study.json") or {}
    return None if record.get("best") else str(record.get("reason") or "its trials did not end")


@dataclass
class Searching:
    """Runs searches to their end.

    Args:
        make: the specification of a search's trial jobs.
        threads: of a job.
        claim: of a job, on a cluster.
        executor: runs the jobs.
        workers: trials at once; None for one of each search at a time, since each learns from those before.
        in_turn: one of each search at a time in any case: a study's file goes to a trial and comes back from it.
        validation: images that trials are compared with.
        display: is told what happens.
        show: is told every event of a trial's job.
    """

    make: Callable[[Search], dict[str, Any]]
    threads: int
    claim: Claim
    executor: Executor
    workers: int | None
    in_turn: bool
    validation: int
    display: Display
    show: Callable[[Search, Job, dict[str, Any]], None]
    _of_job: dict[str, Search] = field(default_factory=dict)
    _taken: dict[str, int] = field(default_factory=dict)
    _reasons: dict[str, str] = field(default_factory=dict)
    """Search -> why a job of it ended before it took a trial."""
    _position: int = 0
    _count: int = 0
    did: int = 0
    """Jobs that were run."""

    def run(self, searches: Sequence[Search]) -> None:
        """Run every trial that is missing, and wait for those that others work at; leave the records.

        Raises:
            InputError: a study's storage can't be used.
        """
        from bench.tune import Study

        studies = [Study(search) for search in searches]
        told = False
        while left := [study for study in studies if not study.ended()]:
            jobs = self._jobs([(study.search, study.open()) for study in left])
            if not jobs:
                if not told:
                    self.display.note("waiting for trials that other processes work at")
                told = True
                with SPENT.on("idle"):
                    time.sleep(POLL_SECONDS)
                continue
            before = sum(map(_done, studies))
            with SPENT.on("jobs"):
                self.executor.run(jobs, self._on_event, self.workers)
            # opened anew: where jobs see copies, a study's file is another one now
            studies = [Study(search) for search in searches]
            if sum(map(_done, studies)) == before:
                break  # whatever keeps trials from ending would go on to do so
        for search in searches:
            write_record(search, self.validation, self._reasons.get(search.name))

    def _jobs(self, wanted: Sequence[tuple[Search, int]]) -> list[Job]:
        """The jobs that are missing; with several workers, those of one search apart, since each learns from the last."""
        found = []
        for search, count in wanted:
            for number in range(search.spec.trials - count, search.spec.trials):
                name = f"{search.row} trial {number + 1} of {search.spec.trials}"
                self._of_job[name] = search
                queue = search.name if self.in_turn or not self.workers else None
                where = search.folder / "jobs" / f"{number:04d}"
                job = Job(name, where, self.make(search), self.threads, claim=self.claim, queue=queue)
                found.append((number, job))
        self._count = self._position + len(found)
        if self.workers != 1:
            found.sort(key=lambda item: item[0])
        return [job for _, job in found]

    def _on_event(self, job: Job, event: dict[str, Any]) -> None:
        search = self._of_job[job.name]
        kind = event["type"]
        if kind == "start":
            self._position += 1
            self.display.started(job.name, self._position, self._count)
        elif kind == "trial":
            self._taken[job.name] = event["number"]
        elif kind == "trial_end":
            self._taken.pop(job.name, None)
            told = zip(search.spec.objective, event.get("values", ()), strict=False)
            values = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in told)
            self._reasons.pop(search.name, None)
            self.display.ended(job.name, values or f"{event['state']}: {event['reason']}")
        elif kind == "lost":
            if (number := self._taken.pop(job.name, None)) is not None:
                self._release(search, number)
        elif kind == "failed":
            self._reasons[search.name] = event["reason"]
        elif kind == "end":
            self.did += 1
            number = self._taken.pop(job.name, None)
            if number is not None:
                self._broken(search, number, job, event)
            write_record(search, self.validation, None)
        self.show(search, job, event)

    def _release(self, search: Search, number: int) -> None:
        """A trial whose machine is gone is taken up again at once, and not only when it was silent for long."""
        from bench.tune import Study

        Study(search).release(number)

    def _broken(self, search: Search, number: int, job: Job, event: dict[str, Any]) -> None:
        """A process that ended without a word, out of memory say: its trial would only end so again."""
        from bench.tune import Study

        if event["code"] != 130:  # asked to stop, and put its trial back
            reason = event["reason"] or f"the job's process ended without a word; its log: {job.folder / 'log.txt'}"
            Study(search).give_up(number, reason)
            self.display.ended(job.name, f"failed: {reason}")


def renew_record(search: Search, validation: int) -> None:
    """Write the record of a search that has ended again, from its study; nothing if the study is gone too."""
    from bench.tune import Study

    if Study(search).ended():
        write_record(search, validation, None)


def write_record(search: Search, validation: int, reason: str | None) -> None:
    """Write study.json and trials.csv from the study as it stands.

    Args:
        search: which one.
        validation: images that its trials are compared with.
        reason: why it didn't come to an end, if that is known.
    """
    from bench.tune import VERSION, Study

    study = Study(search)
    trials = study.trials()
    finished = [trial for trial in trials if trial.state == "finished"]
    best = min(finished, key=lambda trial: (trial.values[0], trial.number), default=None)
    front = [
        trial.number for trial in finished if not any(_dominates(other.values, trial.values) for other in finished)
    ]
    status = "running" if not study.ended() else "finished" if best else "failed"
    if status == "failed":
        first = next((trial for trial in trials if trial.reason), None)
        reason = (
            f"none of {len(trials)} trials finished; the first one: {first.reason if first else 'no reason stored'}"
        )
    content = {
        "schema": 1,
        "status": status,
        "reason": reason if best is None else None,
        "generator": search.row,
        "study": search.name,
        "search": search.to_json() | {"folder": None},
        "validation_images": validation,
        "trials": [asdict(trial) for trial in trials],
        "best": None if best is None else {"number": best.number, "values": best.values, "parameters": best.parameters},
        "front": front,
        "importances": study.importances(),
        "images_seen": sum(trial.images_seen for trial in trials),
        "seconds": sum(trial.seconds for trial in trials),
        "optuna": VERSION,
    }
    write_json(search.folder / "study.json", content)
    write_bytes(search.folder / "trials.csv", _csv(search, content).encode())


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is nowhere worse (higher) and somewhere better."""
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _csv(search: Search, content: dict[str, Any]) -> str:
    """A row per trial: number, state, objectives, cost, hyper-parameters, looks on the way (JSON), reason."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ("number", "state", *search.spec.objective, "images_seen", "seconds", *search.space, "looks", "reason")
    )
    for trial in content["trials"]:
        values = [repr(value) for value in trial["values"]] or [""] * len(search.spec.objective)
        tried = [trial["parameters"].get(name, "") for name in search.space]
        about = (trial["images_seen"], trial["seconds"])
        writer.writerow(
            (trial["number"], trial["state"], *values, *about, *tried, json.dumps(trial["looks"]), trial["reason"])
        )
    return stream.getvalue()


def _done(study: Any) -> int:
    return sum(trial.state not in ("running", "waiting") for trial in study.trials())
