"""The sum of losses, cross-entropy by its plain definition, and the edges without NaN."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from segcli.errors import ConfigError
from segcli.losses.supervised import (
    SegmentationLoss,
    class_weights_from_counts,
    cross_entropy,
    shrink_target,
)
from segcli.recipes.training_freeze import COMPILED_TERMS


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


TERMS = {"cross_entropy": 0.5, "dice": 2.0, "lovasz": 1.0, "ohem": 0.25, "focal": 3.0, "bce": 1.5}


def test_terms_are_summed_by_weight_and_named() -> None:
    logits, target = batch()
    levels = {"p2": torch.randn(2, 5, 4, 5), "p3": torch.randn(2, 5, 2, 3)}
    losses = SegmentationLoss(terms=TERMS, label_smoothing=0.1)(logits, levels, target)
    assert set(losses) == {"segmentation", *TERMS, "p2", "p3", "total"}
    torch.testing.assert_close(
        losses["segmentation"], sum(weight * losses[name] for name, weight in TERMS.items())
    )
    for name in TERMS:
        alone = SegmentationLoss(terms={name: 2.0}, label_smoothing=0.1)(logits, {}, target)
        assert set(alone) == {"segmentation", "total"}
        torch.testing.assert_close(alone["total"], 2 * losses[name])


def test_settings_reach_their_terms() -> None:
    logits, target = batch()
    easy = SegmentationLoss(terms={"ohem": 1}, ohem_threshold=0.01, ohem_keep=1.0)
    torch.testing.assert_close(easy(logits, {}, target)["total"], cross_entropy(logits, target))
    flat = SegmentationLoss(terms={"focal": 1}, focal_gamma=0.0)
    torch.testing.assert_close(flat(logits, {}, target)["total"], cross_entropy(logits, target))


@pytest.mark.parametrize("soft", [False, True])
def test_logits_of_another_size_are_read_at_the_labels_own(soft: bool) -> None:
    _, target = batch()
    small = torch.randn(2, 5, 4, 5, dtype=torch.bfloat16)
    if soft:
        target = (target[:, None] == torch.arange(5)[:, None, None]).to(torch.uint8) * 255
    losses = SegmentationLoss()(small, {"p2": small}, target)
    large = F.interpolate(small.float(), (7, 9), mode="bilinear", align_corners=False)
    torch.testing.assert_close(losses["segmentation"], cross_entropy(large, target))
    torch.testing.assert_close(
        losses["p2"], cross_entropy(small, shrink_target(target, small.shape[-2:]))
    )
    assert losses["total"].dtype == torch.float32


@pytest.mark.parametrize("soft", [False, True])
def test_levels_may_go_on_where_nothing_is_labelled(soft: bool) -> None:
    """Levels of a padded picture: what they say beside the picture counts nothing."""
    logits, target = batch()
    assert target.shape[-2:] == (7, 9)
    level = torch.randn(2, 5, 4, 6)  # stride 2, of 8 × 12
    labels = F.pad(target, (0, 3, 0, 1), value=255)
    if soft:
        target, labels = (
            (x[:, None] == torch.arange(5)[:, None, None]).to(torch.uint8) * 255
            for x in (target, labels)
        )
    padded = (8 / 7, 12 / 9)
    losses = SegmentationLoss()(logits, {"p3": level}, target, padded)
    expected = cross_entropy(level, shrink_target(labels, (4, 6)))
    torch.testing.assert_close(losses["p3"], expected)
    level[..., 5:] += 9 * torch.rand(5, 1, 1)
    again = SegmentationLoss()(logits, {"p3": level}, target, padded)
    assert torch.equal(again["total"], losses["total"])


def test_unknown_terms_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown loss 'lovaz' \(did you mean 'lovasz'\?\)"):
        SegmentationLoss(terms={"lovaz": 1.0})
    with pytest.raises(ConfigError, match="known: cross_entropy, ohem"):
        SegmentationLoss(terms={"xyz": 1.0})
    with pytest.raises(ConfigError, match="no loss"):
        SegmentationLoss(terms={})


@pytest.mark.parametrize("term", ["cross_entropy", "focal", "bce"])
@pytest.mark.parametrize("weighted", [False, True])
def test_processes_with_the_mean_count_give_the_loss_of_the_whole_batch(
    term: str, weighted: bool
) -> None:
    """The mean over two halves, one of them nearly all ignored."""
    logits, target = batch()
    target[1, 1:] = 255
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5]) if weighted else None
    seen: list[torch.Tensor] = []

    def note(count: torch.Tensor) -> torch.Tensor:
        seen.append(count)
        return count

    def mean(count: torch.Tensor) -> torch.Tensor:
        return torch.stack(seen).float().mean()

    halves = [(logits[i : i + 1], {}, target[i : i + 1]) for i in range(2)]
    for half in halves:
        SegmentationLoss(terms={term: 1}, class_weights=weight, count_over=note)(*half)
    loss = SegmentationLoss(terms={term: 1}, class_weights=weight, count_over=mean)
    local = torch.stack([loss(*half)["total"] for half in halves]).mean()
    whole = loss.alone()(logits, {}, target)["total"]
    torch.testing.assert_close(local, whole)
    assert loss.count_over is mean


@pytest.mark.slow
@pytest.mark.parametrize("terms", [{"cross_entropy": 1.0}, {"cross_entropy": 1.0, "focal": 0.5}])
def test_compiled_it_is_one_graph_and_the_same_loss(terms: dict[str, float]) -> None:
    logits, target = batch()
    levels = {"p2": torch.randn(2, 5, 4, 5), "p3": torch.randn(2, 5, 2, 3)}
    loss = SegmentationLoss(terms=terms, class_weights=torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5]))
    assert loss.terms.keys() <= COMPILED_TERMS
    results = []
    for compiled in (False, True):
        if compiled:
            loss.compile(dynamic=False, fullgraph=True)
        leaves = [t.clone().requires_grad_() for t in (logits, *levels.values())]
        found = loss(leaves[0], dict(zip(levels, leaves[1:], strict=True)), target, (1.0, 1.0))
        gradients = torch.autograd.grad(found["total"], leaves)
        results.append([*found.values(), *gradients])
    torch.testing.assert_close(*results)
    alone = loss.alone()(logits, {}, target)["segmentation"]
    torch.testing.assert_close(alone, results[0][0].detach())
