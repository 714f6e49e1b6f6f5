"""What every registered generator family must do, checked on tiny data: one contract, also for families to come."""

import copy
import functools
import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from bench.fit import stage
from bench.model import GenerativeModel, Progress
from bench.registry import GENERATORS
from bench.seeds import forked, torch_rng

# translators draw nothing: test_translation.py holds what they must do
NAMES = [name for name in GENERATORS.names() if issubclass(GENERATORS.get(name), GenerativeModel)]
SHAPES = [(1, 32, 32), (3, 28, 28), (1, 36, 30)]
CLASSES = 3
STEPS = 6  # enough for a generator that is updated every fifth step, and for stages that start late

every_family = pytest.mark.parametrize("name", NAMES)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


@functools.cache
def images_and_labels(shape, classes=CLASSES, n=24):
    """Bars whose brightness and place tell the class, with noise; labels in turn."""
    labels = torch.arange(n) % classes
    images = 0.1 + 0.2 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))
    for image, label in zip(images, labels, strict=True):
        image[:, 4 + 6 * label : 10 + 6 * label] += 0.3 + 0.2 * label / classes
    return images.clamp(0, 1), labels


def build(name, shape, classes=CLASSES, seed=0):
    family = GENERATORS.get(name)
    with forked(seed, "weights"):
        return family(shape, classes, family.Hyperparameters())


def train(model, images, labels, seed=0, steps=STEPS, batch=8):
    """Fit as the harness does; return the losses of every step."""
    rng, losses = torch_rng(seed, "training"), []
    with forked(seed, "global"):
        model.train()
        if not model.trains:
            model.fit_direct(images, labels, rng)
        else:
            optimizers = model.configure_optimizers()
            for step in range(steps):
                part = torch.arange(step * batch, (step + 1) * batch) % len(images)
                progress = Progress(step, step * batch, step / steps, stage(model.stages, step / steps))
                losses.append(model.training_step(images[part], labels[part], optimizers, progress, rng))
    model.eval()
    return losses


@functools.cache
def _trained(name, shape, classes):
    model = build(name, shape, classes)
    train(model, *images_and_labels(shape, classes))
    return model


def trained(name, shape=SHAPES[0], classes=CLASSES):
    """A trained model that the test may do with as it likes."""
    return copy.deepcopy(_trained(name, shape, classes))


def sample(model, labels, seed=1):
    with torch.no_grad():
        return model.sample(labels, torch_rng(seed, "sample"))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@every_family
def test_says_what_it_is(name):
    family, described = GENERATORS.get(name), GENERATORS.describe(name)
    assert issubclass(family, GenerativeModel)
    bases = family.__mro__[: family.__mro__.index(GenerativeModel)]
    assert any("http" in (base.__doc__ or "") for base in bases), (
        "the docstring, or that of a base, must link the source"
    )
    assert any(year in family.source for year in map(str, range(1980, 2100)))
    assert family.source.split()[0] in family.__doc__, "the docstring must cite the source"
    assert family.family in {"vae", "gan", "hybrid", "diffusion", "control"}
    assert family.conditioning in {"always", "never", "optional"}
    assert described.summary == family.__doc__.splitlines()[0]
    for attribute in ("family", "source", "conditioning"):  # readable without importing torch
        assert described.attributes[attribute] == getattr(family, attribute)


def one_hot(labels, classes):
    """As torch's, which reads the labels back on a CPU, and only there."""
    return torch.zeros(*labels.shape, classes, dtype=torch.int64).scatter_(-1, labels[..., None], 1)


@every_family
def test_no_step_waits_for_the_device(name, monkeypatch):
    """Nothing of a step is read back, nor has a shape that depends on values: tensors without values show it."""
    model = build(name, SHAPES[0])
    if not model.trains:
        return
    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)
    images, labels = images_and_labels(SHAPES[0])
    with FakeTensorMode(allow_non_fake_inputs=True) as valueless:
        losses = train(model, valueless.from_tensor(images), valueless.from_tensor(labels))
        with pytest.raises(DataDependentOutputException):  # as a step that reads one would end
            next(iter(losses[-1].values())).item()


