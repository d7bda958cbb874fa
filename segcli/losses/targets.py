"""Labels as the losses read them: valid pixels, planes of one class, smaller copies.

Shapes: N images, K classes, H × W pixels of the label, h × w pixels of a pyramid level.
Hard targets are uint8 or int64 (N, H, W) with an ignore index; soft targets are
(N, K, H, W), the share of each class in a pixel, uint8 in 0..255 or float in 0..1, all zero
where ignored. The shares of a pixel sum to less than 1 where a part of it is ignored.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

CountOver = Callable[[Tensor], Tensor]
"""Takes the pixels that this process counts, gives the mean over all processes."""


def mean_over(total: Tensor, count: Tensor, count_over: CountOver | None) -> Tensor:
    """`total` / `count`, 0 where nothing counts.

    Processes average their gradients. With the mean count of all in the denominator of each,
    that is the gradient of the mean over the pixels of the whole batch, however unevenly
    they are ignored.
    """
    if count_over is not None:
        count = count_over(count)
    return total / count.clamp(min=1e-6)


def planes(logits: Tensor) -> Tensor:
    """Logits (N, K, H, W) in float32 (float64 stays), each class a plane of pixels.

    On a CPU the softmax over channels-last memory, a few numbers at a time, takes twice as
    long.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.contiguous()


def valid_share(target: Tensor, ignore_index: int) -> Tensor:
    """Share of each pixel that is labelled at all: (N, H, W) float32 in 0..1."""
    if target.ndim == 3:
        return (target != ignore_index).float()
    if target.is_floating_point():
        return target.sum(1, dtype=torch.float32)
    return target.sum(1, dtype=torch.float32) / 255.0


def class_share(target: Tensor, k: int, ignore_index: int) -> Tensor:
    """Share of each pixel that is of class `k`: (N, H, W) float32 in 0..1.

    One plane at a time stays in the cache, where all one-hot channels would not.
    """
    if target.ndim == 3:
        share = (target == k).float()
        return share.zero_() if k == ignore_index else share
    share = target[:, k].float()
    return share if target.is_floating_point() else share / 255.0


def pad_target(target: Tensor, padded: tuple[float, float], ignore_index: int) -> Tensor:
    """Go on with a target at the bottom and on the right, to `padded` times its H and W.

    What is added has no label: `ignore_index` in hard targets, no share of any class in soft
    ones.
    """
    height, width = target.shape[-2:]
    below, right = round(height * padded[0]) - height, round(width * padded[1]) - width
    if not below and not right:
        return target
    return F.pad(target, (0, right, 0, below), value=ignore_index if target.ndim == 3 else 0)


def shrink_target(target: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bring a target to a level's h × w: hard ones by nearest centre, soft ones by area.

    Reading the label at the level's resolution costs 1/stride² of upsampling its logits.
    """
    h, w = size
    if target.ndim == 4:
        scale = 1.0 if target.is_floating_point() else 1 / 255.0
        return F.adaptive_avg_pool2d(target.float() * scale, (h, w))
    rows = _centres(target.shape[-2], h, target.device)
    columns = _centres(target.shape[-1], w, target.device)
    return target[:, rows[:, None], columns]


def _centres(full: int, small: int, device: torch.device) -> Tensor:
    position = (torch.arange(small, device=device) + 0.5) * (full / small)
    return position.long().clamp(max=full - 1)


def class_weights_from_counts(counts: Tensor, kind: str) -> Tensor | None:
    """Weights (K,) float32 of mean 1 over the classes that occur, from pixel counts (K,).

    ``sqrt`` is 1/sqrt(share); ``log`` is 1/log(1.02 + share) of ENet (arXiv 1606.02147,
    section 5.1); ``none`` gives None. A class without pixels gets weight 1.
    """
    if kind == "none":
        return None
    share = counts.double() / counts.sum().clamp(min=1)
    present = counts > 0
    raw = share.clamp(min=1e-12).rsqrt() if kind == "sqrt" else 1 / torch.log(1.02 + share)
    raw = raw / raw[present].mean()
    return torch.where(present, raw, torch.ones_like(raw)).float()
