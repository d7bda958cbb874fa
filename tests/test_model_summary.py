"""The summary against counts made by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segcli.models.build import DECODERS, build_model
from segcli.models.encoders import Encoder
from segcli.models.segmenter import Segmenter
from segcli.models.summary import model_summary
from segcli.models.unet import UNet


def test_counts_by_hand() -> None:
    encoder = Encoder([nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)], (4, 6), (2, 4))
    decoder = UNet((4, 6), 2, strides=(2, 4), width=8)
    model = Segmenter(encoder, decoder, 2, (0.5,) * 3, (0.5,) * 3)
    summary = model_summary(model, [(32, 64), (64, 64)])
    first, second = 3 * 4 * 9, 4 * 6 * 9
    up = (4 + 6) * 8 * 9 + 8 * 8 * 9
    expected = 16 * 32 * first + 8 * 16 * second + 16 * 32 * (up + 8 * 2)
    assert [cost.multiply_adds for cost in summary.costs] == [expected, 2 * expected]
    assert [cost.flops for cost in summary.costs] == [2 * expected, 4 * expected]
    assert [cost.size for cost in summary.costs] == [(32, 64), (64, 64)]
    shapes = {row.name: row.shape for row in summary.rows}
    assert shapes["encoder.stages.0"] == (1, 4, 16, 32)
    assert shapes["encoder.stages.1"] == (1, 6, 8, 16)
    assert shapes["decoder.stages.0"] == (1, 8, 16, 32)
    assert shapes["decoder.classifier"] == (1, 2, 16, 32)


@pytest.mark.parametrize("decoder", DECODERS)
def test_rows_account_for_every_parameter(decoder: str) -> None:
    model = build_model(encoder="mobilenet_v2", decoder=decoder, num_classes=3, width=16)
    model.decoder.eval()
    summary = model_summary(model, [(33, 47)])
    assert sum(row.parameters for row in summary.rows) == summary.parameters
    assert summary.parameters == sum(p.numel() for p in model.parameters())
    assert model.encoder.training and not model.decoder.training  # as they were
    assert model.encoder.stages[0].training


def test_without_sizes_there_are_rows_but_no_costs() -> None:
    model = build_model(encoder="resnet18", decoder="fpn", num_classes=3, width=16)
    summary = model_summary(model, [])
    assert summary.costs == ()
    assert all(row.shape is None for row in summary.rows)


def test_known_network_costs_what_is_published() -> None:
    """MobileNetV2 at 224 pixels: 300 M multiply-adds with its classifier of 1.28 M."""
    model = build_model(encoder="mobilenet_v2", decoder="fpn", num_classes=3, width=8, head_width=8)
    model.decoder = nn.Identity()
    with torch.no_grad():
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            model.encoder(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() / 2 == pytest.approx(299.5e6, rel=0.01)
