"""One trial of a search, start to end: train with its values on a trial's budget, measure the objective.

Test images don't exist here: the split that everything below is given has validation images in their place.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bench.compiled import compile_networks
from bench.data.dataset import ImageDataset
from bench.data.splits import Split
from bench.environment import commit
from bench.errors import DivergedError, NotFiniteError
from bench.evaluate import spread
from bench.extractors import build_extractor
from bench.fit import Budget, Fitted, Watch, fit
from bench.metrics.frechet import FrechetReference
from bench.metrics.kernel import KernelReference
from bench.model import GenerativeModel, Translator
from bench.per_class import PerClass
from bench.registry import GENERATORS
from bench.sampling import generate_on_device
from bench.search import Search
from bench.seeds import derive, forked
from bench.store import Events
from bench.suite import Suite
from bench.translate import translated_draw
from bench.tune import HopelessError, Study, Taken

FitPerClass = Callable[[PerClass, ImageDataset, Split, Budget, int, dict[str, Any], Events, Fitted], Fitted]


def begin(
    job: dict[str, Any], suite: Suite, data: ImageDataset, split: Split, device: torch.device, emit: Events
) -> TrialRun | None:
    """Prepare the objective, then take the search's next trial; None if there is none left to take.

    Raises:
        UnavailableError: the objective's features can't be had; no trial was taken.
        InputError: the study's storage can't be used.
    """
    search = Search.from_json(job["search"])
    emit("phase", phase="preparing the trial", fraction=0.0)
    objective = Objective(search, suite, data, without_test(split), device)
    taken = Study(search).take()
    if taken is None:
        return None
    emit("trial", number=taken.number, parameters=taken.parameters)
    return TrialRun(job, search, data, without_test(split), device, emit, objective, taken)


def without_test(split: Split) -> Split:
    """Return the split with validation images where test images were: what would use them uses others."""
    return replace(split, test=split.validation)


def tuning_indices(data: ImageDataset, split: Split, samples: int) -> np.ndarray:
    """The validation images that trials are compared with, every subject's first before any second."""
    return np.sort(spread(split.validation, data.subjects, derive(split.seed, "tuning"), "validation")[:samples])


class Objective:
    """Distance between what a model draws and validation images, on features that don't rank."""

    def __init__(self, search: Search, suite: Suite, data: ImageDataset, split: Split, device: torch.device) -> None:
        self._data, self._split, self._device = data, split, device
        self._seed = derive(search.spec.seed, "tuning")
        self._extractor = build_extractor(search.spec.features, suite.evaluation, device)
        self._extractor.self_check()
        chosen = tuning_indices(data, split, search.spec.samples)
        self._labels = data.labels[chosen]
        real = self._extractor(data.bytes(chosen)).features
        kernel = search.spec.objective[0] == "kernel_distance"
        self._real = KernelReference(real) if kernel else FrechetReference(real)
        self.sampling_seconds = math.nan
        """Of 1,000 images, as the last look took them."""

    def __call__(self, model: GenerativeModel | Translator) -> float:
        """Draw as many images as there are real ones, the same noise for every trial, and return the distance.

        Raises:
            NotFiniteError: the images, or the distance to them, are not finite.
        """
        started = time.perf_counter()
        images: Any
        if isinstance(model, Translator):
            images = translated_draw(model, self._data, self._split, self._labels, self._seed, self._device)(0)[0]
        else:
            images = generate_on_device(model, self._labels, self._seed, "tuning", device=self._device)
        self.sampling_seconds = (time.perf_counter() - started) * 1000 / len(self._labels)
        value = float(self._real.distance(self._extractor(images).features))
        if not math.isfinite(value):
            raise NotFiniteError("the distance to validation images is not finite")
        return value


