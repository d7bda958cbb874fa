"""The whole network: pictures in, logits out, at any size.

Shape legend: images `(N, 3, H, W)`, logits `(N, K, H, W)`; s is the decoder's stride.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli.models.encoders import Encoder
from segcli.models.layers import resize

SIZE_MULTIPLE = 32


class TrainingOutput(NamedTuple):
    """What a segmenter returns in training.

    Attributes:
        logits: `(N, K, H, W)`, the prediction.
        auxiliary: deep-supervision logits by name (`p2`..`p5` of an FPN), `(N, K, h, w)`.
            Each covers the padded picture at its own stride.
        padded_size: `(H', W')`, of which `auxiliary` has the right and the bottom too.
        coarse: what `logits` were upsampled from, where `Segmenter.shows_coarse` asks for it.
    """

    logits: Tensor
    auxiliary: Mapping[str, Tensor]
    padded_size: tuple[int, int]
    coarse: StrideOutput | None = None

    @property
    def padded(self) -> tuple[float, float]:
        """Height and width of the padded picture over those of the picture itself."""
        height, width = self.logits.shape[-2:]
        return self.padded_size[0] / height, self.padded_size[1] / width


class StrideOutput(NamedTuple):
    """Logits before the last upsampling, of the picture *with* its padding.

    Attributes:
        logits: `(N, K, H'/s, W'/s)`.
        auxiliary: as the decoder made them, by name; empty in eval.
        padded_size: `(H', W')`. Resizing to it and cropping the right and the bottom to
            `(H, W)` gives what `forward` returns.
        features: `(N, C, h, w)`, the decoder's last wide map, also with the padding.
    """

    logits: Tensor
    auxiliary: Mapping[str, Tensor]
    padded_size: tuple[int, int]
    features: Tensor


class Segmenter(nn.Module):
    """Normalisation, encoder, decoder, and the way back to the size of the input.

    Args:
        encoder: images to feature maps, see `Encoder`.
        decoder: feature maps to a `DecoderOutput`; has a `stride`.
        num_classes: K.
        mean, std: of RGB in 0..1 units; they travel with the weights as buffers.

    Attributes:
        shows_coarse: in training return the logits and features at the decoder's stride too.
    """

    mean: Tensor
    std: Tensor
    shows_coarse = False

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.num_classes = num_classes
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor | TrainingOutput:
        """Segment RGB `images` `(N, 3, H, W)`, uint8 or float, both in 0..255, of any size.

        Returns:
            In eval the logits `(N, K, H, W)`; in training a `TrainingOutput`.
        """
        height, width = images.shape[-2:]
        output = self.logits_at_stride(images)
        logits = _to_image(output.logits, output.padded_size, height, width)
        if not self.training:
            return logits
        shown = output if self.shows_coarse else None
        return TrainingOutput(logits, output.auxiliary, output.padded_size, shown)

    def logits_at_stride(self, images: Tensor) -> StrideOutput:
        """As `forward`, but stop before the last upsampling, at the decoder's stride."""
        x = self.pad(self.normalise(images))
        output = self.decoder(self.encoder(x))
        padded = (x.shape[-2], x.shape[-1])
        return StrideOutput(output.logits, output.auxiliary, padded, output.features)

    def normalise(self, images: Tensor) -> Tensor:
        """RGB in 0..255 to zero mean and unit deviation, in the precision of the buffers."""
        images = images.to(self.mean.dtype)
        # One pass over the pixels: x / (255 std) - mean / std.
        return torch.addcmul(-self.mean / self.std, images, 1 / (255 * self.std))

    def pad(self, x: Tensor) -> Tensor:
        """Pad normalised images on the right and at the bottom to a multiple of 32.

        With zeros, which are the mean colour here, and what every convolution of the
        encoder sees around a picture anyway.
        """
        count, _, height, width = x.shape
        right, bottom = -width % SIZE_MULTIPLE, -height % SIZE_MULTIPLE
        one_cell = max(height, width) <= SIZE_MULTIPLE and count == 1
        if self.training and one_cell:
            # c5 would be a single value per channel, of which batch norm has no variance.
            right += SIZE_MULTIPLE
        return F.pad(x, (0, right, 0, bottom)) if right or bottom else x


def _to_image(logits: Tensor, padded: tuple[int, int], height: int, width: int) -> Tensor:
    """Upsample `(N, K, h, w)` to the padded size and crop the padding: `(N, K, H, W)` float32.

    In float32 planes, whatever came in: interpolation makes differences too small for 16
    bits, and the softmax that follows runs over pixels, which on a CPU is three times as
    fast as over the few channels of channels-last memory.
    """
    logits = resize(logits.float().contiguous(), padded)
    # A slice that keeps everything would still cost a fill and a copy on the way back.
    return logits if padded == (height, width) else logits[..., :height, :width]
