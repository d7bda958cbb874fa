"""U-Net decoder (Ronneberger et al. 2015) with plain or residual blocks.

Shape legend: c1..c5 are the encoder's maps at strides 2..32; the decoder goes from c5 up to
the finest of them, concatenating the map of each stride on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli.models.layers import ConvBlock, DecoderOutput, initialise

MIN_WIDTH = 32


class UNet(nn.Module):
    """Upsample, concatenate the skip, convolve twice; once per stride.

    Skips pass a batch norm first. A MobileNet sums its blocks up without one, its maps are up to
    ten times as large as those of the decoder, which learned slowly to be heard beside them.

    It ends at the encoder's finest map (stride 2): at stride 1 there is no skip to learn
    from, and the blocks there would be the dearest of all. The logits are upsampled instead.

    Args:
        channels: channels of the encoder's maps, finest first.
        num_classes: K.
        strides: strides of these maps.
        width: channels of the coarsest stage; each finer one has half, 32 at the least.
        block: `plain`, two convolutions, or `residual`, the same with a shortcut.
        dropout: share of the last stage's channels dropped in training, 0..1.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        strides: Sequence[int],
        width: int = 128,
        block: str = "plain",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.stride = strides[0]
        coarse, *skips = reversed(channels)
        make = ResidualBlock if block == "residual" else plain_block
        stages = []
        for i, skip in enumerate(skips):
            stage_width = max(width >> i, min(width, MIN_WIDTH))
            stages.append(make(coarse + skip, stage_width))
            coarse = stage_width
        self.stages = nn.ModuleList(stages)
        self.skip_norms = nn.ModuleList(nn.BatchNorm2d(skip) for skip in skips)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(coarse, num_classes, 1)
        initialise(self)
        # Of 32 channels and not 128 as in an FPN, small weights would take long to grow.
        nn.init.normal_(self.classifier.weight, std=coarse**-0.5)

    def forward(self, features: Sequence[Tensor]) -> DecoderOutput:
        """Feature maps, finest first, to logits `(N, K, H/2, W/2)`; nothing auxiliary."""
        x, *skips = reversed(features)
        for stage, norm, skip in zip(self.stages, self.skip_norms, skips, strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
            x = stage(torch.cat([x, norm(skip)], dim=1))
        return DecoderOutput(self.classifier(self.dropout(x)), {}, x)


def plain_block(in_channels: int, out_channels: int) -> nn.Module:
    """Two convolutions: `(N, C, h, w)` to `(N, D, h, w)`."""
    return nn.Sequential(
        ConvBlock(in_channels, out_channels), ConvBlock(out_channels, out_channels)
    )


class ResidualBlock(nn.Module):
    """Two convolutions beside a 1×1 shortcut (He et al. 2015): `(N, C, h, w)` to `(N, D, h, w)`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(in_channels, out_channels)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.shortcut_norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.second_norm(self.second(self.first(x)))
        return F.relu_(residual.add_(self.shortcut_norm(self.shortcut(x))))
