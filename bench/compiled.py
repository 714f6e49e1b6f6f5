"""A family's networks under torch.compile, where a suite asks for it (`compile: true`).

Compiled, a step's many small operations become few: faster, after a minute's start in every process, and not the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from bench.errors import UnavailableError
from bench.metrics.networks import no_compiler
from bench.model import GenerativeModel, Translator
from bench.per_class import PerClass


def compile_networks(model: GenerativeModel | Translator, device: torch.device) -> bool:
    """Compile a model's networks in place, each at its first call; return whether this family's are.

    Weights, their names and copies of the model stay what they were.

    Raises:
        UnavailableError: nothing here can compile.
    """
    if lack := no_compiler(device):
        raise UnavailableError(f"compile is asked for, but {lack}; install it or leave `compile` out")
    found = list(networks(model))
    for network in found:
        network.compile()
    return bool(found)


def networks(model: GenerativeModel | Translator) -> Iterator[nn.Module]:
    """What of a model is compiled: its direct parts that are called, of each class's model where there are several."""
    if isinstance(model, PerClass):
        for label in range(model.num_classes):
            yield from networks(model.of_class(label))
    elif model.compiles:
        yield from _called(model)


def _called(module: nn.Module) -> Iterator[nn.Module]:
    for part in module.children():
        if isinstance(part, nn.ModuleList | nn.ModuleDict):  # never called themselves
            yield from _called(part)
        elif any(True for _ in part.parameters()):
            yield part
