"""What scoring costs when there is more of it: nothing grows faster than the number of draws, images or families.

Ratios of one run, in seconds of the processor (other processes on the machine don't count). Kernel matrices and neighbours
grow as the square of the n of a protocol by nature, so n stays and what must not grow is asserted: the seconds per draw with
the number of draws, per image extracted with the number of images, per family with the number of families. Peak memory is
that of fresh processes.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.data.dataset import ImageDataset
from bench.evaluate import Scorer, make_protocol
from bench.metrics.features import RandomFeatures
from bench.suite import EvaluationSpec

SIDE, CLASS, CLASSES = 32, 40, 3
MORE = 1.25
"""How much dearer one of four times as many may be: what the timing of a busy machine strays by.

A part that grows as the square and is a tenth of the cost at first makes it 1.3.
"""


def world(side: int) -> tuple[ImageDataset, SimpleNamespace]:
    rng = np.random.default_rng(0)
    count = 3 * CLASS * CLASSES
    labels = np.tile(np.arange(CLASSES), count // CLASSES)
    data = ImageDataset(
        pixels=rng.integers(0, 256, (count, 1, side, side), dtype=np.uint8),
        labels=labels,
        class_names=tuple("abc"),
        subjects=np.array([f"s{index // 4}" for index in range(count)]),
        names=tuple(map(str, range(count))),
        fingerprint="0" * 16,
        title="scaling",
        simulated=True,
        skipped=(),
    )
    train, validation, test = np.split(np.arange(count), 3)
    return data, SimpleNamespace(train=train, validation=validation, test=test, seed=0)


class Suite:
    """The real side done once, and generators that score against it."""

    def __init__(self, draws: int, side: int = SIDE) -> None:
        torch.set_num_threads(1)
        data, split = world(side)
        self.side = side
        # one resample a draw, so that twice the draws is twice of everything
        spec = EvaluationSpec(draws=draws, samples_per_draw=CLASS, few=CLASS, bootstrap=draws)
        self.protocol = make_protocol(data, split, spec)
        self.extractor = RandomFeatures()
        real = {"random": self.extractor(data.bytes(self.protocol.union))}
        self.scorer = Scorer(data, split, self.protocol, spec, {"random": self.extractor}, real)
        self.labels = self.protocol.labels(True)

    def family(self, seed: int = 0, told: Callable[[int], object] = lambda number: None) -> None:
        """Score one; `told` hears the number of each draw before it is drawn."""
        shape = (len(self.labels), 1, self.side, self.side)

        def draw(number: int):
            told(number)
            images = np.random.default_rng((seed, number)).integers(0, 256, shape, dtype=np.uint8)
            return images, self.labels

        self.scorer.score(draw, conditional=True, emit=lambda *_, **__: None)


def processor_seconds(work, repeats: int = 2) -> float:
    """The fewest of some repeats, after one that is not counted."""
    found = []
    for _ in range(repeats + 1):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found[1:])


def compared(benchmark, what: str, seconds: dict[int, float]) -> None:
    """Record and judge: four times as much may cost `MORE` times four times as much."""
    least, most = min(seconds), max(seconds)
    assert most == 4 * least
    ratio = seconds[most] / seconds[least]
    benchmark.extra_info[f"seconds of {most} {what} over those of {least}"] = round(ratio, 3)
    assert ratio < 4 * MORE, f"four times as many {what} cost {ratio:.2f} times as much"


@pytest.mark.benchmark(group="scaling")
def test_draws_cost_the_same_each(benchmark):
    suites = {count: Suite(count) for count in (4, 16)}
    seconds = {count: processor_seconds(suite.family) for count, suite in suites.items()}
    benchmark.pedantic(suites[4].family, rounds=1, iterations=1)
    compared(benchmark, "draws", seconds)


@pytest.mark.benchmark(group="scaling")
def test_families_cost_the_same_each(benchmark):
    suite = Suite(2)

    def families(count: int) -> float:
        return processor_seconds(lambda: [suite.family(seed) for seed in range(count)])

    seconds = {count: families(count) for count in (2, 8)}
    benchmark.pedantic(suite.family, rounds=1, iterations=1)
    compared(benchmark, "families", seconds)


@pytest.mark.benchmark(group="scaling")
def test_images_cost_the_same_each_to_extract(benchmark):
    """Whole batches, since the last one is filled up."""
    extractor = RandomFeatures()
    torch.set_num_threads(1)
    batch = extractor.batch_size
    images = np.random.default_rng(0).integers(0, 256, (8 * batch, 1, SIDE, SIDE), dtype=np.uint8)
    seconds = {count: processor_seconds(lambda count=count: extractor(images[: count * batch])) for count in (2, 8)}
    benchmark.pedantic(lambda: extractor(images[:batch]), rounds=1, iterations=1)
    compared(benchmark, "batches of images", seconds)


LARGE, FEW, MANY = 128, 10, 70
"""Side of the images, and numbers of draws, that show memory."""


def peaks() -> tuple[int, int]:
    """The peak of a fresh process that scores by every default measure, after `FEW` and after `MANY` draws.

    Of one process: two of them differ by some 20 MB before anything is scored.
    """
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from bench.metrics import against; against.DIVERSITY_PAIRS = 8  # the memory is the same, the time is not\n"
        "from test_scaling import FEW, LARGE, MANY, Suite\n"
        "from bench.metrics.cost import peak_memory_bytes\n"
        "Suite(MANY, LARGE).family(told=lambda number: print(peak_memory_bytes()) if number == FEW else None)\n"
        "print(peak_memory_bytes())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    few, many = map(int, found.stdout.split())
    return few, many


@pytest.mark.benchmark(group="scaling")
def test_peak_memory_is_flat_in_the_number_of_draws(benchmark):
    """60 more draws add less than half of what their images alone would take, so they are not kept.

    What is held between draws is flat; the peak is the greatest of many, and strays upward by 5 to 40 MB, most of it early.
    """
    few, many = benchmark.pedantic(peaks, rounds=1, iterations=1)
    images = (MANY - FEW) * CLASS * CLASSES * LARGE**2
    benchmark.extra_info[f"peak after {MANY} draws over that after {FEW}"] = round(many / few, 4)
    assert many - few < images / 2, f"{MANY} draws take {many / 2**20:.0f} MiB, {FEW} take {few / 2**20:.0f}"
