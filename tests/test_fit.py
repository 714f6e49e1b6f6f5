"""The training loop: exact budget, same bits from the same seed, divergence caught, moving average right."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from bench.data.dataset import ImageDataset
from bench.errors import DivergedError, NotFiniteError
from bench.fit import Average, Budget, Fitted, Watch, balanced_batches, batches, fit
from bench.model import GenerativeModel, Hyperparameters, Plateau
from bench.seeds import forked

CPU = torch.device("cpu")


class Line(GenerativeModel):
    """The smallest trainable family: one learned image."""

    family: ClassVar[str] = "vae"
    source: ClassVar[str] = "test"
    decay: float | None = None
    bad_at: int | None = None
    plateau: Plateau | None = None

    def __init__(self, shape, num_classes, hyperparameters):
        super().__init__(shape, num_classes, hyperparameters)
        self.image = nn.Parameter(torch.rand(shape))
        self.seen: list[int] = []

    @property
    def ema_decay(self):
        return self.decay

    def configure_optimizers(self):
        return {"all": torch.optim.SGD(self.parameters(), 0.5)}

    def training_step(self, images, labels, optimizers, progress, rng):
        noise = torch.rand((), generator=rng)
        loss = (self.image - images).square().mean() + 0 * noise
        if progress.step == self.bad_at:
            loss = loss * float("nan")
        optimizers["all"].zero_grad()
        loss.backward()
        optimizers["all"].step()
        self.seen.append(len(images))
        return {"loss": loss}

    def validation_loss(self, images, labels, rng):
        return (self.image - images).square().mean()

    def sample(self, labels, rng):
        return self.image.clamp(0, 1).expand(len(labels), *self.shape)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (50, 1, 8, 8), dtype=np.uint8)
    labels = np.arange(50) % 2
    return ImageDataset(
        pixels=pixels,
        labels=labels,
        class_names=("a", "b"),
        subjects=np.arange(50).astype(str),
        names=tuple(str(n) for n in range(50)),
        fingerprint="0" * 16,
        title="test",
        simulated=True,
        skipped=(),
    )


def train(data, budget=None, seed=0, batch_size=8, watch=None, record=None, **attributes):
    with forked(seed, "weights"):
        model = Line((1, 8, 8), 2, Hyperparameters(batch_size=batch_size))
    for name, value in attributes.items():
        setattr(model, name, value)
    events = []
    fitted = fit(
        model,
        data,
        np.arange(40),
        np.arange(40, 50),
        budget=budget or Budget(100),
        seed=seed,
        device=CPU,
        watch=watch,
        record=record,
        emit=lambda kind, **values: events.append((kind, values)),
    )
    return model, fitted, events


def test_budget_is_used_exactly(data):
    model, fitted, events = train(data)
    assert fitted.images_seen == sum(model.seen) == 100
    assert model.seen == [8] * 11 + [6, 6]
    assert events[-2][0] == "progress" or events[-1][0] == "loss"
    assert max(values["fraction"] for kind, values in events if kind == "progress") == 1.0


def test_minutes_stop_by_the_clock(data):
    _, fitted, _ = train(data, Budget(None, seconds=0.05))
    assert 0.05 <= fitted.seconds < 5


def test_same_seed_same_bits(data):
    first, second, other = train(data)[0], train(data)[0], train(data, seed=1)[0]
    assert torch.equal(first.image, second.image)
    assert not torch.equal(first.image, other.image)


def test_losses_are_recorded_for_both_sides(data):
    _, fitted, _ = train(data, Budget(4000))
    sides = {row[2] for row in fitted.losses}
    assert sides == {"training", "validation"}
    training = [row for row in fitted.losses if row[2] == "training"]
    assert 90 <= len(training) <= 101
    assert training[-1][4] < training[0][4]


def test_divergence_names_the_step(data):
    with pytest.raises(DivergedError, match="diverged at step") as caught:
        train(data, Budget(4000), bad_at=30)
    assert 31 <= caught.value.step <= 41, "found within one record of the curve"


def test_a_training_that_breaks_off_leaves_its_losses(data):
    record = Fitted()
    with pytest.raises(DivergedError):
        train(data, Budget(4000), bad_at=300, record=record)
    assert record.steps >= 300
    assert len(record.losses) > 50


def test_images_that_are_not_finite_are_divergence_with_its_step(data):
    """Losses may stay finite while what is drawn is not."""

    def look(images_seen):
        if images_seen > 50:
            raise NotFiniteError("sample returned values that are not finite")

    with pytest.raises(DivergedError, match=r"diverged at step .*: sample returned") as caught:
        train(data, Budget(160), watch=Watch(4, look))
    assert caught.value.step == 10


def test_the_last_two_batches_share_what_is_left(data):
    """No batch of a few images before the scored weights: 8, 8, ..., then 8 + 3 as 5 and 6."""
    model, fitted, _ = train(data, Budget(35))
    assert fitted.images_seen == 35
    assert model.seen == [8, 8, 8, 5, 6]


def test_batches_larger_than_the_training_set_are_told(data):
    model, _, events = train(data, Budget(200), batch_size=64)
    assert set(model.seen) == {40}
    assert [v["text"] for k, v in events if k == "warning"] == [
        "batches of 40, the training images there are, in place of 64"
    ]


def test_an_early_stop_is_looked_at_too(data):
    seen = []
    validations = iter([1.0] + [2.0] * 100)
    _, fitted, events = train(
        data, Budget(4000), watch=Watch(2, seen.append), plateau=Plateau(0.5, 1, 3),
        validation_loss=lambda images, labels, rng: torch.tensor(next(validations)),
    )  # fmt: skip
    assert fitted.images_seen < 1000
    assert seen[-1] == fitted.images_seen
    assert any("stopped early" in values.get("text", "") for _, values in events)


def test_average_follows_its_formula(data):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = Average(model, 0.5)
    expected = 0.0
    for update in range(1, 6):
        nn.init.constant_(model.weight, float(update))
        average.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    assert average.state["weight"].item() == pytest.approx(expected, rel=1e-6)


def test_scored_weights_are_the_average(data):
    plain, averaged = train(data)[0], train(data, decay=0.9)[0]
    assert not torch.equal(plain.image, averaged.image)


def test_every_epoch_shows_every_image_once():
    stream = batches(np.arange(10), 5, seed=3)
    first, second = np.concatenate([next(stream), next(stream)]), np.concatenate([next(stream), next(stream)])
    assert sorted(first) == sorted(second) == list(range(10))
    assert not np.array_equal(first, second)
    assert len(next(batches(np.arange(3), 64, seed=0))) == 3


def test_what_is_left_of_the_budget_is_a_mixed_batch(data):
    """The last two batches are cut, and a cut of a sorted batch would hold the first classes alone."""
    stream = batches(np.arange(1000), 64, seed=0)
    assert next(stream)[:32].max() > 500
    assert [int(next(stream)[0] > next(stream)[-1]) for _ in range(3)] != [0, 0, 0]


def test_balanced_batches_hold_all_classes_equally_often():
    labels = np.array([0] * 90 + [1] * 9 + [2] * 1)
    indices = np.arange(10, 100)  # class 0 from 10 on
    stream = balanced_batches(indices, labels, 30, 0)
    epoch = np.concatenate([next(stream) for _ in range(8)])
    assert np.bincount(labels[epoch]).tolist() == [80, 80, 80]
    assert set(epoch.tolist()) == set(indices.tolist()), "every image is seen, the rare ones often"
    first = next(balanced_batches(indices, labels, 30, 0))
    assert np.array_equal(first, next(balanced_batches(indices, labels, 30, 0)))
    assert not np.array_equal(first, next(balanced_batches(indices, labels, 30, 1)))


def test_balanced_sampling_reaches_every_way_to_fit(data):
    """Trained in steps or fitted at once, each class counts the same; natural sampling is as it was."""
    seen = {}
    labels = (np.arange(len(data)) % 10 == 0).astype(np.int64)
    unequal = dataclasses.replace(data, labels=labels, class_names=("common", "rare"))

    class Watching(Line):
        def training_step(self, images, labels, optimizers, progress, rng):
            seen["steps"] = seen.get("steps", 0) + torch.bincount(labels, minlength=2)
            return super().training_step(images, labels, optimizers, progress, rng)

    class Direct(Line):
        trains = False

        def fit_direct(self, images, labels, rng):
            seen["direct"] = torch.bincount(labels, minlength=2)

    for family in (Watching, Direct):
        model = family(data.shape, 2, Hyperparameters(batch_size=8))
        how = {"budget": Budget(800), "seed": 0, "device": CPU, "emit": lambda *_, **__: None, "sampling": "balanced"}
        fit(model, unequal, np.arange(len(data)), np.arange(4), **how)
    assert seen["direct"].tolist() == [np.sum(labels == 0)] * 2
    assert abs(seen["steps"][0] - seen["steps"][1]) < 0.1 * 800
