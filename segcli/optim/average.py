"""An exponential moving average of weights, which is what gets validated and kept."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


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
        self._source: nn.Module | None = None
        self._averaged: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._copied: tuple[list[Tensor], list[Tensor]] = ([], [])

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model` after an optimiser step."""
        if model is not self._source:
            self._pair(model)
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(*self._averaged, 1.0 - decay)
        if self._copied[0]:
            torch._foreach_copy_(*self._copied)

    def restart(self) -> None:
        """Forget the past: within some ten updates the average is one of what comes from here on.

        For where a new stage begins. Weights and BatchNorm's statistics of small pictures are not
        those that large ones want, and a short stage would keep a good part of them to its end.
        """
        self.updates = 0

    def _pair(self, model: nn.Module) -> None:
        """List what belongs together once: names cost more time than numbers."""
        own, other = self.model.state_dict(), model.state_dict()
        floating = [k for k, v in own.items() if v.is_floating_point()]
        whole = [k for k, v in own.items() if not v.is_floating_point()]
        self._averaged = ([own[k] for k in floating], [other[k] for k in floating])
        self._copied = ([own[k] for k in whole], [other[k] for k in whole])
        self._source = model
