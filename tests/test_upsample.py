"""Strips and the fused argmax against `F.interpolate` and `max`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import one_thread  # noqa: F401

from segcli.inference.upsample import (
    Frame,
    argmax,
    class_map,
    strips,
    upsample,
    upsample_rows,
)

# Coarse size, what it covers, how much of that is picture, what is wanted.
FRAMES = [
    ((16, 24), Frame((64, 96), (64, 96), (64, 96))),
    ((16, 24), Frame((64, 96), (50, 83), (50, 83))),
    ((16, 24), Frame((64, 96), (50, 83), (101, 140))),
    ((16, 24), Frame((64, 96), (50, 83), (33, 47))),
    ((33, 47), Frame((33, 47), (33, 47), (33, 47))),
    ((33, 47), Frame((33, 47), (33, 47), (50, 47))),
    ((1, 1), Frame((32, 32), (1, 1), (1, 1))),
    ((1, 3), Frame((32, 96), (7, 90), (300, 5))),
    ((70, 90), Frame((70, 90), (70, 90), (35, 31))),
]


def textbook(logits: torch.Tensor, frame: Frame) -> torch.Tensor:
    """(K, H, W), the plain way: up, crop, resize."""
    x = F.interpolate(logits[None], size=frame.covered, mode="bilinear", align_corners=False)
    x = x[..., : frame.content[0], : frame.content[1]]
    return F.interpolate(x, size=frame.output, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize(("coarse", "frame"), FRAMES)
@pytest.mark.parametrize("classes", [2, 19])
def test_all_ways_up_agree(coarse, frame, classes):
    torch.manual_seed(0)
    logits = torch.randn(classes, *coarse)
    full = textbook(logits, frame)
    torch.testing.assert_close(upsample(logits[None], frame)[0], full, rtol=0, atol=1e-5)
    parts = list(strips(logits, frame))
    assert [rows.start for rows, _ in parts] == [0, *[rows.stop for rows, _ in parts]][:-1]
    torch.testing.assert_close(torch.cat([s for _, s in parts], 1), full, rtol=0, atol=1e-5)
    middle = slice(frame.output[0] // 3, frame.output[0] // 2 + 1)
    some = upsample_rows(logits, frame, middle)
    torch.testing.assert_close(some, full[:, middle], rtol=0, atol=1e-5)
    assert (class_map(logits, frame) == full.max(0).indices).float().mean() > 0.999


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_class_maps_at_any_size(data):
    side = st.integers(1, 40)
    coarse = (data.draw(side), data.draw(side))
    covered = tuple(c * data.draw(st.sampled_from([1, 2, 4, 8])) for c in coarse)
    content = tuple(data.draw(st.integers(max(1, c // 2), c)) for c in covered)
    output = data.draw(st.one_of(st.just(content), st.tuples(side, side)))
    frame = Frame(covered, content, output)
    torch.manual_seed(data.draw(st.integers(0, 99)))
    logits = torch.randn(data.draw(st.integers(1, 12)), *coarse)
    full = textbook(logits, frame)
    found = class_map(logits, frame)
    assert tuple(found.shape) == output and found.dtype == torch.uint8
    # Where they differ, the classes are as good as equal.
    chosen = full.gather(0, found.long()[None])[0]
    assert (full.amax(0) - chosen).max() < 1e-5


def test_a_large_map_is_equal_in_all_but_a_hundred_thousandth():
    torch.manual_seed(0)
    logits = torch.randn(19, 64, 128)
    frame = Frame((256, 512), (256, 512), (256, 512))
    wrong = class_map(logits, frame) != textbook(logits, frame).max(0).indices
    assert int(wrong.sum()) <= wrong.numel() // 100_000


@pytest.mark.parametrize("most", [0.0, 1.0])
@pytest.mark.parametrize(("coarse", "frame"), FRAMES)
def test_borders_alone_say_what_interpolating_everything_says(coarse, frame, most, monkeypatch):
    """On noise, where all is borders, on large areas, and one way as the other."""
    monkeypatch.setattr("segcli.inference.argmax._MOST", most)
    torch.manual_seed(0)
    for size in (coarse, (2, 3)):
        few = F.interpolate(torch.randn(1, 9, *size), size=coarse, mode="bicubic")[0]
        full = textbook(few, frame)
        found = class_map(few, frame)
        chosen = full.gather(0, found.long()[None])[0]
        assert (full.amax(0) - chosen).max() < 1e-5


def test_large_maps_are_made_in_threads_and_are_the_same(monkeypatch):
    torch.manual_seed(0)
    frame = Frame((768, 768), (760, 767), (760, 767))
    logits = torch.randn(3, 192, 192)
    alone = class_map(logits, frame)
    torch.set_num_threads(3)
    assert torch.equal(class_map(logits, frame), alone)
    assert (alone == textbook(logits, frame).max(0).indices).float().mean() > 0.9999


def test_of_equal_logits_the_lowest_class_wins():
    logits = torch.zeros(5, 4, 4)
    logits[3:] = 1
    frame = Frame((16, 16), (16, 16), (16, 16))
    assert (class_map(logits, frame) == 3).all()
    assert (argmax(torch.zeros(256, 2, 3)) == 0).all()


@pytest.mark.parametrize("classes", [1, 2, 255, 256])
def test_argmax_of_any_number_of_classes(classes):
    torch.manual_seed(0)
    values = torch.randn(classes, 9, 700)
    assert (argmax(values) == values.max(0).indices).all()
    # Rows of a larger tensor, as slices of probabilities are.
    assert (argmax(values[:, 3:5]) == values[:, 3:5].max(0).indices).all()


def test_logits_that_are_no_numbers_still_give_a_class():
    logits = torch.zeros(4, 2, 2)
    logits[:, 0] = float("nan")
    found = class_map(logits, Frame((8, 8), (8, 8), (8, 8)))
    assert int(found.max()) < 4
    infinite = torch.full((4, 2, 2), float("-inf"))
    infinite[2] = 0
    assert (argmax(infinite) == 2).all()


def test_no_tensor_of_all_logits_is_made():
    """Live bytes stay far below K × H × W."""
    from segcli.inference.network import LiveBytes

    logits = torch.randn(19, 64, 128)
    frame = Frame((1024, 2048), (1024, 2048), (1024, 2048))
    whole = 19 * 1024 * 2048 * 4
    with LiveBytes() as live:
        found = class_map(logits, frame)
    assert np.prod(found.shape) <= live.peak < whole / 4
