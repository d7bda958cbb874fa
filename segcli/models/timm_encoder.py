"""Encoders from timm, when the extra is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segcli.errors import ConfigError, SegcliError
from segcli.models.encoders import IMAGENET_MEAN, IMAGENET_STD, STRIDES, Encoder
from segcli.models.weights import load_file

_PROBE = 64


class TimmEncoder(Encoder):
    """Hands a `features_only` network of timm on; its maps need not form a chain."""

    def __init__(self, network: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        info = network.feature_info
        channels, strides = info.channels(), info.reduction()
        super().__init__((), channels, strides, mean=mean, std=std)
        self.network = network

    def up_to(self, stride: int) -> list[nn.Module]:
        """All of it for its last stride, and nothing before: the maps' layers are not known."""
        return [self] if stride >= self.strides[-1] else []

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images `(N, 3, H, W)` to the feature maps, finest first."""
        return list(self.network(x))


def timm_encoder(name: str, weights: str | Path | None = None, width_mult: float = 1.0) -> Encoder:
    """timm's network `name` as an encoder with strides (2,) 4, 8, 16, 32.

    Raises:
        ConfigError: when timm is absent, has no such network, or the network makes no maps
            at these strides for images of any size.
        SegcliError: when pretrained weights cannot be fetched.
    """
    try:
        import timm
    except ImportError:
        hint = "pip install 'segcli[timm]'"
        raise ConfigError(f"encoder timm:{name} needs timm", hint=hint) from None
    if width_mult != 1.0:
        raise ConfigError(f"width_mult is for MobileNets, timm:{name} has a fixed width")
    if not timm.is_model(name.split(".")[0]):
        hint = "timm.list_models() names them all"
        raise ConfigError(f"timm has no network {name!r}", hint=hint)
    try:
        network = timm.create_model(name, pretrained=weights == "imagenet", features_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:100]
        if weights == "imagenet":
            hint = "without a network, give a local file as encoder weights"
            what = f"cannot fetch weights of timm:{name}, {reason}"
            raise SegcliError(what, hint=hint) from None
        raise ConfigError(f"timm:{name} cannot be an encoder, {reason}") from None
    if weights is not None and weights != "imagenet":
        load_file(network, weights, f"timm:{name}")
    config = getattr(network, "pretrained_cfg", None) or {}
    encoder = TimmEncoder(
        network,
        tuple(config.get("mean", IMAGENET_MEAN)),
        tuple(config.get("std", IMAGENET_STD)),
    )
    _check_maps(encoder, name)
    return encoder


def _check_maps(encoder: TimmEncoder, name: str) -> None:
    """Refuse networks whose maps the decoders cannot use: plain transformers, NHWC maps."""
    if encoder.strides[-4:] != STRIDES[-4:]:
        raise ConfigError(f"timm:{name} has maps at strides {encoder.strides}, not 4, 8, 16, 32")
    training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            maps = encoder(torch.zeros(1, 3, _PROBE, _PROBE))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:100]
        raise ConfigError(f"timm:{name} does not take images of any size, {reason}") from None
    finally:
        encoder.train(training)
    expected = [
        (1, c, _PROBE // s, _PROBE // s)
        for c, s in zip(encoder.channels, encoder.strides, strict=True)
    ]
    if [tuple(m.shape) for m in maps] != expected:
        raise ConfigError(f"timm:{name} does not return its maps as (N, C, H, W)")
