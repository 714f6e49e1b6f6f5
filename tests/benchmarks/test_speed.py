"""Speed as ratios, both sides measured in one run: absolute times of shared machines say nothing."""

import numpy as np
import pytest

from bench.metrics.frechet import FrechetReference, frechet_distance


def seconds(benchmark) -> float:
    """The fastest round: others on the machine disturb only upwards."""
    return float(benchmark.stats.stats.min)


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    return rng.normal(size=(256, 2048)), rng.normal(0.1, 1.1, size=(256, 2048))


STEPS: dict[str, float] = {}


@pytest.mark.benchmark(group="frechet step, n = 256, d = 2048")
def test_frechet_step(benchmark, features):
    real, generated = features
    value = benchmark(lambda: frechet_distance(real=real, generated=generated))
    STEPS["ours"], STEPS["our value"] = seconds(benchmark), value


@pytest.mark.benchmark(group="frechet step, n = 256, d = 2048")
def test_frechet_step_with_the_real_side_kept(benchmark, features):
    real, generated = features
    reference = FrechetReference(real)
    value = benchmark(lambda: reference.distance(generated))
    STEPS["kept"] = seconds(benchmark)
    assert value == pytest.approx(STEPS["our value"], rel=1e-9)


@pytest.mark.benchmark(group="frechet step, n = 256, d = 2048")
def test_frechet_step_of_torch_fidelity(benchmark, features):
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    def step():
        sides = [{"mu": side.mean(axis=0), "sigma": np.cov(side, rowvar=False)} for side in features]
        return fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"]

    value = benchmark.pedantic(step, rounds=2, iterations=1)
    assert STEPS["our value"] == pytest.approx(value, rel=1e-6)
    ratio = seconds(benchmark) / STEPS["ours"]
    benchmark.extra_info["ratio to ours"] = ratio
    assert ratio > 10, f"only {ratio:.1f} times faster than torch-fidelity"
