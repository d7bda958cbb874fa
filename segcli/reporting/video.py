"""Frames of a finished video: overlay, split, side by side or mask, with a legend that stays.

Shapes: image uint8 (H, W, 3) RGB; label uint8 (H, W) of class indices.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segcli.labels import LabelSpace
from segcli.reporting.video_legend import Legend, blend_corner

Picture = NDArray[np.uint8]
VIEWS = ("overlay", "side-by-side", "split", "mask")


@dataclass(frozen=True)
class Look:
    """What a finished frame shows.

    Attributes:
        view: one of `VIEWS`.
        opacity: of the classes' colours over the picture, 0..1.
        contours: outline regions.
        legend: name the classes at the foot.
        shares: the share of the picture that each class takes, as a bar and in the legend.
        rate: the frame rate in the corner.
    """

    view: str = "overlay"
    opacity: float = 0.5
    contours: bool = True
    legend: bool = True
    shares: bool = False
    rate: bool = False


class FramePainter:
    """Draws the frames of one video, in order.

    Args:
        space: the classes.
        size: (height, width) of the input's frames.
        look: what to show.
    """

    def __init__(self, space: LabelSpace, size: tuple[int, int], look: Look) -> None:
        self._look, self._space = look, space
        self._palette = space.palette()
        self._tint = _tint_table(self._palette, look.opacity)
        self._light = _light_table(self._palette)
        legend = look.legend or look.shares
        self._legend = Legend(space, size, shares=look.shares) if legend else None
        self._count, self._rate_shown, self._rate_text = 0, -1e9, ""

    @property
    def columns(self) -> int:
        """Pictures beside each other in a frame."""
        return 2 if self._look.view == "side-by-side" else 1

    def draw(self, image: Picture, label: Picture, *, seconds: float = 0.0) -> Picture:
        """The finished frame (H, W, 3), or (H, 2 W, 3) side by side.

        Args:
            seconds: of work so far, a clock for the frame rate.
        """
        if self._look.view == "mask":
            painted = _lookup(self._palette, label)
        else:
            painted = self._overlay(image, label)
        if self._look.view == "split":
            middle = image.shape[1] // 2
            painted[:, :middle] = image[:, :middle]
            line = max(1, image.shape[1] // 480)
            painted[:, max(0, middle - line) : middle + line] = 255
        if self._legend is not None:
            self._legend.draw(painted, label)
        if self._look.rate:
            self._draw_rate(painted, seconds)
        if self.columns == 1:
            return painted
        return np.asarray(cv2.hconcat([image, painted]), np.uint8)

    def _overlay(self, image: Picture, label: Picture) -> Picture:
        opacity = self._look.opacity
        faded = cv2.convertScaleAbs(image, alpha=1 - opacity)
        painted = np.asarray(cv2.add(faded, _lookup(self._tint, label)), np.uint8)
        if self._look.contours and opacity > 0:
            edge = _edges(label)
            cv2.copyTo(_lookup(self._light, label), edge, painted)
        ignored = _equal(label, self._space.ignore_index)
        if cv2.countNonZero(ignored):
            cv2.copyTo(image, ignored, painted)
        return painted

    def _draw_rate(self, painted: Picture, seconds: float) -> None:
        self._count += 1
        if seconds - self._rate_shown >= 0.5:
            self._rate_shown = seconds
            self._rate_text = f"{self._count / seconds:.1f} fps" if seconds > 0 else ""
        if self._rate_text:
            blend_corner(painted, self._rate_text)


def _lookup(table: Picture, label: Picture) -> Picture:
    """uint8 (H, W, 3): `table` (256, 3) at every pixel's class."""
    return np.asarray(cv2.LUT(cv2.merge([label, label, label]), table[None]), np.uint8)


def _equal(label: Picture, value: int) -> Picture:
    bound = np.array([value])
    return np.asarray(cv2.inRange(label, bound, bound), np.uint8)


def _tint_table(palette: Picture, opacity: float) -> Picture:
    return np.round(palette * np.float32(opacity)).astype(np.uint8)


def _light_table(palette: Picture) -> Picture:
    """Colours of the outlines, brighter than the surfaces they part."""
    return np.round(palette * np.float32(0.75) + 64).clip(0, 255).astype(np.uint8)


def _edges(label: Picture) -> Picture:
    """255 where the pixel on the right or below is of another class; wider on large pictures."""
    reach = 2 if min(label.shape) < 700 else 3
    kernel = np.ones((reach, reach), np.uint8)
    return np.asarray(cv2.morphologyEx(label, cv2.MORPH_GRADIENT, kernel), np.uint8)
