"""The one reader of a results folder: files in, plain frozen records out.

It judges nothing and formats nothing. A run whose files are absent (or not whole) is 'pending'; one that failed keeps
its status and its reason. Images and losses are read when they are asked for, so that tables cost little.
"""

from __future__ import annotations

import csv
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.errors import InputError
from bench.store import read_json

DAMAGE = (OSError, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What NumPy and its zip reader make of damaged bytes."""
REMEDY = "bench run sets it aside and does its work again"
ALL = "all"
"""The class name of scores over all classes together."""
STATUSES = ("finished", "failed", "diverged", "interrupted", "pending")
COLUMNS = (
    "generator", "role", "seed", "class", "features", "measure", "mean", "std", "training_std", "draws", "n_real",
    "n_generated", "lower", "upper", "flag", "status",
)  # fmt: skip
COST_ORDER = ("training_seconds", "seconds_per_1000_samples", "peak_memory_bytes", "parameters")


class Key(NamedTuple):
    """What a number is of: which class (or 'all'), seen through which features, by which measure."""

    label: str
    features: str
    measure: str


@dataclass(frozen=True)
class Score:
    """One number of one run: mean and deviation over the draws, and the interval over test subjects."""

    mean: float
    std: float
    draws: int
    n_real: int
    n_generated: int
    lower: float | None
    upper: float | None
    flag: str
    draw_values: tuple[float, ...]
    replicates: tuple[float, ...]
    about: str = ""
    """What belongs to the measure's name here: scales, bandwidth, parts."""


@dataclass(frozen=True)
class Images:
    """Stored images: uint8 [n, channels, height, width] and the class index of each, [n]."""

    pixels: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Run:
    """One row of the plan: a generator trained from one seed (or a floor), with what came of it."""

    generator: str
    role: str
    seed: int
    status: str
    reason: str
    family: str = ""
    conditional: bool = True
    images_seen: int | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[Key, Score] = field(default_factory=dict)
    untranslated: Mapping[Key, Score] = field(default_factory=dict)
    """Of a translator: the scores of the images it was given."""
    kept: Mapping[str, float] = field(default_factory=dict)
    """Of a translator: mean SSIM between what it was given and what it returned, by class."""
    preset: str | None = None
    external: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def finished(self) -> bool:
        """Whether training and evaluation both ended well."""
        return self.status == "finished"

    def samples(self) -> Images | None:
        """The generated images of the first draw, if they were stored."""
        return _images(self.folder / "samples.npz") if self.folder else None

    def closest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float] | None:
        """Generated images, their nearest training images, the ratios of both and what counts as a copy, if stored."""
        path = self.folder / "closest.npz" if self.folder else None
        if path is None or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as archive:
                return archive["generated"], archive["training"], archive["ratios"], float(archive["threshold"])
        except DAMAGE as error:
            raise InputError(f"{path}: not an archive of image pairs: {error}; {REMEDY}") from None

    def interpolations(self) -> Images | None:
        """Walks through latent space, [walks, steps, channels, height, width] and a label each, if stored."""
        return _images(self.folder / "interpolations.npz") if self.folder else None

    def losses(self) -> pd.DataFrame:
        """The loss record: columns step, images_seen, split, name, value; empty where there is none."""
        return self._record("losses.csv", {"step": int, "images_seen": int, "split": str, "name": str, "value": float})

    def progress(self) -> pd.DataFrame:
        """Scores on the way: columns images_seen, class, features, measure, value, n; empty where there are none."""
        columns = {"images_seen": int, "class": str, "features": str, "measure": str, "value": float, "n": int}
        return self._record("progress.csv", columns)

    def _record(self, file_name: str, columns: Mapping[str, Any]) -> pd.DataFrame:
        path = self.folder / file_name if self.folder else None
        if path is None or not path.is_file():
            return pd.DataFrame(columns=list(columns))
        try:
            with path.open(newline="", encoding="utf-8") as file:
                lines = [line for line in csv.DictReader(file) if all(line.get(column) for column in columns)]
            return pd.DataFrame({name: [kind(line[name]) for line in lines] for name, kind in columns.items()})
        except (OSError, ValueError, csv.Error) as error:
            raise InputError(f"{path}: not a record as it was written: {error}; {REMEDY}") from None


