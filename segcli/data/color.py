"""Colour jitter of albumentations, to the bit, in less time.

Draws and arithmetic are those of `albumentations.ColorJitter` 2.0.8 on uint8; the tests hold one
against the other. What is saved: the mean of the grey picture as a sum of integers, copies of
strided channels, checks on the way, and the seconds that importing albumentations takes.

Shapes: image uint8 (h, w, 3) RGB.
"""

from __future__ import annotations

import random
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]

_PROBABILITY = 0.8
_LEVELS = np.arange(256, dtype=np.float32)


class ColorJitter:
    """Brightness, contrast and saturation by ±`strength`, hue by a fifth of it, in any order.

    Args:
        strength: 0 to 1; what is above counts as 1.
    """

    def __init__(self, strength: float) -> None:
        s = min(strength, 1.0)
        self.factors = (1 - s, 1 + s)
        self.shift = (-s / 5, s / 5)

    def __call__(self, image: U8, seed: int) -> U8:
        """The jittered picture, a new array, or `image` itself in one case of five."""
        draw = random.Random(seed)
        if draw.random() >= _PROBABILITY:
            return image
        values = [draw.uniform(*self.factors) for _ in range(3)] + [draw.uniform(*self.shift)]
        order = [0, 1, 2, 3]
        np.random.default_rng(seed).shuffle(order)
        for step in order:
            image = _STEPS[step](image, values[step])
        return image


def _brightness(image: U8, factor: float) -> U8:
    return _look_up(image, _LEVELS * np.float32(factor))


def _contrast(image: U8, factor: float) -> U8:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mean = cv2.sumElems(grey)[0] / grey.size
    return _look_up(image, _LEVELS * np.float32(factor) + np.float32(mean * (1 - factor)))


def _saturation(image: U8, factor: float) -> U8:
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return _u8(cv2.addWeighted(image, factor, grey, 1 - factor, 0))


def _hue(image: U8, shift: float) -> U8:
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    table = np.mod(np.arange(256, dtype=np.int16) + 180 * shift, 180)
    turned = _look_up(_u8(hue), table)
    return _u8(cv2.cvtColor(cv2.merge([turned, saturation, value]), cv2.COLOR_HSV2RGB))


_STEPS = (_brightness, _contrast, _saturation, _hue)


def _look_up(image: U8, table: NDArray[Any]) -> U8:
    """`table` (256,), cut to 0..255 and rounded down, of every value; a new array."""
    lut: Any = np.clip(table, 0, 255).astype(np.uint8)
    try:
        # Comes with albumentations; eight times as fast as OpenCV's.
        from stringzilla import translate
    except ImportError:
        return _u8(cv2.LUT(image, lut))
    out: Any = np.array(image, order="C")
    translate(memoryview(out), memoryview(lut), inplace=True)
    return _u8(out)


def _u8(array: Any) -> U8:
    return np.asarray(array, np.uint8)
