"""Sends what MLflow lacks of a results folder, and nothing twice.

What a store has is noted in the folder (mlflow.json), by store: the id of every run, the last step of every curve, which
scores, files and tags. A run made whose note was lost is found again by a tag. Times belong to what is sent, so that a
number sent twice in spite of all is one row of the store.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import uuid
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from bench.database import with_driver
from bench.store import digest, read_json, write_json
from bench.track.nodes import Content, Node
from bench.track.numbers import Point, legal, stat_of, time_of
from bench.track.records import Reader

EXPERIMENT = "medgenbench"
NODE_TAG = "medgenbench.node"
PARENT_TAG = "mlflow.parentRunId"
KIND_TAG = "mlflow.experimentKind"
"""Of the pages for model training; MLflow would guess otherwise, or ask."""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # the mirror comes back by itself, so that one refusal is enough
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
BATCH = 500

_STATUS = {"running": "RUNNING", "finished": "FINISHED", "interrupted": "KILLED", "pruned": "KILLED"}
"""All others failed."""


def default_uri(results: Path) -> str:
    """The SQLite store beside the results."""
    return f"sqlite:///{(results / 'mlflow.db').resolve()}"


def shown(uri: str) -> str:
    """The URI without a password, for messages and files."""
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


class Mirror:
    """Keeps one store up to date with one results folder. One at a time per folder: see `bench.track.live`.

    Args:
        folder: results/SUITE.
        uri: tracking URI; artifacts of a local store lie beside the results.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder, self._results, self._uri = folder, folder.resolve().parent, uri
        self._reader = Reader(folder)
        self._client: Any = None
        self._there: set[str] = set()
        """Nodes whose run was seen in the store since it last answered."""

    def send(self, running: Collection[Path] = (), *, live: bool = False) -> tuple[int, int]:
        """Bring the store up to date.

        Args:
            running: folders of the trainings at work now.
            live: whether the suite itself is at work.

        Returns:
            How many runs there are, and in how many of them anything was new.

        Raises:
            Exception: whatever MLflow raises if the store does not answer; what arrived is noted.
        """
        changed = 0
        try:
            self._connect()
            nodes = self._reader.nodes(running, live=live)
            for node in nodes:
                mark = self._marks.setdefault(node.key, {})
                parent = self._marks[node.parent]["id"] if node.parent else None
                self._find(node, mark, parent)
                if mark.get("stamp") != node.stamp or mark.get("parent") != parent:
                    self._fill(node, mark, parent)
                    mark |= {"stamp": node.stamp, "parent": parent}
                    self._note()
                    changed += 1
        except BaseException:
            self._client = None
            self._there.clear()
            raise
        return len(nodes), changed

    def _connect(self) -> None:
        if self._client is not None:
            return
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "mlflow.store.db.utils", "alembic"):  # after the import, which sets levels of its own
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # says every refusal once more
        local = self._uri.startswith(("sqlite:", "file:"))
        # two runs that meet a new local store at once would both create its tables
        with FileLock(self._results / "mlflow.db.lock") if local else contextlib.nullcontext():
            client = MlflowClient(tracking_uri=with_driver(self._uri))
            self._experiment = self._find_experiment(client)
        notes = read_json(self._folder / "mlflow.json") or {}
        if "stores" not in notes:
            notes = {"schema": 1, "folder": uuid.uuid4().hex, "stores": {}}
        # the default store moves along with its folder
        store = "beside the results" if self._uri == default_uri(self._results) else shown(self._uri)
        self._notes, self._marks = notes, notes["stores"].setdefault(store, {})
        self._note()
        self._client = client

    def _find_experiment(self, client: Any) -> str:
        """The experiment's id; it is made if the store has it not. A server keeps files where it was told to.

        Raises:
            Exception: whatever MLflow raises if the store does not answer.
        """
        from mlflow.exceptions import MlflowException

        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            suite = read_json(self._folder / "suite.json") or {}
            location = (suite.get("tracking") or {}).get("artifacts")
            if location is None and not self._uri.startswith(("http:", "https:")):
                location = (self._results / "mlartifacts").resolve().as_uri()
            try:
                made: str = client.create_experiment(EXPERIMENT, location, {KIND_TAG: "custom_model_development"})
                return made
            except MlflowException:  # another writer made it just now
                experiment = client.get_experiment_by_name(EXPERIMENT)
                if experiment is None:
                    raise
        found: str = experiment.experiment_id
        return found

    def _note(self) -> None:
        write_json(self._folder / "mlflow.json", self._notes)

    def _find(self, node: Node, mark: dict[str, Any], parent: str | None) -> None:
        """Make sure that the node's run is in the store; what is noted of one that is gone is forgotten."""
        if node.key in self._there:
            return
        from mlflow.exceptions import MlflowException

        identity = f"{self._notes['folder']}/{node.key}"
        if "id" in mark:
            try:
                alive = self._client.get_run(mark["id"]).info.lifecycle_stage == "active"
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                alive = False
            if not alive:
                mark.clear()
        if "id" not in mark:
            known = self._client.search_runs([self._experiment], f"tags.`{NODE_TAG}` = '{identity}'", max_results=1)
            if known:
                mark["id"] = known[0].info.run_id
            else:
                tags = {NODE_TAG: identity, **({PARENT_TAG: parent} if parent else {})}
                made = self._client.create_run(self._experiment, node.started, tags, node.name)
                mark["id"] = made.info.run_id
            self._note()
        self._there.add(node.key)

    def _fill(self, node: Node, mark: dict[str, Any], parent: str | None) -> None:
        content = node.load()
        status = _STATUS.get(node.status, "FAILED")
        if status == "RUNNING" != mark.get("status"):
            self._client.update_run(mark["id"], status=status)
        self._send_words(node, mark, content, parent)
        self._send_numbers(mark, content)
        self._send_dataset(mark)
        self._send_grids(mark, content)
        self._send_files(mark, content)
        if status != "RUNNING" and (mark.get("status"), mark.get("ended")) != (status, node.ended):
            self._client.set_terminated(mark["id"], status, node.ended)
            mark["ended"] = node.ended
        mark["status"] = status

    def _send_words(self, node: Node, mark: dict[str, Any], content: Content, parent: str | None) -> None:
        """Tags that changed, parameters that are new: MLflow's can't change (suite.yaml has the present ones)."""
        from mlflow.entities import Param, RunTag

        tags = {**node.tags, **({PARENT_TAG: parent} if parent else {})}
        tags = {name: value[:5000] for name, value in tags.items()}
        before, known = mark.get("tags", {}), mark.get("parameters", [])
        changed = [RunTag(name, value) for name, value in tags.items() if before.get(name) != value]
        new = {name: value for name, value in content.parameters.items() if name not in known}
        self._batches(mark["id"], tags=changed)
        self._batches(mark["id"], params=[Param(legal(name), value[:6000]) for name, value in new.items()])
        for name in before.keys() - tags.keys():
            self._client.delete_tag(mark["id"], name)
        mark |= {"tags": tags, "parameters": [*known, *new]}

    def _send_numbers(self, mark: dict[str, Any], content: Content) -> None:
        last = mark.setdefault("curves", {})
        new = [point for point in content.curves if point.step > last.get(point.name, -1)]
        for start in range(0, len(new), BATCH):  # sorted by name and step, so that the note is true after each
            part = new[start : start + BATCH]
            self._batches(mark["id"], metrics=_metrics(part))
            last.update({point.name: point.step for point in part})
        scores = digest([point[:3] for point in content.scores])
        if content.scores and mark.get("scores") != scores:
            self._batches(mark["id"], metrics=_metrics(content.scores))
            mark["scores"] = scores

    def _batches(self, run: str, **entities: Sequence[Any]) -> None:
        """MLflow takes 1,000 numbers, 100 parameters, 100 tags at a time."""
        for kind, items in entities.items():
            size = BATCH if kind == "metrics" else 100
            for start in range(0, len(items), size):
                self._client.log_batch(run, **{kind: items[start : start + size]})

    def _send_dataset(self, mark: dict[str, Any]) -> None:
        dataset = self._reader.dataset()
        if dataset is None or mark.get("dataset") == digest(dataset):
            return
        from mlflow.entities import Dataset, DatasetInput, InputTag

        tensor = {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, *dataset["shape"]]}}
        labels = {"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}
        schema = {"mlflow_tensorspec": {"features": json.dumps([tensor]), "targets": json.dumps([labels])}}
        entity = Dataset(
            name=dataset["name"],
            digest=dataset["digest"][:36],
            source_type="medgenbench",
            source=json.dumps(dataset["source"]),
            schema=json.dumps(schema),
            profile=json.dumps(dataset["profile"]),
        )
        tags = [InputTag("mlflow.data.context", "training, validation, test")]
        self._client.log_inputs(mark["id"], [DatasetInput(entity, tags)])
        mark["dataset"] = digest(dataset)

    def _send_grids(self, mark: dict[str, Any], content: Content) -> None:
        sent = mark.setdefault("grids", [])
        new = [(path, step) for path, step in content.grids if step not in sent]
        if not new:
            return
        from PIL import Image

        # MLflow names a picture anew each time: ask which are there. The small version is written last
        there = [file.path for file in self._client.list_artifacts(mark["id"], "images") if file.path.endswith(".webp")]
        for path, step in new:
            if not any(f"+step+{step}+" in name for name in there):
                with Image.open(path) as picture:
                    self._client.log_image(mark["id"], picture, key="samples", step=step, timestamp=time_of(path))
            sent.append(step)

    def _send_files(self, mark: dict[str, Any], content: Content) -> None:
        sent = mark.setdefault("files", {})
        for path, folder in content.files:
            name, state = f"{folder}/{path.name}".lstrip("/"), stat_of(path)[1:]
            if sent.get(name) != state and path.exists():
                self._client.log_artifact(mark["id"], str(path), folder or None)
                sent[name] = state


def _metrics(points: Sequence[Point]) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(point.name, point.value, point.time, point.step) for point in points]
