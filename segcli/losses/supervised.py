"""Losses against labels.

Shapes: N images, K classes, H × W pixels of the label, h × w pixels of a pyramid level.
Hard targets are uint8 (N, H, W) with an ignore index; soft targets are (N, K, H, W), the
share of each class in a pixel, uint8 in 0..255 or float in 0..1, all zero where ignored.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy per valid pixel, in float32; 0 where no pixel is valid.

    Args:
        logits: (N, K, H, W), any float type.
        target: hard uint8 or int64 (N, H, W), or soft (N, K, H, W), as the file says.
        weight: (K,) class weights; the mean is weighted by them, as torch defines it.

    Returns:
        Scalar float32 tensor, differentiable also when it is 0 for want of valid pixels.
    """
    # Planes of pixels per class: on a CPU the softmax over channels-last memory, a few
    # numbers at a time, takes twice as long.
    logits = logits.float().contiguous()
    if target.ndim == 4:
        return _soft(logits, target, weight)
    labels = target.long()
    total = F.cross_entropy(
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
    return total / count.clamp(min=1e-6)


def _soft(logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    share = target.float()
    if not target.is_floating_point():
        share = share / 255.0
    if weight is not None:
        share = share * weight[:, None, None]
    return -(share * F.log_softmax(logits, dim=1)).sum() / share.sum().clamp(min=1e-6)


class SegmentationLoss(nn.Module):
    """Cross-entropy on the merged prediction plus that of the pyramid levels.

    Args:
        ignore_index: label value that takes no part.
        class_weights: (K,) float32 or None.
        auxiliary: weight of the mean over the levels' losses.
        label_smoothing: share of each hard target spread over all classes.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        ignore_index: int = 255,
        class_weights: Tensor | None = None,
        auxiliary: float = 0.4,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.auxiliary = auxiliary
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", class_weights)

    def forward(
        self, logits: Tensor, auxiliary: Mapping[str, Tensor], target: Tensor
    ) -> dict[str, Tensor]:
        """Named losses; their ``total`` is what is minimised.

        Args:
            logits: (N, K, H, W).
            auxiliary: level name -> (N, K, h, w), each at its own resolution.
            target: hard (N, H, W) or soft (N, K, H, W).
        """
        losses = {"segmentation": self._one(logits, target)}
        if auxiliary and self.auxiliary > 0:
            for name, level in auxiliary.items():
                losses[name] = self._one(level, shrink_target(target, level.shape[-2:]))
            levels = torch.stack([losses[name] for name in auxiliary])
            losses["total"] = losses["segmentation"] + self.auxiliary * levels.mean()
        else:
            losses["total"] = losses["segmentation"]
        return losses

    def _one(self, logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(
            logits,
            target,
            ignore_index=self.ignore_index,
            weight=self.class_weights,
            label_smoothing=self.label_smoothing,
        )


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
