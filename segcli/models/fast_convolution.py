"""What the faster ways back through a convolution share: when they are taken, how they get in.

On a CPU in bfloat16 some gradients of oneDNN are several times slower than the same sum
written another way; `depthwise`, `grouped` and `pointwise` each replace one of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class FastConv2d(nn.Conv2d):
    """An `nn.Conv2d` without bias that trains through `fast` on a CPU in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        trains = x.device.type == "cpu" and torch.is_grad_enabled() and x.requires_grad
        if trains and torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            return self.fast(x.to(dtype), self.weight.to(dtype))
        return super().forward(x)

    def fast(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution of `x` `(N, C, H, W)` with `weight`, by its faster way."""
        raise NotImplementedError


def swap(network: nn.Module, kind: type[FastConv2d], suits: Callable[[nn.Conv2d], bool]) -> None:
    """Make a `kind` of every convolution in `network` that suits; weights and keys stay."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and child.bias is None and suits(child):
                twin = kind(
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


def has_same_padding(conv: nn.Conv2d) -> bool:
    """Whether a square kernel of k pixels is padded by k // 2, undilated, with zeros."""
    k = conv.kernel_size[0]
    return (
        conv.kernel_size == (k, k)
        and conv.padding == (k // 2, k // 2)
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
    )


def input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """oneDNN's gradient of `x`, for padding k // 2 and groups as the shapes say."""
    return _backward(gradient, x, weight, stride, of_weight=False)


def weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """oneDNN's gradient of the weight; of `weight` itself only the shape is read."""
    return _backward(gradient, x, weight, stride, of_weight=True)


def _backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, *, of_weight: bool
) -> Tensor:
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