@every_family
def test_hyperparameters(name):
    Hyperparameters = GENERATORS.get(name).Hyperparameters
    default = Hyperparameters()
    assert Hyperparameters.model_validate_json(default.model_dump_json()) == default
    assert Hyperparameters.model_validate(json.loads(default.model_dump_json())) == default
    with pytest.raises(ValidationError, match="frozen"):
        default.batch_size = 3
    with pytest.raises(ValidationError, match="no_such_key"):
        Hyperparameters(no_such_key=1)
    with pytest.raises(ValidationError, match="batch_size"):
        Hyperparameters(batch_size=1)
    for field, schema in Hyperparameters.model_json_schema()["properties"].items():
        if "tune" in schema:
            tune = schema["tune"]
            assert tune["low"] <= getattr(default, field) <= tune["high"], field
            assert not tune["log"] or tune["low"] > 0, field
            for end in (tune["low"], tune["high"]):  # whatever tuning proposes must be valid
                Hyperparameters.model_validate({**tune["when"], field: end})


@every_family
@every_shape
def test_trains_and_samples(name, shape):
    images, labels = images_and_labels(shape)
    model = build(name, shape)
    before = copy.deepcopy(model)
    for losses in train(model, images, labels):
        assert losses
        for value in losses.values():
            assert value.ndim == 0
            assert not value.requires_grad
            assert torch.isfinite(value)
    if model.trains:
        # not every parameter: the last bias of a Wasserstein critic has no gradient
        for part, child in model.named_children():
            if any(True for _ in child.parameters()):
                moved = [
                    not torch.equal(a, b) for a, b in zip(child.parameters(), _parameters(before, part), strict=True)
                ]
                assert any(moved), f"{part} did not move"
    else:
        assert not same(model.state_dict(), before.state_dict())

    drawn = sample(model, labels)
    assert drawn.shape == (len(labels), *shape)
    assert drawn.dtype == torch.float32
    assert torch.isfinite(drawn).all()
    assert drawn.min() >= 0
    assert drawn.max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 128, 128), (1, 218, 182), (3, 256, 256)], ids=str)
@every_family
def test_networks_follow_the_image_size(name, shape):
    """The sizes of the sources: a step and a sample of two, at every size and number of channels."""
    images, labels = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 2
    model = build(name, shape, classes=2)
    train(model, images, labels, steps=1, batch=4)
    assert sample(model, labels[:2]).shape == (2, *shape)


def _parameters(model, part):
    return dict(model.named_children())[part].parameters()


@every_family
def test_does_one_thing_or_the_other(name):
    model = build(name, SHAPES[0])
    images, labels = images_and_labels(SHAPES[0])
    with pytest.raises(TypeError, match=type(model).__name__):
        if model.trains:
            model.fit_direct(images, labels, torch_rng(0))
        else:
            model.training_step(images, labels, {}, Progress(0, 0, 0.0), torch_rng(0))


@every_family
def test_training_depends_on_the_seed_alone(name):
    images, labels = images_and_labels(SHAPES[0])
    states = []
    for outer, seed in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(outer)
        untouched = torch.get_rng_state()
        model = build(name, SHAPES[0], seed=7)
        train(model, images, labels, seed=seed)
        assert torch.equal(torch.get_rng_state(), untouched)
        states.append(copy.deepcopy(model.state_dict()))
    assert same(states[0], states[1])
    if model.trains:
        assert not same(states[0], states[2])


@every_family
def test_training_leaves_the_batch_alone(name):
    images, labels = (part.clone() for part in images_and_labels(SHAPES[0]))
    train(build(name, SHAPES[0]), images, labels)
    assert torch.equal(images, images_and_labels(SHAPES[0])[0])
    assert torch.equal(labels, images_and_labels(SHAPES[0])[1])


@every_family
def test_trains_on_a_last_batch_of_two(name):
    images, labels = images_and_labels(SHAPES[0])
    model = build(name, SHAPES[0])
    for losses in train(model, images, labels, steps=2, batch=2):
        assert all(torch.isfinite(value) for value in losses.values())


