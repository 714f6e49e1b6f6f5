"""One job in a process of its own: the real side of a suite, one training with its evaluation, or a trial of a search.

`python -m bench.run JOB.json` is started by an executor; it needs nothing but that file, the data's and the results'
folders. It tells what happens through events.jsonl and leaves whole files only.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from safetensors.torch import save

from bench.checkpoint import FILE as CHECKPOINT
from bench.checkpoint import InterruptedJobError, Keeper
from bench.closest import write_closest
from bench.compiled import compile_networks
from bench.data.dataset import ImageDataset
from bench.data.splits import Split
from bench.divergence import Constancy
from bench.environment import commit, environment, settle
from bench.errors import BenchError, DamagedWeightsError, DivergedError, NotFiniteError
from bench.evaluate import Drawn, Protocol, Scorer, make_protocol
from bench.external import ExternalImages, load_external, read_external
from bench.fit import Budget, Fitted, Watch, fit, fit_per_class, lowered
from bench.interpolation import write_interpolations
from bench.lifeline import die_with_parent
from bench.metrics.cost import peak_memory_bytes
from bench.metrics.features import FeatureExtractor
from bench.model import GenerativeModel, Translator
from bench.per_class import PerClass
from bench.reference import (
    floor_draw,
    fresh_draw,
    load_progress,
    load_real,
    load_reference,
    prepare_reference,
    progress_indices,
    progress_scores,
)
from bench.registry import GENERATORS
from bench.sampling import check_determinism, generate, generate_on_device, grid, load_model
from bench.seeds import derive, forked
from bench.spent import SPENT
from bench.store import Events, diverged, set_aside, trained, write_bytes, write_json, write_with
from bench.suite import Suite
from bench.translate import evaluate_translator, pairs_shown, translated_draw
from bench.usage import Usage
from bench.utility import Utility

if TYPE_CHECKING:
    from PIL import Image

TIMED_SAMPLES = 200
GRID_COLUMNS = 8
REASON_CHARACTERS = 300
INSPECTED_SAMPLES = 8

FAILURES = (Exception, SystemExit, KeyboardInterrupt)
"""What a family may raise: nobody presses Ctrl-C in a job, and whoever asks to stop does so by SIGTERM."""

_keepers: list[Keeper] = []
"""Of the training at work, if there is one: whom a signal tells."""


def main(path: Path) -> int:
    """Run the job described by a file; return the process's exit code."""
    job = json.loads(path.read_text(encoding="utf-8"))
    SPENT.begin(psutil.Process().create_time())
    signal.signal(signal.SIGTERM, _stop)
    die_with_parent(job.get("parent"))
    emit = Events(path.parent / "events.jsonl")
    Usage(emit, gpu=job["device"] == "cuda")
    settle(job["threads"])
    try:
        device = torch.device(job["device"])
        if device.type == "cuda" and not torch.cuda.is_available():
            raise BenchError("torch finds no usable CUDA device here; run with --device cpu, or see: bench doctor")
        {"reference": _reference, "generator": _generator, "trial": _trial}[job["kind"]](job, device, emit)
    except InterruptedJobError:
        emit("failed", reason="interrupted")
        return 130
    except BenchError as error:
        emit("failed", reason=_one_line(error))
        return 1
    except FAILURES as error:
        traceback.print_exc()
        emit("failed", reason=_one_line(error))
        return 1
    finally:
        emit("spent", seconds=SPENT.told())
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    """A training at work ends after its step, with a checkpoint; anything else ends here and is done again."""
    if any(keeper.armed for keeper in _keepers):
        for keeper in _keepers:
            keeper.stopping = True
        return
    raise InterruptedJobError


def _one_line(error: BaseException) -> str:
    """What went wrong, for a table's cell: the traceback is in log.txt."""
    if isinstance(error, InterruptedJobError):
        return "interrupted; the same command continues"
    if isinstance(error, BenchError):
        return " ".join(str(error).split())[:REASON_CHARACTERS]
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error):
        return "out of memory: use a smaller batch_size or image_size, or fewer workers"
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of GPU memory: use a smaller batch_size or image_size, or fewer workers"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:REASON_CHARACTERS]


