"""Cross-entropy against plain definitions, and the edges where it must not become NaN."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from segcli.losses.supervised import (
    SegmentationLoss,
    class_weights_from_counts,
    cross_entropy,
    shrink_target,
)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 7, 9, generator=generator)
    target = torch.randint(0, 6, (2, 7, 9), generator=generator).to(torch.uint8)
    target[target == 5] = 255
    return logits, target


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_torch_on_hard_labels(weighted: bool, smoothing: float, layout) -> None:
    logits, target = batch()
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5]) if weighted else None
    ours = cross_entropy(
        logits.contiguous(memory_format=layout), target, weight=weight, label_smoothing=smoothing
    )
    theirs = F.cross_entropy(
        logits, target.long(), weight, ignore_index=255, label_smoothing=smoothing
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("weighted", [False, True])
def test_soft_targets_that_are_hard_give_the_hard_loss(weighted: bool) -> None:
    logits, target = batch()
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5]) if weighted else None
    channels = (target[:, None] == torch.arange(5)[:, None, None]).to(torch.uint8) * 255
    torch.testing.assert_close(
        cross_entropy(logits, channels, weight=weight), cross_entropy(logits, target, weight=weight)
    )
    torch.testing.assert_close(
        cross_entropy(logits, channels.float() / 255, weight=weight),
        cross_entropy(logits, target, weight=weight),
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_no_valid_pixel_gives_zero_and_zero_gradient(weighted: bool, soft: bool) -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    target = torch.zeros(1, 3, 4, 4) if soft else torch.full((1, 4, 4), 255, dtype=torch.uint8)
    weight = torch.ones(3) if weighted else None
    loss = cross_entropy(logits, target, weight=weight)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_levels_are_weighted_by_their_mean() -> None:
    logits, target = batch()
    levels = {"p2": torch.randn(2, 5, 4, 5), "p3": torch.randn(2, 5, 2, 3)}
    losses = SegmentationLoss(auxiliary=0.4)(logits, levels, target)
    assert set(losses) == {"segmentation", "p2", "p3", "total"}
    expected = losses["segmentation"] + 0.4 * (losses["p2"] + losses["p3"]) / 2
    torch.testing.assert_close(losses["total"], expected)


def test_shrunken_targets_pick_centres_and_average_areas() -> None:
    target = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4)
    assert shrink_target(target, (2, 2)).tolist() == [[[5, 7], [13, 15]]]
    soft = torch.tensor([255, 0, 0, 0], dtype=torch.uint8).reshape(1, 1, 2, 2)
    assert shrink_target(soft, (1, 1)).item() == pytest.approx(0.25)


def test_class_weights() -> None:
    counts = torch.tensor([900, 100, 0])
    assert class_weights_from_counts(counts, "none") is None
    sqrt = class_weights_from_counts(counts, "sqrt")
    assert sqrt is not None
    assert sqrt[1] / sqrt[0] == pytest.approx(3.0)
    assert sqrt[:2].mean() == pytest.approx(1.0)
    assert sqrt[2] == 1
    log = class_weights_from_counts(counts, "log")
    assert log is not None
    assert log[1] / log[0] == pytest.approx(math.log(1.92) / math.log(1.12), rel=1e-6)
