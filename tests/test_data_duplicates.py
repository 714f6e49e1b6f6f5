"""Repeated images: copies are found whatever was done to them, alike ones are not, and dropping spares the test side."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage

from bench.data.dataset import ImageDataset
from bench.data.duplicates import find_duplicates
from bench.data.splits import Split
from bench.divide import across, crossing, divide, remarks
from bench.errors import InputError
from bench.suite import SplitSpec

RNG = np.random.default_rng(0)


def picture(seed):
    """Smooth structure with some texture, as an X-ray has."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((64, 64)), 6) * 12 + ndimage.gaussian_filter(
        rng.standard_normal((64, 64)), 1
    )
    field -= field.min()
    return (field / field.max() * 230 + 10).astype(np.uint8)


def dataset(images, labels=None, **changes):
    pixels = np.stack(images)[:, None]
    names = tuple(f"{index}.png" for index in range(len(pixels)))
    labels = np.arange(len(pixels)) % 2 if labels is None else np.array(labels)
    given = {"subjects": np.array(names), "simulated": False, **changes}
    return ImageDataset(pixels, labels, ("a", "b"), names=names, fingerprint="0" * 16, title="t", **given)


def jpeg(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=40)
    return np.asarray(Image.open(stream))


COPIES = {
    "exact": lambda image: image.copy(),
    "jpeg": jpeg,
    "contrast": lambda image: np.asarray(ImageEnhance.Contrast(Image.fromarray(image)).enhance(0.7)),
    "noise": lambda image: (image + RNG.normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8),
    "halved": lambda image: np.asarray(Image.fromarray(image).resize((32, 32)).resize((64, 64))),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_found_and_others_are_not(how):
    images = [picture(seed) for seed in range(40)]
    images.append(COPIES[how](images[7]))
    (pair,) = find_duplicates(dataset(images))
    assert pair[:2] == (7, 40)
    assert pair.exact == (how == "exact")
    assert pair.correlation >= 0.99


def test_what_was_found_is_kept_beside_the_set(tmp_path, monkeypatch):
    data = dataset([picture(0), picture(1), picture(0)])
    first = find_duplicates(data, tmp_path)
    monkeypatch.setattr("bench.data.duplicates._search", lambda data: pytest.fail("sought again"))
    assert find_duplicates(data, tmp_path) == first
    (file,) = tmp_path.iterdir()
    monkeypatch.undo()
    file.write_bytes(b"damaged")
    assert find_duplicates(data, tmp_path) == first


def spoilt(n=60, copies=((0, 1), (0, 2), (3, 4))):
    images = [picture(seed) for seed in range(n)]
    for first, second in copies:
        images[second] = images[first]
    return dataset(images)


def test_dropping_takes_from_the_earlier_side():
    data = spoilt(60, [(a, a + 30) for a in range(30)])
    split, pairs = divide(data, SplitSpec())
    borders = crossing(split, pairs)
    assert len(pairs) == 30
    assert across(split, pairs) == {"pairs": 30, "across": len(borders), "exact_across": len(borders)}
    assert any("are the same" in note for note in remarks(data, split, pairs))
    dropped, _ = divide(data, SplitSpec(duplicates="drop"))
    assert not crossing(dropped, pairs)
    assert dropped.test.tolist() == split.test.tolist(), "what is tested on stays"
    assert len(dropped.train) + len(dropped.validation) == len(split.train) + len(split.validation) - len(borders)
    assert dropped.hash != split.hash
    assert f"{len(borders)} images that repeat one of a later part were dropped" in dropped.notes


def test_without_duplicates_dropping_changes_nothing():
    data = spoilt(copies=())
    assert divide(data, SplitSpec())[0].hash == divide(data, SplitSpec(duplicates="drop"))[0].hash


def test_a_class_that_dropping_would_empty(tmp_path):
    images = [picture(0)] * 4 + [picture(seed) for seed in range(1, 9)]
    data = dataset(images, [0] * 4 + [1] * 8)
    with pytest.raises(InputError, match=r"drop: train would lose its last image of class 'a'; use duplicates: report"):
        divide(data, SplitSpec(duplicates="drop"))


def test_simulated_images_are_not_sought():
    data = dataset([picture(0)] * 8, simulated=True)
    assert divide(data, SplitSpec())[1] == []


def test_subjects_of_several_classes():
    data = dataset([picture(seed) for seed in range(20)], subjects=np.array([f"p{n // 2}" for n in range(20)]))
    split, pairs = divide(data, SplitSpec())
    assert "10 subjects have images of several classes and stay on one side" in remarks(data, split, pairs)
    with pytest.raises(
        InputError, match=r"label_per: subject: 10 subjects .* first is 'p0' \(a, b\); mend .* leave label_per out"
    ):
        divide(data, SplitSpec(label_per="subject"))
    leaky, pairs = divide(data, SplitSpec(by="slice"))
    assert any(note.endswith("more than one side of the split") for note in remarks(data, leaky, pairs))


def test_old_splits_keep_their_hash():
    """Written down before folds, tables and repeats came: ids of results that stand rest on it."""
    data = dataset([picture(seed) for seed in range(12)])
    split, _ = divide(data, SplitSpec())
    assert Split.from_json(split.to_json()).hash == split.hash
    assert sorted(split.to_json()) == ["by", "leaking_subjects", "seed", "test", "train", "validation"]
    assert split.hash == "c0aed6a7895242ef", "as version 0.1.0 had it"
