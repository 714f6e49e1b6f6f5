"""An interrupted training goes on bit for bit; a damaged checkpoint is named and set aside."""

import importlib

import numpy as np
import pytest
import torch

from bench.checkpoint import FILE, InterruptedJobError, Keeper
from bench.data.dataset import ImageDataset
from bench.errors import DivergedError
from bench.fit import Budget, Fitted, Watch, batches, fit, fit_per_class
from bench.model import Plateau
from bench.per_class import PerClass
from bench.registry import GENERATORS
from bench.seeds import forked

CPU = torch.device("cpu")
TINY = {
    "vae": {"width": 4, "latent_dim": 4, "dense_widths": [16]},
    "cvae": {"width": 4, "latent_dim": 4, "dense_widths": [16]},
    "logcosh_cvae": {"width": 4, "latent_dim": 4, "dense_widths": [16]},
    "gmvae": {"width": 4, "latent_dim": 4, "dense_widths": [16]},
    "hvae": {},
    "vqvae": {"width": 8, "codes": 16, "prior_width": 8, "prior_layers": 1},
    "gan": {"dense_widths": [16, 16], "dropout": 0.3},
    "cgan": {"dense_widths": [16, 16]},
    "dcgan": {"width": 4, "conditional": True, "ema_decay": 0.9},
    "wgan_gp": {"width": 4, "critic_steps": 3},
    "vae_gan": {"width": 4, "latent_dim": 4},
    "vae_gan_knee": {},
    "ddim": {"channels": [8, 8], "train_timesteps": 20, "sampling_steps": 3},
    "cyclegan": {"width": 4, "residual_blocks": 1},
}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return ImageDataset(
        pixels=rng.integers(0, 256, (60, 1, 16, 16), dtype=np.uint8),
        labels=np.arange(60) % 2,
        class_names=("a", "b"),
        subjects=np.arange(60).astype(str),
        names=tuple(str(n) for n in range(60)),
        fingerprint="0" * 16,
        title="test",
        simulated=True,
        skipped=(),
    )


def model_of(name, data, per_class=False, **attributes):
    family = GENERATORS.get(name)
    known = family.Hyperparameters.model_fields
    given = {key: value for key, value in TINY[name].items() if key in known}
    hyperparameters = family.Hyperparameters.model_validate({**given, "batch_size": 8})
    with forked(3, "weights"):
        kind = (data.shape, data.num_classes, hyperparameters)
        model = PerClass(family, *kind) if per_class else family(*kind)
    for key, value in attributes.items():
        setattr(model, key, value)
    return model


class Impatient(Keeper):
    """Stops after a number of steps."""

    steps = 0
    until = 10**9

    def due(self):
        self.steps += 1
        self.stopping = self.steps >= self.until
        return self.stopping


def keeper_in(folder, until, told=None):
    told = told if told is not None else []
    keeper = Impatient(folder, "id", 1e9, lambda kind, **values: told.append((kind, values)))
    keeper.until = until
    return keeper


def train(model, data, keeper=None, record=None, watch=None, budget=None):
    sides = (np.arange(40), np.arange(40, 60))
    emit = lambda *_, **__: None  # noqa: E731
    given = {"budget": budget or Budget(300), "seed": 5, "device": CPU, "emit": emit, "watch": watch}
    return fit(model, data, *sides, keeper=keeper, record=record, **given)


