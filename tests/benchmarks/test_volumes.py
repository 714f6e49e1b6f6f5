"""Slices from volumes against the loop that people write with nibabel, at equal output, on two processors.

The loop loads a volume, makes its axes canonical, takes the central slices, scales and resizes them, one volume after the
other. Ours reads no more than is needed, several volumes side by side. The ratio is of wall clock in one run, with the
files in the operating system's cache. Peak memory is that of a fresh process.
"""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from bench.data.slicing import Recipe
from bench.data.volume_pool import make_job, run_jobs

_spec = importlib.util.spec_from_file_location("volume_fixture", Path(__file__).parents[1] / "volume_fixture.py")
_fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixture)

SHAPE, VOLUMES, WORKERS = (256, 256, 150), 8, 2
"""IXI's size: 20 MB of int16."""
RECIPE = Recipe(grid="native", slices=10, image_size=(64, 64), fit="stretch")
LEAST = {"nii": 3.5, "nii.gz": 2.5}
"""Times faster that must be held. Aimed at are 5 and 1.8; measured on two processors that a dozen processes shared: 4.4 to 7.9
uncompressed (fewest seconds of 8 repeats: 5.8, in either order of axes), 5.3 to 11.6 compressed. Of a processor's time an
uncompressed volume takes 6.9 ms (IXI's order: 9.2), 2.8 of them the resize, where the loop takes 28 (30)."""
PEAK_MB = 1000

two_processors = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < WORKERS, reason="needs two processors"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Volumes with noise as of a scanner, stored in canonical order and in IXI's."""
    folder = tmp_path_factory.mktemp("volumes")
    noise = np.random.default_rng(0).normal(0, 12, SHAPE)
    values = (_fixture.phantom(SHAPE) + noise).clip(0).astype(np.int16)
    for axes in ("RAS", "PSR"):
        for suffix in LEAST:
            first = _fixture.write_nifti(folder / f"{axes}-0.{suffix}", values, axes=axes)
            for number in range(1, VOLUMES):
                (folder / f"{axes}-{number}.{suffix}").hardlink_to(first)
    return folder


def plain_loop(paths: list[Path]) -> np.ndarray:
    """What one writes with nibabel."""
    found = []
    for path in paths:
        volume = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata(dtype=np.float32)
        start = (volume.shape[2] - RECIPE.slices) // 2
        slices = volume[:, :, start : start + RECIPE.slices]
        low, high = np.percentile(slices[slices > slices.min()], RECIPE.percentiles)
        scaled = np.clip((slices - low) / (high - low), 0, 1).astype(np.float32)
        for k in range(RECIPE.slices):
            picture = Image.fromarray(np.ascontiguousarray(scaled[:, ::-1, k].T))
            resized = np.asarray(picture.resize(RECIPE.image_size[::-1], Image.Resampling.BICUBIC)).clip(0, 1)
            found.append(np.rint(resized * 255).astype(np.uint8))
    return np.stack(found)


def best(work, repeats: int = 5) -> tuple[float, np.ndarray]:
    """The fewest seconds of some repeats, and what came out."""
    seconds = []
    for number in range(repeats):
        start = time.perf_counter()
        out = work(number)
        seconds.append(time.perf_counter() - start)
    return min(seconds), out


@two_processors
@pytest.mark.parametrize("axes", ["RAS", "PSR"])
@pytest.mark.parametrize("suffix", LEAST)
@pytest.mark.benchmark(group="slices from volumes")
def test_slices_against_the_plain_loop(benchmark, folder, tmp_path, axes, suffix):
    paths = sorted(folder.glob(f"{axes}-*.{suffix}"))
    assert len(paths) == VOLUMES

    def ours(number: int) -> np.ndarray:
        cache = tmp_path / str(number)  # nothing is kept from one repeat to the next
        return np.concatenate(list(run_jobs([make_job(path, RECIPE, {}, cache) for path in paths], WORKERS)))

    plain, expected = best(lambda number: plain_loop(paths), 3)
    seconds, got = benchmark.pedantic(lambda: best(ours), rounds=1, iterations=1)
    assert np.abs(got.astype(int) - expected).max() <= 1
    ratio = plain / seconds
    benchmark.extra_info |= {"plain loop": plain, "ours": seconds, "ratio": ratio}
    assert ratio >= LEAST[suffix], f"only {ratio:.1f} times faster"


PEAK = """
import re, sys
from pathlib import Path
from bench.data.dataset import prepare_dataset
from bench.data.volumes import Volumes
options = Volumes.Options(root=sys.argv[1], label_pattern="(RAS|PSR)", grid=sys.argv[2])
prepare_dataset("volumes", Volumes(options), Path(sys.argv[3]))
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("grid", ["native", "mni"])
@pytest.mark.benchmark(group="peak memory of slices from volumes")
def test_peak_memory(benchmark, folder, tmp_path, grid):
    command = [sys.executable, "-c", PEAK, str(folder), grid, str(tmp_path)]
    done = benchmark.pedantic(
        lambda: subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True),
        rounds=1,
        iterations=1,
    )
    peak = int(done.stdout)
    benchmark.extra_info["peak memory, MB"] = peak
    assert peak < PEAK_MB
