"""Frames of a video: what is painted, and a legend that stays where it is."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_run import SPACE, blocks, one_thread  # noqa: F401

from segcli.labels import load_label_space
from segcli.reporting.video import FramePainter, Look

SIZE = (120, 320)
IMAGE = np.ascontiguousarray(np.tile(blocks(1, 120, 64), (1, 5, 1)))
LABEL = np.ascontiguousarray(IMAGE[:, :, 0] // 64)


def paint(look: Look, label: np.ndarray = LABEL) -> np.ndarray:
    before = IMAGE.copy(), label.copy()
    picture = FramePainter(SPACE, SIZE, look).draw(IMAGE, label)
    assert (before[0] == IMAGE).all() and (label == before[1]).all(), "arguments stay as they are"
    return picture


def test_colours_are_mixed_by_opacity() -> None:
    for opacity in (0.0, 0.3, 1.0):
        picture = paint(Look(opacity=opacity, contours=False, legend=False))
        wanted = (1 - opacity) * IMAGE + opacity * SPACE.palette()[LABEL]
        assert np.abs(picture - wanted).max() <= 1.01


def test_contours_follow_the_borders_alone() -> None:
    plain = paint(Look(contours=False, legend=False))
    outlined = paint(Look(legend=False))
    border = np.zeros(SIZE, bool)
    border[:, 1:] |= LABEL[:, 1:] != LABEL[:, :-1]
    border[1:] |= LABEL[1:] != LABEL[:-1]
    border[1:, 1:] |= LABEL[1:, 1:] != LABEL[:-1, :-1]
    border[1:, 1:] |= LABEL[1:, :-1] != LABEL[:-1, 1:]
    changed = (plain != outlined).any(-1)
    assert changed.any() and not (changed & ~border).any()


def test_ignored_pixels_stay_as_they_are() -> None:
    label = LABEL.copy()
    label[20:60] = 255
    assert (paint(Look(legend=False), label)[20:60] == IMAGE[20:60]).all()


def test_views() -> None:
    bare = {"legend": False, "contours": False}
    overlay = paint(Look("overlay", **bare))
    assert (paint(Look("mask", **bare)) == SPACE.palette()[LABEL]).all()
    both = paint(Look("side-by-side", **bare))
    assert (both[:, :320] == IMAGE).all() and (both[:, 320:] == overlay).all()
    split = paint(Look("split", **bare))
    assert (split[:, :150] == IMAGE[:, :150]).all() and (split[:, 170:] == overlay[:, 170:]).all()
    assert (split[:, 160] == 255).all()


def test_the_legend_stays_and_lights_what_is_there() -> None:
    painter = FramePainter(SPACE, SIZE, Look("mask"))
    seen = [painter.draw(IMAGE, np.full(SIZE, k, np.uint8)) for k in (0, 1)]
    strip = seen[0].shape[0] - painter._legend._height
    assert (seen[0][:strip] == SPACE.classes[0].color).all(), "the picture above it is free"
    entries = {e.index: e.box for e in painter._legend._entries}
    assert set(entries) == {0, 1, 2, 3}

    def brightness(picture: np.ndarray, index: int) -> float:
        x0, y0, x1, y1 = entries[index]
        return float(picture[strip:][y0:y1, x0 + (x1 - x0) // 3 : x1].max())

    assert brightness(seen[0], 0) > 230 > 150 > brightness(seen[0], 1)
    assert brightness(seen[1], 0) > 230, "it lingers, so that nothing blinks"
    assert brightness(seen[1], 1) > 230
    for _ in range(20):
        last = painter.draw(IMAGE, np.full(SIZE, 1, np.uint8))
    assert brightness(last, 0) < 150 and brightness(last, 1) > 230


def test_shares_are_a_bar_of_the_classes() -> None:
    label = np.zeros(SIZE, np.uint8)
    label[:, 240:] = 2
    painter = FramePainter(SPACE, SIZE, Look("mask", shares=True))
    picture = painter.draw(IMAGE, label)
    bar = picture[SIZE[0] - painter._legend._height]
    assert (bar[:240] == SPACE.classes[0].color).all()
    assert (bar[240:] == SPACE.classes[2].color).all()


@pytest.mark.parametrize("size", [(2, 2), (48, 64), (64, 128), (256, 512), (2160, 3840), (999, 40)])
def test_a_legend_fits_or_is_left_out(size: tuple[int, int]) -> None:
    space = load_label_space("cityscapes-19")
    image, label = np.full((*size, 3), 90, np.uint8), np.zeros(size, np.uint8)
    look = Look(shares=True, rate=True)
    picture = FramePainter(space, size, look).draw(image, label, seconds=2.0)
    assert picture.shape == image.shape
    above = FramePainter(space, size, Look(legend=False)).draw(image, label)
    changed = (picture[: int(size[0] * 0.75)] != above[: int(size[0] * 0.75)]).any(-1)
    assert changed.mean() < 0.1, "but for the rate in the corner the picture is free"
