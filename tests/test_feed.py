"""What batches are made of reaches a training with the same bits whichever way it is fetched."""

from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from bench import feed
from bench.average import Average
from bench.data.dataset import ImageDataset
from bench.feed import batches, bounded, fetched, scaled

CPU = torch.device("cpu")


@pytest.fixture(params=[np.uint8, np.uint16])
def data(request):
    high = np.iinfo(request.param).max
    pixels = np.random.default_rng(0).integers(0, high, (50, 1, 8, 8), dtype=request.param, endpoint=True)
    names = tuple(map(str, range(50)))
    return ImageDataset(pixels, np.arange(50) % 3, tuple("abc"), np.array(names), names, "0" * 16, "feed", True)


@pytest.mark.parametrize("ahead", [1, 3, 16])
def test_batches_fetched_together_are_the_batches_fetched_alone(data, monkeypatch, ahead):
    monkeypatch.setattr(feed, "AHEAD", ahead)
    chosen = list(islice(bounded(batches(np.arange(50), 8, 1), 8, None), 20))
    found = list(fetched(data, iter(chosen), CPU))
    assert len(found) == 20
    for (images, labels), indices in zip(found, chosen, strict=True):
        assert torch.equal(images, data.floats(indices))
        assert labels.tolist() == data.labels[indices].tolist()


def test_no_more_is_fetched_ahead_than_the_bytes_allow(data, monkeypatch):
    monkeypatch.setattr(feed, "AHEAD_BYTES", 1)
    asked = []
    monkeypatch.setattr(ImageDataset, "floats", lambda self, indices: asked.append(len(indices)) or torch.zeros(8, 1))
    next(fetched(data, bounded(batches(np.arange(50), 8, 1), 8, None), CPU))
    assert asked == [8]


def test_pixels_that_stay_on_a_device_have_the_same_bits(data, monkeypatch):
    if data.pixels.dtype != np.uint8:
        assert feed.resident(data, torch.device("cuda")) is None
        return
    monkeypatch.setattr(feed, "resident", lambda data, device: torch.from_numpy(data.pixels))
    chosen = list(islice(bounded(batches(np.arange(50), 8, 1), 8, None), 5))
    for (images, labels), indices in zip(fetched(data, iter(chosen), CPU), chosen, strict=True):
        assert torch.equal(images, data.floats(indices))
        assert labels.tolist() == data.labels[indices].tolist()


def test_scaling_by_torch_is_scaling_by_numpy():
    every = torch.arange(256, dtype=torch.uint8)
    expected = np.arange(256, dtype=np.float32) / np.float32(255)
    assert np.array_equal(scaled(every).numpy(), expected)


@pytest.mark.parametrize(("images", "sizes"), [(20, [8, 6, 6]), (17, [8, 4, 5]), (16, [8, 8]), (1, [2]), (8, [8])])
def test_the_last_batches_share_what_is_left(images, sizes):
    assert [len(chosen) for chosen in bounded(batches(np.arange(50), 8, 1), 8, images)] == sizes


def test_only_the_named_parts_are_averaged():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator, self.judge = nn.BatchNorm1d(2), nn.Linear(1, 1, bias=False)

    model = Pair()
    average = Average(model, 0.9, ("generator",))
    nn.init.constant_(model.generator.weight, 3.0)
    nn.init.constant_(model.judge.weight, 5.0)
    model.generator.running_mean = torch.full((2,), 2.0)  # a new tensor, not the old one changed
    model.generator.num_batches_tracked += 7
    average.update()
    average.load_into(model)
    decay = 2 / 11
    assert model.generator.weight.tolist() == pytest.approx([decay + (1 - decay) * 3.0] * 2)
    assert model.generator.running_mean.tolist() == pytest.approx([(1 - decay) * 2.0] * 2)
    assert model.generator.num_batches_tracked == 7
    assert model.judge.weight.item() == 5.0
