"""Blocks that both decoders are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class DecoderOutput(NamedTuple):
    """What a decoder makes of the feature maps.

    Attributes:
        logits: `(N, K, H/s, W/s)`, where s is the decoder's `stride`.
        auxiliary: deep-supervision logits by name, each at its own stride; empty in eval.
        features: the wide map `(N, C, h, w)` that the classification comes from.
    """

    logits: Tensor
    auxiliary: Mapping[str, Tensor]
    features: Tensor


class ConvBlock(nn.Sequential):
    """3×3 convolution, batch norm, ReLU: `(N, C, h, w)` to `(N, D, h, w)`.

    Batch norm and not group norm: the backward pass of the latter costs 5 % of a training
    step on a CPU, and batch norm folds into the convolution when a model is exported.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


def resize(x: Tensor, like: Tensor | tuple[int, int]) -> Tensor:
    """Bilinear resize of `(N, C, h, w)` to the height and width of `like`."""
    size = like if isinstance(like, tuple) else tuple(like.shape[-2:])
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def initialise(module: nn.Module) -> None:
    """He initialisation (2015) for every convolution of a decoder, zero for biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initialise_heads(*heads: nn.Module) -> None:
    """Small logits at the start: every class is about as likely, so the first loss is ln K."""
    for head in heads:
        if isinstance(head, nn.Conv2d):
            nn.init.normal_(head.weight, std=0.01)
