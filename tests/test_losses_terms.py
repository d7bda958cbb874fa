"""Every loss against a plain definition in float64, its gradient, and what must not matter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from segcli.losses.cross_entropy import cross_entropy, focal, ohem
from segcli.losses.regions import bce, dice, lovasz

K = 5
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5])
Loss = Callable[..., Tensor]
LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "cross_entropy, smoothed": partial(cross_entropy, label_smoothing=0.1),
    "ohem": partial(ohem, threshold=0.3, keep=0.5),
    "ohem, few": partial(ohem, threshold=0.01, keep=0.1),
    "ohem, smoothed": partial(ohem, label_smoothing=0.1),
    "focal": focal,
    "focal, half": partial(focal, gamma=0.5),
    "dice": dice,
    "lovasz": lovasz,
    "bce": bce,
}
every = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
weights = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
quick = settings(max_examples=5, deadline=None, derandomize=True)


def batch(seed: int = 0, *, spread: float = 2.0, present: int = K) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(2, K, 7, 9, generator=generator)
    target = torch.randint(0, present + 1, (2, 7, 9), generator=generator).to(torch.uint8)
    target[target == present] = 255
    return logits, target


def one_hot(target: Tensor) -> Tensor:
    return (target[:, None] == torch.arange(K)[:, None, None]).to(torch.uint8) * 255


def soft_batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Shares that sum to 1, to less where a part is ignored, and to 0 where all is."""
    logits, target = batch(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    other = torch.randint(0, K, target.shape, generator=generator).to(torch.uint8)
    part = torch.rand(target.shape, generator=generator)[:, None]
    share = part * one_hot(target) / 255 + (1 - part) * one_hot(other) / 255
    whole = torch.rand(target.shape, generator=generator)[:, None] > 0.2
    return logits, share * whole


def pixels(logits: Tensor, target: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Valid pixels alone: logits (n, K) and classes (n,), in float64."""
    flat = logits.double().movedim(1, -1).reshape(-1, K).numpy()
    labels = target.long().flatten().numpy()
    return flat[labels != 255], labels[labels != 255]


def probabilities(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def expect(ours: Tensor, theirs: float, rtol: float = 2e-6) -> None:
    assert ours.dtype == torch.float32
    assert ours.ndim == 0
    assert ours.item() == pytest.approx(float(theirs), rel=rtol)


@weights
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_its_formula(weight: Tensor | None, gamma: float) -> None:
    logits, target = batch()
    z, y = pixels(logits, target)
    p = probabilities(z)[np.arange(len(y)), y]
    w = np.ones(len(y)) if weight is None else weight.double().numpy()[y]
    theirs = (w * (1 - p) ** gamma * -np.log(p)).sum() / w.sum()
    expect(focal(logits, target, weight=weight, gamma=gamma), theirs)


def test_focal_without_an_exponent_is_cross_entropy() -> None:
    for logits, target in (batch(), soft_batch()):
        torch.testing.assert_close(focal(logits, target, gamma=0), cross_entropy(logits, target))


@pytest.mark.parametrize(
    ("threshold", "keep"), [(0.7, 0.0625), (0.3, 0.5), (0.01, 0.1), (0.01, 1.0)]
)
def test_ohem_is_the_definition_of_pidnet(threshold: float, keep: float) -> None:
    """Sorted by the probability of the true class, cut at a threshold that keeps enough."""
    logits, target = batch()
    z, y = pixels(logits, target)
    p = np.sort(probabilities(z)[np.arange(len(y)), y])
    enough = int(np.ceil(keep * len(p)))
    bound = max(threshold, p[enough]) if enough < len(p) else 2.0
    theirs = -np.log(p[p < bound]).mean()
    expect(ohem(logits, target, threshold=threshold, keep=keep), theirs)


@weights
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ohem_that_keeps_all_is_cross_entropy(weight: Tensor | None, smoothing: float) -> None:
    same = {"weight": weight, "label_smoothing": smoothing}
    for logits, target in (batch(), soft_batch()):
        torch.testing.assert_close(
            ohem(logits, target, keep=1.0, **same), cross_entropy(logits, target, **same)
        )


def test_ohem_keeps_all_pixels_that_are_as_hard_as_the_last() -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.uint8)
    flat = torch.zeros(1, K, 4, 4, requires_grad=True)
    loss = ohem(flat, target, threshold=0.1, keep=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(K))
    assert flat.grad is not None
    assert (flat.grad[:, 0] < 0).all()


def test_ohem_hands_on_what_is_not_a_number() -> None:
    logits, target = batch()
    logits[0, 0, 0, 0] = float("nan")
    target[0, 0, 0] = 1
    assert ohem(logits, target).isnan()


@weights
@pytest.mark.parametrize("present", [K, 3])
def test_dice_is_its_formula(weight: Tensor | None, present: int) -> None:
    logits, target = batch(present=present)
    z, y = pixels(logits, target)
    p, t = probabilities(z), np.eye(K)[y]
    each = 1 - 2 * (p * t).sum(0) / (p.sum(0) + t.sum(0))
    w = (t.sum(0) > 0) * (1 if weight is None else weight.numpy())
    expect(dice(logits, target, weight=weight), (each * w).sum() / w.sum())


def jaccard_loss(truth: np.ndarray, wrong: np.ndarray) -> float:
    """Of a class whose pixels are `truth` when exactly the pixels `wrong` are mistaken."""
    return float(1 - (truth & ~wrong).sum() / (truth | wrong).sum())


@weights
@pytest.mark.parametrize("present", [K, 3])
def test_lovasz_is_its_definition(weight: Tensor | None, present: int) -> None:
    """The extension of the Jaccard loss of sets, as definition 1 of arXiv 1705.08790 has it."""
    logits, target = batch(present=present)
    z, y = pixels(logits, target)
    p, each, shares = probabilities(z), [], []
    for k in np.unique(y):
        truth = y == k
        error = np.abs(truth - p[:, k])
        wrong, before, total = np.zeros(len(y), dtype=bool), 0.0, 0.0
        for i in np.argsort(-error):
            wrong[i] = True
            after = jaccard_loss(truth, wrong)
            total, before = total + error[i] * (after - before), after
        each.append(total)
        shares.append(1.0 if weight is None else weight[k].item())
    expect(lovasz(logits, target, weight=weight), np.average(each, weights=shares), rtol=1e-5)


def test_lovasz_of_hard_mistakes_is_the_jaccard_loss() -> None:
    """On the corners, probabilities of 0 and 1, the extension is the set function itself."""
    _, target = batch(1)
    guess = torch.randint(0, K, target.shape, generator=torch.Generator().manual_seed(2))
    z, y = pixels(200.0 * one_hot(guess.to(torch.uint8)), target)
    answer = z.argmax(1)
    each = [jaccard_loss(y == k, (answer == k) != (y == k)) for k in np.unique(y)]
    logits = 200.0 * one_hot(guess.to(torch.uint8))
    expect(lovasz(logits, target), float(np.mean(each)), rtol=1e-5)


@weights
def test_bce_is_that_of_torch_per_channel(weight: Tensor | None) -> None:
    logits, target = batch(spread=20.0)
    z, y = pixels(logits, target)
    each = F.binary_cross_entropy_with_logits(
        torch.from_numpy(z), torch.from_numpy(np.eye(K)[y]), reduction="none"
    ).mean(0)
    theirs = np.average(each.numpy(), weights=None if weight is None else weight.numpy())
    expect(bce(logits, target, weight=weight), float(theirs))


@pytest.mark.parametrize("present", [K, 3])
def test_equals_segmentation_models_pytorch(present: int) -> None:
    """Its Dice divides by all classes where ours divides by those that are present."""
    smp = pytest.importorskip("segmentation_models_pytorch.losses")
    functional = pytest.importorskip("segmentation_models_pytorch.losses._functional")
    logits, target = batch(present=present)
    labels, valid = target.long(), target != 255
    theirs = smp.DiceLoss("multiclass", ignore_index=255)(logits, labels) * K / present
    torch.testing.assert_close(dice(logits, target), theirs)
    theirs = smp.LovaszLoss("multiclass", ignore_index=255)(logits, labels)
    torch.testing.assert_close(lovasz(logits, target), theirs, rtol=1e-5, atol=0)
    chosen = logits.movedim(1, -1)[valid]
    theirs = functional.softmax_focal_loss_with_logits(chosen, labels[valid], gamma=2.0)
    torch.testing.assert_close(focal(logits, target), theirs)
    channels = F.one_hot(labels[valid], K).float()
    theirs = smp.SoftBCEWithLogitsLoss(ignore_index=None)(chosen, channels)
    torch.testing.assert_close(bce(logits, target), theirs)
    theirs = smp.SoftCrossEntropyLoss(smooth_factor=0.1)(chosen, labels[valid])
    ours = cross_entropy(logits, target, label_smoothing=0.1)
    torch.testing.assert_close(ours, theirs)


@every
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@weights
def test_gradient_is_that_of_the_value(loss: Loss, soft: bool, weight: Tensor | None) -> None:
    logits, target = soft_batch(3) if soft else batch(3)
    logits, target = logits[:1, :, :2, :3].double().requires_grad_(), target[:1, ..., :2, :3]
    double = None if weight is None else weight.double()
    assert torch.autograd.gradcheck(lambda z: loss(z, target, weight=double), (logits,))


@every
@weights
@quick
@given(seed=st.integers(0, 10_000), present=st.integers(1, K))
def test_hard_targets_are_soft_targets_of_one_class(
    loss: Loss, weight: Tensor | None, seed: int, present: int
) -> None:
    logits, target = batch(seed, present=present)
    hard, hard_slope = value_and_slope(loss, logits, target, weight)
    for channels in (one_hot(target), one_hot(target).float() / 255):
        soft, soft_slope = value_and_slope(loss, logits, channels, weight)
        torch.testing.assert_close(soft, hard, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(soft_slope, hard_slope, rtol=1e-4, atol=1e-7)
    wide, _ = value_and_slope(loss, logits, target.long(), weight)
    assert torch.equal(wide, hard)


def value_and_slope(
    loss: Loss, logits: Tensor, target: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, target, weight=weight)
    value.backward()
    assert logits.grad is not None
    return value.detach(), logits.grad


@every
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@quick
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_pixels_does_not_matter(loss: Loss, soft: bool, seed: int) -> None:
    logits, target = soft_batch(seed) if soft else batch(seed)
    # A few levels only, so that many pixels are equally wrong.
    logits = logits.round()
    order = torch.randperm(7 * 9, generator=torch.Generator().manual_seed(seed))
    value, slope = value_and_slope(loss, logits, target)
    mixed = [x.flatten(-2)[..., order].reshape(x.shape) for x in (logits, target)]
    value_mixed, slope_mixed = value_and_slope(loss, *mixed)
    torch.testing.assert_close(value_mixed, value)
    expected = slope.flatten(-2)[..., order].reshape(slope.shape)
    torch.testing.assert_close(slope_mixed, expected, rtol=1e-4, atol=1e-7)


@every
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@quick
@given(seed=st.integers(0, 10_000), noise=st.sampled_from([1.0, 100.0]))
def test_ignored_pixels_do_not_matter(loss: Loss, soft: bool, seed: int, noise: float) -> None:
    logits, target = soft_batch(seed) if soft else batch(seed)
    ignored = (target.sum(1) == 0 if soft else target == 255)[:, None]
    value, slope = value_and_slope(loss, logits, target)
    assert (slope * ignored == 0).all()
    other = noise * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))
    value_other, slope_other = value_and_slope(loss, torch.where(ignored, other, logits), target)
    torch.testing.assert_close(value_other, value)
    torch.testing.assert_close(slope_other, slope, rtol=1e-4, atol=1e-7)


@every
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_more_padding_does_not_matter(loss: Loss, soft: bool) -> None:
    logits, target = soft_batch() if soft else batch()
    value, slope = value_and_slope(loss, logits, target)
    padded = F.pad(logits, (3, 2, 0, 4), value=7.0)
    value_padded, slope_padded = value_and_slope(
        loss, padded, F.pad(target, (3, 2, 0, 4), value=0 if soft else 255)
    )
    torch.testing.assert_close(value_padded, value)
    torch.testing.assert_close(slope_padded[..., :7, 3:12], slope, rtol=1e-4, atol=1e-7)


@every
@weights
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_no_valid_pixel_gives_zero_and_zero_gradient(
    loss: Loss, weight: Tensor | None, soft: bool
) -> None:
    logits, target = batch()
    target = torch.zeros(2, K, 7, 9, dtype=torch.uint8) if soft else torch.full_like(target, 255)
    value, slope = value_and_slope(loss, logits, target, weight)
    assert value.item() == 0
    assert (slope == 0).all()


@every
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_sure_answers_keep_the_gradient_finite(loss: Loss, soft: bool) -> None:
    """Probabilities of exactly 0 and 1, right and wrong."""
    _, target = batch()
    for shift in (0, 1):
        logits = 1000.0 * one_hot((target + shift) % K).float()
        value, slope = value_and_slope(loss, logits, one_hot(target) if soft else target)
        assert value.isfinite()
        assert slope.isfinite().all()


@every
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_autocast_and_memory_layout_change_nothing(loss: Loss, soft: bool) -> None:
    logits, target = soft_batch() if soft else batch()
    half = logits.bfloat16()
    value, slope = value_and_slope(loss, half.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        cast, cast_slope = value_and_slope(loss, half, target)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, value)
    assert torch.equal(cast_slope, slope.bfloat16())
    layout, _ = value_and_slope(
        loss, half.float().contiguous(memory_format=torch.channels_last), target
    )
    assert torch.equal(layout, value)


@pytest.mark.parametrize("loss", [dice, lovasz])
def test_soft_shares_that_are_met_cost_nothing(loss: Loss) -> None:
    share = torch.softmax(torch.randn(2, K, 7, 9, generator=torch.Generator().manual_seed(0)), 1)
    assert loss(share.log(), share).item() < 1e-6
