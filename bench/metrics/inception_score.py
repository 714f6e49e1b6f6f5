r"""Inception Score (Salimans et al. 2016, arXiv 1606.03498): are images recognised, and as many different things?

    IS = exp( mean over x of KL( p(y|x) || p(y) ) ),  p(y) = mean over x of p(y|x)

On images of one organ a network trained on photographs sees one thing, and the score is near 1 whatever is generated: read
it beside the real images' own score only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.metrics.statistics import Array, feature_matrix

PARTS = 10
"""Into which the score is published as mean and deviation."""
SHUFFLE_SEED = 2020
"""Of torch-fidelity, so that the parts are the same images."""


def inception_score(
    *, logits: Any, splits: int = 1, rng: np.random.Generator | np.random.RandomState | None = None
) -> tuple[float, float]:
    """Return mean and deviation (divided by the number) of the score over equal parts of the images.

    In [1, number of classes], higher is better; 1 where all images get the same probabilities. With few images per part
    the score is biased downward, so one part is the default here (the original takes 10 parts of 5,000).

    Args:
        logits: [n, classes]; log-probabilities serve as well.
        splits: number of parts.
        rng: shuffles the images before they are parted; `RandomState(2020)` gives torch-fidelity's order.

    Raises:
        ValueError: fewer images than parts, or logits that are not finite.
    """
    matrix = feature_matrix(logits, "logits", least=max(1, splits))
    if splits < 1:
        raise ValueError(f"splits must be 1 or more, got {splits}")
    n = len(matrix)
    if rng is not None:
        matrix = matrix[rng.permutation(n)]
    log_p = matrix - _log_sum_exp(matrix, axis=1)
    scores = [_score(log_p[i * n // splits : (i + 1) * n // splits]) for i in range(splits)]
    return float(np.mean(scores)), float(np.std(scores))


def inception_score_parts(*, logits: Any) -> tuple[float, float]:
    """Return mean and deviation (divided by 10) over 10 parts of the shuffled images, as the score is published.

    Both have the bias of a tenth of the images: the mean lies below `inception_score` of all, the more the fewer there are.
    The deviation is not that over draws: it says how much a tenth of one draw strays.

    Raises:
        ValueError: fewer than 10 images, or logits that are not finite.
    """
    return inception_score(logits=logits, splits=PARTS, rng=np.random.RandomState(SHUFFLE_SEED))


def _score(log_p: Array) -> float:
    log_marginal = _log_sum_exp(log_p, axis=0) - np.log(len(log_p))
    # where p(y|x) underflows to 0 its logarithm is still finite, so 0 log 0 comes out as 0
    return float(np.exp((np.exp(log_p) * (log_p - log_marginal)).sum(axis=1).mean()))


def _log_sum_exp(values: Array, axis: int) -> Array:
    top = values.max(axis=axis, keepdims=True)
    result: Array = top + np.log(np.exp(values - top).sum(axis=axis, keepdims=True))
    return result
