"""Losses of single pixels under the softmax: cross-entropy, OHEM and focal.

Shapes and targets as in `targets.py`. All are means over the valid pixels, weighted by the
class weights as torch defines it; with soft targets a pixel counts by its labelled share.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from segcli.losses.targets import CountOver, mean_over, planes, valid_share


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    count_over: CountOver | None = None,
) -> Tensor:
    """Mean cross-entropy per valid pixel, in float32; 0 where no pixel is valid.

    Args:
        logits: (N, K, H, W), any float type.
        target: hard uint8 or int64 (N, H, W), or soft (N, K, H, W).
        weight: (K,) class weights; the mean is weighted by them, as torch defines it.
        label_smoothing: share of each target spread over all classes.
        count_over: where several processes share a batch, see `mean_over`.

    Returns:
        Scalar float32 tensor, differentiable also when it is 0 for want of valid pixels.
    """
    logits = planes(logits)
    if target.ndim == 4:
        share = _shares(target)
        total = share if weight is None else share * weight[:, None, None]
        smooth = _smooth(share, weight, label_smoothing) if label_smoothing else total
        loss = -(smooth * F.log_softmax(logits, dim=1)).sum()
        return mean_over(loss, total.sum(), count_over)
    labels = target.long()
    loss = F.cross_entropy(
        logits,
        labels,
        weight,
        ignore_index=ignore_index,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    valid = labels != ignore_index
    if weight is None:
        count = valid.sum()
    else:
        count = weight[torch.where(valid, labels, 0)].mul(valid).sum()
    return mean_over(loss, count, count_over)


def ohem(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    threshold: float = 0.7,
    keep: float = 0.0625,
    count_over: CountOver | None = None,
) -> Tensor:
    """Cross-entropy over the hard pixels of the batch alone (online hard example mining).

    Hard are the valid pixels that give their class a probability below `threshold`, and at
    least the `keep` share of the valid pixels that give it the least, as in PIDNet
    (arXiv 2206.02066; there `keep` is a count). Pixels as hard as the last one kept are kept
    too, so that their order never matters. With class weights the mean is weighted by them,
    so that ``keep=1`` is `cross_entropy`; PIDNet divides by the number of pixels.

    With a soft target the probability of its class is exp(-cross-entropy) of the pixel.

    Args:
        threshold: probability in (0, 1].
        keep: share in (0, 1].
        logits, target, weight, label_smoothing, count_over: as in `cross_entropy`.

    Returns:
        Scalar float32 tensor; 0 where no pixel is valid.
    """
    log_p = F.log_softmax(planes(logits), dim=1)
    if target.ndim == 4:
        loss, norm, hardness, valid = _soft_pixels(log_p, target, weight, label_smoothing)
    else:
        own, norm, valid = _own_class(log_p, target, ignore_index, weight)
        loss, hardness = -own * norm, -own.detach()
        if label_smoothing:
            spread = _spread(log_p, weight).mul(valid)
            loss = (1 - label_smoothing) * loss + label_smoothing * spread
    hardness = hardness.masked_fill(~valid, -1.0)
    least = max(1, math.ceil(keep * int(valid.sum())))
    bound = hardness.flatten().topk(least, sorted=False).values.min()
    # Written so that a NaN is kept: it must reach the loss, where training looks for it.
    easy = (hardness <= -math.log(threshold)) & (hardness < bound)
    kept = valid & ~easy
    return mean_over(loss.mul(kept).sum(), norm.mul(kept).sum(), count_over)


def focal(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    gamma: float = 2.0,
    count_over: CountOver | None = None,
) -> Tensor:
    """Mean of (1 - p)^gamma * -log p per valid pixel, p the softmax probability of its class.

    The focal loss of Lin et al. (arXiv 1708.02002, equation 4) under the softmax, without
    alpha, for which `weight` stands. ``gamma=0`` is `cross_entropy`. A soft target gives the
    mean over its classes, weighted by their shares.

    Args:
        gamma: exponent >= 0.
        logits, target, weight, count_over: as in `cross_entropy`.

    Returns:
        Scalar float32 tensor; 0 where no pixel is valid.
    """
    log_p = F.log_softmax(planes(logits), dim=1)
    if target.ndim == 4:
        norm = _shares(target)
        if weight is not None:
            norm = norm * weight[:, None, None]
        own = log_p
    else:
        own, norm, _ = _own_class(log_p, target, ignore_index, weight)
    # A power below 1 has no slope at 0, hence the clamp; expm1 keeps 1 - p exact near 0.
    missing = (-torch.expm1(own)).clamp(min=1e-12)
    return mean_over((missing**gamma * -own * norm).sum(), norm.sum(), count_over)


def _own_class(
    log_p: Tensor, target: Tensor, ignore_index: int, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of hard targets: log-probability of each pixel's class, weight, validity; (N, H, W)."""
    labels = target.long()
    valid = labels != ignore_index
    index = torch.where(valid, labels, 0)
    own = log_p.gather(1, index[:, None]).squeeze(1)
    norm = valid.float() if weight is None else weight[index].mul(valid)
    return own, norm, valid


def _soft_pixels(
    log_p: Tensor, target: Tensor, weight: Tensor | None, smoothing: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of soft targets: loss, weight, cross-entropy and validity of each pixel; (N, H, W)."""
    share = _shares(target)
    mass = valid_share(target, 0)
    plain = -(share * log_p).sum(1)
    hardness = plain.detach() / mass.clamp(min=1e-6)
    if weight is None and not smoothing:
        return plain, mass, hardness, mass > 0
    loss = -(_smooth(share, weight, smoothing) * log_p).sum(1)
    norm = mass if weight is None else (share * weight[:, None, None]).sum(1)
    return loss, norm, hardness, mass > 0


def _shares(target: Tensor) -> Tensor:
    share = target.float()
    return share if target.is_floating_point() else share / 255.0


def _smooth(share: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    """Shares with `smoothing` of each pixel spread over all classes, times the weights."""
    smooth = (1 - smoothing) * share
    smooth += share.sum(1, keepdim=True) * (smoothing / share.shape[1])
    return smooth if weight is None else smooth * weight[:, None, None]


def _spread(log_p: Tensor, weight: Tensor | None) -> Tensor:
    """Cross-entropy of each pixel with the uniform target, (N, H, W)."""
    if weight is not None:
        log_p = log_p * weight[:, None, None]
    return -log_p.mean(1)
