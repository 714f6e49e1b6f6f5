"""What a training step of each family costs, beside a yardstick of the same run: layers of plain torch, forth and back.

`tests/benchmarks/compare.py` holds the ratios to the committed ones; a training timed once by the clock strays tenfold on a
busy machine, the fastest of some steps in processor seconds hardly at all.
"""

import pytest
import torch
from torch import nn

from bench.model import Progress
from bench.registry import GENERATORS
from bench.seeds import forked, torch_rng

SHAPE, CLASSES, BATCH = (1, 32, 32), 4, 32
FAMILIES = ("vae", "cvae", "logcosh_cvae", "gan", "dcgan", "wgan_gp", "vae_gan", "ddim")
pytestmark = pytest.mark.usefixtures("one_thread")


def batch():
    rng = torch.Generator().manual_seed(0)
    return torch.rand(BATCH, *SHAPE, generator=rng), torch.arange(BATCH) % CLASSES


@pytest.mark.benchmark(group="training step, 32 images of 32x32", warmup=True, min_rounds=20)
def test_yardstick(benchmark):
    with forked(0, "weights"):
        network = nn.Sequential(
            nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(64 * 64, 256), nn.ReLU(), nn.Linear(256, 1024),
        )  # fmt: skip
    images, _ = batch()

    def step():
        network.zero_grad()
        network(images).square().mean().backward()

    benchmark(step)


@pytest.mark.benchmark(group="training step, 32 images of 32x32", warmup=True, min_rounds=20)
@pytest.mark.parametrize("name", FAMILIES)
def test_training_step(benchmark, name):
    family = GENERATORS.get(name)
    with forked(0, "weights"):
        model = family(SHAPE, CLASSES, family.Hyperparameters())
    optimizers, rng, number = model.configure_optimizers(), torch_rng(0, "training"), iter(range(10**9))
    images, labels = batch()
    model.train()

    def step():
        taken = next(number)
        return model.training_step(images, labels, optimizers, Progress(taken, taken * BATCH, 0.5), rng)

    losses = benchmark(step)
    assert all(bool(torch.isfinite(value)) for value in losses.values())
