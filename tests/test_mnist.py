"""Do samples read as digits? Families on MNIST, judged by a classifier that none of them has seen.

Needs MNIST's test set (t10k-images-idx3-ubyte.gz and its labels) in the folder named by BENCH_MNIST; skipped without. Its
10,000 images are split here into 6,000 to train the families on, 1,000 for validation and 3,000 to train and test the
classifier on (2,400 and 600), so that the judge shares no image with the judged. Up to half an hour per family.
"""

import functools
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.data.dataset import ImageDataset
from bench.fit import Budget, fit
from bench.plan import resolve_precision
from bench.registry import GENERATORS
from bench.sampling import generate
from bench.seeds import forked

FOLDER = os.environ.get("BENCH_MNIST")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="BENCH_MNIST names no folder with MNIST's test set"),
]
SAMPLES = 2000
CPU = torch.device("cpu")


@functools.cache
def mnist():
    """Return the data set and the indices of training, validation, and of the judge's training and test images."""
    folder = Path(FOLDER or "")
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    names = tuple(f"{index:05d}" for index in range(len(pixels)))
    classes = tuple(str(digit) for digit in range(10))
    data = ImageDataset(pixels, labels, classes, np.array(names), names, "mnist-test-10000", "MNIST", False)
    order = np.random.default_rng(0).permutation(len(data))
    return data, *(np.sort(part) for part in np.split(order, [6000, 7000, 9400]))


@functools.cache
def judge():
    """Return a small convolutional classifier, and its mean confidence and accuracy on digits it has not seen."""
    data, _, _, own, held = mnist()
    with forked(0, "judge"):
        network = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        labels = torch.from_numpy(data.labels)
        for _ in range(15):
            for part in torch.from_numpy(own)[torch.randperm(len(own))].split(64):
                optimizer.zero_grad()
                F.cross_entropy(network(data.floats(part.numpy())), labels[part]).backward()
                optimizer.step()
    network.eval()
    with torch.no_grad():
        probabilities = network(data.floats(held)).softmax(1)
    confidence, found = probabilities.max(1)
    accuracy = (found == labels[held]).float().mean().item()
    assert accuracy > 0.96, f"the judge reads real digits with {accuracy:.3f} only"
    return network, confidence.mean().item(), accuracy


CASES = {
    "dcgan": ({"conditional": True}, 240_000, 0.95),
    "wgan_gp": ({"conditional": True}, 240_000, 0.95),
    "ddim": ({"conditional": True}, 240_000, 0.95),
    "vae": ({}, 200_000, 0.8),
    "cvae": ({}, 200_000, 0.8),
    "logcosh_cvae": ({}, 200_000, 0.8),
}


@pytest.mark.parametrize("name", CASES)
def test_samples_read_as_digits(name):
    data, training, validation, _, _ = mnist()
    hyperparameters, budget, least = CASES[name]
    family = GENERATORS.get(name)
    with forked(0, "weights"):
        model = family(data.shape, data.num_classes, family.Hyperparameters(**hyperparameters))
    fitted = fit(
        model, data, training, validation, budget=Budget(budget), seed=0, device=CPU, emit=lambda *_, **__: None,
        precision=resolve_precision("auto", "cpu"),
    )  # fmt: skip
    labels = np.arange(SAMPLES) % 10
    images = generate(model, labels, 0, "mnist", device=CPU)
    network, real, accuracy = judge()
    with torch.no_grad():
        probabilities = network(torch.from_numpy(images).float() / 255).softmax(1)
    confidence, found = probabilities.max(1)
    share = confidence.mean().item() / real
    shares = np.bincount(found.numpy(), minlength=10) / SAMPLES
    variation = np.abs(shares - 0.1).sum() / 2
    told = (
        f"{name}: confidence {confidence.mean():.3f}, {share:.3f} of real digits' {real:.3f}; "
        f"total variation {variation:.3f}; "
        f"read as asked {(found.numpy() == labels).mean():.3f}; {fitted.seconds:.0f} s for {budget:,} images; "
        f"judge's accuracy {accuracy:.3f}"
    )
    print(told)  # noqa: T201
    assert share >= least, told
    assert variation <= 0.1, told
    assert fitted.seconds < 1800, told
