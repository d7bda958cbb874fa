"""Time of day: sun, sky and haze, and what they do to a colour. Colours are RGB 0..255."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Color = tuple[float, float, float]
T = TypeVar("T")


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of `options`; much cheaper than `rng.choice`."""
    return options[int(rng.random() * len(options))]


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number drawn evenly between `low` and `high`."""
    return low + (high - low) * float(rng.random())


def mix(a: Color, b: Color, t: float) -> Color:
    """The colour at `t` of the way from `a` to `b`."""
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def tone(color: Color, factor: float) -> Color:
    """`color` made lighter (factor > 1) or darker."""
    return (color[0] * factor, color[1] * factor, color[2] * factor)


def jitter(rng: np.random.Generator, color: Color, amount: float = 14.0) -> Color:
    """`color` moved by up to `amount` in each channel."""
    d = (rng.random(3) * 2.0 - 1.0) * amount
    return (color[0] + float(d[0]), color[1] + float(d[1]), color[2] + float(d[2]))


@dataclass(frozen=True)
class Light:
    """One time of day. `sun` points towards the sun; `night` is 1 when lamps are lit."""

    name: str
    sun: tuple[float, float, float]
    sun_color: Color  # factors, about 0..1
    ambient: Color  # factors, about 0..1
    zenith: Color
    horizon: Color
    cloud: Color
    cloudiness: float
    haze: float  # 1 / metres
    night: float

    def shade(self, color: Color, normal: tuple[float, float, float]) -> Color:
        """`color` as it looks on a surface with this unit normal, Lambert's law."""
        d = sum(a * b for a, b in zip(normal, self.sun, strict=True))
        d = max(0.0, d)
        return (
            color[0] * (self.ambient[0] + self.sun_color[0] * d),
            color[1] * (self.ambient[1] + self.sun_color[1] * d),
            color[2] * (self.ambient[2] + self.sun_color[2] * d),
        )

    def soft(self, color: Color, amount: float = 0.55) -> Color:
        """`color` on something round that faces the camera, lit by `amount` of the sun."""
        return (
            color[0] * (self.ambient[0] + self.sun_color[0] * amount),
            color[1] * (self.ambient[1] + self.sun_color[1] * amount),
            color[2] * (self.ambient[2] + self.sun_color[2] * amount),
        )


# name, elevation (degrees), sun colour, ambient, zenith, horizon, cloud, haze, night
_TIMES: tuple[
    tuple[str, tuple[float, float], Color, Color, Color, Color, Color, float, float], ...
] = (
    ("noon", (48, 62), (0.60, 0.57, 0.50), (0.64, 0.66, 0.72),
     (72, 138, 212), (206, 226, 240), (255, 255, 255), 0.0045, 0.0),
    ("morning", (26, 36), (0.68, 0.57, 0.42), (0.64, 0.66, 0.74),
     (112, 166, 220), (250, 230, 206), (255, 244, 232), 0.0085, 0.0),
    ("golden", (22, 30), (0.86, 0.62, 0.36), (0.62, 0.58, 0.66),
     (98, 132, 196), (255, 208, 150), (255, 222, 190), 0.0065, 0.0),
    ("overcast", (50, 65), (0.18, 0.18, 0.17), (0.86, 0.88, 0.91),
     (166, 178, 192), (218, 223, 226), (236, 239, 242), 0.0100, 0.0),
    ("dusk", (22, 28), (0.26, 0.16, 0.14), (0.58, 0.54, 0.70),
     (66, 78, 142), (250, 170, 140), (240, 168, 160), 0.0075, 1.0),
)  # fmt: skip
_TIME_WEIGHTS = (0.34, 0.56, 0.76, 0.90, 1.0)


def draw_light(rng: np.random.Generator) -> Light:
    """A time of day with its own mood, drawn at random."""
    roll = float(rng.random())
    row = next(t for t, w in zip(_TIMES, _TIME_WEIGHTS, strict=True) if roll <= w)
    name, (low, high), sun_color, ambient, zenith, horizon, cloud, haze, night = row
    elevation = math.radians(between(rng, low, high))
    # 0 degrees is straight ahead: mostly beside or behind the camera, so that fronts are lit
    azimuth = math.radians(between(rng, 50.0, 310.0))
    sun = (
        math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation),
        math.cos(elevation) * math.cos(azimuth),
    )
    gain = between(rng, 0.93, 1.07)
    return Light(
        name,
        sun,
        tone(sun_color, gain),
        tone(ambient, gain),
        jitter(rng, zenith, 10.0),
        jitter(rng, horizon, 8.0),
        cloud,
        between(rng, 0.25, 0.75),
        haze * between(rng, 0.7, 1.4),
        night,
    )
