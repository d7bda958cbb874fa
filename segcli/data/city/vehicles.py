"""Cars, buses, trucks and trams as small 3-D models.

Local axes: x across, y up, z along the street; z = 0 is the end nearest to the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcli.data.city.light import Color, Light, jitter, mix, pick, tone
from segcli.data.city.thing import Builder, Kind, Thing, disc

Points = NDArray[np.float32]
Profile = tuple[tuple[float, float], ...]

PAINT: tuple[Color, ...] = (
    (228, 230, 232), (44, 48, 56), (150, 156, 164), (186, 44, 42), (36, 82, 150), (232, 182, 52),
    (62, 120, 92), (206, 112, 52), (118, 160, 190), (98, 34, 46), (240, 236, 222), (70, 76, 88),
    (136, 180, 148), (196, 170, 140),
)  # fmt: skip
GLASS: Color = (74, 92, 112)
_RUBBER: Color = (34, 35, 40)

# Side views from the rear (0) to the front (1) of the length; heights in metres.
_HATCH: Profile = (
    (0.00, 0.34), (0.00, 0.92), (0.10, 1.46), (0.58, 1.50), (0.74, 0.98), (0.97, 0.82),
    (1.00, 0.62), (0.99, 0.34),
)  # fmt: skip
_SEDAN: Profile = (
    (0.00, 0.36), (0.00, 0.96), (0.14, 1.00), (0.27, 1.43), (0.58, 1.45), (0.74, 0.98),
    (0.98, 0.80), (1.00, 0.58), (0.99, 0.36),
)  # fmt: skip
_WAGON: Profile = (
    (0.00, 0.36), (0.00, 1.00), (0.06, 1.50), (0.60, 1.52), (0.75, 1.00), (0.98, 0.82),
    (1.00, 0.60), (0.99, 0.36),
)  # fmt: skip
_SUV: Profile = (
    (0.00, 0.42), (0.00, 1.06), (0.07, 1.70), (0.62, 1.74), (0.75, 1.12), (0.98, 0.98),
    (1.00, 0.66), (0.99, 0.42),
)  # fmt: skip
_VAN: Profile = (
    (0.00, 0.38), (0.00, 1.10), (0.03, 1.96), (0.74, 1.98), (0.88, 1.16), (0.99, 0.94),
    (1.00, 0.62), (0.99, 0.38),
)  # fmt: skip


class _Body(NamedTuple):
    profile: Profile
    length: float
    width: float
    roof: tuple[int, int]  # indices of the roof's two profile points


_BODIES = (
    _Body(_HATCH, 3.9, 1.74, (2, 3)),
    _Body(_SEDAN, 4.6, 1.80, (3, 4)),
    _Body(_WAGON, 4.6, 1.80, (2, 3)),
    _Body(_SUV, 4.5, 1.92, (2, 3)),
    _Body(_VAN, 4.9, 1.96, (2, 3)),
)


def _taper(width: float, low: float, top: float) -> Callable[[float, float], float]:
    """x of a side (-1 or 1) at a height: the cabin leans inwards above `low`."""

    def at(side: float, y: float) -> float:
        lean = 0.13 * max(0.0, y - low) / max(top - low, 0.1)
        return side * width / 2 * (1.0 - lean)

    return at


def lamps(b: Builder, half: float, y: float, z: float, rear: bool, night: float) -> None:
    """Two lamps at one end."""
    color: Color = (214, 40, 34) if rear else (250, 246, 226)
    for side in (-1.0, 1.0):
        outer, inner = side * half * 0.97, side * half * 0.68
        quad = [
            [outer, y - 0.09, z],
            [inner, y - 0.07, z],
            [inner, y + 0.07, z],
            [outer, y + 0.10, z],
        ]
        b.fill(quad, color, lit=night < 0.5 and rear, glow=night > 0.5)


def _plate(b: Builder, y: float, z: float) -> None:
    """A licence plate: painted on the car and annotated by itself."""
    quad = [[-0.26, y - 0.06, z], [0.26, y - 0.06, z], [0.26, y + 0.06, z], [-0.26, y + 0.06, z]]
    b.fill(quad, (238, 238, 230))
    b.extra("license plate", quad)


def car(
    rng: np.random.Generator,
    light: Light,
    x: float,
    z: float,
    *,
    oncoming: bool = False,
    speed: float = 0.0,
    plate: bool = False,
) -> Thing:
    """A car seen from behind, or from the front when `oncoming`."""
    body = pick(rng, _BODIES)
    paint = jitter(rng, pick(rng, PAINT), 12.0)
    profile = [((1.0 - s if oncoming else s) * body.length, y) for s, y in body.profile]
    low, top = body.profile[1][1], body.profile[body.roof[0]][1]
    side_x = _taper(body.width, low, top)
    b = Builder(light, (0.0, 0.7, body.length / 2))
    for (z0, y0), (z1, y1) in pairwise(profile):
        quad = [
            [side_x(-1, y0), y0, z0],
            [side_x(1, y0), y0, z0],
            [side_x(1, y1), y1, z1],
            [side_x(-1, y1), y1, z1],
        ]
        b.face(quad, paint)
        slanted = abs(z1 - z0) > 0.08 and abs(y1 - y0) > 0.3
        if slanted and max(y0, y1) > top - 0.08:
            _window(b, np.array(quad, np.float32))
    _bumper(b, body, light, oncoming, plate)
    for side in (-1.0, 1.0):
        b.face([[side_x(side, y), y, zz] for zz, y in profile], paint)
        _side_windows(b, body, profile, side_x, side)
        wheels(b, side * body.width / 2, (0.19 * body.length, 0.80 * body.length), 0.33)
    dark_floor(b, body.width / 2, body.length, 0.36)
    return b.build("car", x, z, velocity=(0.0, speed))


def _window(b: Builder, quad: Points) -> None:
    """Glass within a face (4, 3), with a lighter band that mirrors the sky."""
    middle = quad.mean(axis=0)
    glass = middle + (quad - middle) * 0.86
    b.fill(glass, GLASS, size=0.4)
    band = glass.copy()
    band[[0, 1]] = glass[[0, 1]] * 0.45 + glass[[3, 2]] * 0.55
    b.fill(band, mix(GLASS, b.light.zenith, 0.45), size=0.5, lit=False)


def _bumper(b: Builder, body: _Body, light: Light, oncoming: bool, plate: bool) -> None:
    """The end that faces the camera: a dark bumper, lamps, plate or grille."""
    half, low = body.width / 2, body.profile[0][1]
    b.flat()
    b.fill(
        [
            [-half, low, -0.02],
            [half, low, -0.02],
            [half, low + 0.2, -0.02],
            [-half, low + 0.2, -0.02],
        ],
        (58, 60, 66),
    )
    if oncoming:
        b.fill(
            [
                [-0.4, low + 0.22, -0.02],
                [0.4, low + 0.22, -0.02],
                [0.46, low + 0.34, -0.02],
                [-0.46, low + 0.34, -0.02],
            ],
            (40, 42, 48),
        )
    lamps(b, half, low + (0.30 if oncoming else 0.46), -0.02, not oncoming, light.night)
    if plate:
        _plate(b, low + (0.12 if oncoming else 0.36), -0.04)


def _side_windows(
    b: Builder,
    body: _Body,
    profile: list[tuple[float, float]],
    side_x: Callable[[float, float], float],
    side: float,
) -> None:
    """Two panes and a door line on the current side face."""
    i, j = body.roof
    before, after = profile[i - 1], profile[j + 1]
    sill = max(before[1], after[1]) + 0.03
    top = profile[i][1] - 0.10

    def edge(a: tuple[float, float], c: tuple[float, float], y: float) -> float:
        t = (y - a[1]) / (c[1] - a[1])
        return a[0] + (c[0] - a[0]) * t

    z00, z01 = edge(before, profile[i], sill), edge(before, profile[i], top)
    z10, z11 = edge(after, profile[j], sill), edge(after, profile[j], top)
    panes = []
    for t0, t1 in ((0.07, 0.48), (0.53, 0.95)):
        corners = [
            (z00 + (z10 - z00) * t0, sill),
            (z00 + (z10 - z00) * t1, sill),
            (z01 + (z11 - z01) * t1, top),
            (z01 + (z11 - z01) * t0, top),
        ]
        panes.append([[side_x(side, y), y, zz] for zz, y in corners])
    b.fill(panes, GLASS, size=0.35)
    middle = (z00 + z10) / 2
    low = body.profile[0][1] + 0.1
    b.stroke([[side_x(side, y), y, middle] for y in (low, sill)], (40, 42, 46), 0.03, Kind.STROKE)


def wheels(b: Builder, x: float, places: tuple[float, ...], radius: float) -> None:
    """Tyres with light rims on the side at `x`."""
    for zz in places:
        tyre = disc(zz, radius, radius, 14)
        at_x = np.full((len(tyre), 1), x, np.float32)
        ring = np.concatenate((at_x, tyre[:, 1:], tyre[:, :1]), axis=1)
        b.fill(ring, _RUBBER, Kind.FACE)
        hub = ring.mean(axis=0)
        b.fill(hub + (ring - hub) * 0.58, (168, 172, 178), size=radius)


def dark_floor(b: Builder, half: float, length: float, height: float) -> None:
    """What is seen beneath a vehicle: shade and the tyres of the near axle."""
    b.flat()
    for side in (-1.0, 1.0):
        a, c = side * half * 0.98, side * half * 0.74
        b.fill(
            [[a, 0.0, 0.0], [c, 0.0, 0.0], [c, height + 0.06, 0.0], [a, height + 0.06, 0.0]],
            tone(_RUBBER, 0.8),
            Kind.FACE,
        )
    b.fill(
        [
            [-half * 0.74, 0.12, 0.0],
            [half * 0.74, 0.12, 0.0],
            [half * 0.74, height, 0.0],
            [-half * 0.74, height, 0.0],
        ],
        (26, 27, 32),
        Kind.FACE,
    )
