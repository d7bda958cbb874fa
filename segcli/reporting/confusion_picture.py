"""The confusion matrix as a picture: where the pixels of each class went."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segcli.labels import LabelSpace
from segcli.reporting.render import font

_PAPER, _INK, _FAINT, _LINE = (255, 255, 255), (33, 37, 46), (120, 126, 138), (226, 229, 235)
_EMPTY = (246, 247, 249)
# Right answers run from white to blue, confusions to a warm red.
_RIGHT = ((236, 243, 251), (107, 168, 214), (20, 83, 145))
_WRONG = ((254, 242, 233), (249, 158, 107), (190, 34, 38))

_EXPLANATION = "percent of each true class (row) that was predicted as each class (column)"

Color = tuple[int, int, int]


def draw_confusion(matrix: NDArray[np.int64], label_space: LabelSpace) -> NDArray[np.uint8]:
    """Row-normalised heat map with names, shares in percent and IoU: uint8 (H, W, 3) RGB.

    Each row is a class of the truth and says in percent how its pixels were predicted; the
    colours grow with the square root, so that rare confusions can be seen.

    Args:
        matrix: int64 (K, K), rows = truth.
    """
    k = label_space.num_classes
    totals = matrix.sum(1)
    shares = matrix / np.maximum(totals, 1)[:, None]
    layout = _Layout(label_space)
    sheet = Image.new("RGB", layout.size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_cells(draw, layout, shares, totals > 0)
    _draw_names(sheet, draw, layout, label_space)
    _draw_side(draw, layout, matrix)
    at = (layout.pad, layout.pad)
    draw.text(at, f"Confusion matrix, {label_space.name}", fill=_INK, font=font(layout.text + 5))
    below = (layout.pad, layout.pad + (layout.text + 5) * 1.5)
    draw.text(below, _EXPLANATION, fill=_FAINT, font=font(layout.text))
    draw.rectangle((layout.left, layout.top, *layout.corner(k, k)), outline=_LINE)
    return np.array(sheet)


class _Layout:
    """Pixel positions of everything, from the number and the names of the classes."""

    def __init__(self, space: LabelSpace) -> None:
        k = space.num_classes
        self.cell = int(np.clip(1000 // k, 10, 58))
        self.text = int(np.clip(self.cell * 0.36, 9, 17))
        longest = math.ceil(max(font(self.text).getlength(n) for n in space.class_names))
        self.pad = 24
        self.left = self.pad + longest + 3 * self.text
        self.top = self.pad + longest + 5 * self.text + 12
        self.side = self.left + k * self.cell + self.text
        self.bar = 5 * self.text
        number = math.ceil(font(self.text).getlength("100.0"))
        width = self.side + self.bar + 2 * number + 3 * self.text + self.pad
        widest = max(
            font(self.text + 5).getlength(f"Confusion matrix, {space.name}"),
            font(self.text).getlength(_EXPLANATION),
        )
        width = max(width, math.ceil(widest) + 2 * self.pad)
        self.size = (width, self.top + k * self.cell + self.pad)

    def corner(self, row: float, column: float) -> tuple[float, float]:
        """Upper left corner of a cell."""
        return self.left + column * self.cell, self.top + row * self.cell


def _ramp(stops: tuple[Color, Color, Color], value: float) -> Color:
    place = math.sqrt(value) * (len(stops) - 1)
    low = min(int(place), len(stops) - 2)
    a, b = np.array(stops[low]), np.array(stops[low + 1])
    red, green, blue = (a + (place - low) * (b - a)).round().astype(int).tolist()
    return red, green, blue


def _draw_cells(
    draw: ImageDraw.ImageDraw,
    layout: _Layout,
    shares: NDArray[np.float64],
    present: NDArray[np.bool_],
) -> None:
    gap = 1 if layout.cell >= 16 else 0
    for row, column in np.ndindex(shares.shape):
        share = float(shares[row, column])
        x, y = layout.corner(row, column)
        color = _EMPTY
        if present[row] and share >= 0.0005:
            color = _ramp(_RIGHT if row == column else _WRONG, share)
        draw.rectangle((x, y, x + layout.cell - 1 - gap, y + layout.cell - 1 - gap), fill=color)
        if layout.cell >= 22 and present[row] and share >= 0.005:
            ink = _PAPER if sum(color) < 380 else _INK
            middle = (x + (layout.cell - gap) / 2, y + (layout.cell - gap) / 2)
            draw.text(middle, f"{100 * share:.0f}", fill=ink, font=font(layout.text), anchor="mm")


def _draw_names(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, layout: _Layout, space: LabelSpace
) -> None:
    half = layout.text * 0.42
    for index, entry in enumerate(space.classes):
        x, y = layout.corner(index + 0.5, 0)
        swatch = x - layout.text
        box = (swatch - 2 * half, y - half, swatch, y + half)
        draw.rounded_rectangle(box, 2, fill=entry.color, outline=_FAINT)
        draw.text(
            (swatch - layout.text * 1.35, y),
            entry.name,
            fill=_INK,
            font=font(layout.text),
            anchor="rm",
        )
        _draw_upright(sheet, entry.name, layout.corner(0, index + 0.5), layout.text)


def _draw_upright(sheet: Image.Image, name: str, foot: tuple[float, float], text: int) -> None:
    """`name` turned by 90°, reading upwards from `foot`."""
    length = math.ceil(font(text).getlength(name)) + 2
    strip = Image.new("RGB", (length, text * 3 // 2), _PAPER)
    ImageDraw.Draw(strip).text((0, text * 0.75), name, fill=_INK, font=font(text), anchor="lm")
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    x, y = round(foot[0] - turned.width / 2), round(foot[1] - turned.height - text * 0.5)
    sheet.paste(turned, (x, y))


def _draw_side(draw: ImageDraw.ImageDraw, layout: _Layout, matrix: NDArray[np.int64]) -> None:
    """To the right of each row: a bar of its IoU, and the class's share of all pixels."""
    hits = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - hits
    total = max(1, int(matrix.sum()))
    heading = layout.top - layout.text
    number = layout.side + layout.bar + layout.text * 3.4
    share_at = number + layout.text * 3.6
    draw.text((number, heading), "IoU %", fill=_FAINT, font=font(layout.text), anchor="rm")
    draw.text((share_at, heading), "pixels", fill=_FAINT, font=font(layout.text), anchor="rm")
    for index in range(len(hits)):
        _, y = layout.corner(index + 0.5, 0)
        half = layout.cell * 0.22
        right = layout.side + layout.bar
        draw.rounded_rectangle((layout.side, y - half, right, y + half), 2, fill=_EMPTY)
        iou = hits[index] / union[index] if union[index] else math.nan
        if iou > 0:
            end = layout.side + max(2.0, layout.bar * float(iou))
            draw.rounded_rectangle((layout.side, y - half, end, y + half), 2, fill=_RIGHT[1])
        words = f"{100 * iou:.1f}" if union[index] else "–"
        draw.text((number, y), words, fill=_INK, font=font(layout.text), anchor="rm")
        share = f"{100 * int(matrix[index].sum()) / total:.1f}"
        draw.text((share_at, y), share, fill=_FAINT, font=font(layout.text), anchor="rm")
