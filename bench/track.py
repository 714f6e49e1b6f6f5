"""MLflow: a mirror of the results for people to browse. The only room that imports it.

One tree: suite run > generator > seeds. All calls happen in a thread of their own behind a queue, in the parent alone:
a slow or dead server costs the benchmark nothing and loses no result (the results folder has them all).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.store import read_json, write_json

SERVER_PATIENCE_SECONDS = 60.0
EXPERIMENT = "medgenbench"

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "diverged": "FAILED", "interrupted": "KILLED"}


def default_uri(results: Path) -> str:
    """The SQLite store beside the results."""
    return f"sqlite:///{(results / 'mlflow.db').resolve()}"


class Tracker:
    """Mirrors one `bench run` into MLflow, from a background thread.

    Args:
        uri: tracking URI.
        results: root of all results; artifacts of a local store lie beside it.
        folder: the suite's results folder; keeps the ids of its MLflow runs.
        suite: the suite's name.
        warn: called once with a line if MLflow can't be used.
    """

    def __init__(self, uri: str, results: Path, folder: Path, suite: str, warn: Callable[[str], None]) -> None:
        self._uri, self._results, self._folder, self._suite, self._warn = uri, results, folder, suite, warn
        self._queue: queue.Queue[tuple[str, tuple[Any, ...]] | None] = queue.Queue()
        self._broken = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def open(self, tags: Mapping[str, str], parameters: Mapping[str, Any], artifacts: Iterable[Path]) -> None:
        """Start (or take up again) the suite's run."""
        self._queue.put(("_open", (dict(tags), dict(parameters), list(artifacts))))

    def start(self, row: str, seed: int, tags: Mapping[str, str], parameters: Mapping[str, Any]) -> None:
        """Start the run of one training below its generator's; of a trial of its tuning, if `row` is 'GENERATOR/trial N'."""
        self._queue.put(("_start", (row, seed, dict(tags), dict(parameters))))

    def metrics(self, row: str, seed: int, values: Mapping[str, float], step: int) -> None:
        """Log numbers at a step; those that are not finite are left out."""
        self._queue.put(("_metrics", (row, seed, dict(values), step, int(time.time() * 1000))))

    def artifacts(self, row: str | None, seed: int, files: Iterable[Path]) -> None:
        """Log files to a training's run, or to the suite's run if `row` is None."""
        self._queue.put(("_artifacts", (row, seed, list(files))))

    def end(self, row: str, seed: int, status: str, reason: str | None) -> None:
        """Close a training's run."""
        self._queue.put(("_end", (row, seed, status, reason)))

    def close(self, status: str) -> None:
        """Close every open run and wait, within limits, until the store has everything."""
        self._queue.put(("_close", (status,)))
        self._queue.put(None)
        self._thread.join(SERVER_PATIENCE_SECONDS)
        if self._thread.is_alive() and not self._broken:
            self._warn(f"MLflow at {self._uri} did not answer in time; the results are complete without it")

    # All below runs in the thread.

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._broken:
                continue
            name, arguments = item
            try:
                getattr(self, name)(*arguments)
            except Exception as error:  # whatever MLflow or its store raises, the benchmark goes on
                self._broken = True
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                self._warn(f"MLflow at {self._uri} is left out from here on: {first}")

    def _open(self, tags: dict[str, str], parameters: dict[str, Any], artifacts: list[Path]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        import mlflow
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "mlflow.store.db.utils", "alembic"):  # after the import, which sets levels of its own
            logging.getLogger(name).setLevel(logging.WARNING)

        local = self._uri.startswith(("sqlite:", "file:"))
        # two runs that meet a new local store at once would both create its tables
        with FileLock(self._results / "mlflow.db.lock") if local else contextlib.nullcontext():
            self._client = MlflowClient(tracking_uri=self._uri)
            experiment = self._client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                location = (self._results / "mlartifacts").resolve().as_uri() if local else None
                self._experiment = self._client.create_experiment(EXPERIMENT, artifact_location=location)
            else:
                self._experiment = experiment.experiment_id
        self._mlflow = mlflow
        stored = read_json(self._folder / "mlflow.json") or {}
        self._ids: dict[str, str] = stored.get("runs", {}) if stored.get("uri") == self._uri else {}
        self._root = self._run("suite", self._suite, None, {"suite": self._suite, "level": "suite", **tags})
        self._log_params(self._root, parameters)
        self._log_artifacts(self._root, artifacts)

    def _run(self, key: str, name: str, parent: str | None, tags: Mapping[str, str]) -> str:
        """Return the run stored under `key`, made anew if the store has it no more."""
        if (known := self._ids.get(key)) is not None:
            with contextlib.suppress(self._mlflow.exceptions.MlflowException):
                if self._client.get_run(known).info.lifecycle_stage == "active":
                    self._client.update_run(known, status="RUNNING")
                    for tag, value in tags.items():
                        self._client.set_tag(known, tag, value)
                    return known
        lineage = {"mlflow.parentRunId": parent} if parent else {}
        run = self._client.create_run(self._experiment, run_name=name, tags={**tags, **lineage})
        self._ids[key] = run.info.run_id
        write_json(self._folder / "mlflow.json", {"schema": 1, "uri": self._uri, "runs": self._ids})
        return str(run.info.run_id)

    def _start(self, row: str, seed: int, tags: dict[str, str], parameters: dict[str, Any]) -> None:
        generator, _, trial = row.partition("/")
        common = {"suite": self._suite, "generator": generator, **tags}
        parent = self._run(f"generator:{generator}", generator, self._root, {**common, "level": "generator"})
        levels = {**common, "level": "trial" if trial else "seed", "seed": str(seed)}
        run = self._run(f"seed:{row}:{seed}:{tags['train_id']}", trial or f"{row} seed {seed}", parent, levels)
        self._ids[f"current:{row}:{seed}"] = run
        self._log_params(run, {**parameters, "seed": seed})

    def _metrics(self, row: str, seed: int, values: dict[str, float], step: int, timestamp: int) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(re.sub(r"[^\w\-. /]", "_", name), float(value), timestamp, step)
            for name, value in values.items()
            if math.isfinite(value)
        ]
        self._client.log_batch(self._ids[f"current:{row}:{seed}"], metrics=metrics)

    def _artifacts(self, row: str | None, seed: int, files: list[Path]) -> None:
        self._log_artifacts(self._root if row is None else self._ids[f"current:{row}:{seed}"], files)

    def _end(self, row: str, seed: int, status: str, reason: str | None) -> None:
        run = self._ids.pop(f"current:{row}:{seed}")
        self._client.set_tag(run, "status", status)
        if reason:
            self._client.set_tag(run, "reason", reason[:5000])
        self._client.set_terminated(run, status=_STATUS[status])
        self._client.set_terminated(self._ids[f"generator:{row.partition('/')[0]}"], status=_STATUS[status])

    def _close(self, status: str) -> None:
        for key in [key for key in self._ids if key.startswith("current:")]:
            self._client.set_terminated(self._ids.pop(key), status="KILLED")
        self._client.set_terminated(self._root, status=_STATUS[status])

    def _log_params(self, run: str, parameters: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(run).data.params
        new = [Param(key, str(value)[:6000]) for key, value in parameters.items() if key not in known]
        for start in range(0, len(new), 100):
            self._client.log_batch(run, params=new[start : start + 100])

    def _log_artifacts(self, run: str, files: Iterable[Path]) -> None:
        for file in files:
            if file.exists():
                self._client.log_artifact(run, str(file))
