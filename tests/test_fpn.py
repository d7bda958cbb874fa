"""The pyramid against the papers' order of operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segcli.models.fpn import FPN, conv_of_sum

CLASSES = 5


def test_fpn_adds_from_the_top_down_and_merges_as_published() -> None:
    """Against the papers' order: every branch to stride 4, then the sum, then the classifier."""
    torch.manual_seed(0)
    fpn = FPN((4, 6, 8, 10), CLASSES, width=12, head_width=7).eval()
    for norm in (m for m in fpn.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.running_mean, -1, 1)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
        torch.nn.init.uniform_(norm.bias, -1, 1)
    torch.nn.init.normal_(fpn.classifier.bias)
    c = [torch.randn(2, n, 32 >> i, 48 >> i) for i, n in enumerate((4, 6, 8, 10))]
    with torch.no_grad():
        p5 = fpn.laterals["p5"](c[3])
        p4 = fpn.laterals["p4"](c[2]) + F.interpolate(p5, scale_factor=2)
        p3 = fpn.laterals["p3"](c[1]) + F.interpolate(p4, scale_factor=2)
        p2 = fpn.laterals["p2"](c[0]) + F.interpolate(p3, scale_factor=2)
        total = torch.zeros(2, 7, 32, 48)
        for name, x, ups in (("p2", p2, 0), ("p3", p3, 1), ("p4", p4, 2), ("p5", p5, 3)):
            blocks = fpn.branches[name].blocks if ups else [fpn.branch_p2]
            assert len(blocks) == max(ups, 1)
            for i in range(max(ups, 1)):
                x = blocks[i](x)
                if ups:
                    x = F.interpolate(x, scale_factor=2, mode="bilinear")
            total += x
        expected = fpn.classifier(total)
        torch.testing.assert_close(fpn(c).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3])
def test_conv_of_sum_is_the_convolution_of_the_sum(kernel: int) -> None:
    """Values and gradients, in float64, so that only the mathematics can differ."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(6, 5, kernel, padding=kernel // 2, dtype=torch.float64)
    lateral = torch.nn.Conv2d(3, 6, 1, dtype=torch.float64)
    fine = torch.randn(2, 3, 8, 12, dtype=torch.float64, requires_grad=True)
    coarse = torch.randn(2, 6, 4, 6, dtype=torch.float64, requires_grad=True)
    inputs = (fine, coarse, *conv.parameters(), *lateral.parameters())
    plain = conv(lateral(fine) + F.interpolate(coarse, scale_factor=2))
    split = conv_of_sum(conv, lateral=lateral, fine=fine, coarse=coarse)
    torch.testing.assert_close(split, plain)
    weights = torch.randn_like(plain)
    expected = torch.autograd.grad((plain * weights).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad((split * weights).sum(), inputs), expected)


def test_fpn_trains_alike_with_and_without_the_split() -> None:
    torch.manual_seed(0)
    fpn = FPN((4, 6, 8, 10), CLASSES, width=12, head_width=7, dropout=0.0).train()
    c = [torch.randn(2, n, 32 >> i, 48 >> i) for i, n in enumerate((4, 6, 8, 10))]
    assert fpn.splits_p2
    split = fpn(c)
    fpn.splits_p2 = False
    plain = fpn(c)
    torch.testing.assert_close(split.logits, plain.logits, atol=1e-5, rtol=1e-4)
    for name, logits in plain.auxiliary.items():
        torch.testing.assert_close(split.auxiliary[name], logits, atol=1e-5, rtol=1e-4)


def test_fpn_dropout_drops_the_same_channels_on_both_paths() -> None:
    fpn = FPN((4, 4, 4, 4), CLASSES, width=8, head_width=8, dropout=0.5).train()
    torch.nn.init.ones_(fpn.classifier.weight)
    torch.manual_seed(3)
    c = [torch.randn(2, 4, 16 >> i, 16 >> i) for i in range(4)]
    outputs = torch.stack([fpn(c).logits.detach() for _ in range(8)])
    assert outputs.std(dim=0).max() > 0  # random in training
    fpn.eval()
    assert torch.equal(fpn(c).logits, fpn(c).logits)
