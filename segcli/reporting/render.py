"""Pictures of class maps: colours, overlays with a legend, errors, panels.

Shapes: image uint8 (H, W, 3) RGB; label uint8 (H, W) of class indices; palette uint8
(256, 3) RGB. Nothing here changes its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segcli.labels import IGNORE_INDEX, LabelSpace
from segcli.png import encode_indices

Picture = NDArray[np.uint8]

_WRONG = (255, 45, 45)
_IGNORED = (96, 96, 104)
_INK = (245, 245, 245)
_STRIP = (16, 18, 24)
# A legend smaller than this cannot be read, one taller than this hides the picture.
_SMALLEST_TEXT, _LARGEST_TEXT = 9, 30
_LARGEST_LEGEND = 0.25


def colorize(label: Picture, palette: Picture) -> Picture:
    """Paint every pixel in the colour of its class: uint8 (H, W, 3) RGB."""
    return np.asarray(cv2.LUT(cv2.merge([label, label, label]), palette[None]), np.uint8)


def label_png(label: Picture, palette: Picture) -> bytes:
    """An indexed PNG: pixel = class index, and viewers show the palette."""
    return encode_indices(label, palette)


def overlay(
    image: Picture,
    label: Picture,
    palette: Picture,
    opacity: float = 0.55,
    *,
    contours: bool = True,
    ignore_index: int = IGNORE_INDEX,
) -> Picture:
    """Tint `image` with the colours of `label`; ignored pixels stay as they are.

    Args:
        opacity: 0 shows the image alone, 1 the colours alone.
        contours: outline regions in their full colour, which keeps thin things visible.
    """
    colors = colorize(label, palette)
    tinted = cv2.addWeighted(image, 1 - opacity, colors, opacity, 0)
    if contours and opacity > 0:
        # Classes of similar colour still part where their outline is drawn brighter.
        edge = _edges(label)
        bright = cv2.addWeighted(colors, 0.75, np.full_like(colors, 255), 0.25, 0)
        cv2.copyTo(bright, edge, tinted)
    ignored = _equal(label, ignore_index)
    if ignored.any():
        cv2.copyTo(image, ignored, tinted)
    return np.asarray(tinted, np.uint8)


def _edges(label: Picture) -> Picture:
    """uint8 (H, W), 255 where a neighbour is of another class; wider on large pictures."""
    reach = 1 if min(label.shape) < 700 else 2
    kernel = np.ones((reach + 1, reach + 1), np.uint8)
    gradient = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, kernel)
    return np.asarray(cv2.threshold(gradient, 0, 255, cv2.THRESH_BINARY)[1], np.uint8)


def _equal(label: Picture, value: int) -> Picture:
    """uint8 (H, W), 255 where `label` is `value`."""
    return np.asarray(cv2.inRange(label, np.array([value]), np.array([value])), np.uint8)


def error_map(
    image: Picture, truth: Picture, prediction: Picture, ignore_index: int = IGNORE_INDEX
) -> Picture:
    """Where a prediction is wrong: red on the dimmed grey image; ignored pixels are hatched."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    dimmed = cv2.cvtColor(cv2.convertScaleAbs(grey, alpha=0.55, beta=8), cv2.COLOR_GRAY2RGB)
    red = cv2.addWeighted(dimmed, 0.35, np.full_like(dimmed, _WRONG), 0.8, 0)
    wrong = cv2.compare(truth, prediction, cv2.CMP_NE)
    cv2.copyTo(red, wrong, dimmed)
    return hatch(np.asarray(dimmed, np.uint8), _equal(truth, ignore_index))


