"""The training loop: batches, budget, validation, moving average, divergence guard; the same for every family.

It knows no suite, no files and no tracker: it reports through a callback and returns what happened.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from bench.average import Average
from bench.checkpoint import Keeper
from bench.data.dataset import ImageDataset
from bench.divergence import Losses
from bench.errors import DivergedError, InputError, NotFiniteError
from bench.feed import balanced, balanced_batches, batches, bounded, fetched
from bench.model import GenerativeModel, Plateau, Progress, TrainableModel
from bench.per_class import PerClass
from bench.seeds import derive, forked, numpy_rng, torch_rng
from bench.spent import BOOKKEEPING, SPENT

Emit = Callable[..., None]

RECORDS = 100
"""Points of a learning curve."""
VALIDATIONS = 20
INSPECTION_STEPS = 1000
"""Steps between two inspections of what is drawn, at most; there is one at every validation too."""
ALIVE_SECONDS = 30.0
"""A training says so at least as often."""
VALIDATION_IMAGES = 512


@dataclass(frozen=True)
class Budget:
    """What training may use; `seconds` only where the suite asks for minutes."""

    images_seen: int | None
    seconds: float | None = None

    def fraction(self, images_seen: int, seconds: float) -> float:
        """Share of the budget used, at least 0."""
        shares = [images_seen / self.images_seen] if self.images_seen else []
        return max(shares + ([seconds / self.seconds] if self.seconds else []))


@dataclass(frozen=True)
class Watch:
    """Someone who looks at the model while it is trained, without a trace on what becomes of it."""

    points: int
    """How often, evenly over the budget; the last time is its end."""
    look: Callable[[int], None]
    """Called with the images seen; the model then holds the weights that would be scored, in evaluation mode."""


@dataclass
class Fitted:
    """What training used and how its losses went."""

    steps: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, int, str, str, float]] = field(default_factory=list)
    """(step, images seen, 'training' or 'validation', name, value)."""


def stage(stages: dict[str, float], fraction: float) -> str:
    """Name the stage in force when this share of the budget is used; '' where a family has none."""
    end = 0.0
    for name, share in stages.items():
        end += share
        if fraction < end - 1e-9:
            return name
    return name if stages else ""


def fit(
    model: TrainableModel,
    data: ImageDataset,
    training: np.ndarray,
    validation: np.ndarray,
    *,
    budget: Budget,
    seed: int,
    device: torch.device,
    emit: Emit,
    precision: str = "float32",
    watch: Watch | None = None,
    inspect: Callable[[int], None] | None = None,
    keeper: Keeper | None = None,
    record: Fitted | None = None,
    sampling: str = "natural",
) -> Fitted:
    """Train a model in place with exactly the budget; at the end it holds the weights to be scored.

    Args:
        model: on `device`, freshly built.
        data: the images.
        training: indices of the training split.
        validation: indices of the validation split.
        budget: images to be seen, or seconds.
        seed: root of every random stream used here.
        device: where the model is.
        emit: called as emit("progress", ...) and emit("loss", ...).
        precision: "bfloat16" runs training steps under autocast, for families that allow it; weights stay float32.
        watch: looks at the model on the way; its time does not count.
        inspect: called with the steps done, at every validation and every `INSPECTION_STEPS`, with the model in
            evaluation mode and its weights of training; may raise DivergedError.
        keeper: saves what training is made of now and then, and has what an earlier process saved: then training goes
            on there, and ends with the same bits on a CPU as if it had never stopped.
        record: filled in on the way and returned; whoever gives it has the losses of a training that broke off too.
        sampling: "natural", or "balanced": all classes equally often, whether in batches or in what is fitted at once.

    Raises:
        DivergedError: a loss, the weights or the images that `watch` draws stopped being finite, or a loss exploded.
        InterruptedJobError: the keeper was asked to stop.
    """
    if not model.trains:
        if model.fitted_on == "validation" and model.family != "control":
            raise InputError(f"{type(model).__name__}: only controls may be fitted on validation images")
        own = validation if model.fitted_on == "validation" else training
        own = balanced(own, data.labels, derive(seed, "batches")) if sampling == "balanced" else own
        return _fit_direct(model, data, own, seed, device)
    run = _Training(model, seed, device, record or Fitted())
    optimizers, average, result = run.optimizers, run.average, run.result
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=lowered(model, precision))
    size = model.hyperparameters.batch_size
    if size > len(training):
        emit("warning", text=f"batches of {len(training)}, the training images there are, in place of {size}")
        size = len(training)
    with SPENT.on("training"), forked(seed, "global"), _armed(keeper):
        if keeper and (found := keeper.take()) is not None:
            try:
                run.restore(found)
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                keeper.refuse(error)  # the family's code is another one than when this was saved
            emit("resumed", step=result.steps, images_seen=result.images_seen)
        order = derive(seed, "batches")
        if sampling == "balanced":
            stream = balanced_batches(training, data.labels, size, order, taken=result.steps)
        else:
            stream = batches(training, size, order, taken=result.steps)
        left = budget.images_seen - result.images_seen if budget.images_seen else None
        feed = fetched(data, bounded(stream, size, left), device)
        model.train()
        told = time.monotonic()
        while (fraction := budget.fraction(result.images_seen, result.seconds)) < 1 and not run.ended:
            started = time.perf_counter()
            images, of_them = next(feed)
            progress = Progress(result.steps, result.images_seen, fraction, stage(model.stages, fraction))
            with autocast:
                losses = model.training_step(images, of_them, optimizers, progress, run.rng)
            if average:
                average.update()
            result.steps += 1
            result.images_seen += len(images)
            result.seconds += time.perf_counter() - started
            run.losses.add(result.steps, losses)
            fraction = budget.fraction(result.images_seen, result.seconds)
            if fraction * RECORDS >= run.recorded + 1 or fraction >= 1:
                run.recorded = int(fraction * RECORDS)
                _record(run.losses, result, emit)
                emit("progress", fraction=min(fraction, 1.0), step=result.steps, images_seen=result.images_seen)
                told = time.monotonic()
            validates = fraction * VALIDATIONS >= run.validated + 1 or fraction >= 1
            if validates:
                run.validated = int(fraction * VALIDATIONS)
                with SPENT.on("validation"), autocast:
                    loss = _validate(model, data, validation, result, seed, device, emit)
                run.ended = bool(run.plateau and loss is not None and run.plateau.spent(loss))
            if inspect and (validates or result.steps % INSPECTION_STEPS == 0):
                model.eval()
                with SPENT.on("validation"):
                    inspect(result.steps)
                model.train()
            if watch and (fraction * watch.points >= run.watched + 1 or fraction >= 1 or run.ended):
                run.watched = int(fraction * watch.points)
                with SPENT.on("validation"):
                    _show(model, average, watch, result)
            if run.ended:
                emit("warning", text=f"stopped early at {result.images_seen:,} images: validation loss falls no more")
            if time.monotonic() - told >= ALIVE_SECONDS:
                emit("alive", step=result.steps)
                told = time.monotonic()
            if keeper and keeper.due():
                with SPENT.on(BOOKKEEPING):
                    keeper.save(run.state())
    if average:
        average.load_into(model)
    model.eval()
    _check_weights(model, result.steps)
    return result


@contextlib.contextmanager
def _armed(keeper: Keeper | None) -> Iterator[None]:
    """While a training looks at its keeper after every step, a signal need not break it off in the middle of one."""
    if keeper:
        keeper.armed = True
    try:
        yield
    finally:
        if keeper:
            keeper.armed = False


class _Training:
    """All that a training by steps is made of: what must be kept so that it can go on elsewhere.

    The batches' permutations are functions of seed and epoch, so that the number of steps is the position in the data;
    a family's own state is its weights, buffers, optimisers and what `Progress` tells it, and nothing else.
    """

    def __init__(self, model: TrainableModel, seed: int, device: torch.device, result: Fitted) -> None:
        self.model, self.device, self.result = model, device, result
        self.optimizers = model.configure_optimizers()
        self.average = Average(model, model.ema_decay, model.averaged) if model.ema_decay else None
        self.rng = torch_rng(seed, "training")
        self.losses = Losses()
        self.plateau = Patience(model.plateau, self.optimizers) if model.plateau else None
        self.recorded = self.validated = self.watched = 0
        self.ended = False

    def state(self) -> dict[str, Any]:
        """Everything, as nested dicts of numbers and tensors."""
        result = self.result
        return {
            "model": dict(self.model.state_dict()),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "average": {"updates": self.average.updates, "state": self.average.state} if self.average else None,
            "rng": self.rng.get_state(),
            "global": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            "losses": self.losses.state(),
            "plateau": [self.plateau.best, self.plateau.waited] if self.plateau else None,
            "counts": [self.recorded, self.validated, self.watched, self.ended],
            "result": [result.steps, result.images_seen, result.seconds, result.losses],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned; call it where torch's global state is the training's own."""
        self.model.load_state_dict(state["model"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if self.average:
            self.average.restore(state["average"]["updates"], state["average"]["state"])
        self.rng.set_state(state["rng"])
        torch.set_rng_state(state["global"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        self.losses.restore(state["losses"], self.device)
        if self.plateau:
            self.plateau.best, self.plateau.waited = state["plateau"]
        self.recorded, self.validated, self.watched, self.ended = state["counts"]
        self.result.steps, self.result.images_seen, self.result.seconds, self.result.losses = state["result"]


def fit_per_class(
    model: PerClass,
    labels: np.ndarray,
    training: np.ndarray,
    validation: np.ndarray,
    class_names: tuple[str, ...],
    budget: Budget,
    fit_one: Callable[[GenerativeModel, np.ndarray, np.ndarray, Budget, str, float, float], Fitted],
    record: Fitted | None = None,
    sampling: str = "natural",
    keeper: Keeper | None = None,
) -> Fitted:
    """Fit one model after the other and join what is told of them; losses are named 'class/loss'.

    Args:
        model: whose models are to be trained.
        labels: of all images.
        training: indices of the training split.
        validation: indices of the validation split.
        class_names: by label.
        budget: of all together.
        fit_one: called with a model, its training and validation indices, its budget, its class's name, and the share
            of the budget that was used before it and that it may use.
        record: filled in on the way and returned.
        sampling: "balanced" gives every class the same share of the budget, in place of its share of the images.
        keeper: keeps the classes that are done, beside the training at work.

    Raises:
        InputError: a class has fewer than two training images or no validation image.
    """
    counts = np.bincount(labels[training], minlength=len(class_names))
    counts = np.ones_like(counts) if sampling == "balanced" else counts  # shares of the budget
    done = _Classes(model, record or Fitted())
    if keeper:
        keeper.also("classes", done)
    joined = done.joined
    ends = np.round(np.cumsum(counts) / counts.sum() * (budget.images_seen or 0)).astype(int)
    for label, name in enumerate(class_names):
        own, held = training[labels[training] == label], validation[labels[validation] == label]
        if len(own) < 2 or not len(held):
            raise InputError(f"unconditional: per_class needs two training images and a validation image of {name!r}")
        if label < done.count:
            continue
        used, share = float(counts[:label].sum() / counts.sum()), counts[label] / counts.sum()
        images = int(ends[label] - (ends[label - 1] if label else 0)) if budget.images_seen else None
        part = Budget(max(2, images) if images is not None else None, budget.seconds and budget.seconds * share)
        fitted = fit_one(model.of_class(label), own, held, part, name, used, share)
        joined.losses += [
            (step + joined.steps, seen + joined.images_seen, split, f"{name}/{loss}", value)
            for step, seen, split, loss, value in fitted.losses
        ]
        joined.steps += fitted.steps
        joined.images_seen += fitted.images_seen
        joined.seconds += fitted.seconds
        done.count += 1
    model.eval()
    return joined


class _Classes:
    """The models of the classes that are done, and what is told of them together."""

    def __init__(self, model: PerClass, joined: Fitted) -> None:
        self._model, self.joined, self.count = model, joined, 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        models = [dict(self._model.of_class(label).state_dict()) for label in range(self.count)]
        return {"models": models, "joined": vars(self.joined)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        for label, weights in enumerate(state["models"]):
            self._model.of_class(label).load_state_dict(weights)
        self.count = len(state["models"])
        vars(self.joined).update(state["joined"])


def lowered(model: TrainableModel | type[TrainableModel], precision: str) -> bool:
    """Whether this family is trained under bfloat16 autocast when the suite's precision is this."""
    return precision == "bfloat16" and model.mixed_precision


class Patience:
    """Reduce on plateau and stop early, both by the validation loss (never by a reported measure)."""

    def __init__(self, rule: Plateau, optimizers: dict[str, Optimizer]) -> None:
        self.rule, self.optimizers = rule, optimizers
        self.best, self.waited = math.inf, 0

    def spent(self, loss: float) -> bool:
        """Take note of a validation loss; reduce the learning rates or say that training is to end."""
        if loss < self.best:
            self.best, self.waited = loss, 0
            return False
        self.waited += 1
        if self.waited % self.rule.patience == 0:
            for optimizer in self.optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] *= self.rule.factor
        return self.waited >= self.rule.stop


def _show(model: TrainableModel, average: Average | None, watch: Watch, result: Fitted) -> None:
    """Let `watch` see the weights that would be scored now, then go on with those of training."""
    kept = {name: value.clone() for name, value in model.state_dict().items()} if average else {}
    if average:
        average.load_into(model)
    model.eval()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):  # building extractors must leave no trace in dropout
            watch.look(result.images_seen)
    except NotFiniteError as error:
        raise DivergedError(result.steps, str(error)) from None
    if average:
        model.load_state_dict(kept)
    model.train()


def _fit_direct(
    model: TrainableModel, data: ImageDataset, given: np.ndarray, seed: int, device: torch.device
) -> Fitted:
    started = time.perf_counter()
    with SPENT.on("training"):
        images = data.floats(given).to(device)
        model.fit_direct(images, torch.from_numpy(data.labels[given]).to(device), torch_rng(seed, "training"))
    model.eval()
    _check_weights(model, 0)
    return Fitted(0, len(given), time.perf_counter() - started)


def _record(losses: Losses, result: Fitted, emit: Emit) -> None:
    """Record the mean of every loss since the last record; one synchronisation per record, not per step."""
    values = losses.flush()
    for name, value in values.items():
        result.losses.append((result.steps, result.images_seen, "training", name, value))
    emit("loss", split="training", step=result.steps, images_seen=result.images_seen, values=values)


def _validate(
    model: TrainableModel,
    data: ImageDataset,
    validation: np.ndarray,
    result: Fitted,
    seed: int,
    device: torch.device,
    emit: Emit,
) -> float | None:
    """Record the validation loss and return it; None where the family has none."""
    chosen = np.sort(numpy_rng(seed, "validation").permutation(validation)[:VALIDATION_IMAGES])
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for part in np.array_split(chosen, math.ceil(len(chosen) / 128)):
            labels = torch.from_numpy(data.labels[part]).to(device)
            loss = model.validation_loss(data.floats(part).to(device), labels, torch_rng(seed, "validation", count))
            if loss is None:
                break
            total, count = total + float(loss) * len(part), count + len(part)
    model.train()
    if not count:
        return None
    if not math.isfinite(total):
        raise DivergedError(result.steps, f"the validation loss is {total}")
    result.losses.append((result.steps, result.images_seen, "validation", "loss", total / count))
    emit(
        "loss",
        split="validation",
        step=result.steps,
        images_seen=result.images_seen,
        values={"loss": total / count},
    )
    return total / count


def _check_weights(model: nn.Module, step: int) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise DivergedError(step, f"the weights {name!r} are not finite")
