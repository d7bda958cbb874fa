"""One explicit builder, and the names it knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from torch import nn

from segcli.errors import ConfigError
from segcli.models.encoders import Encoder, mobilenet, resnet
from segcli.models.fpn import FPN
from segcli.models.segmenter import Segmenter
from segcli.models.timm_encoder import timm_encoder
from segcli.models.unet import UNet

ENCODERS: dict[str, Callable[[str, str | Path | None, float], Encoder]] = {
    "resnet18": resnet,
    "resnet34": resnet,
    "resnet50": resnet,
    "resnet101": resnet,
    "resnext50_32x4d": resnet,
    "resnext101_32x8d": resnet,
    "mobilenet_v2": mobilenet,
    "mobilenet_v3_large": mobilenet,
    "mobilenet_v3_small": mobilenet,
}
DECODERS: dict[str, type[FPN] | type[UNet]] = {"fpn": FPN, "unet": UNet}
DECODER_BLOCKS = ("plain", "residual")
TIMM_PREFIX = "timm:"


def build_model(
    *,
    encoder: str,
    decoder: str,
    num_classes: int,
    width: int = 128,
    head_width: int = 128,
    decoder_block: str = "plain",
    encoder_weights: str | Path | None = None,
    width_mult: float = 1.0,
    dropout: float = 0.1,
    auxiliary: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Segmenter:
    """Build a `Segmenter` from names and numbers, in training mode and in float32.

    Args:
        encoder: a name of `ENCODERS`, or `timm:NAME` where timm is installed.
        decoder: a name of `DECODERS`.
        num_classes: K, at least 1.
        width: channels of the FPN's pyramid, or of the U-Net's coarsest stage, which are
            halved from stage to stage.
        head_width: channels of the FPN's semantic branch.
        decoder_block: `plain` or `residual`, of the U-Net.
        encoder_weights: `imagenet` (may be fetched), a .pth or .safetensors file with
            torchvision's keys, or None for random ones.
        width_mult: multiplies the channels of a MobileNet.
        dropout: share of the channels before the classifier dropped in training, 0..1.
        auxiliary: let the FPN predict at every level in training.
        mean, std: of RGB in 0..1 units; None for what the encoder was trained with.

    Raises:
        ConfigError: for an unknown name, a number out of range, weights that do not fit.
        SegcliError: when weights asked for by name cannot be fetched.
    """
    _check_name("decoder", decoder, DECODERS)
    _check_name("decoder_block", decoder_block, DECODER_BLOCKS)
    for key, value in (("num_classes", num_classes), ("width", width), ("head_width", head_width)):
        if value < 1:
            raise ConfigError(f"{key} must be at least 1, not {value}")
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be at least 0 and below 1, not {dropout}")
    body = build_encoder(encoder, weights=encoder_weights, width_mult=width_mult)
    head: nn.Module
    if decoder == "fpn":
        head = FPN(
            body.channels,
            num_classes,
            width=width,
            head_width=head_width,
            dropout=dropout,
            auxiliary=auxiliary,
        )
    else:
        head = UNet(
            body.channels,
            num_classes,
            strides=body.strides,
            width=width,
            block=decoder_block,
            dropout=dropout,
        )
    return Segmenter(body, head, num_classes, mean or body.mean, std or body.std)


def build_encoder(
    name: str, *, weights: str | Path | None = None, width_mult: float = 1.0
) -> Encoder:
    """Build the encoder `name`; the arguments are those of `build_model`."""
    if name.startswith(TIMM_PREFIX):
        return timm_encoder(name.removeprefix(TIMM_PREFIX), weights, width_mult)
    _check_name("encoder", name, ENCODERS)
    return ENCODERS[name](name, weights, width_mult)


def _check_name(key: str, name: str, known: Mapping[str, object] | Sequence[str]) -> None:
    if name in known:
        return
    close = get_close_matches(name, list(known), n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
    raise ConfigError(f"unknown {key} {name!r}", hint=hint)


def parameter_groups(model: Segmenter) -> dict[str, dict[str, list[nn.Parameter]]]:
    """Sort parameters by learning rate and by weight decay.

    Returns:
        `{"encoder": {"decay": [...], "no_decay": [...]}, "decoder": {...}}`. Norms, biases
        and other vectors are not decayed. Frozen parameters are left out.
    """
    groups = {}
    for part in ("encoder", "decoder"):
        trainable = [p for p in getattr(model, part).parameters() if p.requires_grad]
        groups[part] = {
            "decay": [p for p in trainable if p.ndim > 1],
            "no_decay": [p for p in trainable if p.ndim <= 1],
        }
    return groups
