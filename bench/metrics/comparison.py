"""Families compared over training seeds and test subjects, without torch (the report uses it).

A family's number differs for two reasons: another training seed, and other test subjects. The first is seen in the means
of its trainings, the second in bootstrap replicates over the same resamples of subjects for every training and family.
Percentiles of replicates pooled over a handful of seeds can't reach beyond the best and the worst seed: of 2,000
simulated families with three seeds, 95 % intervals made so covered 88 % (81 % for a difference), and nearly all with ten.
So the two variances are added, and Student's t says how far so few seeds may mislead. Nothing here reads results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Comparison(NamedTuple):
    """Two families compared: `first` minus `second`."""

    difference: float
    lower: float
    """95 % interval of the difference."""
    upper: float
    lower_probability: float
    """Probability that the first family's expected number is the lower one; 0.5 where nothing tells them apart."""


class _Spread(NamedTuple):
    variance: float
    freedom: float


def over_trainings(means: Sequence[float], replicates: Sequence[ArrayLike], level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a family's expected number, over test subjects and training seeds together.

    The variance of the mean is that between seeds divided by their number, plus that of the mean's replicates over
    subjects; degrees of freedom by Satterthwaite. Where the seeds agree it is the interval over subjects. With two
    seeds that differ it is very wide: two say almost nothing of a deviation. What one training makes of one subject
    is in both variances, so the interval is rather too wide than too narrow. A distance's lower end may fall below 0.

    Args:
        means: the number of each training; one: no deviation of training enters.
        replicates: per training, its number over resampled subjects; replicate b of all is the same resample.
        level: of the interval.

    Raises:
        ValueError: other than one row of replicates per training, rows of different length, values not finite.
    """
    seeds, table = _checked(means, replicates)
    half = _half([_between(seeds), _variance(table.mean(axis=0))], level)
    return float(seeds.mean() - half), float(seeds.mean() + half)


def compare(
    *,
    first: Sequence[float],
    second: Sequence[float],
    first_replicates: Sequence[ArrayLike],
    second_replicates: Sequence[ArrayLike],
    level: float = 0.95,
) -> Comparison:
    """Compare two families, paired over the resamples of subjects and independent in their training seeds.

    What both share (an odd test subject, the bias of resampling) drops out of the replicates' difference. Seeds of equal
    number have nothing in common between families, so they are not paired: Welch's test, with the subjects' variance.

    Args:
        first: the number of each of the first family's trainings; one: taken as it is, without deviation of training.
        second: of the second family's.
        first_replicates: per training, its number over resampled subjects.
        second_replicates: over the same resamples.
        level: of the interval of the difference.

    Raises:
        ValueError: see `over_trainings`; or different numbers of replicates.
    """
    (one, table), (two, other) = _checked(first, first_replicates), _checked(second, second_replicates)
    if table.shape[1] != other.shape[1]:
        raise ValueError(f"replicates are not paired: {table.shape[1]} and {other.shape[1]}")
    difference = float(one.mean() - two.mean())
    parts = [_between(one), _between(two), _variance(table.mean(axis=0) - other.mean(axis=0))]
    half = _half(parts, level)
    total, freedom = _together(parts)
    if total > 0:
        below = student_cdf(-difference / math.sqrt(total), freedom)
    else:
        below = 0.5 if difference == 0 else float(difference < 0)
    return Comparison(difference, difference - half, difference + half, below)


def holm(p_values: ArrayLike) -> Array:
    """Return p-values adjusted by Holm (1979): all that lie below a level hold together with that error, at most.

    Raises:
        ValueError: a value outside [0, 1].
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.size and not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p-values lie in [0, 1]")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted


def student_cdf(t: float, freedom: float) -> float:
    """Return the probability that Student's t with `freedom` degrees lies below `t`."""
    from scipy.special import stdtr  # a report that compares nothing needs no SciPy

    return float(stdtr(freedom, t))


def student_quantile(probability: float, freedom: float) -> float:
    """Return the value that Student's t lies below with this probability."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def _checked(means: Sequence[float], replicates: Sequence[ArrayLike]) -> tuple[Array, Array]:
    seeds = np.asarray(means, dtype=np.float64)
    rows = [np.asarray(row, dtype=np.float64) for row in replicates]
    if seeds.ndim != 1 or not seeds.size or len(rows) != len(seeds) or len({row.shape for row in rows}) != 1:
        raise ValueError("expected one row of replicates per training, all of the same length")
    table = np.stack(rows)
    if table.ndim != 2 or table.shape[1] < 2 or not np.isfinite(table).all() or not np.isfinite(seeds).all():
        raise ValueError("an interval needs two or more replicates, all finite")
    return seeds, table


def _between(seeds: Array) -> _Spread:
    """Variance of the mean over trainings; none where there is one."""
    if len(seeds) < 2:
        return _Spread(0.0, math.inf)
    return _Spread(float(seeds.var(ddof=1)) / len(seeds), len(seeds) - 1)


def _variance(replicates: Array) -> _Spread:
    return _Spread(float(replicates.var(ddof=1)), len(replicates) - 1)


def _together(parts: Sequence[_Spread]) -> tuple[float, float]:
    """Sum of variances, and its degrees of freedom by Satterthwaite (1946)."""
    total = math.fsum(part.variance for part in parts)
    if total <= 0:
        return 0.0, 1.0
    return total, 1 / math.fsum((part.variance / total) ** 2 / part.freedom for part in parts)


def _half(parts: Sequence[_Spread], level: float) -> float:
    total, freedom = _together(parts)
    return student_quantile((1 + level) / 2, freedom) * math.sqrt(total) if total > 0 else 0.0
