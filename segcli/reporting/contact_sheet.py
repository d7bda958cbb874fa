"""A contact sheet of training views: image, mask and overlay of some samples at every stage.

Shapes: image uint8 (h, w, 3) RGB; target uint8 (h', w') of class indices, of the same window
but not always of the same size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from segcli.labels import LabelSpace
from segcli.reporting.render import (
    Picture,
    caption,
    colorize,
    font,
    hatch,
    legend_strip,
    occurring,
    overlay,
)

_GAP = 6
_BAND, _INK, _FAINT = (34, 40, 52), (245, 245, 245), (178, 186, 198)


@dataclass(frozen=True)
class View:
    """What the network sees of a sample, and what the loss compares with."""

    name: str
    image: Picture
    target: Picture


@dataclass(frozen=True)
class Row:
    """The views of one stage, all of one size.

    Attributes:
        title: printed large above them.
        note: printed small beside the title.
    """

    title: str
    note: str
    views: Sequence[View]


def contact_sheet(rows: Sequence[Row], space: LabelSpace, *, tile: int = 400) -> Picture:
    """One picture: for each row a header, then images, masks and overlays; below, a legend.

    Ignored pixels are hatched in the masks and show the plain image in the overlays.

    Args:
        tile: longest side of a view on the sheet in pixels; larger ones shrink, much
            smaller ones grow by a whole factor, pixel by pixel.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    blocks = [_grid(row.views, space, tile) for row in rows]
    width = max(480, *(block.shape[1] for block in blocks))
    parts: list[Picture] = []
    for row, block in zip(rows, blocks, strict=True):
        parts.append(_header(width, row.title, row.note))
        parts.append(_widen(block, width))
    targets = [view.target.ravel() for row in rows for view in row.views]
    seen = occurring(np.concatenate(targets), space)
    parts.append(legend_strip(width, space, seen, int(np.clip(width // 90, 12, 18))))
    return np.concatenate(parts)


def _grid(views: Sequence[View], space: LabelSpace, tile: int) -> Picture:
    """Samples side by side; image above mask above overlay."""
    columns = [_column(view, space, tile, first=n == 0) for n, view in enumerate(views)]
    height = columns[0].shape[0]
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    spaced = [part for column in columns for part in (column, gap)]
    return np.concatenate([gap, *spaced], 1)


def _column(view: View, space: LabelSpace, tile: int, *, first: bool) -> Picture:
    size = _shown(view.image.shape[:2], tile)
    image = _resized(view.image, size)
    target = cv2.resize(view.target, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    label = np.asarray(target, np.uint8)
    ignored = label == space.ignore_index
    palette = space.palette()
    mask = hatch(colorize(label, palette), np.asarray(ignored * np.uint8(255)))
    blended = overlay(image, label, palette, ignore_index=space.ignore_index)
    share = float((view.target == space.ignore_index).mean())
    text = f"{share:.1%} ignored" if share else ""
    if first:
        text = f"mask, {text}" if text else "mask"
    tiles = [
        caption(image, _fitting(view.name, size[1])),
        caption(mask, text) if text else mask,
        caption(blended, "overlay") if first else blended,
    ]
    gap = np.full((_GAP, size[1], 3), 255, np.uint8)
    return np.concatenate([part for each in tiles for part in (gap, each)] + [gap])


def _shown(shape: tuple[int, ...], tile: int) -> tuple[int, int]:
    """(height, width) on the sheet of a view of `shape`."""
    longest = max(shape)
    factor = tile / longest if longest > tile else max(1, tile // 2 // longest)
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def _resized(image: Picture, size: tuple[int, int]) -> Picture:
    if image.shape[:2] == size:
        return image
    shrinks = size[0] < image.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST_EXACT
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method), np.uint8)


def _fitting(text: str, width: int, size: int = 16) -> str:
    """`text`, or its end where it is too long for a tile."""
    kept = text
    while len(kept) > 4 and font(size).getlength(kept) > width - 2 * size:
        kept = ".." + kept[3:]
    return kept


def _header(width: int, title: str, note: str) -> Picture:
    """A dark band with the title and, beside or below it, the note."""
    large, small = 20, 15
    room = width - 2 * large - math.ceil(font(large).getlength(title))
    lines = _wrapped(note, width - 2 * large, small)
    beside = len(lines) == 1 and font(small).getlength(note) <= room - large
    height = 40 if beside else 42 + 22 * len(lines)
    band = Image.new("RGB", (width, height), _BAND)
    draw = ImageDraw.Draw(band)
    draw.text((large, 20), title, fill=_INK, font=font(large), anchor="lm")
    if beside:
        draw.text((width - room, 21), note, fill=_FAINT, font=font(small), anchor="lm")
        return np.array(band)
    for number, line in enumerate(lines):
        draw.text((large, 48 + 22 * number), line, fill=_FAINT, font=font(small), anchor="lm")
    return np.array(band)


def _wrapped(text: str, width: int, size: int) -> list[str]:
    """`text` broken at its separators ' · ' into lines that fit."""
    lines: list[str] = []
    for part in text.split(" · "):
        longer = f"{lines[-1]} · {part}" if lines else part
        if lines and font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def _widen(picture: Picture, width: int) -> Picture:
    """White to the right of `picture` up to `width` pixels."""
    missing = width - picture.shape[1]
    return np.pad(picture, ((0, 0), (0, missing), (0, 0)), constant_values=255)
