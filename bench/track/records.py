"""Results folder -> the runs that MLflow is to show. Reads files only, and knows no MLflow.

A *node* is a run of MLflow's. What it holds falls into what only grows (curves, pictures on the way) and what may be
replaced (scores, files), which is all that the mirror must know to send nothing twice. Times are those of the files and
events, never of the sending: what is sent again is equal, and a store that has it already drops it.

Trials of a study are found below `trials/`: any folder in it with a `result.json` (or `job.json`) that holds `trial` (its
number) and the row's name (`generator`, or `row` in a job). Of a trial are read, as of a training: `hyperparameters`,
`status`, `reason`, `costs`, events.jsonl, losses.csv, progress.csv, and `values`: {objective: number}.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.store import digest, read_json
from bench.track.numbers import Point, curves, flat, points, stat_of, time_of

ENDED_BADLY = ("failed", "diverged", "interrupted")
SUITE_FILES = ("suite.yaml", "split.json", "report.html", "table.*", "*.csv", "figures/*.png", "figures/*.svg")
RUN_FILES = ("result.json", "losses.csv", "progress.csv")
PARTS_SHOWN = ("data", "split", "budget", "seeds", "precision", "progress", "tuning", "evaluation")


@dataclass(frozen=True)
class Content:
    """What a run holds."""

    parameters: Mapping[str, str] = field(default_factory=dict)
    curves: tuple[Point, ...] = ()
    """Only grows; steps are images seen, but of system/... the number of the sample."""
    scores: tuple[Point, ...] = ()
    """May be replaced as a whole."""
    files: tuple[tuple[Path, str], ...] = ()
    """Files with the folder among the artifacts where they belong."""
    grids: tuple[tuple[Path, int], ...] = ()
    """Pictures of samples on the way, with the images seen; only grows."""


@dataclass(frozen=True)
class Node:
    """A run: who it is, how it stands, and what it holds once it is asked for."""

    key: str
    name: str
    parent: str | None
    status: str
    tags: Mapping[str, str]
    stamp: str
    """Changes when anything of it does."""
    started: int
    ended: int
    load: Callable[[], Content]


class Reader:
    """Reads a suite's results folder again and again; what has not changed is parsed once.

    Args:
        folder: results/SUITE, with a plan.json.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cache: dict[Path, tuple[list[Any], Any]] = {}

    def nodes(self, running: Collection[Path] = (), *, live: bool = False) -> list[Node]:
        """Return the tree, parents first.

        Args:
            running: folders of the trainings at work now.
            live: whether the suite itself is at work.
        """
        plan, suite = self._read(self.folder / "plan.json"), self._read(self.folder / "suite.json")
        common = self._common(plan, suite)
        works = {path.resolve() for path in running}
        floors, families = list[Node](), dict[str, list[_Training]]()
        for row in plan.get("rows", []):
            run = self.folder / row["run"]
            if not ((run / "job.json").exists() or (run / "result.json").exists()):
                continue
            training = _Training(self, run, row["evaluation"], run.resolve() in works, suite)
            if row["role"] == "floor":
                floors.append(training.node("suite", common))
            else:
                families.setdefault(row["generator"], []).append(training)
        for run in self._trials():
            training = _Training(self, run, None, run.resolve() in works, suite)
            families.setdefault(training.row, []).append(training)
        below = list(floors)
        for row, members in families.items():
            key = f"family:{row}"
            children = [member.node(key, common) for member in members]
            below += [_family(key, row, members, children, common), *children]
        return [self._suite(plan, suite, common, below, live), *below]

    def dataset(self) -> dict[str, Any] | None:
        """What MLflow is told of the data: name, digest, shape, counts by class and split; None if not known yet."""
        reference = self._read(self.folder / "reference.json")
        if "data" not in reference:
            return None
        data, split = reference["data"], reference["split"]
        classes = {one["name"]: {part: one.get(part) for part in PARTS} for one in reference.get("classes", [])}
        counts = {"images": data["n"], **{part: split[part] for part in PARTS}, "by": split["by"], "classes": classes}
        source = self._read(self.folder / "suite.json").get("data", {})
        about = {"title": data["title"], "simulated": data["simulated"], "split": split["hash"]}
        return {
            "name": str(source.get("source", "images")),
            "digest": data["fingerprint"],
            "source": {**source, **about},
            "shape": data["shape"],
            "profile": counts,
        }

    def _common(self, plan: Mapping[str, Any], suite: Mapping[str, Any]) -> dict[str, str]:
        """Tags of every run; data and split are known once the real side of this very plan is."""
        reference = self._read(self.folder / "reference.json")
        tags = {"suite": str(suite.get("name", self.folder.name))}
        if "data" in reference and plan.get("reference_id", reference["reference_id"]) == reference["reference_id"]:
            data, split = reference["data"], reference["split"]
            tags |= {"data": data["fingerprint"], "split": split["hash"], "simulated": str(data["simulated"])}
        if plan.get("stamp"):
            tags["stamp"] = plan["stamp"]
        return tags

    def _trials(self) -> list[Path]:
        found = {path.parent for name in ("job.json", "result.json") for path in self.folder.glob(f"trials/**/{name}")}
        return sorted(run for run in found if "trial" in self.facts(run))

    def _suite(
        self, plan: Mapping[str, Any], suite: Mapping[str, Any], common: dict[str, str], below: list[Node], live: bool
    ) -> Node:
        trainings = [node for node in below if node.tags["level"] == "seed"]
        bad = [
            f"{node.name}: {node.tags.get('reason', node.status)}" for node in trainings if node.status in ENDED_BADLY
        ]
        status = "running" if live else _joined([node.status for node in trainings])
        done = sum(node.status == "finished" for node in trainings)
        planned = sum(row["role"] != "floor" for row in plan.get("rows", []))
        tags = {**common, "level": "suite", "status": status, "finished": f"{done} of {planned}"}
        commits = sorted({node.tags["commit"] for node in trainings if "commit" in node.tags})
        if commits:
            tags["commit"] = ", ".join(commits)
        if bad and not live:
            tags["reason"] = "; ".join(bad)
        paths = [path for pattern in SUITE_FILES for path in sorted(self.folder.glob(pattern))]
        files = tuple((path, path.parent.relative_to(self.folder).as_posix().removeprefix(".")) for path in paths)
        shown = flat({part: suite.get(part) for part in PARTS_SHOWN})
        head = self.folder / "plan.json"
        times = [node.ended for node in below] or [time_of(head)]
        started = min([time_of(head), *(node.started for node in below)])
        return _node("suite", common["suite"], None, status, tags, started, max(times),
                     lambda: Content(shown, files=() if live else files),
                     [shown, [stat_of(path) for path in paths] if not live else None])  # fmt: skip

    def facts(self, run: Path) -> dict[str, Any]:
        """What the folder of a training or trial says of itself."""
        job, result = self._read(run / "job.json"), self._read(run / "result.json")
        spec = job["generator"] if isinstance(job.get("generator"), dict) else {}
        own = {"generator": job.get("row", run.name), "family": spec.get("name"), "preset": spec.get("preset"),
               "hyperparameters": spec.get("hyperparameters")}  # fmt: skip
        settings = {key: job[key] for key in ("role", "seed", "trial", "train_id") if key in job}
        return {**own, **settings, **{key: value for key, value in result.items() if value is not None}}

    def job(self, run: Path) -> dict[str, Any]:
        """The job of a run; empty if it is gone."""
        return self._read(run / "job.json")

    def evaluation(self, run: Path, name: str) -> dict[str, Any]:
        """What an evaluation says; empty if there is none."""
        return self._read(run / name, drop="replicates")

    def _read(self, path: Path, drop: str = "") -> dict[str, Any]:
        stat = stat_of(path)
        if path not in self._cache or self._cache[path][0] != stat:
            content = read_json(path) or {}
            content.pop(drop, None)
            self._cache[path] = (stat, content)
        found: dict[str, Any] = self._cache[path][1]
        return found


