"""Colour jitter as one matrix: a tenth of the time of four steps through tables and HSV.

Brightness, contrast, saturation and a rotation of hue are affine in RGB; so is what they make
together, and OpenCV takes a picture through it in one pass.

Shapes: image uint8 (h, w, 3) RGB.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
Matrix = NDArray[np.float64]

_PROBABILITY = 0.8
# Luma of ITU-R BT.601, and with it the axes of YIQ, in whose plane hue is an angle.
_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_RGB = np.linalg.inv(_YIQ)


class ColorJitter:
    """Brightness, contrast and saturation by ±`strength`, hue by a fifth of it of a turn.

    Args:
        strength: 0 to 1; what is above counts as 1.
    """

    def __init__(self, strength: float) -> None:
        self.strength = min(strength, 1.0)

    def __call__(self, image: U8, seed: int) -> U8:
        """The jittered picture, a new array, or `image` itself in one case of five."""
        rng = np.random.default_rng(seed)
        if rng.random() >= _PROBABILITY:
            return image
        s = self.strength
        brightness, contrast, saturation = rng.uniform(1 - s, 1 + s, 3)
        turn = rng.uniform(-s / 5, s / 5)
        mean = np.array(cv2.mean(image)[:3])
        return apply(image, color_matrix(brightness, contrast, saturation, turn, mean))


def color_matrix(
    brightness: float, contrast: float, saturation: float, turn: float, mean: NDArray[np.float64]
) -> Matrix:
    """The (3, 4) matrix of the four, contrast being about the picture's mean luma.

    Args:
        brightness, contrast, saturation: factors; 1 leaves the picture as it is.
        turn: of hue, in whole turns.
        mean: (3,) mean RGB of the picture.
    """
    angle = 2 * math.pi * turn
    cosine, sine = saturation * math.cos(angle), saturation * math.sin(angle)
    chroma = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    linear = brightness * (_RGB @ chroma @ _YIQ)
    grey = float(_LUMA @ linear @ mean)
    return np.column_stack([contrast * linear, np.full(3, (1 - contrast) * grey)])


def apply(image: U8, matrix: Matrix) -> U8:
    """`matrix` (3, 4) times (r, g, b, 1) of every pixel, rounded, cut to 0..255."""
    return np.asarray(cv2.transform(image, matrix.astype(np.float32)), np.uint8)
