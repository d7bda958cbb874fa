"""Pretrained weights from files: the good ones load, every other one is a single line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from segcli.errors import ConfigError, SegcliError
from segcli.models.build import build_model
from segcli.models.segmenter import Segmenter
from segcli.models.weights import load_imagenet

WEIGHTS = Path(__file__).resolve().parents[1] / "../shared/weights/mobilenet_v2_imagenet.pth"


def small(weights: Path, width_mult: float = 1.0) -> Segmenter:
    return build_model(
        encoder="mobilenet_v2",
        decoder="fpn",
        num_classes=2,
        width=16,
        encoder_weights=weights,
        width_mult=width_mult,
    )


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Weights as torchvision writes them, of a small network."""
    from torchvision.models import mobilenet_v2

    torch.manual_seed(7)
    return mobilenet_v2(width_mult=0.25).state_dict()


def load(path: Path) -> Segmenter:
    return small(path, width_mult=0.25)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(state: dict[str, Tensor], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    other = {k: v[:3].clone() if k.startswith("classifier") else v for k, v in state.items()}
    (save_file if suffix == ".safetensors" else torch.save)(other, path)
    first = next(load(path).encoder.parameters())
    assert torch.equal(first, state["features.0.0.weight"])


def test_old_weights_without_batch_counts(state: dict[str, Tensor], tmp_path: Path) -> None:
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    load(tmp_path / "old.pth")


def _without(state: dict[str, Tensor]) -> object:
    return {k: v for k, v in state.items() if k != "features.2.conv.0.0.weight"}


def _reshaped(state: dict[str, Tensor]) -> object:
    return {**state, "features.0.0.weight": torch.zeros(32, 3, 3, 3)}


def _with_nan(state: dict[str, Tensor]) -> object:
    return {**state, "features.0.1.bias": state["features.0.1.bias"] * float("nan")}


def _with_more(state: dict[str, Tensor]) -> object:
    return {**state, "features.19.weight": torch.zeros(1)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, "features.2.conv.0.0.weight is missing"),
        (_reshaped, "features.0.0.weight is (32, 3, 3, 3), expected (8, 3, 3, 3)"),
        (_with_nan, "features.0.1.bias is not finite"),
        (_with_more, "features.19.weight is unknown"),
        (lambda state: [1, 2], "expected one tensor per key"),
        (lambda state: {"state_dict": dict(state)}, "expected one tensor per key"),
    ],
)
def test_weights_that_do_not_fit(
    state: dict[str, Tensor], tmp_path: Path, change: object, message: str
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(change(state), path)  # type: ignore[operator]
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 cut short"])
def test_damaged_weights(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot read encoder weights") as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "(not a .pth or .safetensors file of weights, or a damaged one)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such encoder weights"):
        load(tmp_path / "absent.pth")


def test_imagenet_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import mobilenet_v2
    from torchvision.models._api import WeightsEnum

    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", offline)
    with pytest.raises(SegcliError, match=r"--set model\.weights=FILE"):
        load_imagenet(mobilenet_v2(), "mobilenet_v2")


def test_a_real_imagenet_file_loads() -> None:
    if not WEIGHTS.is_file():
        pytest.skip(f"no {WEIGHTS.name} in ../shared/weights")
    expected = torch.load(WEIGHTS, weights_only=True)["features.18.0.weight"]
    model = small(WEIGHTS)
    assert torch.equal(model.encoder.stages[-1][-1][0].weight, expected)
