"""The legend of a video: every class at one place through the whole of it.

The classes in the picture are bright, the others dim. All text is drawn once, a frame only
blends it in.

Shapes: image uint8 (H, W, 3) RGB; label uint8 (H, W) of class indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segcli.labels import LabelSpace
from segcli.reporting.render import font

Picture = NDArray[np.uint8]

_STRIP, _INK, _DIM = (14, 16, 22), (245, 245, 245), 0.34
_STRIP_ALPHA = 0.66
_SMALLEST_TEXT, _LARGEST_TEXT = 10, 26
_LARGEST_LEGEND = 0.2
# A class is named as long as it was in the picture lately: nothing blinks.
_PRESENT_SHARE, _LINGER_FRAMES = 0.001, 12
_SHARE_SPEED = 0.15
# What is written as 0 % is better not written.
_SMALLEST_SHARE = 0.005
_WIDEST = "  88%"


@dataclass(frozen=True)
class _Entry:
    index: int
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 in the strip
    number: tuple[int, int]  # where its share is written: right edge, middle


class Legend:
    """The strip at the foot of every frame of one video."""

    def __init__(self, space: LabelSpace, size: tuple[int, int], *, shares: bool) -> None:
        self._space, self._shares = space, shares
        self._text, rows = _layout(space, size, shares)
        self._seen = np.full(space.num_classes, -(10**9))
        self._mean: NDArray[np.float64] | None = None
        self._count = 0
        self._entries: list[_Entry] = []
        if not rows:
            return
        line = _line(self._text)
        self._bar = max(3, self._text // 3) if shares else 0
        self._height = len(rows) * line + self._text // 2 + self._bar
        strips = [Image.new("RGBA", (size[1], self._height)) for _ in range(2)]
        for strip, strength in zip(strips, (1.0, _DIM), strict=True):
            entries = self._paint(strip, rows, strength)
        self._entries = entries
        self._bright, self._dim = (_layer(strip) for strip in strips)

    def _paint(self, strip: Image.Image, rows: list[list[int]], strength: float) -> list[_Entry]:
        """Names and swatches of all classes at one strength; where they went."""
        draw, text, line = ImageDraw.Draw(strip), self._text, _line(self._text)
        entries = []
        for number, row in enumerate(rows):
            x, top = text // 2, self._bar + text // 4 + number * line
            middle, half = top + line / 2, round(text * 0.42)
            for index in row:
                chosen, width = self._space.classes[index], self._width(index)
                box = (x, middle - half, x + 2 * half, middle + half)
                alpha = round(255 * strength)
                draw.rounded_rectangle(
                    box, max(1, text // 5), (*chosen.color, alpha), (*_INK, alpha // 3)
                )
                start = x + round(text * 1.2)
                draw.text(
                    (start, middle), chosen.name, (*_INK, alpha), font=font(text), anchor="lm"
                )
                end = x + width
                share_end = round(start + font(text).getlength(f"{chosen.name}{_WIDEST}"))
                entries.append(_Entry(index, (x, top, end, top + line), (share_end, round(middle))))
                x = end
        return entries

    def _width(self, index: int) -> int:
        return _entry_width(self._space.classes[index].name, self._text, self._shares)

    def draw(self, painted: Picture, label: Picture) -> None:
        """Blend the strip into the foot of `painted`, in place."""
        if not self._entries:
            return
        counts = _counts(label, self._space.num_classes)
        share = counts / max(1, label.size)
        self._mean = share if self._mean is None else self._mean
        self._mean += _SHARE_SPEED * (share - self._mean)
        self._seen[share >= _PRESENT_SHARE] = self._count
        lit = self._seen >= self._count - _LINGER_FRAMES
        self._count += 1
        color, keep = self._dim[0].copy(), self._dim[1].copy()
        for entry in self._entries:
            if lit[entry.index]:
                x0, y0, x1, y1 = entry.box
                color[y0:y1, x0:x1] = self._bright[0][y0:y1, x0:x1]
                keep[y0:y1, x0:x1] = self._bright[1][y0:y1, x0:x1]
                if self._shares and self._mean[entry.index] >= _SMALLEST_SHARE:
                    _stamp(color, keep, f"{self._mean[entry.index]:.0%}", entry, self._text)
        foot = painted[-self._height :]
        np.copyto(foot, cv2.add(cv2.multiply(foot, keep, scale=1 / 255), color))
        if self._shares:
            self._draw_bar(foot)

    def _draw_bar(self, foot: Picture) -> None:
        """All classes as one bar across the picture, in the order of the legend."""
        assert self._mean is not None
        ends = np.round(np.cumsum(self._mean) * foot.shape[1]).astype(int)
        start = 0
        for chosen, end in zip(self._space.classes, ends, strict=True):
            foot[: self._bar, start:end] = chosen.color
            start = end


def _counts(label: Picture, classes: int) -> NDArray[np.float64]:
    """Pixels of every class, counted on every second row and column and scaled up."""
    small = np.ascontiguousarray(label[::2, ::2])
    counts = np.bincount(small.ravel(), minlength=256)[:classes]
    return np.asarray(counts * (label.size / small.size), np.float64)


def _line(text: int) -> int:
    return round(text * 1.5)


def _entry_width(name: str, text: int, shares: bool) -> int:
    shown = f"{name}{_WIDEST}" if shares else name
    return round(text * 2.1 + float(font(text).getlength(shown)))


def _layout(space: LabelSpace, size: tuple[int, int], shares: bool) -> tuple[int, list[list[int]]]:
    """Text size, and the classes row by row; no rows where nothing could be read."""
    height, width = size
    text = int(np.clip(round(min(height, width * 9 / 16) / 28), _SMALLEST_TEXT, _LARGEST_TEXT))
    for smaller in range(text, _SMALLEST_TEXT - 1, -1):
        widths = [_entry_width(chosen.name, smaller, shares) for chosen in space.classes]
        rows = _rows(widths, width - smaller)
        tall = len(rows) * _line(smaller) + smaller // 2 > height * _LARGEST_LEGEND
        if rows and not tall:
            # As many rows, but of about one length.
            for narrow in range(sum(widths) // len(rows), width - smaller, max(1, smaller // 2)):
                if len(even := _rows(widths, narrow)) == len(rows):
                    return smaller, even
            return smaller, rows
    return _SMALLEST_TEXT, []


def _rows(widths: Sequence[int], width: int) -> list[list[int]]:
    """Indices broken into rows of `width` at most; none where one alone is wider."""
    if max(widths) > width:
        return []
    rows: list[list[int]] = []
    free = 0
    for index, need in enumerate(widths):
        if not rows or need > free:
            rows.append([])
            free = width
        rows[-1].append(index)
        free -= need
    return rows


def _layer(strip: Image.Image) -> tuple[Picture, Picture]:
    """What a translucent dark strip under `strip` (RGBA) adds, and what it keeps: (h, w, 3)."""
    rgba = np.asarray(strip, np.float32)
    alpha = rgba[..., 3:] / 255
    color = rgba[..., :3] * alpha + (1 - alpha) * _STRIP_ALPHA * np.array(_STRIP, np.float32)
    keep = np.broadcast_to((1 - alpha) * (1 - _STRIP_ALPHA) * 255, color.shape)
    return np.round(color).astype(np.uint8), np.round(keep).astype(np.uint8)


@lru_cache(maxsize=512)
def _word(text: str, size: int) -> tuple[Picture, Picture]:
    """A word on the strip, as `_layer` gives it."""
    box = (round(font(size).getlength(text)) + 1, _line(size))
    word = Image.new("RGBA", box)
    ImageDraw.Draw(word).text((0, box[1] / 2), text, (*_INK, 255), font=font(size), anchor="lm")
    return _layer(word)


def _stamp(color: Picture, keep: Picture, text: str, entry: _Entry, size: int) -> None:
    """Write `text` flush right at the entry's place."""
    word = _word(text, size)
    height, width = word[0].shape[:2]
    x, y = entry.number[0] - width, entry.number[1] - height // 2
    if x < 0 or y < 0 or y + height > color.shape[0] or x + width > color.shape[1]:
        return
    color[y : y + height, x : x + width] = word[0]
    keep[y : y + height, x : x + width] = word[1]


def blend_corner(painted: Picture, text: str) -> None:
    """A word in the upper right corner, in place, where there is room for it."""
    size = int(np.clip(round(min(painted.shape[:2]) / 28), _SMALLEST_TEXT, _LARGEST_TEXT))
    color, keep = _padded_word(text, size)
    height, width = color.shape[:2]
    if height > painted.shape[0] / 4 or width > painted.shape[1] / 4:
        return
    corner = painted[:height, painted.shape[1] - width :]
    np.copyto(corner, cv2.add(cv2.multiply(corner, keep, scale=1 / 255), color))


@lru_cache(maxsize=64)
def _padded_word(text: str, size: int) -> tuple[Picture, Picture]:
    box = (round(font(size).getlength(text)) + size, _line(size) + size // 3)
    word = Image.new("RGBA", box)
    ink = (*_INK, 255)
    ImageDraw.Draw(word).text((size / 2, box[1] / 2), text, ink, font=font(size), anchor="lm")
    return _layer(word)
