"""The critic of holistic distillation: does this map of class probabilities go with this image?

Shape legend: images N, classes K, h × w pixels of the maps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

LEVELS = 4


class Discriminator(nn.Module):
    """Four convolutions of stride 2 with spectral norm and one self-attention; a score an image.

    After arXiv 1903.04197, section 3.3, and its appendix: conditioned on the image, which
    comes as three more channels; self-attention as in SAGAN (arXiv 1805.08318), here once, at
    an eighth of the maps' size. Unlike there it has no batch norm, which would mix the maps of
    teacher and student. The power iteration of the spectral norm moves in train mode alone.

    Args:
        num_classes: K.
        width: channels of the first convolution; they double twice.
    """

    def __init__(self, num_classes: int, width: int = 64) -> None:
        super().__init__()
        channels = [num_classes + 3, width, 2 * width, 4 * width, 4 * width]
        self.down = nn.ModuleList(
            spectral_norm(nn.Conv2d(channels[i], channels[i + 1], 4, stride=2, padding=1))
            for i in range(LEVELS)
        )
        self.attention = SelfAttention(channels[3])
        self.score = spectral_norm(nn.Conv2d(channels[4], 1, 1))

    def forward(self, maps: Tensor, images: Tensor) -> Tensor:
        """Score `maps` (N, K, h, w) beside `images` (N, 3, h, w), floats about 0..1.

        Returns:
            (N,), the mean of the scores of all places; high means like the teacher's.
        """
        x = torch.cat([maps, images], dim=1)
        multiple = 1 << LEVELS
        x = F.pad(x, (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple))
        for level, convolution in enumerate(self.down):
            if level == 3:
                x = self.attention(x)
            x = F.leaky_relu(convolution(x), 0.1)
        place: Tensor = self.score(x)
        return place.mean((1, 2, 3))


class SelfAttention(nn.Module):
    """Every cell looks at a quarter of the cells: (N, C, h, w) to the same; starts as nothing.

    SAGAN (arXiv 1805.08318, section 3), keys and values max-pooled as in its code, so that
    the weights take (h w)² / 4 numbers.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        small = max(1, channels // 8)
        self.query = spectral_norm(nn.Conv2d(channels, small, 1, bias=False))
        self.key = spectral_norm(nn.Conv2d(channels, small, 1, bias=False))
        self.value = spectral_norm(nn.Conv2d(channels, channels // 2, 1, bias=False))
        self.out = spectral_norm(nn.Conv2d(channels // 2, channels, 1, bias=False))
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).flatten(2)
        k = F.max_pool2d(self.key(x), 2, ceil_mode=True).flatten(2)
        v = F.max_pool2d(self.value(x), 2, ceil_mode=True).flatten(2)
        # Written out: the gradient penalty needs a second derivative.
        weights = torch.softmax(q.transpose(1, 2) @ k, dim=2)
        seen = (v @ weights.transpose(1, 2)).reshape(len(x), -1, *x.shape[-2:])
        attended: Tensor = self.out(seen)
        return x + self.gain * attended
