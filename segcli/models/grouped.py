"""A faster way back to the weights of ResNeXt's grouped convolutions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Channels of a group that fill a vector of 16 numbers: narrower groups leave it part empty.
FULL_GROUP = 16


class GroupedConv(torch.autograd.Function):
    """Grouped convolution, padding k // 2, whose weight gradient joins narrow groups.

    `x` is `(N, C, H, W)`, `weight` `(D, C / groups, k, k)`; the result is
    `(N, D, ⌈H/stride⌉, ⌈W/stride⌉)`, for odd k.

    The gradient of the weights is that of wider groups, `join` narrow ones each, of which
    only the blocks on the diagonal are kept: more products, and each vector full of them.
    For 32 groups of 4 channels, `(8, 128, 88, 120)` in bfloat16, oneDNN took 76 ms of a
    core for its own gradient and 29 ms for the one of groups of 16.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, join: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.join = stride, join
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        gradient_x = gradient_weight = None
        if ctx.needs_input_grad[0]:
            gradient_x = _convolution_backward(gradient, x, weight, ctx.stride, of_weight=False)
        if ctx.needs_input_grad[1]:
            d, c, *kernel = weight.shape
            wide = weight.new_empty(d, ctx.join * c, *kernel)
            wide = _convolution_backward(gradient, x, wide, ctx.stride, of_weight=True)
            gradient_weight = _diagonal(wide, x.shape[1] // c, ctx.join)
        return gradient_x, gradient_weight, None, None


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, *, of_weight: bool
) -> Tensor:
    """One of the two gradients of a padded convolution, grouped as the shapes say."""
    padding = [weight.shape[-1] // 2] * 2
    groups = x.shape[1] // weight.shape[1]
    result: Tensor = torch.ops.aten.convolution_backward(
        gradient,
        x,
        weight,
        None,
        [stride, stride],
        padding,
        [1, 1],
        False,
        [0, 0],
        groups,
        [not of_weight, of_weight, False],
    )[of_weight]
    return result


def _diagonal(wide: Tensor, groups: int, join: int) -> Tensor:
    """Of `(D, join · c, k, k)` each group's own c input channels: `(D, c, k, k)`."""
    d, channels, *kernel = wide.shape
    # d is (joined groups, groups in one, channels out), channels is (groups in one, c).
    blocks = wide.reshape(groups // join, join, d // groups, join, channels // join, *kernel)
    own = blocks.diagonal(dim1=1, dim2=3)
    return own.movedim(-1, 1).reshape(d, channels // join, *kernel)


class GroupedConv2d(nn.Conv2d):
    """An `nn.Conv2d` that trains through `GroupedConv` on a CPU in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        trains = x.device.type == "cpu" and torch.is_grad_enabled() and x.requires_grad
        if trains and torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            join = joined_groups(self.in_channels, self.groups)
            result: Tensor = GroupedConv.apply(
                x.to(dtype), self.weight.to(dtype), self.stride[0], join
            )
            return result
        return super().forward(x)


def joined_groups(channels: int, groups: int) -> int:
    """How many groups of `channels // groups` make a full one: a divisor of `groups`."""
    join = 1
    while channels // groups * join < FULL_GROUP and groups % (2 * join) == 0:
        join *= 2
    return join


def speed_up_grouped(network: nn.Module) -> None:
    """Swap the narrow grouped convolutions in `network`; weights and keys stay."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and _is_narrow(child):
                twin = GroupedConv2d(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,  # type: ignore[arg-type]
                    stride=child.stride,  # type: ignore[arg-type]
                    padding=child.padding,  # type: ignore[arg-type]
                    groups=child.groups,
                    bias=False,
                )
                twin.weight = child.weight
                setattr(parent, name, twin)


def _is_narrow(conv: nn.Conv2d) -> bool:
    k = conv.kernel_size[0]
    return (
        1 < conv.groups < conv.in_channels
        and joined_groups(conv.in_channels, conv.groups) > 1
        and conv.bias is None
        and conv.stride[0] == conv.stride[1]
        and conv.dilation == (1, 1)
        and conv.kernel_size == (k, k)
        and conv.padding == (k // 2, k // 2)
        and conv.padding_mode == "zeros"
    )