def _open(job: dict[str, Any]) -> tuple[Suite, ImageDataset, Split, Path]:
    folder = Path(job["results"])
    split = Split.from_json(json.loads((folder / "split.json").read_text(encoding="utf-8")))
    return Suite.model_validate(job["suite"]), ImageDataset.open(Path(job["data"])), split, folder


def _reference(job: dict[str, Any], device: torch.device, emit: Events) -> None:
    """Fit the extractors, take the real side's features once, and score real data against real data."""
    suite, data, split, folder = _open(job)
    protocol = make_protocol(data, split, suite.evaluation)
    extractors = prepare_reference(folder, job["reference_id"], suite, data, split, protocol, device, emit)
    real = load_real(folder, job["reference_id"], extractors)
    scorer = Scorer(data, split, protocol, suite.evaluation, extractors, real)
    utility = Utility(folder, job["reference_id"], suite, data, split, device, emit)
    with SPENT.on("scoring"):
        utility.prepare()
    for floor in job["floors"]:
        emit("phase", phase=f"scoring {floor['name']}", fraction=0.0)
        make = fresh_draw if floor["name"] == "floor_fresh" else floor_draw
        draw = make(suite, data, split, protocol)
        with SPENT.on("scoring"):
            scores, replicates = scorer.score(draw, conditional=True, emit=emit)
        rows, more = utility.score(utility.floor(floor["name"]))
        scores, replicates = scores + rows, replicates | more
        run = Path(floor["run"])
        base = {"schema": 1, "train_id": job["reference_id"], "generator": floor["name"], "seed": 0}
        result = {**base, "family": "floor", "role": "floor", "status": "finished", "reason": None}
        conditional = {"hyperparameters": {}, "conditional": True, "policy": {}, "costs": {}}
        write_json(run / "result.json", {**result, **conditional, "environment": environment(device)})
        first = Drawn(*draw(0))
        _write_samples(run, first.images, first.labels, protocol.shown(), data.num_classes)
        _write_evaluation(run, {**base, "eval_id": floor["eval_id"]}, scores, replicates)


def _trial(job: dict[str, Any], device: torch.device, emit: Events) -> None:
    """Take the next trial of a search and run it; one that can't be had is stored as failed, with its reason."""
    from bench.trial import begin  # and so Optuna, which no other job needs

    suite, data, split, _ = _open(job)
    trial = begin(job, suite, data, split, device, emit)
    if trial is None:
        return
    try:
        trial.train(_fit_per_class)
    except InterruptedJobError:
        trial.taken.put_back()
        raise
    except FAILURES as error:
        traceback.print_exc()
        trial.fail(_one_line(error))


def _generator(job: dict[str, Any], device: torch.device, emit: Events) -> None:
    """Train a generator if it is not trained, then score it."""
    suite, data, split, folder = _open(job)
    run = Path(job["run"])
    base = {"schema": 1, "train_id": job["train_id"], "generator": job["row"], "seed": job["seed"]}
    if job["train"] and not trained(run):  # a job that was lost after its training, and begun again, has one
        started = {**base, "family": job["generator"]["name"], "role": job["role"], "commit": commit()}
        try:
            take = _take_in if job["role"] == "external" else _train
            take(job, suite, data, split, run, started, device, emit)
        except DivergedError as error:
            write_json(run / "result.json", {**started, "status": "diverged", "reason": str(error)})
            (run / CHECKPOINT).unlink(missing_ok=True)
            return
        except BaseException as error:
            status = "interrupted" if isinstance(error, InterruptedJobError) else "failed"
            write_json(run / "result.json", {**started, "status": status, "reason": _one_line(error)})
            raise
        if changed := settle(job["threads"]):
            text = f"the family changed torch's {', '.join(changed)} for its whole process: set back before scoring"
            emit("warning", text=text)
    if diverged(run):
        return
    try:
        _evaluate(job, base, suite, data, split, folder, run, device, emit)
    except InterruptedJobError:
        raise
    except DamagedWeightsError as error:  # the training is done again; no evaluation can stand beside it
        aside = [set_aside(run / name).name for name in ("checkpoint.safetensors", "result.json")]
        what = str(error).partition("; delete")[0]
        reason = f"{what}; set aside as {aside[0]}: the same command trains it anew"
        failed = {**base, "family": job["generator"]["name"], "role": job["role"], "status": "failed"}
        write_json(run / "result.json", {**failed, "reason": reason})
        raise BenchError(reason) from None
    except FAILURES as error:
        failed = {**base, "eval_id": job["eval_id"], "status": "failed", "reason": _one_line(error)}
        write_json(run / f"evaluation-{job['eval_id']}.json", {**failed, "scores": [], "replicates": {}})
        raise


