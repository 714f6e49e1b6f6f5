"""`bench check`: how long a suite will take and what it will write, from a few timed steps on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.errors import InputError
from bench.evaluate import make_protocol
from bench.fit import Budget, fit
from bench.metrics.weights import ORIGINS
from bench.model import GenerativeModel, Translator
from bench.plan import Row
from bench.registry import GENERATORS
from bench.sampling import generate
from bench.search import Search
from bench.seeds import forked
from bench.session import Prepared
from bench.store import diverged
from bench.studies import settled
from bench.translate import translated_draw
from bench.utility import asked, estimated_seconds, wanted_labels

TIMED_STEPS = 3
START_SECONDS = 6.0
"""A job's process: starting Python, importing torch, building the model."""
REFERENCE_SECONDS = 60.0
SCORING_SECONDS_PER_IMAGE = 1.5e-3
"""Extraction and measures of one image with the features 'domain' and 'random', two cores, 64x64."""
INCEPTION_SECONDS_PER_IMAGE = 0.08
"""Of every network's features; a guess for those other than Inception."""
RADIOMICS_SECONDS_PER_IMAGE = 0.01


@dataclass(frozen=True)
class RowEstimate:
    """One row of the plan: what is left to do and what it will take."""

    name: str
    state: str
    text: str
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Estimate:
    """The whole suite."""

    rows: list[RowEstimate]
    minutes: float
    megabytes: float


def estimate(prepared: Prepared, tell: Callable[[RowEstimate], None] = lambda row: None) -> Estimate:
    """Time a few training steps and samples of every family that is still to be trained, here and now.

    Args:
        prepared: the suite with its data and plan.
        tell: is called with every row as soon as it is timed, which takes a while for large images.

    Raises:
        InputError: a family refuses the suite's images, classes or settings.
    """
    torch.set_num_threads(prepared.plan.threads)
    seen: dict[str, tuple[float, float, int]] = {}
    rows, searched = [], set[str]()
    for row in prepared.plan.rows:
        if row.search and not row.finished and row.search.name not in searched and not settled(row.search):
            searched.add(row.search.name)
            rows.append(_trials(prepared, row, row.search, seen))
            tell(rows[-1])
        rows.append(_row(prepared, row, seen))
        tell(rows[-1])
    seconds = sum(row.seconds for row in rows)
    return Estimate(rows, seconds / 60, sum(row.bytes for row in rows) / 1e6)


def _row(prepared: Prepared, row: Row, seen: dict[str, tuple[float, float, int]]) -> RowEstimate:
    name = f"{row.name} seed {row.seed}"
    if row.finished:
        return RowEstimate(name, "diverged" if diverged(row.run) else "finished", "", 0.0, 0)
    spec = prepared.suite.evaluation
    protocol = make_protocol(prepared.data, prepared.split, spec)
    images = spec.draws * len(protocol.labels(True))
    networks = sum(name in ORIGINS or spec.extractor(name).file is not None for name in spec.features)
    per_image = SCORING_SECONDS_PER_IMAGE + INCEPTION_SECONDS_PER_IMAGE * networks
    per_image += RADIOMICS_SECONDS_PER_IMAGE * ("radiomics" in spec.features)
    scoring = images * per_image
    if asked(prepared.suite):  # too long for an unconditional family, which is spared it
        scoring += estimated_seconds(spec, prepared.data.shape, prepared.plan.threads)
        images += len(wanted_labels(prepared.suite, prepared.data, prepared.split))
    if row.spec is None:
        seconds = REFERENCE_SECONDS / 2 + scoring
        return RowEstimate(name, "to score", f"about {seconds:.0f} s", seconds, 1_000_000)
    if row.spec.folder is not None:
        return RowEstimate(name, "to score", f"about {scoring:.0f} s", scoring, 1_000_000)
    key = row.spec.model_dump_json(exclude={"label"})
    if key not in seen:
        try:
            seen[key] = _time(prepared, row)
        except ValueError as error:  # what a family says of images, classes or settings that it can't take
            raise InputError(f"{row.name}: {error}") from None
    training, sampling, size = seen[key]
    scoring += images * sampling + START_SECONDS
    if row.trained:
        return RowEstimate(name, "trained, to score", f"about {scoring:.0f} s", scoring, 1_000_000)
    text = f"about {training:.0f} s of training, {scoring:.0f} s of scoring"
    return RowEstimate(name, "to train and score", text, training + scoring, size + 1_000_000)


def _trials(prepared: Prepared, row: Row, search: Search, seen: dict[str, tuple[float, float, int]]) -> RowEstimate:
    """A search's trials, all of them: what pruning spares isn't known before."""
    assert row.spec is not None
    key = row.spec.model_dump_json(exclude={"label"})
    seen.setdefault(key, _time(prepared, row))
    training, sampling, _ = seen[key]
    budget, spec = prepared.suite.budget, search.spec
    total = budget.images_seen or (budget.epochs or 0) * len(prepared.split.train)
    each = search.images_seen / total * training if total else 0.0  # of minutes nothing follows for images
    network = spec.features in ORIGINS or prepared.suite.evaluation.extractor(spec.features).file is not None
    extraction = INCEPTION_SECONDS_PER_IMAGE if network else RADIOMICS_SECONDS_PER_IMAGE
    looks = spec.points * min(spec.samples, len(prepared.split.validation)) * (sampling + extraction)
    seconds = spec.trials * (START_SECONDS + each + looks)
    text = f"about {seconds:.0f} s for {spec.trials} trials of {search.images_seen:,} images"
    return RowEstimate(f"{row.name} tuning", "to search", text, seconds, 100_000)


def _time(prepared: Prepared, row: Row) -> tuple[float, float, int]:
    """Seconds of training, seconds per sample, bytes of the checkpoint."""
    assert row.spec is not None
    data, split, budget = prepared.data, prepared.split, prepared.suite.budget
    family: type[Any] = GENERATORS.get(row.spec.name)
    hyperparameters = family.Hyperparameters.model_validate(row.spec.hyperparameters)
    device = torch.device(prepared.plan.device)
    with forked(row.seed, "weights"):
        model: GenerativeModel | Translator = family(data.shape, data.num_classes, hyperparameters).to(device)
    batch = min(hyperparameters.batch_size, len(split.train))
    times = []
    for steps in (1, 1, 1 + TIMED_STEPS) if model.trains else (1,):  # the first one warms up, and is not counted
        started = time.perf_counter()
        fit(
            model,
            data,
            split.train,
            split.train[:2],
            budget=Budget(steps * batch),
            seed=0,
            device=device,
            emit=lambda *_, **__: None,
            precision=prepared.plan.precision,
        )
        times.append(time.perf_counter() - started)
    if model.trains:
        total = budget.images_seen or (budget.epochs or 0) * len(split.train)
        per_image = (times[2] - times[1]) / (TIMED_STEPS * batch)
        training = budget.minutes * 60 if budget.minutes else max(0.0, per_image) * total
    else:
        training = times[0]
    model.sampling_precision = prepared.plan.precision if model.mixed_sampling else "float32"
    labels = np.arange(100) % data.num_classes
    started = time.perf_counter()
    if isinstance(model, Translator):
        translated_draw(model, data, split, labels, 0, device)(0)
    else:
        generate(model, labels, 0, "estimate", device=device)
    sampling = (time.perf_counter() - started) / len(labels)
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    return training, sampling, size
