"""`bench check`: how long a suite will take and what it will write, from a few timed steps on this machine."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import heapq
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

from bench.compiled import compile_networks
from bench.data.dataset import ImageDataset
from bench.data.splits import Split
from bench.errors import BenchError, InputError
from bench.evaluate import make_protocol
from bench.fit import Budget, Fitted, fit
from bench.metrics.cost import peak_memory_bytes
from bench.metrics.weights import ORIGINS
from bench.model import GenerativeModel, Translator
from bench.plan import Plan, Row
from bench.prepared import Prepared
from bench.registry import GENERATORS
from bench.sampling import generate
from bench.search import Search
from bench.seeds import forked
from bench.store import diverged
from bench.studies import settled
from bench.suite import Suite
from bench.translate import translated_draw
from bench.utility import asked, estimated_seconds, wanted_labels

TIMED_STEPS, REPEATS = 5, 3
"""Steps at a time, of which one is a WGAN-GP's generator's; the fastest of some repeats, since others disturb only upwards."""
SAMPLED = 100
"""Images at a time."""
PATIENCE_SECONDS = 2.0
"""What takes longer is not repeated."""
START_SECONDS = 6.0
"""A job's process: starting Python, importing torch, building the model."""
COST_SAMPLES = 600
"""Drawn after training to time sampling (`bench.run`)."""
REFERENCE_SECONDS = 60.0
SCORING_SECONDS_PER_IMAGE = 1.5e-3
"""Extraction and measures of one image with the features 'domain' and 'random', two cores, 64x64."""
INCEPTION_SECONDS_PER_IMAGE = 0.08
"""Of every network's features; a guess for those other than Inception."""
RADIOMICS_SECONDS_PER_IMAGE = 0.01
BASE_BYTES = 750_000_000
"""A job's process before it holds anything of its own: Python, torch, the harness, what they allocate on first use."""
RECORD_BYTES = 200_000
"""Losses, events, scores and their replicates of one row."""
CHECKPOINT_COPIES = 4
"""An unfinished training keeps weights, two moments and a moving average, at most."""


class Timed(NamedTuple):
    """What a family takes here."""

    training: float
    """Seconds of the whole budget."""
    sampling: float
    """Seconds per image."""
    size: int
    """Bytes of the weights."""
    memory: int
    """Bytes at its peak."""
    compiling: tuple[float, float] = (0.0, 0.0)
    """Seconds before the first step and the first image, of each process, where networks are compiled."""


Times = dict[str, Timed]


@dataclass(frozen=True)
class RowEstimate:
    """One row of the plan: what is left to do and what it will take."""

    name: str
    state: str
    text: str
    seconds: float
    bytes: int
    """What stays on disk."""
    memory: int = 0
    """Peak of its process; 0 where nothing is to be trained."""
    stage: int = 2
    """0 for the real side, 1 for searches, 2 for trainings: a stage begins when the one before it has ended."""


@dataclass(frozen=True)
class Estimate:
    """The whole suite."""

    rows: list[RowEstimate]
    minutes: float
    megabytes: float

    def minutes_of(self, at_once: int) -> float:
        """Wall-clock with so many jobs at once: each stage's begin in order, whenever a place is free."""
        total = sum(row.seconds for row in self.rows if row.stage == 0)
        for stage in (1, 2):
            ends = [0.0] * at_once
            for row in self.rows:
                if row.stage == stage:
                    heapq.heapreplace(ends, ends[0] + row.seconds)
            total += max(ends)
        return total / 60

    @property
    def memory(self) -> int:
        """Bytes of the largest job."""
        return max((row.memory for row in self.rows), default=0)

    @property
    def transient(self) -> int:
        """Bytes on disk beside what stays: the checkpoint of an unfinished training, written before the old one goes."""
        return 2 * CHECKPOINT_COPIES * max((row.bytes for row in self.rows), default=0)


def estimate(
    prepared: Prepared, tell: Callable[[RowEstimate], None] = lambda row: None, times: Times | None = None
) -> Estimate:
    """Time a few training steps and samples of every family that is still to be trained, here and now.

    Args:
        prepared: the suite with its data and plan.
        tell: is called with every row as soon as it is timed, which takes a while for large images.
        times: what is known from elsewhere (`timed_on`), and not timed here.

    Raises:
        InputError: a family refuses the suite's images, classes or settings.
    """
    torch.set_num_threads(prepared.plan.threads)
    seen = dict(times or {})
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


def to_time(prepared: Prepared) -> tuple[Row, ...]:
    """The rows whose families are to be timed, each family once."""
    found = {_key(row): row for row in prepared.plan.trainings if not row.finished and row.spec and not row.spec.folder}
    return tuple(found.values())


def timed_on(folder: Path, suite: Suite, split: Split, plan: Plan) -> Times:
    """Time the families of a plan's rows where this is called, on a cluster's node say, which has the data and no results.

    Raises:
        InputError: as `estimate`.
    """
    torch.set_num_threads(plan.threads)
    prepared, seen = Prepared(suite, ImageDataset.open(folder), folder, split, plan, []), Times()
    for row in plan.rows:
        _timed(prepared, row, seen)
    return seen


def _key(row: Row) -> str:
    """Rows that are equal in it take equally long."""
    assert row.spec is not None
    return row.spec.model_dump_json(exclude={"label"})