def _train(
    job: dict[str, Any],
    suite: Suite,
    data: ImageDataset,
    split: Split,
    run: Path,
    base: dict[str, Any],
    device: torch.device,
    emit: Events,
) -> None:
    emit("phase", phase="training", fraction=0.0)
    spec = job["generator"]
    family: type[Any] = GENERATORS.get(spec["name"])
    hyperparameters = family.Hyperparameters.model_validate(spec["hyperparameters"])
    per_class = spec["unconditional"] == "per_class"
    with forked(job["seed"], "weights"):
        kind = (data.shape, data.num_classes, hyperparameters)
        model: GenerativeModel | Translator = (PerClass(family, *kind) if per_class else family(*kind)).to(device)
    model.sampling_precision = job["precision"] if family.mixed_sampling else "float32"
    compiled = suite.compile and model.trains and compile_networks(model, device)
    given = suite.budget
    images_seen = given.images_seen or (round(given.epochs * len(split.train)) if given.epochs else None)
    budget = Budget(images_seen, given.minutes * 60 if given.minutes else None)
    progress = _Progress(job, suite, data, split, model, run, device, emit)
    looked = suite.progress.points and model.trains and isinstance(model, GenerativeModel)
    keeper = Keeper(run, job["train_id"], suite.checkpoint_minutes * 60, emit)
    _keepers[:] = [keeper]
    keeper.also("progress", progress)
    inspector = _Inspector(model, job["seed"], device)
    how: dict[str, Any] = {
        "device": device, "precision": job["precision"], "sampling": suite.sampling, "keeper": keeper,
    }  # fmt: skip
    fitted = Fitted()
    try:
        if isinstance(model, PerClass):
            _fit_per_class(model, data, split, budget, job["seed"], how, emit, fitted)
        else:
            watch = Watch(suite.progress.points, progress.look) if looked else None
            kind_of = {"budget": budget, "seed": job["seed"], "emit": emit, "watch": watch, **how}
            keeper.also("inspector", inspector)
            if isinstance(model, GenerativeModel):
                kind_of["inspect"] = inspector.look
            fitted = fit(model, data, split.train, split.validation, record=fitted, **kind_of)
            if model.trains:
                inspector.conclude(fitted.steps)
        memory = progress.memory or max(peak_memory_bytes(), progress.earlier)
        sampling_seconds = _time_sampling(model, data, split, job["seed"], device)
    except NotFiniteError as error:
        raise DivergedError(fitted.steps, str(error)) from None
    finally:  # of a training that broke off, these say how
        progress.write()
        _write_losses(run, fitted)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    header = {"medgenbench": json.dumps({"schema": 1, "train_id": job["train_id"]})}
    content = save(tensors, metadata=header)
    write_bytes(run / "checkpoint.safetensors", content)
    write_json(
        run / "result.json",
        {
            **base,
            "status": "finished",
            "reason": None,
            "hyperparameters": hyperparameters.model_dump(mode="json"),
            "conditional": model.conditional,
            "preset": spec.get("preset"),
            "policy": {
                "weights": f"ema {model.ema_decay}" if model.ema_decay else "last",
                "batch_norm": "evaluation",
                "precision": job["precision"] if lowered(family, job["precision"]) else "float32",
                "sampling_precision": model.sampling_precision,
                "compiled": True if compiled else None,
                "sampling_of_classes": None if suite.sampling == "natural" else suite.sampling,
                "unconditional": None if model.conditional and not per_class else spec["unconditional"],
            },
            "shape": list(data.shape),
            "class_names": list(data.class_names),
            "simulated": data.simulated,
            "stamp": None if suite.for_results else "not for results",
            "sha256": hashlib.sha256(content).hexdigest(),
            "images_seen": fitted.images_seen,
            "steps": fitted.steps,
            "costs": {
                "training_seconds": fitted.seconds,
                "seconds_per_1000_samples": sampling_seconds,
                "peak_memory_bytes": memory,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
            },
            "environment": environment(device),
        },
    )
    keeper.remove()