@dataclass(frozen=True, eq=False)
class Results:
    """A results folder as read: the plan's rows in its order, and what all of them share."""

    folder: Path
    name: str
    stamp: str | None
    runs: tuple[Run, ...]
    data: Mapping[str, Any]
    split: Mapping[str, Any]
    classes: tuple[Mapping[str, Any], ...]
    protocol: Mapping[str, Any]
    features: Mapping[str, Mapping[str, Any]]
    suite: Mapping[str, Any]
    suite_text: str
    translators: tuple[Run, ...] = ()
    """Rows that turn images of one class into another's: compared with each other, never with what draws images."""
    progress: Mapping[str, Any] = field(default_factory=dict)
    """How progress was measured: points, n, and the real-data line by 'features/measure'."""
    recognition: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Features -> class -> the classifier's accuracy on real test images."""
    utility: Mapping[str, Any] = field(default_factory=dict)
    """How utility was measured, and the scores of classifiers trained on real images alone."""

    @property
    def generators(self) -> tuple[str, ...]:
        """The names of the rows, each once, in the plan's order."""
        return tuple(dict.fromkeys(run.generator for run in self.runs))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in label order."""
        return tuple(str(name) for name in self.data["class_names"])

    @property
    def simulated(self) -> bool:
        """Whether the images are a phantom and not patients."""
        return bool(self.data.get("simulated"))

    @property
    def data_label(self) -> str:
        """The data's title; a phantom always says that it is one."""
        title = str(self.data.get("title", "unnamed data"))
        return f"{title} (phantom)" if self.simulated and "phantom" not in title.lower() else title

    @property
    def patient_images(self) -> bool:
        """Whether real images may be shown."""
        return bool(self.suite.get("patient_images", True)) and (self.folder / "real.npz").is_file()

    def of(self, generator: str) -> tuple[Run, ...]:
        """The runs of one generator, in seed order as planned."""
        return tuple(run for run in self.runs if run.generator == generator)

    def real(self) -> Images | None:
        """Some real test images of every class; None where patient images must not be shown."""
        return _images(self.folder / "real.npz") if self.patient_images else None


def read_results(folder: Path) -> Results:
    """Read everything the report needs but images and losses.

    Raises:
        InputError: the folder holds no plan.json or reference.json that can be read.
    """
    plan, reference = (_required(folder, name) for name in ("plan.json", "reference.json"))
    suite_text = folder / "suite.yaml"
    try:
        runs = [_run(folder, row) for row in plan["rows"]]
        return Results(
            folder=folder,
            name=str(plan["suite"]),
            stamp=plan.get("stamp"),
            runs=tuple(run for run in runs if run.role != "translator"),
            translators=tuple(run for run in runs if run.role == "translator"),
            progress=reference.get("progress") or {},
            recognition=reference.get("recognition") or {},
            utility=reference.get("utility") or {},
            data=reference["data"],
            split={**reference["split"], "duplicates": (read_json(folder / "duplicates.json") or {}).get("across", 0)},
            classes=tuple(reference["classes"]),
            protocol=reference["protocol"],
            features=reference["features"],
            suite=read_json(folder / "suite.json") or {},
            suite_text=suite_text.read_text(encoding="utf-8") if suite_text.is_file() else "",
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder}: plan.json or reference.json lacks {error}") from error


def results_frame(results: Results) -> pd.DataFrame:
    """Return every number in long form: one row per run and score, costs last (features '', class 'all').

    Sorted in the plan's order, then as stored. A run without any number is one row with an empty measure, so that its
    status is not lost. `std` is the deviation over draws, `training_std` that of the means over the generator's
    finished seeds, the same in the row of each; empty with one seed. `about`, last, says what belongs to a measure's
    name: scales, bandwidth.
    """
    spread = _training_deviations((*results.runs, *results.translators))
    rows: list[tuple[Any, ...]] = []
    for run in (*results.runs, *results.translators):
        head = (run.generator, run.role, run.seed)
        numbers: list[tuple[Any, ...]] = [
            (
                *key,
                s.mean,
                s.std,
                spread.get((run.generator, key)),
                s.draws,
                s.n_real,
                s.n_generated,
                s.lower,
                s.upper,
                s.flag,
            )
            for key, s in run.scores.items()
        ]
        costs = [name for name in COST_ORDER if name in run.costs] + sorted(set(run.costs) - set(COST_ORDER))
        numbers += [(ALL, "", name, run.costs[name], *[None] * 7, "") for name in costs]
        rows += [(*head, *number, run.status) for number in numbers or [(ALL, "", "", *[None] * 8, "")]]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    whole = dict.fromkeys(["draws", "n_real", "n_generated"], "Int64")
    real = dict.fromkeys(["mean", "std", "training_std", "lower", "upper"], "float64")
    frame = frame.astype({**whole, **real})
    about = {
        (run.generator, run.seed, *key): score.about
        for run in (*results.runs, *results.translators)
        for key, score in run.scores.items()
    }
    names = ("generator", "seed", "class", "features", "measure")
    return frame.assign(about=[about.get(row, "") for row in zip(*(frame[name] for name in names), strict=True)])


