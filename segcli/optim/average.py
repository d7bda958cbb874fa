"""An exponential moving average of weights, which is what gets validated and kept."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average of all parameters and floating buffers of a model.

    The decay rises with the updates, min(decay, (1 + t) / (10 + t)), so that early averages
    forget the random start. Integer buffers are copied.

    Args:
        model: averaged from its present state; not modified.
        decay: in [0, 1); 0 makes the average equal the model.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model` after an optimiser step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        own, other = self.model.state_dict(), model.state_dict()
        averaged = [k for k, v in own.items() if v.is_floating_point()]
        torch._foreach_lerp_([own[k] for k in averaged], [other[k] for k in averaged], 1.0 - decay)
        for name, value in own.items():
            if not value.is_floating_point():
                value.copy_(other[name])
