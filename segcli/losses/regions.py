"""Losses of one class at a time: Dice and Lovász-softmax over the batch, and BCE per channel.

Shapes and targets as in `targets.py`. The value and its gradient are computed together,
plane by plane: automatic differentiation would write every step of the arithmetic to
memory at the size of the logits, which on a CPU costs more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from segcli.losses.attached import attach
from segcli.losses.targets import CountOver, class_share, mean_over, planes, valid_share

# Loss of a class and its slope per pixel, from the difference between probability and
# share, their sum, and the labelled pixels of all classes.
_ClassLoss = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def dice(
    logits: Tensor, target: Tensor, *, ignore_index: int = 255, weight: Tensor | None = None
) -> Tensor:
    """1 - Dice of the softmax probabilities over the batch, mean over the classes present.

    Of a class with probabilities p and shares t over the valid pixels it is
    sum |p - t| / sum (p + t), which for hard targets is 1 - 2 sum p t / (sum p + sum t), and
    which for soft ones is least at p = t (arXiv 2303.16296). Classes that the target does
    not hold are left out of the mean, as in Lovász-softmax. A pixel of which a part is
    ignored counts by the shares of its labelled part.

    Args:
        logits: (N, K, H, W), any float type.
        target: hard uint8 or int64 (N, H, W), or soft (N, K, H, W).
        weight: (K,) class weights; the mean over classes is weighted by them.

    Returns:
        Scalar float32 tensor in 0..1; 0 with zero gradient where no pixel is valid.
    """
    return _over_classes(_dice_class, logits, target, ignore_index, weight)


def lovasz(
    logits: Tensor, target: Tensor, *, ignore_index: int = 255, weight: Tensor | None = None
) -> Tensor:
    """Lovász-softmax over the batch, mean over the classes present (arXiv 1705.08790).

    Errors are ordered by their exponent and the first 11 bits of their mantissa, down to
    2^-31. Errors that agree in these share the mean slope of the two extreme orders,
    so that the order of the pixels never matters. Counting them takes a ninth of the time of
    the sort by value, and moves the loss by about 1e-6 of itself.

    A soft target: errors are |p - t|, and a pixel belongs to the class of its largest share.

    Args:
        logits, target: as in `dice`.
        weight: (K,) class weights; the mean over classes is weighted by them.

    Returns:
        Scalar float32 tensor in 0..1; 0 with zero gradient where no pixel is valid.
    """
    return _over_classes(_lovasz_class, logits, target, ignore_index, weight)


def bce(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    count_over: CountOver | None = None,
) -> Tensor:
    """Binary cross-entropy of the sigmoid of each channel with its one-hot (or soft) share.

    The mean over valid pixels and channels. A pixel counts by its labelled share.

    Args:
        logits, target: as in `dice`.
        weight: (K,) class weights; the mean over channels is weighted by them.
        count_over: as in `cross_entropy`.

    Returns:
        Scalar float32 tensor; 0 with zero gradient where no pixel is valid.
    """
    with torch.no_grad():
        z = planes(logits)
        valid = valid_share(target, ignore_index)
        weights = z.new_ones(z.shape[1]) if weight is None else weight.to(z.dtype)
        scale = mean_over(weights / weights.sum(), valid.sum(), count_over)
        slope = torch.empty_like(z)
        value = z.new_zeros(())
        for k in range(z.shape[1]):
            z_k, t_k = z[:, k], class_share(target, k, ignore_index)
            # log(1 + e) errs by 6e-8 where log1p would not, in a fifth of its time.
            loss = z_k.abs().neg_().exp_().add_(1).log_().add_(z_k.clamp(min=0))
            value += loss.mul_(valid).sub_(z_k * t_k).sum() * scale[k]
            torch.mul(torch.sigmoid(z_k).mul_(valid).sub_(t_k), scale[k], out=slope[:, k])
    return attach(logits, value, slope)


def _over_classes(
    class_loss: _ClassLoss,
    logits: Tensor,
    target: Tensor,
    ignore_index: int,
    weight: Tensor | None,
) -> Tensor:
    """Weighted mean of `class_loss` over the classes present, with its gradient."""
    with torch.no_grad():
        p = F.softmax(planes(logits), dim=1)
        mass = valid_share(target, ignore_index)
        valid = (mass > 0).to(p.dtype)
        p.mul_(valid[:, None])
        owner = target if target.ndim == 3 else target.argmax(1)
        slope = torch.empty_like(p)
        value, total = p.new_zeros(()), p.new_zeros(())
        for k in range(p.shape[1]):
            t_k = class_share(target, k, ignore_index)
            if target.ndim == 4:
                t_k.div_(mass.clamp(min=1e-6))
            mine = (owner == k).mul_(valid > 0)
            loss, slope_k = class_loss(p[:, k] - t_k, p[:, k] + t_k, mine, valid)
            share = (t_k.sum() > 0).to(p.dtype)
            if weight is not None:
                share = share * weight[k]
            value += loss * share
            total += share
            torch.mul(slope_k, share, out=slope[:, k])
        total.clamp_(min=1e-6)
        # Through the softmax: dL/dz = p (dL/dp - sum over classes of p dL/dp).
        mean = torch.zeros_like(valid)
        for k in range(p.shape[1]):
            mean.addcmul_(p[:, k], slope[:, k])
        slope.sub_(mean[:, None]).mul_(p.div_(total))
    return attach(logits, value / total, slope)


def _dice_class(
    difference: Tensor, total: Tensor, mine: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    size = total.sum().clamp(min=1e-6)
    loss = difference.abs().sum() / size
    return loss, difference.sign_().sub_(loss).div_(size)


# 31 powers of two with 2^11 steps each, and everything below them.
_OCTAVES, _BITS = 31, 11
_BINS = (_OCTAVES << _BITS) + 1
_LOWEST = (127 - _OCTAVES) << _BITS


def _lovasz_class(
    difference: Tensor, total: Tensor, mine: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Slopes are the steps of the Jaccard loss as pixels join in the order of their errors.

    With F and B the pixels inside and outside the class whose errors are larger and P all
    that are inside, the loss is 1 - (P - F) / (P + B). A pixel inside moves it by
    1 / (P + B), one outside by (P - F) / ((P + B) (P + B + 1)).
    """
    error = difference.abs()
    bits = error.float().view(torch.int32) >> (23 - _BITS)
    key = bits.sub_(_LOWEST).clamp_(0, _BINS - 1).add_(mine, alpha=_BINS).flatten()
    count = torch.bincount(key, minlength=2 * _BINS).view(2, _BINS)
    # Ignored pixels were counted as outside, without an error.
    count[0, 0] -= valid.numel() - valid.count_nonzero()
    upper = count.flip(1).cumsum(1).flip(1).double()
    lower = upper - count
    inside = upper[1, 0]
    union_before, union_after = inside + lower[0], (inside + upper[0]).clamp(min=1)
    union_before = union_before.clamp(min=1)
    step_inside = (1 / union_before + 1 / union_after) / 2
    left = inside - (lower[1] + upper[1]) / 2
    step_outside = left / (union_before * union_after)
    steps = torch.cat([step_outside, step_inside]).to(error.dtype)
    slope = steps.index_select(0, key).view_as(error)
    return error.mul_(slope).sum(), slope.mul_(difference.sign_())
