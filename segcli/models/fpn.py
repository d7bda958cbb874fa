"""Feature pyramid with a semantic branch (Lin et al. 2017; Kirillov et al. 2019).

Shape legend: c2..c5 and p2..p5 are at strides 4, 8, 16, 32; p has `width` channels, the
semantic branch s has `head_width`, logits have K.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli.models.layers import ConvBlock, DecoderOutput, initialise, initialise_heads, resize

LEVELS = ("p2", "p3", "p4", "p5")
# Blocks of each branch that ends at stride 8: one per stride from its own on.
DEPTHS = {"p3": 1, "p4": 2, "p5": 3}


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
        self.branch_p2 = ConvBlock(width, head_width)
        self.branches = nn.ModuleDict(
            {p: Branch(width, head_width, depth) for p, depth in DEPTHS.items()}
        )
        self.splits_p2 = _split_pays(channels[-4], width, head_width)
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
        conv_p2 = self._finest_level(c2, p3)
        conv, norm, relu = self.branch_p2
        s2 = relu(norm(conv_p2(conv)))
        s3 = self.branches["p3"](p3)
        s4 = self.branches["p4"](p4, p3)
        s5 = self.branches["p5"](p5, p4, p3)
        auxiliary = {}
        if self.training and self.heads:
            auxiliary = {"p2": conv_p2(self.heads["p2"])}
            for name, p in (("p3", p3), ("p4", p4), ("p5", p5)):
                auxiliary[name] = self.heads[name](p)
        coarse = (s3 + s4).add_(s5)
        return DecoderOutput(self._merge(s2, coarse), auxiliary, coarse)

    def _finest_level(self, c2: Tensor, p3: Tensor) -> Callable[[nn.Module], Tensor]:
        """How to apply a convolution to p2, which need not be made for that."""
        lateral = self.laterals["p2"]
        if self.training and self.splits_p2:
            # Eval takes the plain way, so that exported models hold plain convolutions.
            return partial(conv_of_sum, lateral=lateral, fine=c2, coarse=p3)
        p2 = _add_upsampled(lateral(c2), p3)
        return lambda conv: conv(p2)

    def _merge(self, s2: Tensor, coarse: Tensor) -> Tensor:
        """Classify the sum of s2 (stride 4) and of s3 + s4 + s5 (stride 8): `(N, K, H/4, W/4)`.

        In the paper all branches are upsampled to stride 4 with their full width, then
        summed, then classified. Bilinear upsampling weights pixels and a 1×1 convolution
        weights channels, so the two commute: p3..p5 are summed at stride 8, and only
        their K logits are upsampled. The result is the same for a fraction of the traffic.
        """
        if self.training and self.dropout:
            # One mask of channels for both parts, as if they had been summed before.
            keep = F.dropout(s2.new_ones(*s2.shape[:2], 1, 1), self.dropout)
            s2, coarse = s2 * keep, coarse * keep
        logits: Tensor = self.classifier(s2)
        upsampled = F.conv2d(coarse, self.classifier.weight)
        return logits.add_(resize(upsampled, logits))


class Branch(nn.Module):
    """Brings one level of the pyramid to stride 8, a block per stride.

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


def _split_pays(channels: int, width: int, head_width: int) -> bool:
    """Whether `conv_of_sum` takes fewer multiply-adds per pixel than the sum itself does."""
    plain = channels * width + 9 * width * head_width
    return 9 * channels * head_width + 4 * width * head_width < plain


def conv_of_sum(conv: nn.Module, *, lateral: nn.Module, fine: Tensor, coarse: Tensor) -> Tensor:
    """`conv(lateral(fine) + upsampled(coarse))` without making that wide, fine sum.

    Both ways through it are linear. The 1×1 `lateral` and `conv` are one convolution of the
    few channels of `fine`; nearest-neighbour upsampling and a 3×3 `conv` are one transposed
    4×4 convolution, 4 products per pixel in the place of 9. Exact, borders included.

    Args:
        conv: 1×1 or padded 3×3 convolution, D channels.
        lateral: 1×1 convolution with bias.
        fine: `(N, C, 2h, 2w)`.
        coarse: `(N, width, h, w)`.

    Returns:
        `(N, D, 2h, 2w)`.
    """
    if not isinstance(conv, nn.Conv2d) or not isinstance(lateral, nn.Conv2d):
        raise TypeError("conv and lateral are convolutions")
    kernel = conv.weight
    merged = torch.einsum("dwij,wc->dcij", kernel, lateral.weight[:, :, 0, 0])
    result = F.conv2d(fine, merged, conv.bias, padding=conv.padding)
    # The lateral's bias goes up with the coarse map: outside the picture there is none.
    if lateral.bias is not None:
        coarse = coarse + lateral.bias.to(coarse.dtype).view(1, -1, 1, 1)
    if conv.kernel_size == (1, 1):
        return _add_upsampled(result, F.conv2d(coarse, kernel))
    flipped = kernel.flip(2, 3).transpose(0, 1)
    shifts = [(left, 1 - left, top, 1 - top) for left in (0, 1) for top in (0, 1)]
    spread = torch.stack([F.pad(flipped, shift) for shift in shifts]).sum(0)
    return result.add_(F.conv_transpose2d(coarse, spread, stride=2, padding=1))