def _fit_per_class(
    model: PerClass,
    data: ImageDataset,
    split: Split,
    budget: Budget,
    seed: int,
    how: dict[str, Any],
    emit: Events,
    record: Fitted,
) -> Fitted:
    """Fit one model per class; to the parent it looks like one training."""

    def fit_one(
        one: GenerativeModel, own: np.ndarray, held: np.ndarray, part: Budget, name: str, used: float, share: float
    ) -> Fitted:
        def tell(kind: str, **values: Any) -> None:
            if "fraction" in values:
                values["fraction"] = used + share * values["fraction"]
            if "values" in values:
                values["values"] = {f"{name}/{loss}": value for loss, value in values["values"].items()}
            emit(kind, **values)

        pooled = data.as_one_class()
        inspector = _Inspector(one, seed, how["device"])
        kind_of = {"budget": part, "seed": derive(seed, "class", name), "emit": tell, **how}
        if (keeper := how.get("keeper")) is None:  # a trial, whose distance will say it
            return fit(one, pooled, own, held, **kind_of)
        keeper.also(f"inspector/{name}", inspector)
        fitted = fit(one, pooled, own, held, inspect=inspector.look, **kind_of)
        if one.trains:
            inspector.conclude(fitted.steps)
        return fitted

    sides = (data.labels, split.train, split.validation)
    shared = {"sampling": how["sampling"], "keeper": how.get("keeper")}
    return fit_per_class(model, *sides, data.class_names, budget, fit_one, record, **shared)


class _Inspector:
    """Draws a few images now and then, to see that they still depend on the noise they are made from."""

    def __init__(self, model: GenerativeModel | Translator, seed: int, device: torch.device) -> None:
        self._model, self._seed, self._device = model, seed, device
        self._constancy = Constancy()

    def conclude(self, step: int) -> None:
        """Look at what will be scored, the last weights or their average, where once is enough."""
        if isinstance(self._model, GenerativeModel):
            self._constancy.last = True
            self.look(step)

    def look(self, step: int) -> None:
        """Draw images of at most two classes."""
        assert isinstance(self._model, GenerativeModel)
        labels = np.arange(INSPECTED_SAMPLES) % min(2, self._model.num_classes)
        if not self._model.conditional:
            labels[:] = 0
        try:
            images = generate_on_device(self._model, labels, self._seed, "inspection", device=self._device)
        except NotFiniteError as error:
            raise DivergedError(step, str(error)) from None
        self._constancy.look(step, images.float() / 255, torch.from_numpy(labels).to(images.device))

    def state(self) -> int:
        """What a checkpoint keeps."""
        return self._constancy.state()

    def restore(self, state: int) -> None:
        """Take up what `state` returned."""
        self._constancy.restore(state)


