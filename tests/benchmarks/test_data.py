"""A prepared set of 10,000 images: opened at once, and trained from where it lies without a copy of it in memory."""

import subprocess
import sys

import numpy as np
import pytest

from bench.data.dataset import ImageDataset, prepare_dataset
from bench.data.duplicates import find_duplicates
from bench.data.images import ImageFolder

N, SIDE = 10_000, 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("set")
    pixels = np.random.default_rng(0).integers(0, 256, (N, 1, SIDE, SIDE), dtype=np.uint8)
    names = tuple(f"class/{number:05d}.png" for number in range(N))
    data = ImageDataset(pixels, np.arange(N) % 5, tuple("abcde"), np.array(names), names, "0" * 16, "t", False)
    data.save(where)
    return where


@pytest.mark.benchmark(group="10,000 images")
def test_opening(benchmark, folder):
    data = benchmark(lambda: ImageDataset.open(folder))
    assert len(data) == N
    assert benchmark.stats.stats.min < 1


@pytest.mark.benchmark(group="10,000 images")
def test_finding_that_nothing_changed(benchmark, tmp_path):
    """What every command does first: look at all files' sizes and times, then open what was prepared."""
    from PIL import Image

    for number in range(N):
        path = tmp_path / "root" / str(number % 5) / f"{number // 2:05d}{'LR'[number % 2]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number % 251, np.uint8) + np.eye(8, dtype=np.uint8)).save(path)
    options = {"root": str(tmp_path / "root"), "image_size": (8, 8), "subject_pattern": r"^(\d+)"}
    source = ImageFolder(ImageFolder.Options.model_validate(options))
    prepare_dataset("images", source, tmp_path / "cache")
    data = benchmark(lambda: prepare_dataset("images", source, tmp_path / "cache"))
    assert len(data) == N
    assert benchmark.stats.stats.min < 1


TRAIN = """
import sys
from pathlib import Path
import numpy as np, torch
from bench.data.dataset import ImageDataset
from bench.fit import batches

def private():
    return sum(int(line.split()[1]) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()
               if line.startswith(("Private_Dirty", "Anonymous"))) * 1024

torch.zeros(64, 1, 128, 128).mean()
before = private()
data = ImageDataset.open(Path(sys.argv[1]))
stream = batches(np.arange(len(data)), 64, 0)
for _ in range(len(data) // 64):
    data.floats(np.sort(next(stream))).mean()
print(private() - before, data.pixels.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.benchmark(group="10,000 images")
def test_an_epoch_copies_nothing(benchmark, folder):
    """Private memory hardly grows over an epoch that touches every image: the pages stay those of the file."""
    command = [sys.executable, "-c", TRAIN, str(folder)]
    done = benchmark.pedantic(lambda: subprocess.run(command, capture_output=True, text=True, check=True), rounds=1)
    grown, size = map(int, done.stdout.split())
    assert grown < size / 10, f"{grown:,} bytes of {size:,}"


@pytest.mark.benchmark(group="10,000 images")
def test_seeking_duplicates(benchmark, folder):
    """Seconds, not minutes: all pairs of 10,000 images."""
    data = ImageDataset.open(folder)
    assert benchmark.pedantic(lambda: find_duplicates(data), rounds=1) == []
    assert benchmark.stats.stats.min < 30
