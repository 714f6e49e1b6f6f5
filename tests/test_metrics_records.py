"""Records of measures, costs, and that the light rooms stay light."""

import subprocess
import sys
import time

import pytest
from torch import nn

from bench.metrics.cost import parameter_count, peak_memory_bytes, timer
from bench.metrics.records import COSTS, GROUPS, MEASURES


def test_groups_and_costs_hold_every_measure_once():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted([*grouped, *COSTS]) == sorted(MEASURES)
    assert {MEASURES[name].needs for name in COSTS} == {"cost"}
    assert GROUPS["precision_recall"] == ("precision", "recall", "density", "coverage")
    assert GROUPS["memorization"] == ("memorization", "near_copies")


@pytest.mark.parametrize("measure", MEASURES.values(), ids=lambda measure: measure.name)
def test_every_record_is_complete(measure):
    assert measure.title
    assert measure.reference
    assert measure.low < measure.high
    assert measure.better in ("higher", "lower", "none")


@pytest.mark.parametrize(
    ("module", "absent"), [("records", ("torch", "numpy")), ("statistics", ("torch", "scipy")), ("cost", ("torch",))]
)
def test_light_modules_import_nothing_heavy(module, absent):
    code = f"import sys, bench.metrics.{module}; print([n for n in {absent!r} if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_peak_memory_rises_with_what_is_held():
    before = peak_memory_bytes()
    held = bytearray(before + 50_000_000)  # zeroed pages count once they are touched
    held[::4096] = b"x" * len(held[::4096])
    assert peak_memory_bytes() >= len(held)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's high-water mark")
def test_peak_memory_is_not_inherited_from_the_parent():
    held = bytearray(400_000_000)
    held[::4096] = b"x" * len(held[::4096])
    code = "from bench.metrics.cost import peak_memory_bytes; print(peak_memory_bytes())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5_000_000 < int(found.stdout) < 200_000_000


def test_timer_measures_the_block_even_if_it_fails():
    with pytest.raises(RuntimeError), timer() as measured:
        time.sleep(0.05)
        raise RuntimeError
    assert 0.05 <= measured.seconds < 5


def test_shared_parameters_count_once():
    layer = nn.Linear(3, 4)
    assert parameter_count(nn.Sequential(layer, nn.ReLU(), layer, nn.BatchNorm1d(4))) == 16 + 8
