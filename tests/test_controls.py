"""Fault controls: each does what it says and nothing else."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from baselines import faults, image_faults
from bench.data.dataset import ImageDataset
from bench.errors import InputError
from bench.fit import Budget, fit
from bench.seeds import torch_rng

SHAPE = (1, 12, 10)
PER_CLASS = (60, 40, 20, 20)
"""Uneven, so that proportions can be told."""
SET_FAULTS = [faults.OneMode, faults.FewImages, faults.MissingClasses, faults.ShuffledLabels]
IMAGE_FAULTS = [
    image_faults.Blur,
    image_faults.LowResolution,
    image_faults.Noise,
    image_faults.Intensity,
    image_faults.UpsideDown,
    image_faults.Mirrored,
    image_faults.SwappedHalves,
    image_faults.Outliers,
]


@pytest.fixture(scope="module")
def base():
    """Different images of 8 bits, none darker than 0.1 or brighter than 0.7: nothing is cut by mild faults."""
    images = torch.rand(sum(PER_CLASS), *SHAPE, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.1
    return (images * 255).round() / 255, torch.repeat_interleave(torch.arange(4), torch.tensor(PER_CLASS))


def fitted(family, base, **hyperparameters):
    model = family(SHAPE, 4, family.Hyperparameters(**hyperparameters))
    model.fit_direct(*base, torch_rng(0, "fit"))
    return model.eval()


def drawn(model, labels, seed=1):
    return model.sample(torch.as_tensor(labels), torch_rng(seed))


def origin(images, base):
    """Index of the base image that each image equals; -1 for none."""
    known = {image.numpy().tobytes(): index for index, image in enumerate(base[0])}
    return [known.get(image.contiguous().numpy().tobytes(), -1) for image in images]


ALL = torch.repeat_interleave(torch.arange(4), torch.tensor(PER_CLASS))


def test_held_out_gives_every_image_of_the_class_once(base):
    found = origin(drawn(fitted(faults.HeldOut, base), ALL), base)
    assert sorted(found) == list(range(len(ALL)))
    assert (base[1][found] == ALL).all()


@pytest.mark.parametrize("family", [*SET_FAULTS, *IMAGE_FAULTS, faults.NearCopy])
def test_severity_zero_is_no_fault(family, base):
    none = 1.0 if family is image_faults.LowResolution else 0.0
    found = origin(drawn(fitted(family, base, severity=none), ALL), base)
    assert min(found) >= 0
    assert (base[1][found] == ALL).all()


def spoilt(family, base, **hyperparameters):
    """The same draw with the fault and without."""
    none = {"severity": 1.0 if family is image_faults.LowResolution else 0.0}
    with_fault, without = (drawn(fitted(family, base, **options), ALL) for options in (hyperparameters, none))
    return with_fault, without


def test_blur_is_that_of_scipy(base):
    found, clean = spoilt(image_faults.Blur, base, severity=1.3)
    expected = gaussian_filter(clean.double().numpy(), (0, 0, 1.3, 1.3), mode="mirror", radius=(0, 0, 6, 6))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    wide, _ = spoilt(image_faults.Blur, base, severity=60.0)  # the kernel is wider than the image
    assert wide.isfinite().all()


def test_low_resolution_keeps_coarse_means_and_loses_detail(base):
    found, clean = spoilt(image_faults.LowResolution, base, severity=2.0)
    assert found.var() < 0.5 * clean.var()
    flat = image_faults.LowResolution(SHAPE, 1, image_faults.LowResolution.Hyperparameters())
    constant = flat.spoil(torch.full((2, *SHAPE), 0.3), torch_rng(0))
    torch.testing.assert_close(constant, torch.full((2, *SHAPE), 0.3))
    assert (clean - found).mean().abs() < 2e-3


def test_noise_has_its_deviation(base):
    model = fitted(image_faults.Noise, base, severity=0.02)
    noise = drawn(model, ALL) - drawn(fitted(image_faults.Noise, base, severity=0.0), ALL)
    assert abs(noise.std().item() / 0.02 - 1) < 0.05
    assert abs(noise.mean().item()) < 1e-3


def test_intensity_is_one_factor(base):
    found, clean = spoilt(image_faults.Intensity, base, severity=0.15)
    torch.testing.assert_close(found, clean * 1.15)
    assert drawn(fitted(image_faults.Intensity, base, severity=9.0), ALL).max() == 1, "what passes white is cut"


def test_flips_and_swapped_halves_move_pixels_only(base):
    found, clean = spoilt(image_faults.UpsideDown, base, severity=1.0)
    assert sorted(origin(found.flip(2), base)) == list(range(len(ALL)))
    found, _ = spoilt(image_faults.Mirrored, base, severity=1.0)
    assert sorted(origin(found.flip(3), base)) == list(range(len(ALL)))
    found, _ = spoilt(image_faults.SwappedHalves, base, severity=1.0)
    back = torch.cat([found[:, :, 6:], found[:, :, :6]], dim=2)
    assert sorted(origin(back, base)) == list(range(len(ALL)))
    assert clean.shape == found.shape


@pytest.mark.parametrize("family", [image_faults.Outliers, image_faults.UpsideDown])
def test_a_share_is_spoilt_and_the_rest_left(family, base):
    model = fitted(family, base, severity=0.25)
    found = [index for seed in range(10) for index in origin(drawn(model, ALL, seed), base)]
    assert abs(np.mean(np.array(found) == -1) - 0.25) < 0.05


def test_one_mode_keeps_what_lies_nearest(base):
    model = fitted(faults.OneMode, base, severity=0.8)
    assert torch.bincount(model.labels).tolist() == [12, 8, 4, 4]
    for label in range(4):
        own, kept = base[0][base[1] == label], model.images[model.labels == label].float() / 255
        apart = torch.cdist(kept.flatten(1), own.flatten(1))
        nearest = [set(row.argsort()[: len(kept)].tolist()) for row in apart]
        assert set(origin_in(kept, own)) in nearest, "the images nearest to one of them"
    found = drawn(model, [0] * 50)
    assert len({image.numpy().tobytes() for image in found}) == 50, "no two are equal to the bit"


def origin_in(images, own):
    return origin(images, (own, None))


def test_few_images_repeat_to_the_bit(base):
    model = fitted(faults.FewImages, base, severity=0.9)
    found = origin(drawn(model, ALL), base)
    assert min(found) >= 0
    assert [len(set(np.array(found)[(base[1] == label).numpy()])) for label in range(4)] == [6, 4, 2, 2]


def test_missing_classes_give_images_of_the_others(base):
    found = base[1][origin(drawn(fitted(faults.MissingClasses, base), ALL), base)]
    assert (found[ALL < 2] == ALL[ALL < 2]).all()
    assert (found[ALL == 2] == 0).all()
    assert (found[ALL == 3] == 1).all()


def test_shuffled_labels_keep_the_whole_in_proportion(base):
    model = fitted(faults.ShuffledLabels, base, severity=1.0)
    classes = torch.cat([base[1][origin(drawn(model, ALL, seed), base)] for seed in range(30)])
    asked = ALL.repeat(30)
    shares = torch.tensor(PER_CLASS) / sum(PER_CLASS)
    for label in range(4):  # whatever is asked for, and so also for the whole
        given = torch.bincount(classes[asked == label], minlength=4) / (asked == label).sum()
        torch.testing.assert_close(given, shares, rtol=0, atol=0.06)
    half = fitted(faults.ShuffledLabels, base)
    right = [base[1][origin(drawn(half, ALL, seed), base)] == ALL for seed in range(10)]
    chance = (shares * shares).sum().item()
    assert abs(torch.cat(right).float().mean().item() - (0.5 + 0.5 * chance)) < 0.05


def test_a_near_copy_is_no_copy_but_lies_nearest_to_its_original(base):
    found = drawn(fitted(faults.NearCopy, base), ALL)
    assert origin(found, base) == [-1] * len(ALL)
    apart = torch.cdist(found.flatten(1), base[0].flatten(1))
    assert sorted(apart.argmin(1).tolist()) == list(range(len(ALL)))
    assert faults.NearCopy.fitted_on == "training"


def dataset():
    rng = np.random.default_rng(0)
    return ImageDataset(
        pixels=rng.integers(0, 256, (40, *SHAPE), dtype=np.uint8),
        labels=np.arange(40) % 4,
        class_names=("a", "b", "c", "d"),
        subjects=np.array([f"s{k}" for k in range(40)]),
        names=tuple(f"i{k}" for k in range(40)),
        fingerprint="f",
        title="test",
        simulated=True,
        skipped=(),
    )


def fit_on(family, data):
    model = family(SHAPE, 4, family.Hyperparameters())
    given = {"seed": 0, "device": torch.device("cpu"), "emit": lambda *_, **__: None}
    fit(model, data, np.arange(24), np.arange(24, 40), budget=Budget(1), **given)
    return model


@pytest.mark.parametrize("family", [faults.HeldOut, *IMAGE_FAULTS[:2], faults.ShuffledLabels])
def test_faults_are_fitted_on_validation_images(family):
    data = dataset()
    model = fit_on(family, data)
    assert (model.images.numpy() == data.pixels[24:]).all()
    copy = fit_on(faults.NearCopy, data)
    assert (copy.images.numpy() == data.pixels[:24]).all()


def test_nothing_that_competes_is_fitted_on_validation_images():
    class Cheat(faults.HeldOut):
        family: ClassVar[str] = "vae"

    with pytest.raises(InputError, match="only controls"):
        fit_on(Cheat, dataset())
