"""Results folder -> the tree of runs that MLflow is to show. Reads files only, and knows no MLflow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.report.tables import COPYING
from bench.store import read_json
from bench.track.nodes import ENDED_BADLY, Content, Node, joined, make_node
from bench.track.numbers import Point, curves, flat, points, stat_of, time_of
from bench.track.trials import trial_nodes

SUITE_FILES = (
    "suite.yaml",
    "split.json",
    "report.html",
    "methods.txt",
    "table.*",
    "*.csv",
    "figures/*.png",
    "figures/*.svg",
)
RUN_FILES = ("result.json", "losses.csv", "progress.csv")
PARTS = ("train", "validation", "test")
PARTS_SHOWN = ("data", "split", "budget", "seeds", "precision", "progress", "tuning", "evaluation")


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
        studies = {search["generator"]: self.folder / search["folder"] for search in plan.get("searches", [])}
        entries = suite.get("generators") or ()
        named = {one.get("label") or one.get("name"): one.get("name") for one in entries if isinstance(one, dict)}
        below = list(floors)
        for row in dict.fromkeys([*studies, *families]):
            key, members = f"family:{row}", families.get(row, [])
            children = [member.node(key, common) for member in members]
            study = studies.get(row)
            if study is not None:
                record = self._read(study / "study.json")
                family = members[0].family if members else str(named.get(row) or row)
                told = {**common, "generator": row, "family": family}
                children += trial_nodes(self.folder, study, record, key, told, live=live)
            if children:
                below += [_family(key, row, members, children, common, study), *children]
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

    def _suite(
        self, plan: Mapping[str, Any], suite: Mapping[str, Any], common: dict[str, str], below: list[Node], live: bool
    ) -> Node:
        trainings = [node for node in below if node.tags["level"] == "seed"]
        bad = [
            f"{node.name}: {node.tags.get('reason', node.status)}" for node in trainings if node.status in ENDED_BADLY
        ]
        status = "running" if live else joined([node.status for node in trainings])
        done = sum(node.status == "finished" for node in trainings)
        planned = sum(row["role"] != "floor" for row in plan.get("rows", []))
        tags = {**common, "level": "suite", "status": status, "finished": f"{done} of {planned}"}
        if commits := _commits(trainings):
            tags["commit"] = commits
        if bad and not live:
            tags["reason"] = "; ".join(bad)
        paths = [path for pattern in SUITE_FILES for path in sorted(self.folder.glob(pattern))]
        files = tuple((path, path.parent.relative_to(self.folder).as_posix().removeprefix(".")) for path in paths)
        shown = flat({part: suite.get(part) for part in PARTS_SHOWN})
        head = self.folder / "plan.json"
        times = [node.ended for node in below] or [time_of(head)]
        started = min([time_of(head), *(node.started for node in below)])
        return make_node("suite", common["suite"], None, status, tags, started, max(times),
                     lambda: Content(shown, files=() if live else files),
                     [shown, [stat_of(path) for path in paths] if not live else None])  # fmt: skip

    def facts(self, run: Path) -> dict[str, Any]:
        """What the folder of a training says of itself."""
        job, result = self._read(run / "job.json"), self._read(run / "result.json")
        spec = job["generator"] if isinstance(job.get("generator"), dict) else {}
        own = {"generator": job.get("row", run.name), "family": spec.get("name"), "preset": spec.get("preset"),
               "hyperparameters": spec.get("hyperparameters")}  # fmt: skip
        settings: dict[str, Any] = {key: job[key] for key in ("role", "seed", "train_id") if key in job}
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


class _Training:
    """One training, or a floor."""

    def __init__(self, reader: Reader, run: Path, evaluation: str, works: bool, suite: Mapping[str, Any]) -> None:
        self._reader, self._run, self._works, self._suite = reader, run, works, suite
        self._facts = reader.facts(run)
        self._evaluation_path = run / evaluation
        self._evaluation = reader.evaluation(run, evaluation)
        self.row, self.seed = self._facts["generator"], self._facts.get("seed", 0)
        self.role = self._facts.get("role", "family")
        self.family = self._facts.get("family") or self.row

    def node(self, parent: str, common: Mapping[str, str]) -> Node:
        """Return its run, below `parent`."""
        level = "floor" if self.role == "floor" else "seed"
        status, reason = self._state()
        tags = {**common, "level": level, "generator": self.row, "family": self.family, "role": self.role,
                "seed": self.seed, "train_id": self._facts.get("train_id"),
                "eval_id": self._evaluation.get("eval_id"), "commit": self._facts.get("commit"),
                "status": status, "reason": reason}  # fmt: skip
        told = {name: str(value) for name, value in tags.items() if value is not None}
        key = self._run.relative_to(self._reader.folder).as_posix()
        watched = [self._run / name for name in ("job.json", "events.jsonl", *RUN_FILES)]
        stats = [stat_of(path) for path in [*watched, self._evaluation_path, *self._grids()]]
        times = [stat[1] // 1_000_000 for stat in stats if stat[1]]
        started = time_of(self._run / "job.json") or min(times)
        name = self.row if level == "floor" else f"{self.row} seed {self.seed}"
        return make_node(key, name, parent, status, told, started, max(times), self._load, stats)

    def scores(self) -> list[Point]:
        """Final scores and costs."""
        facts, evaluation = self._facts, self._evaluation
        values = {f"cost/{name}": value for name, value in facts.get("costs", {}).items()}
        for score in evaluation.get("scores", []):
            name = "/".join(part for part in (score["measure"], score["features"], score["class"]) if part)
            values |= {name: score["mean"], f"{name}/std": score.get("std")}
        path = self._evaluation_path if evaluation else self._run / "result.json"
        return points(values, facts.get("images_seen") or 0, time_of(path))

    def _state(self) -> tuple[str, str | None]:
        if self._works:
            return "running", None
        status = self._facts.get("status")
        if status is None:
            return "interrupted", "ended before it had a result"
        if status != "finished" or self._evaluation.get("status") == "finished":
            return str(status), self._facts.get("reason")
        if self._evaluation:
            return "failed", self._evaluation.get("reason")
        return "interrupted", "trained, but not scored"

    def _grids(self) -> list[Path]:
        return sorted(self._run.glob("progress/*.png")) if self._shows else []

    @property
    def _shows(self) -> bool:
        """Whether pictures and model may be shown: where patients must not be, of what is scored and copies nobody."""
        if self._suite.get("patient_images", True):
            return True
        if self.role not in ("family", "default") or self._evaluation.get("status") != "finished":
            return False
        near = [score["mean"] for score in self._evaluation.get("scores", []) if score["measure"] == "memorization"]
        return not any(mean is not None and mean < COPYING for mean in near)

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
        files = [*((run / name, "") for name in RUN_FILES), (self._evaluation_path, "")]
        files += [(run / "samples.png", "")] if self._shows else []
        if self._state()[0] == "failed":
            files.append((run / "log.txt", ""))
        if (run / "checkpoint.safetensors").exists() and (self._shows or self.role == "translator"):
            files += [(run / name, "model") for name in ("checkpoint.safetensors", "result.json")]
        return Content(parameters, grown, tuple(self.scores()), tuple(f for f in files if f[0].exists()), grids)


def _family(
    key: str, row: str, members: list[_Training], children: list[Node], common: Mapping[str, str], study: Path | None
) -> Node:
    """The run above a family's seeds and trials: its scores are means over the seeds, the step is how many those are."""
    seeds = children[: len(members)]
    works = any(child.status == "running" for child in children)
    status = "running" if works else joined([child.status for child in seeds])
    family, role = (members[0].family, members[0].role) if members else (children[0].tags["family"], "family")
    tags = {**common, "level": "family", "generator": row, "family": family, "role": role, "status": status}
    if commits := _commits(seeds):
        tags["commit"] = commits
    bad = [child for child in seeds if child.status in ENDED_BADLY and "reason" in child.tags]
    if bad:
        tags["reason"] = "; ".join(f"{child.name}: {child.tags['reason']}" for child in bad)
    done = [member for member, child in zip(members, seeds, strict=True) if child.status == "finished"]
    values: dict[str, list[float]] = {}
    for member in done:
        for point in member.scores():
            values.setdefault(point.name, []).append(point.value)
    means = {name: sum(found) / len(found) for name, found in values.items() if len(found) == len(done)}
    started, ended = min(child.started for child in children), max(child.ended for child in children)
    scores = tuple(points(means, len(done), max([child.ended for child in seeds], default=0)))
    paths = [study / name for name in ("study.json", "trials.csv") if (study / name).exists()] if study else []
    files = tuple((path, "tuning") for path in paths)
    load = partial(Content, {"family": family}, scores=scores, files=() if works else files)
    return make_node(key, row, "suite", status, tags, started, ended, load, [scores, [stat_of(path) for path in paths]])


def _commits(nodes: list[Node]) -> str:
    return ", ".join(sorted({node.tags["commit"] for node in nodes if "commit" in node.tags}))