PARTS = ("train", "validation", "test")


class _Training:
    """One training, floor or trial."""

    def __init__(
        self, reader: Reader, run: Path, evaluation: str | None, works: bool, suite: Mapping[str, Any]
    ) -> None:
        self._reader, self._run, self._works, self._suite = reader, run, works, suite
        self._facts = reader.facts(run)
        self._evaluation_path = run / evaluation if evaluation else None
        self._evaluation = reader.evaluation(run, evaluation) if evaluation else {}
        self.row, self.seed, self.trial = self._facts["generator"], self._facts.get("seed", 0), self._facts.get("trial")
        self.role = self._facts.get("role", "family")
        self.family = self._facts.get("family") or self.row

    def node(self, parent: str, common: Mapping[str, str]) -> Node:
        level = "floor" if self.role == "floor" else "seed" if self.trial is None else "trial"
        number = {"floor": "", "seed": f" seed {self.seed}", "trial": f"/trial {self.trial}"}[level]
        status, reason = self._state()
        tags = {**common, "level": level, "generator": self.row, "family": self.family, "role": self.role,
                "seed": self.seed, "trial": self.trial, "train_id": self._facts.get("train_id"),
                "eval_id": self._evaluation.get("eval_id"), "commit": self._facts.get("commit"),
                "status": status, "reason": reason}  # fmt: skip
        told = {name: str(value) for name, value in tags.items() if value is not None}
        key = self._run.relative_to(self._reader.folder).as_posix()
        watched = [self._run / name for name in ("job.json", "events.jsonl", *RUN_FILES)]
        watched += [self._evaluation_path] if self._evaluation_path else []
        stats = [stat_of(path) for path in [*watched, *self._grids()]]
        times = [stat[1] // 1_000_000 for stat in stats if stat[1]]
        started = time_of(self._run / "job.json") or min(times)
        return _node(key, self.row + number, parent, status, told, started, max(times), self._load, stats)

    def scores(self) -> list[Point]:
        """Final scores and costs."""
        facts, evaluation = self._facts, self._evaluation
        values = {f"cost/{name}": value for name, value in facts.get("costs", {}).items()}
        values |= {f"objective/{name}": value for name, value in facts.get("values", {}).items()}
        for score in evaluation.get("scores", []):
            name = "/".join(part for part in (score["measure"], score["features"], score["class"]) if part)
            values |= {name: score["mean"], f"{name}/std": score.get("std")}
        path = self._evaluation_path if evaluation and self._evaluation_path else self._run / "result.json"
        return points(values, facts.get("images_seen") or 0, time_of(path))

    def _state(self) -> tuple[str, str | None]:
        if self._works:
            return "running", None
        status = self._facts.get("status")
        if status is None:
            return "interrupted", "ended before it had a result"
        if status != "finished" or self._evaluation_path is None or self._evaluation.get("status") == "finished":
            return str(status), self._facts.get("reason")
        if self._evaluation:
            return "failed", self._evaluation.get("reason")
        return "interrupted", "trained, but not scored"

    def _grids(self) -> list[Path]:
        """Sample grids on the way; what a control samples may be real images as they are."""
        return sorted(self._run.glob("progress/*.png")) if self._shows else []

    @property
    def _shows(self) -> bool:
        return bool(self._suite.get("patient_images", True)) or self.role == "family"

    def _load(self) -> Content:
        run, job = self._run, self._reader.job(self._run)
        settings = {"preset": self._facts.get("preset"), "budget": self._suite.get("budget"),
                    **{key: job.get(key) for key in ("precision", "device", "threads")}}  # fmt: skip
        parameters = {**flat(settings), **flat(self._facts.get("hyperparameters") or {}), "seed": str(self.seed)}
        parameters["family"] = self.family
        grids = tuple((path, int(path.stem)) for path in self._grids() if path.stem.isdecimal())
        grown = tuple(curves(run))
        if self._works:  # what is written last is sent last: files and scores belong together
            return Content(parameters, grown, grids=grids)
        files = [(run / name, "") for name in RUN_FILES]
        files += [(self._evaluation_path, "")] if self._evaluation_path else []
        files += [(run / "samples.png", "")] if self._shows else []
        if self._state()[0] == "failed":
            files.append((run / "log.txt", ""))
        if (
            (run / "checkpoint.safetensors").exists()
            and self.trial is None
            and (self._shows or self.role == "translator")
        ):
            files += [(run / name, "model") for name in ("checkpoint.safetensors", "result.json")]
        return Content(parameters, grown, tuple(self.scores()), tuple(f for f in files if f[0].exists()), grids)


def _family(key: str, row: str, members: list[_Training], children: list[Node], common: Mapping[str, str]) -> Node:
    """The run above a family's seeds and trials: its scores are means over the seeds, the step is how many those are."""
    status = _joined([child.status for child in children if child.tags["level"] == "seed"] or [children[0].status])
    status = "running" if any(child.status == "running" for child in children) else status
    tags = {**common, "level": "family", "generator": row, "family": members[0].family, "role": members[0].role}
    tags |= {"status": status, "commit": next((c.tags["commit"] for c in children if "commit" in c.tags), "")}
    reasons = [f"{child.name}: {child.tags['reason']}" for child in children if child.tags["level"] == "seed" and
               child.status in ENDED_BADLY and "reason" in child.tags]  # fmt: skip
    if reasons:
        tags["reason"] = "; ".join(reasons)
    done = [member for member, child in zip(members, children, strict=True)
            if child.status == "finished" and member.trial is None]  # fmt: skip
    values: dict[str, list[float]] = {}
    for member in done:
        for point in member.scores():
            values.setdefault(point.name, []).append(point.value)
    means = {name: sum(found) / len(found) for name, found in values.items() if len(found) == len(done)}
    started, ended = min(child.started for child in children), max(child.ended for child in children)
    scores = tuple(points(means, len(done), ended if done else 0))
    return _node(key, row, "suite", status, {name: value for name, value in tags.items() if value}, started, ended,
                 lambda: Content({"family": members[0].family}, scores=scores), scores)  # fmt: skip


def _node(
    key: str,
    name: str,
    parent: str | None,
    status: str,
    tags: Mapping[str, str],
    started: int,
    ended: int,
    load: Callable[[], Content],
    also: Any,
) -> Node:
    return Node(key, name, parent, status, tags, digest([status, tags, also]), started, ended, load)


def _joined(states: list[str]) -> str:
    """How a whole ended, from its parts."""
    for state in ("running", "failed", "diverged", "interrupted"):
        if state in states:
            return "failed" if state == "diverged" else state
    return "finished" if states else "interrupted"
