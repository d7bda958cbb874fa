"""Feature pyramid with a semantic branch (Lin et al. 2017; Kirillov et al. 2019).

Shape legend: c2..c5 and p2..p5 are at strides 4, 8, 16, 32; p has `width` channels, the
semantic branch s has `head_width`, logits have K.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from segcli.models.layers import ConvBlock, DecoderOutput, initialise, initialise_heads, resize

LEVELS = ("p2", "p3", "p4", "p5")
# Blocks of each branch: one per halving of the stride down to 8, and one at stride 4.
DEPTHS = (1, 1, 2, 3)


class FPN(nn.Module):
    """Laterals added from the top down, a prediction at every level, and a merged one.

    Args:
        channels: channels of the encoder's maps, finest first; the last four are used.
        num_classes: K.
        width: channels of the pyramid.
        head_width: channels of the semantic branch.
        dropout: share of the semantic branch's channels dropped in training, 0..1.
        auxiliary: predict at p2..p5 too, in training, for deep supervision.
    """

    stride = 4

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        width: int = 128,
        head_width: int = 128,
        dropout: float = 0.1,
        auxiliary: bool = True,
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleDict(
            {p: nn.Conv2d(c, width, 1) for p, c in zip(LEVELS, channels[-4:], strict=True)}
        )
        # No 3×3 smoothing of p2..p5: the first block of each branch is one.
        self.branches = nn.ModuleDict(
            {p: Branch(width, head_width, n) for p, n in zip(LEVELS, DEPTHS, strict=True)}
        )
        self.dropout = dropout
        self.classifier = nn.Conv2d(head_width, num_classes, 1)
        self.heads = nn.ModuleDict(
            {p: nn.Conv2d(width, num_classes, 1) for p in LEVELS if auxiliary}
        )
        initialise(self)
        initialise_heads(self.classifier, *self.heads.values())

    def forward(self, features: Sequence[Tensor]) -> DecoderOutput:
        """Feature maps, finest first, to logits `(N, K, H/4, W/4)` and those of p2..p5."""
        c2, c3, c4, c5 = features[-4:]
        p5 = self.laterals["p5"](c5)
        p4 = _add_upsampled(self.laterals["p4"](c4), p5)
        p3 = _add_upsampled(self.laterals["p3"](c3), p4)
        p2 = _add_upsampled(self.laterals["p2"](c2), p3)
        pyramid = {"p2": p2, "p3": p3, "p4": p4, "p5": p5}
        auxiliary = {}
        if self.training:
            auxiliary = {p: head(pyramid[p]) for p, head in self.heads.items()}
        return DecoderOutput(self.merge(p2, p3, p4, p5), auxiliary)

    def merge(self, p2: Tensor, p3: Tensor, p4: Tensor, p5: Tensor) -> Tensor:
        """The semantic branch: every level brought to stride 4, summed and classified.

        In the paper all branches are upsampled to stride 4 with their full width, then
        summed, then classified. Bilinear upsampling weights pixels and a 1×1 convolution
        weights channels, so the two commute: p3..p5 are summed at stride 8, and only
        their K logits are upsampled. The result is the same for a fraction of the traffic.
        """
        s5 = self.branches["p5"](p5, p4, p3)
        s4 = self.branches["p4"](p4, p3)
        s3 = self.branches["p3"](p3)
        s2 = self.branches["p2"](p2)
        coarse = (s3 + s4).add_(s5)
        if self.training and self.dropout:
            # One mask of channels for both parts, as if they had been summed before.
            keep = F.dropout(s2.new_ones(*s2.shape[:2], 1, 1), self.dropout)
            s2, coarse = s2 * keep, coarse * keep
        logits: Tensor = self.classifier(s2)
        upsampled = F.conv2d(coarse, self.classifier.weight)
        return logits.add_(resize(upsampled, logits))


class Branch(nn.Module):
    """Brings one level of the pyramid to stride 8 (4 for p2), a block per stride.

    Args:
        width: channels of the pyramid.
        head_width: channels of the result.
        depth: number of blocks.
    """

    def __init__(self, width: int, head_width: int, depth: int) -> None:
        super().__init__()
        widths = (width, *[head_width] * depth)
        self.blocks = nn.ModuleList(ConvBlock(*pair) for pair in pairwise(widths))

    def forward(self, p: Tensor, *finer: Tensor) -> Tensor:
        """`p` `(N, width, h, w)` to `head_width` channels at the size of the last of `finer`."""
        first, *others = self.blocks
        s: Tensor = first(p)
        for block, like in zip(others, finer, strict=True):
            s = block(resize(s, like))
        return s


def _add_upsampled(lateral: Tensor, coarser: Tensor) -> Tensor:
    """Lin et al.'s top-down step: nearest-neighbour upsampling, added in place."""
    return lateral.add_(F.interpolate(coarser, size=lateral.shape[-2:], mode="nearest"))