def states_equal(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", sorted(TINY))
def test_interrupted_training_ends_with_the_same_bits(name, data, tmp_path):
    """Twice: in the first epoch with losses pending, and later; what the watch builds leaves no trace either."""

    def look(_):
        torch.rand(3)

    whole = model_of(name, data)
    expected = train(whole, data, watch=Watch(3, look))
    for until in (7, 12):
        with pytest.raises(InterruptedJobError):
            train(model_of(name, data), data, keeper_in(tmp_path, until), watch=Watch(3, look))
    torch.rand(17)
    parts = model_of(name, data)
    fitted = train(parts, data, keeper_in(tmp_path, 10**9), watch=Watch(3, look))
    assert fitted.steps == expected.steps
    assert fitted.losses == expected.losses
    assert states_equal(whole, parts)
    assert all(
        value.stride() == other.stride() for value, other in zip(whole.parameters(), parts.parameters(), strict=True)
    )


def test_every_trained_family_is_covered():
    trained = {name for name in GENERATORS.names() if GENERATORS.get(name).training_step is not None}
    trained = {n for n in trained if importlib.import_module(GENERATORS.get(n).__module__).__name__.startswith("base")}
    trains = {n for n in trained if "training_step" in {k for c in GENERATORS.get(n).__mro__[:-5] for k in vars(c)}}
    assert trains <= set(TINY)


def test_one_model_per_class_goes_on_in_the_second(data, tmp_path):
    def run(keeper):
        model = model_of("vae", data, per_class=True)

        def fit_one(one, own, held, part, name, used, share):
            emit = lambda *_, **__: None  # noqa: E731
            seed = 5 if name == "a" else 6
            return fit(one, data, own, held, budget=part, seed=seed, device=CPU, emit=emit, keeper=keeper)

        sides = (data.labels, np.arange(40), np.arange(40, 60))
        return model, fit_per_class(model, *sides, data.class_names, Budget(300), fit_one, keeper=keeper)

    whole, expected = run(None)
    for until in (5, 20, 4):
        with pytest.raises(InterruptedJobError):
            run(keeper_in(tmp_path, until))
    parts, fitted = run(keeper_in(tmp_path, 10**9))
    assert states_equal(whole, parts)
    assert fitted.losses == expected.losses
    assert (fitted.steps, fitted.images_seen) == (expected.steps, expected.images_seen)


def test_patience_goes_on(data, tmp_path):
    def model(values):
        given = model_of("vae", data)
        kind = type(given)
        patient = type("Patient", (kind,), {"plateau": Plateau(0.5, 1, 6)})
        given.__class__ = patient
        given.validation_loss = lambda images, labels, rng: torch.tensor(next(values))
        return given

    losses = [3.0, 2.0] + [5.0] * 50
    expected = train(model(iter(losses)), data)
    with pytest.raises(InterruptedJobError):
        train(model(iter(losses)), data, keeper_in(tmp_path, 9))
    kept = sum(row[2] == "validation" for row in expected.losses if row[0] <= 9)
    fitted = train(model(iter(losses[kept:])), data, keeper_in(tmp_path, 10**9))
    assert fitted.images_seen == expected.images_seen < 300
    assert fitted.losses == expected.losses


def test_minutes_go_on_with_the_seconds_used(data, tmp_path):
    budget = Budget(None, seconds=0.3)
    with pytest.raises(InterruptedJobError):
        train(model_of("vae", data), data, keeper_in(tmp_path, 10), budget=budget)
    kept = keeper_in(tmp_path, 10**9)
    record = Fitted()
    fitted = train(model_of("vae", data), data, kept, record=record, budget=budget)
    assert 0.3 <= fitted.seconds < 2
    assert fitted is record


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_damaged_checkpoint_is_named_and_set_aside(damage, data, tmp_path):
    with pytest.raises(InterruptedJobError):
        train(model_of("vae", data), data, keeper_in(tmp_path, 10))
    path = tmp_path / FILE
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[-100] ^= 1
    elif damage == "empty":
        content = b""
    else:
        content = path.read_bytes().replace(b'\\"train_id\\": \\"id\\"', b'\\"train_id\\": \\"no\\"')
    path.write_bytes(content)
    told = []
    keeper = keeper_in(tmp_path, 10**9, told)
    assert not keeper.found
    assert not path.exists()
    assert (tmp_path / f"{FILE}.damaged-1").exists()
    assert [kind for kind, _ in told] == ["warning"]
    assert str(path) in told[0][1]["text"]
    assert "training starts anew" in told[0][1]["text"]


def test_unwritable_checkpoint_stops_no_training(data, tmp_path):
    told = []
    (tmp_path / "file").write_text("")
    keeper = Keeper(tmp_path / "file", "id", 0.0, lambda kind, **values: told.append((kind, values)))
    fitted = train(model_of("vae", data), data, keeper)
    assert fitted.images_seen == 300
    assert "no checkpoint" in told[0][1]["text"]


def test_batches_go_on_after_those_taken():
    whole = batches(np.arange(23), 5, seed=3)
    first = [next(whole) for _ in range(20)]
    for taken in (0, 3, 4, 11):
        part = batches(np.arange(23), 5, seed=3, taken=taken)
        assert all(np.array_equal(next(part), expected) for expected in first[taken:])


def test_divergence_after_going_on_names_the_same_step(data, tmp_path):
    class Bad(type(model_of("vae", data))):
        def training_step(self, images, labels, optimizers, progress, rng):
            return {"loss": torch.tensor(float("nan") if progress.step == 20 else 1.0)}

    def bad():
        model = model_of("vae", data)
        model.__class__ = Bad
        return model

    with pytest.raises(InterruptedJobError):
        train(bad(), data, keeper_in(tmp_path, 10))
    with pytest.raises(DivergedError) as caught:
        train(bad(), data, keeper_in(tmp_path, 10**9))
    assert caught.value.step == 21
