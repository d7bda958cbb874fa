"""Filling an encoder's network with pretrained weights, checked key by key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from segcli.errors import ConfigError, SegcliError

# The classifier is never used, so weights with another number of classes fit as well.
_CLASSIFIER = ("fc.", "classifier.")
# Absent from files written before PyTorch 0.4.1; it starts at 0 then.
_OPTIONAL = "num_batches_tracked"


def load_imagenet(network: nn.Module, name: str) -> None:
    """Fill `network` with torchvision's ImageNet weights, fetched or from its cache.

    Raises:
        SegcliError: when they are not in the cache and cannot be fetched.
    """
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        hint = "offline: --set model.weights=FILE with torchvision's keys, or null for none"
        reason = f"cannot fetch ImageNet weights of {name}, {error}"
        raise SegcliError(reason, file=weights.url, hint=hint) from None
    _load_strictly(network, state, Path(weights.url).name, name)


def load_file(network: nn.Module, path: str | Path, name: str) -> None:
    """Fill `network` from a `.pth` or `.safetensors` file with torchvision's keys.

    Raises:
        ConfigError: when the file is missing, damaged or of another network, naming the
            file and the first key that is at fault.
    """
    _load_strictly(network, _read_state(Path(path)), path, name)


def _read_state(path: Path) -> Any:
    """The object in a weights file; only tensors and plain containers are unpickled."""
    if not path.is_file():
        hint = "give `imagenet`, a .pth or a .safetensors file"
        raise ConfigError("no such encoder weights", file=path, hint=hint)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file as load_safetensors

            return load_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    # A damaged file fails in whichever parser meets the damage: zip, pickle, storage...
    except Exception as error:
        # What the parser says is of its own insides, and tells nobody what to do.
        reason = error.strerror if isinstance(error, OSError) else None
        hint = reason or "not a .pth or .safetensors file of weights, or a damaged one"
        raise ConfigError("cannot read encoder weights", file=path, hint=hint) from None


def _load_strictly(network: nn.Module, state: Any, file: str | Path, name: str) -> None:
    """Copy `state` into `network`; all but the classifier must be there and must fit."""
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        hint = "expected one tensor per key, as torchvision writes it"
        raise ConfigError(f"not the weights of {name}", file=file, hint=hint)
    expected = _without_classifier(network.state_dict())
    given = _without_classifier(state)
    for key, tensor in expected.items():
        if key not in given:
            if key.endswith(_OPTIONAL):
                continue
            raise ConfigError(f"not the weights of {name}", file=file, hint=f"{key} is missing")
        if given[key].shape != tensor.shape:
            hint = f"{key} is {tuple(given[key].shape)}, expected {tuple(tensor.shape)}"
            raise ConfigError(f"not the weights of {name}", file=file, hint=hint)
        if given[key].is_floating_point() and not bool(torch.isfinite(given[key]).all()):
            raise ConfigError("damaged encoder weights", file=file, hint=f"{key} is not finite")
    extra = sorted(given.keys() - expected.keys())
    if extra:
        raise ConfigError(f"not the weights of {name}", file=file, hint=f"{extra[0]} is unknown")
    network.load_state_dict(given, strict=False)


def _without_classifier(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(_CLASSIFIER)}
