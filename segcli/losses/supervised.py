"""Losses against labels, summed by weight over terms and pyramid levels.

Shapes: N images, K classes, H × W pixels of the label, h × w pixels of a pyramid level.
Targets are hard or soft, as `targets.py` says.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segcli.config import LossTerm
from segcli.errors import ConfigError
from segcli.losses.cross_entropy import cross_entropy, focal, ohem
from segcli.losses.regions import bce, dice, lovasz
from segcli.losses.targets import (
    CountOver,
    class_weights_from_counts,
    pad_target,
    planes,
    shrink_target,
)

__all__ = ["SegmentationLoss", "class_weights_from_counts", "cross_entropy", "shrink_target"]

# Means over the valid pixels in which class weights count.
SOFTMAX_TERMS = frozenset({"cross_entropy", "ohem", "focal"})
DEFAULT_TERMS: Mapping[LossTerm, float] = MappingProxyType({"cross_entropy": 1.0})


class SegmentationLoss(nn.Module):
    """A weighted sum of losses on the merged prediction, plus that of the pyramid levels.

    Args:
        terms: loss name -> weight; `cross_entropy`, `ohem`, `focal`, `dice`, `lovasz`, `bce`.
        ignore_index: label value that takes no part.
        class_weights: (K,) float32 or None.
        auxiliary: weight of the mean over the levels' losses.
        label_smoothing: share of each target spread over all classes, in `cross_entropy` and
            `ohem`.
        ohem_threshold, ohem_keep: `threshold` and `keep` of `ohem`.
        focal_gamma: exponent of `focal`.
        count_over: where several processes share a batch, see `targets.mean_over`. Dice and
            Lovász, which are no means over pixels, look at the process's own part alone.

    Raises:
        ConfigError: a term of another name, or none at all.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        terms: Mapping[LossTerm, float] = DEFAULT_TERMS,
        ignore_index: int = 255,
        class_weights: Tensor | None = None,
        auxiliary: float = 0.4,
        label_smoothing: float = 0.0,
        ohem_threshold: float = 0.7,
        ohem_keep: float = 0.0625,
        focal_gamma: float = 2.0,
        count_over: CountOver | None = None,
    ) -> None:
        super().__init__()
        known: dict[str, Callable[..., Tensor]] = {
            "cross_entropy": partial(cross_entropy, label_smoothing=label_smoothing),
            "ohem": partial(
                ohem, label_smoothing=label_smoothing, threshold=ohem_threshold, keep=ohem_keep
            ),
            "focal": partial(focal, gamma=focal_gamma),
            "dice": dice,
            "lovasz": lovasz,
            "bce": bce,
        }
        if not terms:
            raise ConfigError("no loss is named", hint=f"known: {', '.join(known)}")
        for name in terms:
            _check(name, known)
        self.terms: dict[str, float] = {str(name): value for name, value in terms.items()}
        self.count_over = count_over
        self.ignore_index = ignore_index
        self.auxiliary = auxiliary
        self.register_buffer("class_weights", class_weights)
        self._losses = {name: known[name] for name in terms}

    def forward(
        self,
        logits: Tensor,
        auxiliary: Mapping[str, Tensor],
        target: Tensor,
        padded: tuple[float, float] = (1.0, 1.0),
    ) -> dict[str, Tensor]:
        """Named losses; their ``total`` is what is minimised.

        Args:
            logits: (N, K, H, W), or of another size: they are then interpolated to the
                target's (bilinear), in float32.
            auxiliary: level name -> (N, K, h, w), each at its own resolution.
            target: hard (N, H, W) or soft (N, K, H, W).
            padded: height and width that `auxiliary` covers, over those of the target: they
                may go on at the bottom and on the right, where nothing is labelled.

        Returns:
            Scalars: ``segmentation``, the weighted sum on `logits`; where there are several
            terms each by its name, unweighted; each level by its name; ``total``.
        """
        if logits.shape[-2:] != target.shape[-2:]:
            size = (target.shape[-2], target.shape[-1])
            logits = F.interpolate(planes(logits), size, mode="bilinear", align_corners=False)
        terms = self._each(logits, target)
        losses = {"segmentation": self._sum(terms)}
        if len(terms) > 1:
            losses.update(terms)
        if auxiliary and self.auxiliary > 0:
            wide = pad_target(target, padded, self.ignore_index)
            for name, level in auxiliary.items():
                small = shrink_target(wide, level.shape[-2:])
                losses[name] = self._sum(self._each(level, small))
            levels = torch.stack([losses[name] for name in auxiliary])
            losses["total"] = losses["segmentation"] + self.auxiliary * levels.mean()
        else:
            losses["total"] = losses["segmentation"]
        return losses

    def alone(self) -> SegmentationLoss:
        """The same loss without `count_over`, for steps that one process takes by itself."""
        single = copy.copy(self)  # of a compiled loss, one that is not
        single.count_over = None
        return single

    def _each(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The terms, unweighted, of logits and a target of one size."""
        logits = planes(logits)
        common = {"ignore_index": self.ignore_index, "weight": self.class_weights}
        counted = {**common, "count_over": self.count_over}
        return {
            name: loss(logits, target, **(common if name in ("dice", "lovasz") else counted))
            for name, loss in self._losses.items()
        }

    def _sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        weighted = [self.terms[name] * loss for name, loss in terms.items()]
        return weighted[0] if len(weighted) == 1 else torch.stack(weighted).sum()


def _check(name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        near = get_close_matches(name, list(known), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        raise ConfigError(f"unknown loss '{name}'", hint=hint)
