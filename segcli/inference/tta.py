"""Test-time augmentation: the picture seen several ways, and the mean of what was seen.

Each view is an exact round trip: the picture itself is resized and flipped, never its padding,
and what comes back lies on the picture again, pixel by pixel, before anything is averaged.
Averaged is softmax, not logits (which a confident view would dominate) and not labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segcli.errors import UsageError
from segcli.inference.geometry import Size, SizeRule


@dataclass(frozen=True)
class View:
    """One way to see a picture.

    Attributes:
        scale: factor on both sides of the size at which the model usually sees the picture.
        flip: left becomes right.
    """

    scale: float = 1.0
    flip: bool = False

    @property
    def name(self) -> str:
        """Such as `1x`, `1.25x flipped`."""
        return f"{self.scale:g}x{' flipped' if self.flip else ''}"

    def apply(self, image: NDArray[np.uint8], rule: SizeRule) -> NDArray[np.uint8]:
        """`image` (H, W, 3) as the model sees it in this view."""
        seen = rule.scaled(self.scale).apply(image)
        return np.asarray(cv2.flip(seen, 1), np.uint8) if self.flip else seen

    def invert(self, result: Tensor) -> Tensor:
        """(..., rows, W) of the picture's width back from the view's order of columns."""
        return result.flip(-1) if self.flip else result


PLAIN = View()


@dataclass(frozen=True)
class TTA:
    """Which views are averaged: the product of scales and flips.

    No scale below 1 by default: those know too little of poles and people. `segcli eval --tta`
    says which scales are worth their time for a network.

    Raises:
        UsageError: no scales, one twice, or one that is not above 0.
    """

    flip: bool = True
    scales: tuple[float, ...] = (1.0, 1.25, 1.5)

    def __post_init__(self) -> None:
        good = all(math.isfinite(scale) and 0 < scale <= 8 for scale in self.scales)
        if not self.scales or not good or len(set(self.scales)) != len(self.scales):
            raise UsageError(
                f"not scales of TTA: {', '.join(f'{s:g}' for s in self.scales) or 'none'}",
                hint="different factors above 0, 8 at most",
            )

    def views(self) -> tuple[View, ...]:
        """Every scale as it is and, with `flip`, flipped."""
        flips = (False, True) if self.flip else (False,)
        return tuple(View(scale, flip) for scale in self.scales for flip in flips)


def view_size(size: Size, view: View, rule: SizeRule) -> Size:
    """(h, w) at which the model sees a picture of `size` in `view`."""
    return rule.scaled(view.scale).target(size)
