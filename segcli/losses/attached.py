"""A scalar whose gradient was computed along with it.

Automatic differentiation would write every step of the arithmetic to memory at the size of
the logits, which on a CPU costs more than the arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Attached(torch.autograd.Function):
    """A value and its gradient with respect to an input, both computed beforehand."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = source.dtype
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_output).to(ctx.dtype), None, None


def attach(source: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """The scalar `value`, with `gradient` (of the shape of `source`) as its slope there."""
    attached: Tensor = _Attached.apply(source, value, gradient)
    return attached
