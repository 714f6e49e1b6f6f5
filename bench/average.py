"""The moving average of a model's weights that is scored where a family asks for one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of a model's weights, with warm-up (Karras et al. 2024, appendix; TF's num_updates).

    The decay after t updates is min(decay, (1 + t) / (10 + t)); buffers (batch norm) are averaged if floating point,
    copied otherwise.

    Args:
        model: whose weights.
        decay: at most.
        parts: attributes of the model to be averaged; all if none are named.
    """

    def __init__(self, model: nn.Module, decay: float, parts: tuple[str, ...] = ()) -> None:
        self.decay, self.updates = decay, 0
        own = tuple(f"{part}." for part in parts)
        self.state = {
            name: value.detach().clone()
            for name, value in model.state_dict().items()
            if not own or name.startswith(own)
        }
        # found once: to walk through all modules costs more than the average itself
        found: dict[str, tuple[dict[str, Any], str]] = {}
        for prefix, module in model.named_modules():
            for held in (module._parameters, module._buffers):
                found |= {f"{prefix}.{name}".removeprefix("."): (held, name) for name in held}
        self._moved, self._copied = (
            [(mean, *found[name]) for name, mean in self.state.items() if mean.is_floating_point() == floating]
            for floating in (True, False)
        )

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the model's present weights, in one call for all of them."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        # looked up by name each time: a family may put a new tensor in a buffer's place
        present = [held[name] for _, held, name in self._moved]
        torch._foreach_lerp_([mean for mean, _, _ in self._moved], present, weight)
        for mean, held, name in self._copied:
            mean.copy_(held[name])

    def load_into(self, model: nn.Module) -> None:
        """Give the model the averages in place of its weights; what isn't averaged stays."""
        model.load_state_dict({**model.state_dict(), **self.state})

    def restore(self, updates: int, state: dict[str, Tensor]) -> None:
        """Take up what a checkpoint kept."""
        self.updates = updates
        for name, mean in self.state.items():
            mean.copy_(state[name])