def _row(prepared: Prepared, row: Row, seen: Times) -> RowEstimate:
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
    kept = RECORD_BYTES + len(protocol.labels(True)) * math.prod(prepared.data.shape)  # and the first draw's images
    if row.spec is None:
        seconds = REFERENCE_SECONDS / 2 + scoring
        return RowEstimate(name, "to score", f"about {seconds:.0f} s", seconds, kept, stage=0)
    if row.spec.folder is not None:
        return RowEstimate(name, "to score", f"about {scoring:.0f} s", scoring, kept)
    training, sampling, size, memory, compiling = _timed(prepared, row, seen)
    training += compiling[0]
    scoring += (images + COST_SAMPLES) * sampling + START_SECONDS + compiling[1]
    told = f"{memory / 1e9:.1f} GB of memory, {(size + kept) / 1e6:.1f} MB of disk"
    if row.trained:
        return RowEstimate(name, "trained, to score", f"about {scoring:.0f} s, {told}", scoring, kept, memory)
    text = f"about {training:.0f} s of training, {scoring:.0f} s of scoring, {told}"
    return RowEstimate(name, "to train and score", text, training + scoring, size + kept, memory)


def _trials(prepared: Prepared, row: Row, search: Search, seen: Times) -> RowEstimate:
    """A search's trials, all of them: what pruning spares isn't known before."""
    training, sampling, _, memory, compiling = _timed(prepared, row, seen)
    budget, spec = prepared.suite.budget, search.spec
    total = budget.images_seen or (budget.epochs or 0) * len(prepared.split.train)
    each = search.images_seen / total * training if total else 0.0  # of minutes nothing follows for images
    network = spec.features in ORIGINS or prepared.suite.evaluation.extractor(spec.features).file is not None
    extraction = INCEPTION_SECONDS_PER_IMAGE if network else RADIOMICS_SECONDS_PER_IMAGE
    looks = spec.points * min(spec.samples, len(prepared.split.validation)) * (sampling + extraction)
    seconds = spec.trials * (START_SECONDS + sum(compiling) + each + looks)
    text = f"about {seconds:.0f} s for {spec.trials} trials of {search.images_seen:,} images"
    return RowEstimate(f"{row.name} tuning", "to search", text, seconds, 100_000, memory, stage=1)


def _timed(prepared: Prepared, row: Row, seen: Times) -> Timed:
    """Time a family once.

    Raises:
        InputError: it can't be trained or sampled here, and why.
    """
    if (key := _key(row)) not in seen:
        try:
            with _nothing_compiled() if prepared.suite.compile else contextlib.nullcontext():
                seen[key] = _time(prepared, row)
        except ValueError as error:  # what a family says of images, classes or settings that it can't take
            raise InputError(f"{row.name}: {error}") from None
        except BenchError as error:
            raise InputError(f"{row.name}: a few steps end here: {error}") from None
        except (Exception, SystemExit) as error:  # of a plug-in, whatever its code does
            first = (str(error).splitlines() or [""])[0]
            raise InputError(f"{row.name}: a few steps end here: {type(error).__name__}: {first}") from None
    return seen[key]


def _time(prepared: Prepared, row: Row) -> Timed:
    assert row.spec is not None
    data, split, budget = prepared.data, prepared.split, prepared.suite.budget
    family: type[Any] = GENERATORS.get(row.spec.name)
    hyperparameters = family.Hyperparameters.model_validate(row.spec.hyperparameters)
    device = torch.device(prepared.plan.device)
    before = _forget_peak()
    with forked(row.seed, "weights"):
        model: GenerativeModel | Translator = family(data.shape, data.num_classes, hyperparameters).to(device)
    compiled = prepared.suite.compile and bool(compile_networks(model, device))
    batch = min(hyperparameters.batch_size, len(split.train))

    def trained(steps: int) -> Fitted:
        """What so many steps took; the two images that are validated at the end don't count."""
        return fit(
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

    compiling = 0.0
    warm = TIMED_STEPS if compiled else 1  # a WGAN-GP's generator is compiled at its first own step
    first = trained(warm).seconds  # warms up; of a family without steps it is all
    if model.trains:
        repeats = REPEATS if first * TIMED_STEPS < PATIENCE_SECONDS else 1
        per_step = min(trained(TIMED_STEPS).seconds / TIMED_STEPS for _ in range(repeats))
        total = budget.images_seen or (budget.epochs or 0) * len(split.train)
        training = budget.minutes * 60 if budget.minutes else per_step * total / batch
        compiling = max(0.0, first - warm * per_step) if compiled else 0.0
    else:
        training = first
    model.sampling_precision = prepared.plan.precision if model.mixed_sampling else "float32"
    first = _sampling_seconds(model, data, split, device, most=1) if compiled else 0.0
    each = _sampling_seconds(model, data, split, device)
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    pages = len(split.train) * math.prod(data.shape) * data.pixels.itemsize
    grown = peak_memory_bytes() - (before if device.type == "cpu" else 0)
    memory = grown if device.type == "cuda" else BASE_BYTES + pages + max(0, grown)
    return Timed(training, each, size, memory, (compiling, max(0.0, first - each) * SAMPLED))


@contextlib.contextmanager
def _nothing_compiled() -> Iterator[None]:
    """Compile as if for the first time: what an earlier estimate has left would be found, and most of a job's would not."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


def _sampling_seconds(
    model: GenerativeModel | Translator, data: ImageDataset, split: Split, device: torch.device, most: int = REPEATS
) -> float:
    """Seconds per image, the best of so many calls.

    The first one prepares much that later ones find, and is counted only where it took long.
    """
    labels = np.arange(SAMPLED) % data.num_classes
    times: list[float] = []
    while len(times) < most and sum(times) < PATIENCE_SECONDS:
        started = time.perf_counter()
        if isinstance(model, Translator):
            translated_draw(model, data, split, labels, 0, device)(0)
        else:
            generate(model, labels, 0, "estimate", device=device)
        times.append(time.perf_counter() - started)
    return min(times) / len(labels)


def _forget_peak() -> int:
    """Hand back what is free, let the system count this process's peak anew (Linux), and return its memory now."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    return int(psutil.Process().memory_info().rss)
