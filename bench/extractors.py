"""From a protocol's words to an extractor: known features by name, a network file as the protocol describes it.

The domain's own features are not made here: they are fitted on a suite's training images.
"""

from __future__ import annotations

from typing import Any

import torch

from bench.metrics.features import FeatureExtractor
from bench.registry import FEATURES
from bench.suite import EvaluationSpec


def build_extractor(name: str, spec: EvaluationSpec, device: torch.device) -> FeatureExtractor:
    """Build an extractor, unchecked.

    Args:
        name: one of the protocol's features, but 'domain'.
        spec: says how.
        device: where its network runs.

    Raises:
        UnavailableError: it can't be had here; says why and what would help.
    """
    how = spec.extractor(name)
    if how.file is not None and how.size is not None:
        from bench.metrics.exported import ExportedFeatures, Input

        takes = Input(how.size, how.channels, how.mean, how.std, how.resize)
        return ExportedFeatures(name=name, file=how.file, takes=takes, precision=how.precision, device=device)
    if FEATURES.describe(name).attributes.get("network"):
        return FEATURES.get(name)(weights=how.weights, precision=how.precision, compiled=how.compiled, device=device)
    return FEATURES.get(name)(device=device)


def state_of(extractor: FeatureExtractor) -> dict[str, Any]:
    """What stands beside every number on these features: rule, version, backend, details; JSON-able."""
    return {
        "status": "ok",
        "dimensions": extractor.dimensions,
        "rule": extractor.rule,
        "version": extractor.version,
        "backend": extractor.backend,
        "details": extractor.details,
        "doubt": extractor.doubt,
    }
