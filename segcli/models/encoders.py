"""Encoders: classification networks cut into stages, composed rather than subclassed.

Shape legend, for an input `(N, 3, H, W)` whose sides are multiples of 32:

    c1  (N, C1, H/2,  W/2)      c4  (N, C4, H/16, W/16)
    c2  (N, C2, H/4,  W/4)      c5  (N, C5, H/32, W/32)
    c3  (N, C3, H/8,  W/8)

The classifier at the end of each network is dropped: a parameter that no gradient reaches
costs memory, and stops distributed training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn

from segcli.errors import ConfigError
from segcli.models.depthwise import speed_up_depthwise
from segcli.models.grouped import speed_up_grouped
from segcli.models.pointwise import speed_up_pointwise
from segcli.models.weights import load_file, load_imagenet

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
STRIDES = (2, 4, 8, 16, 32)

Weights = str | Path | None


class Encoder(nn.Module):
    """Runs stages one after the other and returns what each of them made.

    Attributes:
        channels: channels of each feature map, finest first.
        strides: pixels of the input per pixel of each feature map.
        mean, std: the normalisation its weights were trained with, in 0..1 units, RGB.
    """

    def __init__(
        self,
        stages: Iterable[nn.Module],
        channels: Sequence[int],
        strides: Sequence[int] = STRIDES,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(channels)
        self.strides = tuple(strides)
        self.mean = tuple(mean)
        self.std = tuple(std)

    def up_to(self, stride: int) -> list[nn.Module]:
        """The layers that make the feature maps up to `stride`, in their order."""
        if stride >= self.strides[-1]:
            return [self]
        return [
            layers for layers, own in zip(self.stages, self.strides, strict=True) if own <= stride
        ]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images `(N, 3, H, W)` to the feature maps c1..c5, finest first."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def resnet(name: str, weights: Weights = None, width_mult: float = 1.0) -> Encoder:
    """A ResNet or ResNeXt of torchvision (He et al. 2015, Xie et al. 2016).

    Raises:
        ConfigError: when `width_mult` is not 1, or for `weights` that do not fit.
    """
    if width_mult != 1.0:
        raise ConfigError(f"width_mult is for MobileNets, {name} has a fixed width")
    network = _torchvision_network(name, weights)
    speed_up_grouped(network)
    for deep in (network.layer3, network.layer4):
        speed_up_pointwise(deep)
    stages = [
        nn.Sequential(network.conv1, network.bn1, network.relu),
        nn.Sequential(network.maxpool, network.layer1),
        network.layer2,
        network.layer3,
        network.layer4,
    ]
    c5 = network.fc.in_features
    return Encoder(stages, (network.conv1.out_channels, c5 // 8, c5 // 4, c5 // 2, c5))


# Where `network.features` is cut: the index of the first block of each next stage.
_MOBILENET_CUTS = {
    "mobilenet_v2": (2, 4, 7, 14),
    "mobilenet_v3_large": (2, 4, 7, 13),
    "mobilenet_v3_small": (1, 2, 4, 9),
}


def mobilenet(name: str, weights: Weights = None, width_mult: float = 1.0) -> Encoder:
    """A MobileNet V2 or V3 of torchvision (Sandler et al. 2018, Howard et al. 2019).

    The last 1×1 convolution (320 to 1280 channels in V2) stays: it works at stride 32,
    where its cost is small, and a third of the pretrained knowledge of V2 lies in it.

    Raises:
        ConfigError: when `width_mult` is not above 0, or for `weights` that do not fit.
    """
    if not width_mult > 0:
        raise ConfigError(f"width_mult must be above 0, not {width_mult}")
    network = _torchvision_network(name, weights, width_mult=width_mult)
    speed_up_depthwise(network)
    blocks = list(network.features)
    bounds = (0, *_MOBILENET_CUTS[name], len(blocks))
    stages = [nn.Sequential(*blocks[start:stop]) for start, stop in pairwise(bounds)]
    return Encoder(stages, [blocks[stop - 1].out_channels for stop in bounds[1:]])


def _torchvision_network(name: str, weights: Weights, *, width_mult: float = 1.0) -> Any:
    """Build torchvision's network `name` and fill it with `weights`."""
    if weights == "imagenet" and width_mult != 1.0:
        hint = "use width_mult 1 or a weights file of that width"
        raise ConfigError(f"no ImageNet weights for {name} at width {width_mult}", hint=hint)
    builder: Callable[..., nn.Module] = getattr(torchvision.models, name)
    network = builder(weights=None, **({} if width_mult == 1.0 else {"width_mult": width_mult}))
    if weights == "imagenet":
        load_imagenet(network, name)
    elif weights is not None:
        load_file(network, weights, name)
    return network