class _Progress:
    """Scores on validation images while training goes on, progress.csv, and grids of samples, progress/IMAGES_SEEN.png."""

    def __init__(
        self,
        job: dict[str, Any],
        suite: Suite,
        data: ImageDataset,
        split: Split,
        model: GenerativeModel | Translator,
        run: Path,
        device: torch.device,
        emit: Events,
    ) -> None:
        self._model, self._run, self._device, self._emit, self._seed = model, run, device, emit, job["seed"]
        self._rows: list[tuple[int, str, str, str, float, int]] = []
        self._reference = (Path(job["results"]), job["reference_id"])
        self._suite, self._classes = suite, data.num_classes
        self._extractors: dict[str, FeatureExtractor] = {}
        self._labels = data.labels[progress_indices(data, split, suite.progress.samples)]
        self.memory: int | None = None
        """Peak of training up to the first look: what scoring adds to the process is not the family's."""
        self.earlier = 0
        """Peak of the processes before this one, where training was interrupted."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        peak = max(peak_memory_bytes(), self.earlier)
        return {"rows": self._rows, "memory": self.memory, "earlier": peak}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self._rows, self.memory, self.earlier = state["rows"], state["memory"], state["earlier"]

    def look(self, images_seen: int) -> None:
        """Draw as many images as there are real ones, score them, tell it."""
        assert isinstance(self._model, GenerativeModel)
        if self.memory is None:
            self.memory = max(peak_memory_bytes(), self.earlier)
        if not self._extractors:
            self._extractors = load_reference(*self._reference, self._suite, self._device)
            self._real = load_progress(*self._reference, self._extractors)
        images = generate_on_device(self._model, self._labels, self._seed, "progress", device=self._device)
        counts = np.bincount(self._labels)
        shown = int(min(GRID_COLUMNS, *counts[counts > 0])) if self._model.conditional else None
        picture = _sheet(images.cpu().numpy(), self._labels, shown, self._classes)
        path = self._run / "progress" / f"{images_seen:09d}.png"
        write_with(path, lambda file: picture.save(file, format="PNG"))
        values = {}
        for name, extractor in self._extractors.items():
            for measure, value in progress_scores(extractor(images), self._real[name]).items():
                self._rows.append((images_seen, "all", name, measure, value, len(images)))
                values[f"{name}/{measure}"] = value
        self._emit("progress_scores", images_seen=images_seen, values=values)

    def write(self) -> None:
        """Write what was found; nothing if nothing was looked at."""
        if self._rows:
            names = ("images_seen", "class", "features", "measure", "value", "n")
            _write_csv(self._run / "progress.csv", names, [(*r[:4], repr(r[4]), r[5]) for r in self._rows])


def _take_in(
    job: dict[str, Any],
    suite: Suite,
    data: ImageDataset,
    split: Split,
    run: Path,
    base: dict[str, Any],
    device: torch.device,
    emit: Events,
) -> None:
    """Read a folder of images made elsewhere, so that scoring needs it no more."""
    folder = Path(job["generator"]["folder"])
    emit("phase", phase=f"reading {folder.name}", fraction=0.0)
    external = read_external(folder, data.class_names, data.shape)
    if external.warning:
        emit("warning", text=external.warning)
    labels = external.labels if external.labels is not None else np.zeros(0, np.int64)
    write_with(run / "external.npz", lambda file: np.savez_compressed(file, images=external.images, labels=labels))
    facts = {"images": len(external.images), "path_name": folder.name, "rule": external.rule}
    about = {"hyperparameters": {}, "conditional": external.conditional, "policy": {}, "costs": {}, "external": facts}
    shape = {"shape": list(data.shape), "class_names": list(data.class_names), "simulated": data.simulated}
    stamp = {"stamp": None if suite.for_results else "not for results", "environment": environment(device)}
    write_json(run / "result.json", {**base, "status": "finished", "reason": None, **about, **shape, **stamp})


def _time_sampling(
    model: GenerativeModel | Translator, data: ImageDataset, split: Split, seed: int, device: torch.device
) -> float:
    """Seconds per 1,000 samples (or translations): the faster of two calls, after one that is not counted."""
    labels = np.arange(TIMED_SAMPLES) % data.num_classes
    times = []
    for repeat in range(3):
        started = time.perf_counter()
        if isinstance(model, Translator):
            translated_draw(model, data, split, labels, seed, device)(repeat)
        else:
            generate(model, labels, seed, "timing", repeat, device=device)
        times.append(time.perf_counter() - started)
    return min(times[1:]) * 1000 / TIMED_SAMPLES


def _evaluate(
    job: dict[str, Any],
    base: dict[str, Any],
    suite: Suite,
    data: ImageDataset,
    split: Split,
    folder: Path,
    run: Path,
    device: torch.device,
    emit: Events,
) -> None:
    emit("phase", phase="scoring", fraction=0.0)
    protocol = make_protocol(data, split, suite.evaluation)
    extractors: dict[str, FeatureExtractor] = load_reference(folder, job["reference_id"], suite, device)
    real = load_real(folder, job["reference_id"], extractors)
    scorer = Scorer(data, split, protocol, suite.evaluation, extractors, real)
    maker: ExternalImages | GenerativeModel
    if job["role"] == "external":
        maker = load_external(run)
        wanted = protocol.labels(maker.conditional)
        if len(maker.images) < len(wanted) * suite.evaluation.draws:
            text = f"{len(maker.images)} images for {suite.evaluation.draws} draws of {len(wanted)}: draws share images"
            emit("warning", text=f"{text}, so that the deviation over draws is too small")
    else:
        loaded, record = load_model(run, device)
        if (record.get("policy") or {}).get("compiled"):
            compile_networks(loaded, device)
        if isinstance(loaded, Translator):
            _evaluate_translator(loaded, scorer, protocol, job, base, data, split, run, device, emit)
            return
        maker = loaded
        wanted = protocol.labels(maker.conditional)
        if device.type == "cpu":
            check_determinism(maker, wanted, job["seed"], device)

    first: list[Drawn] = []  # what is shown of it is what was scored

    def draw(number: int) -> Drawn:
        if isinstance(maker, ExternalImages):
            drawn = Drawn(*maker.draw(wanted, job["seed"], number))
        else:
            images = generate_on_device(maker, wanted, job["seed"], "draw", number, device=device)
            # what is extracted is what is stored, 8 bits, and it needn't leave the device for that
            found = {name: extractor(images) for name, extractor in extractors.items()}
            drawn = Drawn(images.cpu().numpy(), wanted, None, found)
        if not first:
            first.append(drawn)
        return drawn

    def make(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(maker, ExternalImages):
            return maker.draw(labels, job["seed"], -1)  # a stream that no scored draw has
        return generate(maker, labels, job["seed"], "utility", device=device), labels

    with SPENT.on("scoring"):
        scores, replicates = scorer.score(draw, conditional=maker.conditional, emit=emit)
        if isinstance(maker, GenerativeModel):
            scores += scorer.reconstructions(maker, device)
    if maker.conditional:
        rows, more = Utility(folder, job["reference_id"], suite, data, split, device, emit).score(make)
        scores, replicates = scores + rows, replicates | more
    _write_samples(run, *first[0][:2], protocol.shown() if maker.conditional else None, data.num_classes)
    write_closest(run, scorer.closest if suite.patient_images else None)
    if isinstance(maker, GenerativeModel):
        write_interpolations(run, maker, job["seed"], device)
    _write_evaluation(run, {**base, "eval_id": job["eval_id"]}, scores, replicates)


def _evaluate_translator(
    model: Translator,
    scorer: Scorer,
    protocol: Protocol,
    job: dict[str, Any],
    base: dict[str, Any],
    data: ImageDataset,
    split: Split,
    run: Path,
    device: torch.device,
    emit: Events,
) -> None:
    with SPENT.on("scoring"):
        found = evaluate_translator(model, scorer, protocol, data, split, job["seed"], device, emit)
    sheet = grid(pairs_shown(model, data, split, job["seed"], device), columns=8)
    write_with(run / "samples.png", lambda file: sheet.save(file, format="PNG"))
    _write_evaluation(run, {**base, "eval_id": job["eval_id"], "translation": found[2]}, *found[:2])


def _write_evaluation(run: Path, base: dict[str, Any], scores: list[Any], replicates: dict[str, Any]) -> None:
    content = {**base, "status": "finished", "reason": None, "scores": scores, "replicates": replicates}
    write_json(run / f"evaluation-{base['eval_id']}.json", content)


def _write_losses(run: Path, fitted: Fitted) -> None:
    names = ("step", "images_seen", "split", "name", "value")
    _write_csv(run / "losses.csv", names, [(*row[:4], repr(row[4])) for row in fitted.losses])


def _write_csv(path: Path, names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    write_bytes(path, stream.getvalue().encode())


def _write_samples(run: Path, images: np.ndarray, labels: np.ndarray, shown: int | None, num_classes: int) -> None:
    """Write draw 0 as it was scored, and a picture of it: a row per class, or one block without classes."""
    write_with(run / "samples.npz", lambda file: np.savez_compressed(file, images=images, labels=labels))
    picture = _sheet(images, labels, shown, num_classes)
    write_with(run / "samples.png", lambda file: picture.save(file, format="PNG"))


def _sheet(images: np.ndarray, labels: np.ndarray, shown: int | None, num_classes: int) -> Image.Image:
    """A row of `shown` images per class that has as many, or one block of the first images without classes."""
    if shown is None:
        return grid(images[: 4 * GRID_COLUMNS], columns=GRID_COLUMNS)
    rows = [images[labels == index][:shown] for index in range(num_classes)]
    shown = max(map(len, rows))  # a floor of few validation images may have fewer than generators show
    return grid(np.concatenate([row for row in rows if len(row) == shown]), columns=shown)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.stdout.flush()
        os._exit(code)  # threads that a family left at work would keep the process for as long as they like
    raise SystemExit(code)