def _training_deviations(runs: Iterable[Run]) -> dict[tuple[str, Key], float]:
    """Generator and number -> deviation of its mean over finished seeds; none where fewer than two have it."""
    means: dict[tuple[str, Key], list[float]] = {}
    for run in runs:
        for key, score in run.scores.items() if run.finished else ():
            means.setdefault((run.generator, key), []).append(score.mean)
    return {key: float(np.std(found, ddof=1)) for key, found in means.items() if len(found) > 1}


def _required(folder: Path, name: str) -> dict[str, Any]:
    record = read_json(folder / name)
    if record is None:
        state = "can't be read" if (folder / name).exists() else "is absent"
        raise InputError(f"{folder}: no results folder that can be reported: {name} {state}")
    return record


def _run(folder: Path, row: Mapping[str, Any]) -> Run:
    """Join a row of the plan with the records of its training and of its evaluation."""
    path = folder / str(row["run"])
    generator, role, seed = str(row["generator"]), str(row["role"]), int(row["seed"])
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder}: plan.json names a run outside of the folder: {row['run']}")
    result = read_json(path / "result.json")
    evaluation = read_json(path / str(row["evaluation"]))
    if result is None and not (evaluation and role == "floor"):  # a floor trains nothing
        return Run(generator, role, seed, "pending", "not run yet")
    status, reason = _status(result or {"status": "finished"}, evaluation)
    result = result or {}
    translation = (evaluation or {}).get("translation") or {}
    return Run(
        generator,
        role,
        seed,
        status,
        reason,
        family=str(result.get("family", "")),
        conditional=bool(result.get("conditional", True)),
        images_seen=result.get("images_seen"),
        hyperparameters=result.get("hyperparameters") or {},
        policy=result.get("policy") or {},
        costs={name: float(value) for name, value in (result.get("costs") or {}).items() if value is not None},
        environment=result.get("environment") or {},
        scores=_scores(evaluation or {}),
        untranslated=_scores({"scores": translation.get("untranslated")}),
        kept=translation.get("kept") or {},
        preset=result.get("preset"),
        external=result.get("external") or {},
        folder=path,
    )


def _status(result: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> tuple[str, str]:
    """The status of both together: training's own if it did not finish, else the evaluation's."""
    status, reason = str(result.get("status", "failed")), str(result.get("reason") or "")
    if status == "finished" and evaluation is None:
        return "pending", "trained, not evaluated yet"
    if status == "finished" and evaluation is not None and evaluation.get("status", "finished") != "finished":
        status, reason = str(evaluation["status"]), f"evaluation: {evaluation.get('reason') or 'no reason stored'}"
    if status not in STATUSES:
        status, reason = "failed", f"unknown status {status!r} {reason}".strip()
    return status, reason or ("" if status == "finished" else "no reason stored")


def _scores(evaluation: Mapping[str, Any]) -> dict[Key, Score]:
    replicates = evaluation.get("replicates") or {}
    scores = {}
    for entry in evaluation.get("scores") or ():
        key = Key(str(entry["class"]), str(entry.get("features") or ""), str(entry["measure"]))
        scores[key] = Score(
            mean=_number(entry.get("mean")),
            std=_number(entry.get("std")),
            draws=int(entry.get("draws") or 0),
            n_real=int(entry.get("n_real") or 0),
            n_generated=int(entry.get("n_generated") or 0),
            lower=entry.get("lower"),
            upper=entry.get("upper"),
            flag=str(entry.get("flag") or ""),
            about=str(entry.get("about") or ""),
            draw_values=tuple(_number(value) for value in entry.get("values") or ()),
            replicates=tuple(_number(value) for value in replicates.get("/".join(key)) or ()),
        )
    return scores


def _number(value: Any) -> float:
    """JSON has no NaN: what could not be computed is null."""
    return math.nan if value is None else float(value)


def _images(path: Path) -> Images | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            return Images(archive["images"], archive["labels"])
    except DAMAGE as error:
        raise InputError(f"{path}: not an archive of images: {error}; {REMEDY}") from None
