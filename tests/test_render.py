"""Pictures: sizes, colours, what stays untouched; and indexed PNGs read back by Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from segcli.labels import load_label_space
from segcli.png import encode_indices
from segcli.reporting import render
from segcli.reporting.confusion_picture import draw_confusion

SPACE = load_label_space("cityscapes-19")
PALETTE = SPACE.palette()


def picture(height=60, width=90, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def label(height=60, width=90, classes=19):
    blocks = np.random.default_rng(3).integers(0, classes, (-(-height // 10), -(-width // 10)))
    return np.kron(blocks, np.ones((10, 10)))[:height, :width].astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (53, 1), (40, 70)])
def test_indexed_png_reads_back_with_its_palette(shape):
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = encode_indices(values, PALETTE)
    with Image.open(io.BytesIO(data)) as read:
        assert read.mode == "P"
        assert (np.asarray(read) == values).all()
        assert (np.array(read.getpalette()).reshape(256, 3) == PALETTE).all()
        assert (np.asarray(read.convert("RGB")) == PALETTE[values]).all()
    assert encode_indices(values.copy(order="F"), PALETTE) == data


def test_indexed_png_refuses_other_shapes():
    with pytest.raises(ValueError, match="class map"):
        encode_indices(np.zeros((3, 3, 3), np.uint8), PALETTE)
    with pytest.raises(ValueError, match="class map"):
        encode_indices(np.zeros((0, 3), np.uint8), PALETTE)
    with pytest.raises(ValueError, match="palette"):
        encode_indices(np.zeros((3, 3), np.uint8), PALETTE[:19])


def test_colorize_looks_colours_up():
    values = np.random.default_rng(0).integers(0, 256, (13, 17), dtype=np.uint8)
    assert (render.colorize(values, PALETTE) == PALETTE[values]).all()


def test_overlay_blends_and_leaves_ignored_pixels():
    image, classes = picture(), np.full((60, 90), 13, np.uint8)
    classes[:20] = 255
    before = image.copy()
    plain = render.overlay(image, classes, PALETTE, 0.5, contours=False)
    expected = (image[30:].astype(float) + PALETTE[13]) / 2
    assert np.abs(plain[30:] - expected).max() <= 1
    assert (plain[:20] == image[:20]).all()
    assert (image == before).all()
    assert (render.overlay(image, classes, PALETTE, 0.0) == image).all()


def test_contours_part_classes_and_nothing_else():
    image, classes = np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.uint8)
    classes[:, 20:] = 8
    plain = render.overlay(image, classes, PALETTE, 0.5, contours=False)
    drawn = render.overlay(image, classes, PALETTE, 0.5)
    changed = np.flatnonzero((plain != drawn).any((0, 2)))
    assert 1 <= len(changed) <= 3 and abs(int(changed[0]) - 20) <= 2


def test_error_map_tells_right_wrong_and_ignored_apart():
    image = picture()
    truth, prediction = np.zeros((60, 90), np.uint8), np.zeros((60, 90), np.uint8)
    prediction[:20] = 1
    truth[40:] = 255
    drawn = render.error_map(image, truth, prediction).astype(int)
    wrong, right, ignored = drawn[:20], drawn[20:40], drawn[40:]
    assert (wrong[..., 0] > wrong[..., 1] + 80).all()
    assert (right[..., 0] == right[..., 1]).all() and right.max() < 160
    assert len(np.unique(ignored.reshape(-1, 3), axis=0)) == 2


def test_occurring_is_sorted_by_share():
    classes = np.array([[5, 5, 5, 2, 2, 9, 255, 255, 255, 255]], np.uint8)
    assert render.occurring(classes, SPACE) == [5, 2, 9]


@pytest.mark.parametrize(
    "shape", [(1, 1), (16, 16), (64, 64), (96, 128), (300, 90), (90, 400), (512, 1024)]
)
def test_a_legend_keeps_the_size_and_most_of_the_picture(shape):
    image = picture(*shape)
    drawn = render.draw_legend(image, SPACE, range(19))
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    untouched = int(shape[0] * 0.75)
    assert (drawn[:untouched] == image[:untouched]).all()


def test_a_legend_shows_the_colours():
    drawn = render.draw_legend(np.zeros((400, 800, 3), np.uint8), SPACE, [13, 10])
    found = {tuple(c) for c in drawn[300:].reshape(-1, 3).tolist()}
    assert {SPACE.classes[13].color, SPACE.classes[10].color} <= found
    assert SPACE.classes[0].color not in found


def test_a_legend_of_nothing_is_the_picture():
    image = picture()
    assert (render.draw_legend(image, SPACE, []) == image).all()


def test_panel_places_its_tiles():
    tiles = [(str(i), np.full((100, 120, 3), 50 * i, np.uint8)) for i in range(4)]
    sheet = render.panel(tiles, gap=6)
    assert sheet.shape == (206, 246, 3)
    assert [int(sheet[y, x, 0]) for y, x in ((99, 119), (99, 245), (205, 119), (205, 245))] == [
        0,
        50,
        100,
        150,
    ]
    assert render.panel(tiles, longest=60).shape == (106, 126, 3)


@pytest.mark.parametrize("shape", [(12, 9), (60, 90), (300, 1500)])
def test_comparison_at_any_size(shape):
    truth = label(*shape)
    truth[: shape[0] // 3] = 255
    sheet = render.comparison(picture(*shape), truth, label(*shape), SPACE)
    scale = min(1, 1024 / max(shape))
    assert sheet.shape[1] == 2 * round(shape[1] * scale) + 6
    assert sheet.shape[0] > 2 * round(shape[0] * scale) + 6


def test_comparison_of_an_all_ignored_label():
    truth = np.full((40, 60), 255, np.uint8)
    assert render.comparison(picture(40, 60), truth, label(40, 60), SPACE).dtype == np.uint8


@pytest.mark.parametrize(
    "name", ["cityscapes-19", "cityscapes-categories", "cityscapes-ids", "camvid-11"]
)
def test_confusion_picture(name):
    space = load_label_space(name)
    k = space.num_classes
    matrix = np.random.default_rng(0).integers(0, 1000, (k, k))
    matrix[1] = 0
    drawn = draw_confusion(matrix, space)
    assert drawn.ndim == 3 and drawn.dtype == np.uint8 and min(drawn.shape[:2]) > 300
    empty = draw_confusion(np.zeros((k, k), np.int64), space)
    assert empty.shape == drawn.shape and (empty != drawn).any()
