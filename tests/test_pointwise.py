"""The 1×1 convolution against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segcli.models.build import build_encoder
from segcli.models.pointwise import Pointwise, PointwiseConv2d


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pointwise_has_the_gradients_of_the_plain_one(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 7, 10, dtype=torch.float64).contiguous(memory_format=layout)
    x.requires_grad_()
    weight = torch.randn(3, 5, 1, 1, dtype=torch.float64, requires_grad=True)
    plain, fast = F.conv2d(x, weight), Pointwise.apply(x, weight)
    assert torch.equal(fast, plain)
    up = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, (x, weight), up)
    torch.testing.assert_close(torch.autograd.grad(fast, (x, weight), up), expected)


@pytest.mark.parametrize(("name", "count"), [("resnet50", 18), ("resnet18", 0)])
def test_only_the_deep_stages_are_swapped(name: str, count: int) -> None:
    """Two of each of the 9 blocks at strides 16 and 32; a ResNet-18 has only strided ones."""
    encoder = build_encoder(name)
    layers = [m for m in encoder.modules() if isinstance(m, PointwiseConv2d)]
    deep = [m for s in encoder.stages[3:] for m in s.modules() if isinstance(m, PointwiseConv2d)]
    assert len(layers) == len(deep) == count


def test_a_frozen_weight_gets_no_gradient() -> None:
    layer = PointwiseConv2d(4, 6, 1, bias=False)
    layer.weight.requires_grad_(False)
    x = torch.randn(1, 4, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None


def test_the_fast_way_back_is_taken_and_agrees_in_bfloat16() -> None:
    torch.manual_seed(0)
    fast = PointwiseConv2d(16, 24, 1, bias=False)
    x = torch.randn(2, 16, 9, 11, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = fast(x)
    assert "Pointwise" in type(y.grad_fn).__name__
    inputs = (x, fast.weight)
    found = torch.autograd.grad(y.float().square().sum(), inputs)
    exact = torch.autograd.grad(fast(x).square().sum(), inputs)
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).abs().max() < 0.05 * other.abs().max()
