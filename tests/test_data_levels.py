"""Whole numbers are counted and scaled once: the same bits as NumPy's percentiles and the plain formula give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bench.data import levels
from bench.data.faults import UnusableError
from bench.data.levels import normalised

NUMBERS = {"<i2": (-(2**15), 2**15 - 1), "u1": (0, 255), "<u2": (0, 2**16 - 1), "<f4": (-(2**15), 2**15 - 1)}
PERCENT = st.tuples(st.floats(0, 99), st.floats(1, 100)).filter(lambda pair: pair[0] < pair[1])


def plainly(values, percentiles, inside=None):
    """The formula, without counting; None where there is no foreground or one value."""
    values = values.astype(np.float32)
    chosen = values if inside is None else values[inside]
    foreground = chosen[chosen > values.min()]
    low, high = np.percentile(foreground, percentiles) if foreground.size else (0, 0)
    if not low < high:
        return None
    scaled = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1).astype(np.float32)
    return scaled if inside is None else scaled * inside


def check(values, percentiles, inside=None):
    expected = plainly(values, percentiles, inside)
    if expected is None:
        with pytest.raises(UnusableError, match=r"empty|one value"):
            normalised(values, percentiles, inside)
    else:
        got = normalised(values, percentiles, inside)
        assert got.dtype == np.float32
        assert got.tobytes() == expected.tobytes()


@settings(max_examples=300, deadline=None, database=None)
@given(st.data())
def test_whole_numbers(data):
    kind = data.draw(st.sampled_from(sorted(NUMBERS)))
    shape = data.draw(st.integers(1, 40))
    numbers = st.integers(*NUMBERS[kind])
    values = data.draw(arrays.arrays(kind, shape, elements=numbers.map(float) if kind == "<f4" else numbers))
    inside = data.draw(st.none() | arrays.arrays(bool, shape))
    check(values, data.draw(PERCENT), inside)


@pytest.mark.parametrize(
    "values",
    [
        np.float32([0.5, 1.5, 2.5, 4]),
        np.float32([0, 1, 2.25, 8]),
        np.float32([0, 70_000, 3, 5]),
        np.float32([2.0**25, 2.0**25 + 4, 2.0**25 + 8]),
        np.float32([-1e30, 1, 1e30]),
        np.float32([-60_000, 0.001, 5, 7]),
        np.int32([0, 2**30, 2**31 - 1, 7]),
        np.float32([7, 7, 7]),
        np.float32([0, 7, 7]),
    ],
    ids=["halves", "fraction", "wide", "beyond float32", "huge", "fraction lost", "wide whole", "constant", "two"],
)
def test_other_values(values):
    check(values, (1, 99.5))
    check(values, (1, 99.5), np.arange(len(values)) > 0)


def test_a_scan_in_any_order_of_memory_is_counted(monkeypatch):
    values = np.random.default_rng(0).integers(-1000, 3000, (30, 20, 10)).astype(np.int16)
    views = [values, values.transpose(2, 0, 1), values[::-1, :, ::-1], values[::2]]
    expected = [plainly(view, (1, 99.5)) for view in views]
    monkeypatch.setattr(levels.np, "percentile", None)
    for view, right in zip(views, expected, strict=True):
        assert np.array_equal(normalised(view, (1, 99.5)), right)