@every_family
def test_sampling_depends_on_its_generator_alone(name):
    model, labels = trained(name), images_and_labels(SHAPES[0])[1]
    drawn = []
    for outer, seed in ((1, 1), (2, 1), (1, 2)):
        torch.manual_seed(outer)
        untouched = torch.get_rng_state()
        drawn.append(sample(model, labels, seed))
        assert torch.equal(torch.get_rng_state(), untouched), "drew from torch's global generator"
    assert torch.equal(drawn[0], drawn[1])
    if model.trains:
        assert not torch.equal(drawn[0], drawn[2])


@every_family
def test_heeds_labels_iff_conditional(name):
    model = trained(name)
    first, second = (sample(model, torch.full((8,), label)) for label in (0, 1))
    assert torch.equal(first, second) is not model.conditional
    assert {"always": {True}, "never": {False}, "optional": {True, False}}[model.conditioning] >= {model.conditional}


@every_family
def test_a_sample_does_not_depend_on_its_neighbours_labels(name):
    model = trained(name)
    if not model.trains:
        pytest.skip("draws from the training set, class by class")
    labels = torch.zeros(8, dtype=torch.int64)
    changed = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2])
    torch.testing.assert_close(sample(model, labels)[:2], sample(model, changed)[:2], rtol=0, atol=1e-5)


@every_family
@every_shape
def test_stored_and_loaded_it_samples_the_same_bits(name, shape):
    model, labels = trained(name, shape), images_and_labels(shape)[1]
    stored = save({key: value.contiguous() for key, value in model.state_dict().items()})
    fresh = build(name, shape, seed=99)
    fresh.load_state_dict(load(stored))
    fresh.eval()
    assert same(fresh.state_dict(), model.state_dict())
    assert torch.equal(sample(fresh, labels), sample(model, labels))


@every_family
def test_stays_in_evaluation_mode_and_as_it_is(name):
    model = trained(name)
    images, labels = images_and_labels(SHAPES[0])
    state = copy.deepcopy(model.state_dict())
    seen = []
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    with torch.no_grad():
        model.sample(labels, torch_rng(0))
        model.validation_loss(images, labels, torch_rng(0))
        model.reconstruct(images, labels)
    assert not any(seen), "batch norm or dropout ran in training mode"
    assert not model.training
    assert same(model.state_dict(), state)


@every_family
@every_shape
def test_reconstruction(name, shape):
    model = trained(name, shape)
    images, labels = images_and_labels(shape)
    with torch.no_grad():
        whole, part = model.reconstruct(images, labels), model.reconstruct(images[:5], labels[:5])
        again = model.reconstruct(images, labels)
    if whole is None:
        assert part is None
        return
    assert whole.shape == images.shape
    assert whole.min() >= 0
    assert whole.max() <= 1
    assert torch.equal(whole, again)
    torch.testing.assert_close(part, whole[:5], rtol=0, atol=1e-5)


@every_family
def test_validation_loss(name):
    model = trained(name)
    images, labels = images_and_labels(SHAPES[0])
    with torch.no_grad():
        first, second = (model.validation_loss(images, labels, torch_rng(3)) for _ in range(2))
    if first is None:
        assert second is None
        return
    assert first.ndim == 0
    assert torch.isfinite(first)
    assert torch.equal(first, second)


@every_family
def test_one_class_is_enough(name):
    model = trained(name, SHAPES[0], classes=1)
    assert sample(model, torch.zeros(5, dtype=torch.int64)).shape == (5, *SHAPES[0])


@every_family
def test_says_nothing(name, capfd):
    model = build(name, SHAPES[0])
    images, labels = images_and_labels(SHAPES[0])
    train(model, images, labels, steps=1)
    sample(model, labels)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@every_family
def test_moving_average_is_a_decay(name):
    decay = build(name, SHAPES[0]).ema_decay
    assert decay is None or 0 < decay < 1


@every_family
def test_latents_decode_to_what_is_sampled(name):
    model = trained(name)
    labels = torch.tensor([0, 2, 1, 1])
    z = model.latents(len(labels), torch_rng(1, "sample"))
    if z is None:
        assert name in {"vqvae", "gaussian"} or type(model).family == "control"
        return
    assert torch.equal(model.from_latents(z, labels), sample(model, labels))
    assert not model.from_latents(z, labels).requires_grad
