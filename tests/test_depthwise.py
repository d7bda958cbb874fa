"""The strided depthwise convolution against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segcli.models.build import build_encoder
from segcli.models.depthwise import StridedDepthwise, StridedDepthwiseConv2d


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)], ids=str)
def test_strided_depthwise_has_the_gradients_of_the_plain_one(
    kernel: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(x, weight, stride=2, padding=kernel // 2, groups=4)
    fast = StridedDepthwise.apply(x, weight)
    assert torch.equal(fast, plain)
    up = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, (x, weight), up)
    torch.testing.assert_close(torch.autograd.grad(fast, (x, weight), up), expected)


def test_mobilenets_have_their_strided_depthwise_layers_swapped() -> None:
    for name in ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"):
        encoder = build_encoder(name)
        layers = [m for m in encoder.modules() if isinstance(m, StridedDepthwiseConv2d)]
        assert len(layers) == 4


def test_the_fast_way_back_is_taken_and_agrees_in_bfloat16() -> None:
    torch.manual_seed(0)
    fast = StridedDepthwiseConv2d(8, 8, 3, 2, 1, groups=8, bias=False)
    x = torch.randn(2, 8, 16, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = fast(x)
    assert y.dtype == torch.bfloat16
    assert "StridedDepthwise" in type(y.grad_fn).__name__
    (gradient,) = torch.autograd.grad(y.float().square().sum(), x)
    (exact,) = torch.autograd.grad(fast(x).square().sum(), x)
    assert (gradient - exact).abs().max() < 0.05 * exact.abs().max()
