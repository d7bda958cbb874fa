"""Does a class map lie where another one does? Shifts and mirrorings between two maps.

Two maps of one picture agree best when laid exactly on each other. How many pixels agree at
every shift by whole pixels tells where that is, to a fraction of a pixel, without any truth.

Shapes: maps uint8 (H, W).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Map = NDArray[np.uint8]
Counts = NDArray[np.int64]
# Pixels by which maps are shifted at most: the padding of a network of stride 32, twice.
REACH = 64
_ROUNDS = 3


@dataclass(frozen=True)
class Fit:
    """How a map lies on the reference.

    Attributes:
        shift: (right, down) in pixels by which it is displaced.
        agreement: share of pixels with the same class, as the map is.
        moved: the same at the best shift to the left, right, top or bottom.
        mirrored: the same when left and right are exchanged.
    """

    shift: tuple[float, float]
    agreement: float
    moved: float
    mirrored: float


class Alignment:
    """Counts the agreement of pairs of maps around their best shift, over many pictures."""

    def __init__(self, reach: int = REACH) -> None:
        self.reach = reach
        # Agreeing pixels and all pixels, for horizontal and vertical shifts of -reach..reach.
        self._same = np.zeros((2, 2 * reach + 1), np.int64)
        self._all = np.zeros((2, 2 * reach + 1), np.int64)
        self._pixels = self._as_is = self._mirrored = 0

    def update(self, reference: Map, other: Map) -> None:
        """Count the pixels of two maps of one shape.

        Raises:
            ValueError: shapes that differ.
        """
        if reference.shape != other.shape or reference.ndim != 2:
            raise ValueError(f"maps of {reference.shape} and {other.shape}")
        self._pixels += reference.size
        self._as_is += int(np.count_nonzero(reference == other))
        self._mirrored += int(np.count_nonzero(reference == other[:, ::-1]))
        right = down = 0
        for _ in range(_ROUNDS):
            before = right, down
            # Each axis is searched at the best place on the other, which blurs it otherwise.
            across = self._sweep(reference, other, down)
            right = round(_peak(_share(*across))) - self.reach
            along = self._sweep(reference.T, other.T, right)
            down = round(_peak(_share(*along))) - self.reach
            if (right, down) == before:
                break
        for axis, (same, pixels) in enumerate((across, along)):
            self._same[axis] += same
            self._all[axis] += pixels

    def _sweep(self, a: Map, b: Map, aside: int) -> tuple[Counts, Counts]:
        """Agreeing and compared pixels at all shifts of columns, rows being `aside` by so many."""
        same, pixels = np.zeros_like(self._same[0]), np.zeros_like(self._same[0])
        a, b = (side.T for side in _overlap(a.T, b.T, aside))
        # At least half of the picture is compared at every shift.
        most = min(self.reach, a.shape[1] // 2)
        for shift in range(-most, most + 1):
            here, there = _overlap(a, b, shift)
            same[self.reach + shift] = np.count_nonzero(here == there)
            pixels[self.reach + shift] = here.size
        return same, pixels

    def fit(self) -> Fit:
        """What the counts say.

        Raises:
            ValueError: nothing was counted.
        """
        if not self._pixels:
            raise ValueError("no maps were compared")
        curves = [_share(*counts) for counts in zip(self._same, self._all, strict=True)]
        return Fit(
            shift=(_peak(curves[0]) - self.reach, _peak(curves[1]) - self.reach),
            agreement=self._as_is / self._pixels,
            moved=max(float(curve.max()) for curve in curves),
            mirrored=self._mirrored / self._pixels,
        )


def _share(same: Counts, pixels: Counts) -> NDArray[np.float64]:
    """Agreeing pixels by compared ones; 0 where there are none."""
    return np.asarray(same / np.maximum(pixels, 1), np.float64)


def _overlap(a: Map, b: Map, shift: int) -> tuple[Map, Map]:
    """What lies on each other when `b` is moved back by `shift` columns."""
    width = a.shape[1]
    if shift >= 0:
        return a[:, : width - shift], b[:, shift:]
    return a[:, -shift:], b[:, : width + shift]


def _peak(share: NDArray[np.float64]) -> float:
    """Place of the maximum, between the samples: maps disagree in proportion to the shift, so
    the curve is a roof with straight sides."""
    # Of equal places the one nearest to the middle.
    middle = len(share) // 2
    best = min(np.flatnonzero(share == share.max()).tolist(), key=lambda i: abs(i - middle))
    if not 0 < best < len(share) - 1:
        return float(best)
    before, top, after = share[best - 1 : best + 2].tolist()
    slope = top - min(before, after)
    return float(best) if slope <= 0 else best + (after - before) / (2 * slope)


class Brightness:
    """A `Backend` that only sees how bright a place is: eight classes from black to white.

    What it says of a pixel depends on nothing but the pixels around it, alike on all sides.
    Where a view's map of it lies is therefore where the view puts things, whereas a trained
    network also has opinions of its own about flipped or smaller pictures.

    Args:
        multiple: to which pictures are padded, as the network that it stands for does it.
        device: where it computes.
    """

    precision = "fp32"
    _CLASSES = 8

    def __init__(self, multiple: int = 1, device: torch.device | None = None) -> None:
        self.multiple = multiple
        self.device = device or torch.device("cpu")

    def __call__(self, batch: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) to float32 (N, 8, h, w), at a stride of 4 where padding allows."""
        right, bottom = -batch.shape[3] % self.multiple, -batch.shape[2] % self.multiple
        light = F.pad(batch.float().mean(1, keepdim=True), (0, right, 0, bottom))
        if self.multiple % 4 == 0:
            light = F.avg_pool2d(light, 4)
        step = 256 / self._CLASSES
        centres = (torch.arange(self._CLASSES, device=batch.device) + 0.5) * step
        # Of -(light - c)² / step² what differs between classes: linear, as interpolation is.
        linear = (2 * light - centres.view(1, -1, 1, 1)) * centres.view(1, -1, 1, 1)
        return linear / step**2

    def pixel_bytes(self) -> float | None:
        """A few planes: nothing worth an estimate."""
        return None