def hatch(image: Picture, mask: Picture) -> Picture:
    """`image` with diagonal stripes where `mask` is 255: no class has such a colour."""
    if not mask.any():
        return image
    height, width = image.shape[:2]
    period = max(6, round(min(height, width) / 45))
    tile = np.add.outer(np.arange(period), np.arange(period)) % period < period // 2
    repeats = (-(-height // period), -(-width // period))
    stripes = np.tile(tile, repeats)[:height, :width]
    hatched = image.copy()
    hatched[mask > 0] = _STRIP
    hatched[(mask > 0) & stripes] = _IGNORED
    return hatched


def occurring(label: Picture, label_space: LabelSpace) -> list[int]:
    """The classes that occur in `label`, the most frequent first."""
    counts = np.bincount(label.ravel(), minlength=256)[: label_space.num_classes]
    order = np.argsort(-counts, kind="stable")
    return [int(index) for index in order if counts[index]]


def draw_legend(image: Picture, label_space: LabelSpace, classes: Sequence[int]) -> Picture:
    """`image`, same size, with a translucent strip at its foot that names `classes`.

    The strip takes a quarter of the height at most: what does not fit is counted at its
    end, in the given order. A picture too small for readable text comes back as it is.
    """
    height, width = image.shape[:2]
    text = int(np.clip(round(min(height, width) / 30), _SMALLEST_TEXT + 2, _LARGEST_TEXT))
    rows: list[list[_Chip]] = []
    while text >= _SMALLEST_TEXT:
        rows = _flow(_chips(label_space, classes, text), width - text, text)
        if len(rows) * _line(text) + text // 2 <= height * _LARGEST_LEGEND:
            break
        text -= 1
    else:
        text = _SMALLEST_TEXT
        fit = int((height * _LARGEST_LEGEND - text // 2) // _line(text))
        rows = _shorten(rows, fit, width - text, text)
    if not rows:
        return image.copy()
    strip_height = len(rows) * _line(text) + text // 2
    foot = Image.fromarray(image[height - strip_height :])
    foot = Image.blend(foot, Image.new("RGB", foot.size, _STRIP), 0.72)
    _draw_chips(foot, rows, text)
    return np.concatenate([image[: height - strip_height], np.asarray(foot)])


def legend_strip(
    width: int, label_space: LabelSpace, classes: Sequence[int], text: int = 16
) -> Picture:
    """A strip of its own that names `classes`, as tall as it takes: uint8 (h, width, 3)."""
    rows = _flow(_chips(label_space, classes, text), width - text, text)
    strip = Image.new("RGB", (width, len(rows) * _line(text) + text // 2), _STRIP)
    _draw_chips(strip, rows, text)
    return np.array(strip)


# One entry of a legend: its text, the colour of its swatch, its width in pixels.
_Chip = tuple[str, tuple[int, int, int] | None, int]


def _chips(label_space: LabelSpace, classes: Sequence[int], text: int) -> list[_Chip]:
    chosen = [label_space.classes[index] for index in classes]
    return [_chip(c.name, c.color, text) for c in chosen]


def _chip(name: str, color: tuple[int, int, int] | None, text: int) -> _Chip:
    swatch = 0 if color is None else round(text * 1.35)
    return name, color, swatch + math.ceil(font(text).getlength(name)) + text


def _line(text: int) -> int:
    return round(text * 1.5)


def _flow(chips: Sequence[_Chip], width: int, text: int) -> list[list[_Chip]]:
    """Break `chips` into rows no wider than `width`."""
    rows: list[list[_Chip]] = []
    free = 0
    for chip in chips:
        if not rows or chip[2] > free:
            rows.append([])
            free = width
        rows[-1].append(chip)
        free -= chip[2]
    return rows


def _shorten(rows: list[list[_Chip]], fit: int, width: int, text: int) -> list[list[_Chip]]:
    """The first `fit` rows, ending with how many entries were left out."""
    if fit < 1 or any(row[0][2] > width for row in rows):
        return []
    kept, left_out = [list(row) for row in rows[:fit]], sum(len(row) for row in rows[fit:])
    while left_out:
        more = _chip(f"+{left_out}", None, text)
        if sum(chip[2] for chip in kept[-1]) + more[2] <= width:
            kept[-1].append(more)
            break
        kept[-1].pop()
        left_out += 1
    return kept


def _draw_chips(strip: Image.Image, rows: list[list[_Chip]], text: int) -> None:
    draw = ImageDraw.Draw(strip)
    line = _line(text)
    for number, row in enumerate(rows):
        x, middle = text * 3 // 4, text // 4 + number * line + line // 2
        for name, color, width in row:
            start = x
            if color is not None:
                half = round(text * 0.45)
                box = (x, middle - half, x + 2 * half, middle + half)
                draw.rounded_rectangle(box, text // 5, fill=color, outline=_INK)
                start += round(text * 1.35)
            draw.text((start, middle), name, fill=_INK, font=font(text), anchor="lm")
            x += width


@lru_cache(maxsize=64)
def font(size: int) -> Any:
    """The scalable font that comes with Pillow, in pixels."""
    return ImageFont.load_default(size)


def caption(image: Picture, text: str, size: int | None = None) -> Picture:
    """`image`, same size, with a small title in its upper left corner."""
    height, width = image.shape[:2]
    size = size or int(np.clip(round(height / 26), 11, 26))
    box = (math.ceil(font(size).getlength(text)) + size, round(size * 1.7))
    if box[0] > width or box[1] > height:
        return image.copy()
    corner = Image.fromarray(image[: box[1], : box[0]])
    corner = Image.blend(corner, Image.new("RGB", corner.size, _STRIP), 0.72)
    ImageDraw.Draw(corner).text(
        (size // 2, box[1] / 2), text, fill=_INK, font=font(size), anchor="lm"
    )
    result = image.copy()
    result[: box[1], : box[0]] = np.asarray(corner)
    return result


def panel(
    tiles: Sequence[tuple[str, Picture]], *, columns: int = 2, longest: int = 1024, gap: int = 6
) -> Picture:
    """Captioned pictures of one size in a grid: uint8 (H', W', 3).

    Args:
        tiles: (caption, picture) each, left to right, row by row.
        longest: tiles with a longer side are shrunk to this many pixels.
        gap: pixels between tiles.
    """
    height, width = tiles[0][1].shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    rows = -(-len(tiles) // columns)
    shape = (rows * (size[1] + gap) - gap, columns * (size[0] + gap) - gap, 3)
    sheet = np.full(shape, 255, np.uint8)
    for number, (text, tile) in enumerate(tiles):
        small = cv2.resize(tile, size, interpolation=cv2.INTER_AREA) if scale < 1 else tile
        y, x = (number // columns) * (size[1] + gap), (number % columns) * (size[0] + gap)
        sheet[y : y + size[1], x : x + size[0]] = caption(np.asarray(small, np.uint8), text)
    return sheet


def comparison(
    image: Picture, truth: Picture, prediction: Picture, label_space: LabelSpace
) -> Picture:
    """Image, truth, prediction and errors two by two, with a legend below.

    The four have one size (H, W); `truth` may hold the ignore index.
    """
    palette, ignore = label_space.palette(), label_space.ignore_index
    labelled = int((truth != ignore).sum())
    wrong = int(((truth != prediction) & (truth != ignore)).sum())
    share = f"errors: {wrong / labelled:.1%} of labelled pixels" if labelled else "errors"
    truth_colors = hatch(colorize(truth, palette), _equal(truth, ignore))
    title = "truth (hatched: ignored)" if labelled < truth.size else "truth"
    sheet = panel(
        [
            ("image", image),
            (title, truth_colors),
            ("prediction", colorize(prediction, palette)),
            (share, error_map(image, truth, prediction, ignore)),
        ]
    )
    seen = occurring(np.concatenate([truth.ravel(), prediction.ravel()]), label_space)
    size = int(np.clip(sheet.shape[1] // 75, 12, 24))
    return np.concatenate([sheet, legend_strip(sheet.shape[1], label_space, seen, size)])