class TrialRun:
    """A trial that was taken and is to be trained."""

    def __init__(
        self,
        job: dict[str, Any],
        search: Search,
        data: ImageDataset,
        split: Split,
        device: torch.device,
        emit: Events,
        objective: Objective,
        taken: Taken,
    ) -> None:
        self._job, self._search, self._data, self._split = job, search, data, split
        self._device, self._emit, self._objective = device, emit, objective
        self.taken = taken
        self._fitted = Fitted()
        self._looks: dict[int, float] = {}

    def train(self, fit_per_class: FitPerClass) -> None:
        """Train and measure, and store what came of it: values, or that it was pruned or diverged."""
        self._emit("phase", phase="training", fraction=0.0)
        try:
            values = self._values(fit_per_class)
        except HopelessError:
            self._end("pruned", f"worse than the median at {max(self._looks):,} images")
        except DivergedError as error:
            self._end("diverged", str(error))
        except NotFiniteError as error:
            self._end("diverged", f"diverged at step {self._fitted.steps}: {error}")
        else:
            self.taken.finish(values, **self._about())
            self._emit("trial_end", number=self.taken.number, state="finished", values=values)

    def fail(self, reason: str) -> None:
        """Store that the trial can't be had."""
        self._end("failed", reason)

    def _values(self, fit_per_class: FitPerClass) -> list[float]:
        spec, seed = self._job["generator"], derive(self._search.spec.seed, "tuning")
        family: type[Any] = GENERATORS.get(spec["name"])
        hyperparameters = family.Hyperparameters.model_validate({**spec["hyperparameters"], **self.taken.parameters})
        kind = (self._data.shape, self._data.num_classes, hyperparameters)
        with forked(seed, "weights"):  # the same seed for every trial, so that they differ by their values alone
            per_class = spec["unconditional"] == "per_class"
            model: GenerativeModel | Translator = PerClass(family, *kind) if per_class else family(*kind)
            model = model.to(self._device)
        model.sampling_precision = self._job["precision"] if family.mixed_sampling else "float32"
        if self._job["suite"]["compile"]:
            compile_networks(model, self._device)
        budget = Budget(self._search.images_seen)
        how: dict[str, Any] = {
            "device": self._device, "precision": self._job["precision"], "sampling": self._job["suite"]["sampling"],
        }  # fmt: skip
        if isinstance(model, PerClass):  # whose models follow each other: nothing to look at on the way
            fit_per_class(model, self._data, self._split, budget, seed, how, self._emit, self._fitted)
        else:
            watch = Watch(self._search.spec.points, lambda images_seen: self._look(model, images_seen))
            sides = (self._split.train, self._split.validation)
            kind_of = {
                "budget": budget,
                "seed": seed,
                "emit": self._emit,
                "watch": watch,
                "record": self._fitted,
                **how,
            }
            fit(model, self._data, *sides, **kind_of)
        if self._fitted.images_seen not in self._looks:
            self._look(model, self._fitted.images_seen)
        known = {
            self._search.spec.objective[0]: self._looks[self._fitted.images_seen],
            "training_seconds": self._fitted.seconds,
            "seconds_per_1000_samples": self._objective.sampling_seconds,
            "parameters": float(sum(parameter.numel() for parameter in model.parameters())),
        }
        return [known[name] for name in self._search.spec.objective]

    def _look(self, model: GenerativeModel | Translator, images_seen: int) -> None:
        self._looks[images_seen] = value = self._objective(model)
        name = self._search.spec.objective[0]
        self._emit("progress_scores", images_seen=images_seen, values={f"{self._search.spec.features}/{name}": value})
        self.taken.report(images_seen, value, last=images_seen >= self._search.images_seen)

    def _end(self, state: str, reason: str) -> None:
        self.taken.end(state, reason, **self._about())
        self._emit("trial_end", number=self.taken.number, state=state, reason=reason)

    def _about(self) -> dict[str, Any]:
        seen, seconds = self._fitted.images_seen, self._fitted.seconds
        looks = {str(n): value for n, value in self._looks.items()}
        return {"images_seen": seen, "seconds": seconds, "looks": looks, "commit": commit()}
