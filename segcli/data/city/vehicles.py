"""Cars, buses, trucks and trams as small 3-D models.

Local axes: x across, y up, z along the street; z = 0 is the end nearest to the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcli.data.city.light import Color, Light, between, jitter, mix, pick, tone
from segcli.data.city.thing import Builder, Kind, Thing, disc

Points = NDArray[np.float32]
Profile = tuple[tuple[float, float], ...]

_PAINT: tuple[Color, ...] = (
    (228, 230, 232), (44, 48, 56), (150, 156, 164), (186, 44, 42), (36, 82, 150), (232, 182, 52),
    (62, 120, 92), (206, 112, 52), (118, 160, 190), (98, 34, 46), (240, 236, 222), (70, 76, 88),
    (136, 180, 148), (196, 170, 140),
)  # fmt: skip
_GLASS: Color = (74, 92, 112)
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


def _lamps(b: Builder, half: float, y: float, z: float, rear: bool, night: float) -> None:
    """Two lamps at one end."""
    color: Color = (214, 40, 34) if rear else (250, 246, 226)
    for side in (-1.0, 1.0):
        outer, inner = side * half * 0.97, side * half * 0.68
        quad = [[outer, y - 0.09, z], [inner, y - 0.07, z], [inner, y + 0.07, z],
                [outer, y + 0.10, z]]  # fmt: skip
        b.fill(quad, color, lit=night < 0.5 and rear, glow=night > 0.5)


def _plate(b: Builder, y: float, z: float) -> None:
    """A licence plate: painted on the car and annotated by itself."""
    quad = [[-0.26, y - 0.06, z], [0.26, y - 0.06, z], [0.26, y + 0.06, z], [-0.26, y + 0.06, z]]
    b.fill(quad, (238, 238, 230))
    b.extra("license plate", quad)


def car(
    rng: np.random.Generator, light: Light, x: float, z: float, *, oncoming: bool = False,
    speed: float = 0.0, plate: bool = False,
) -> Thing:  # fmt: skip
    """A car seen from behind, or from the front when `oncoming`."""
    body = pick(rng, _BODIES)
    paint = jitter(rng, pick(rng, _PAINT), 12.0)
    profile = [((1.0 - s if oncoming else s) * body.length, y) for s, y in body.profile]
    low, top = body.profile[1][1], body.profile[body.roof[0]][1]
    side_x = _taper(body.width, low, top)
    b = Builder(light, (0.0, 0.7, body.length / 2))
    for (z0, y0), (z1, y1) in zip(profile, profile[1:], strict=False):
        quad = [[side_x(-1, y0), y0, z0], [side_x(1, y0), y0, z0],
                [side_x(1, y1), y1, z1], [side_x(-1, y1), y1, z1]]  # fmt: skip
        b.face(quad, paint)
        slanted = abs(z1 - z0) > 0.08 and abs(y1 - y0) > 0.3
        if slanted and max(y0, y1) > top - 0.08:
            _window(b, np.array(quad, np.float32))
    _bumper(b, body, light, oncoming, plate)
    for side in (-1.0, 1.0):
        b.face([[side_x(side, y), y, zz] for zz, y in profile], paint)
        _side_windows(b, body, profile, side_x, side)
        _wheels(b, side * body.width / 2, (0.19 * body.length, 0.80 * body.length), 0.33)
    _dark_floor(b, body.width / 2, body.length, 0.36)
    return b.build("car", x, z, velocity=(0.0, speed))


def _window(b: Builder, quad: Points) -> None:
    """Glass within a face (4, 3), with a lighter band that mirrors the sky."""
    middle = quad.mean(axis=0)
    glass = middle + (quad - middle) * 0.86
    b.fill(glass, _GLASS, size=0.4)
    band = glass.copy()
    band[[0, 1]] = glass[[0, 1]] * 0.45 + glass[[3, 2]] * 0.55
    b.fill(band, mix(_GLASS, b.light.zenith, 0.45), size=0.5, lit=False)


def _bumper(b: Builder, body: _Body, light: Light, oncoming: bool, plate: bool) -> None:
    """The end that faces the camera: a dark bumper, lamps, plate or grille."""
    half, low = body.width / 2, body.profile[0][1]
    b.flat()
    b.fill([[-half, low, -0.02], [half, low, -0.02], [half, low + 0.2, -0.02],
            [-half, low + 0.2, -0.02]], (58, 60, 66))  # fmt: skip
    if oncoming:
        b.fill([[-0.4, low + 0.22, -0.02], [0.4, low + 0.22, -0.02], [0.46, low + 0.34, -0.02],
                [-0.46, low + 0.34, -0.02]], (40, 42, 48))  # fmt: skip
    _lamps(b, half, low + (0.30 if oncoming else 0.46), -0.02, not oncoming, light.night)
    if plate:
        _plate(b, low + (0.12 if oncoming else 0.36), -0.04)


def _side_windows(
    b: Builder, body: _Body, profile: list[tuple[float, float]],
    side_x: Callable[[float, float], float], side: float,
) -> None:  # fmt: skip
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
        corners = [(z00 + (z10 - z00) * t0, sill), (z00 + (z10 - z00) * t1, sill),
                   (z01 + (z11 - z01) * t1, top), (z01 + (z11 - z01) * t0, top)]  # fmt: skip
        panes.append([[side_x(side, y), y, zz] for zz, y in corners])
    b.fill(panes, _GLASS, size=0.35)
    middle = (z00 + z10) / 2
    low = body.profile[0][1] + 0.1
    b.stroke([[side_x(side, y), y, middle] for y in (low, sill)], (40, 42, 46), 0.03, Kind.STROKE)


def _wheels(b: Builder, x: float, places: tuple[float, ...], radius: float) -> None:
    """Tyres with light rims on the side at `x`."""
    for zz in places:
        tyre = disc(zz, radius, radius, 14)
        at_x = np.full((len(tyre), 1), x, np.float32)
        ring = np.concatenate((at_x, tyre[:, 1:], tyre[:, :1]), axis=1)
        b.fill(ring, _RUBBER, Kind.FACE)
        hub = ring.mean(axis=0)
        b.fill(hub + (ring - hub) * 0.58, (168, 172, 178), size=radius)


def _dark_floor(b: Builder, half: float, length: float, height: float) -> None:
    """What is seen beneath a vehicle: shade and the tyres of the near axle."""
    b.flat()
    for side in (-1.0, 1.0):
        a, c = side * half * 0.98, side * half * 0.74
        b.fill([[a, 0.0, 0.0], [c, 0.0, 0.0], [c, height + 0.06, 0.0], [a, height + 0.06, 0.0]],
               tone(_RUBBER, 0.8), Kind.FACE)  # fmt: skip
    b.fill([[-half * 0.74, 0.12, 0.0], [half * 0.74, 0.12, 0.0], [half * 0.74, height, 0.0],
            [-half * 0.74, height, 0.0]], (26, 27, 32), Kind.FACE)  # fmt: skip


def _cuboid(
    b: Builder, half: float, y0: float, y1: float, z0: float, z1: float, color: Color
) -> None:
    """Roof and two sides of a box, without its ends."""
    b.face([[-half, y1, z0], [half, y1, z0], [half, y1, z1], [-half, y1, z1]], tone(color, 0.95))
    for s in (-half, half):
        b.face([[s, y0, z0], [s, y0, z1], [s, y1, z1], [s, y1, z0]], color)


def _strip(x: float, y0: float, y1: float, z0: float, z1: float) -> list[list[float]]:
    return [[x, y0, z0], [x, y0, z1], [x, y1, z1], [x, y1, z0]]


def _board(half: float, y0: float, y1: float, z: float) -> list[list[float]]:
    return [[-half, y0, z], [half, y0, z], [half, y1, z], [-half, y1, z]]


def coach(
    rng: np.random.Generator, light: Light, label: str, x: float, z: float, *,
    oncoming: bool = False, speed: float = 0.0,
) -> Thing:  # fmt: skip
    """A bus, or a tram when `label` is "train"."""
    tram = label == "train"
    length, half = (between(rng, 16, 22), 1.25) if tram else (between(rng, 9.5, 12), 1.28)
    top, sill = (3.45, 1.35) if tram else (3.05, 1.25)
    schemes: tuple[tuple[Color, Color], ...] = (
        (((226, 206, 92), (244, 242, 234)), ((196, 52, 44), (246, 240, 226)),
         ((72, 130, 108), (236, 232, 214)))
        if tram else
        (((214, 58, 46), (214, 58, 46)), ((58, 112, 178), (238, 240, 242)),
         ((236, 150, 44), (246, 242, 232)), ((92, 156, 92), (240, 240, 232)))
    )  # fmt: skip
    lower, upper = pick(rng, schemes)
    b = Builder(light, (0.0, top / 2, length / 2))
    b.face([[-half, 0.3, 0], [half, 0.3, 0], [half, top, 0], [-half, top, 0]], upper)
    _coach_end(b, light, half, top, sill, lower, oncoming, tram)
    b.face([[-half, top, 0], [half, top, 0], [half, top, length], [-half, top, length]],
           tone(upper, 0.9))  # fmt: skip
    for side in (-half, half):
        b.face(_strip(side, 0.3, top, 0.0, length), upper)
        b.fill(_strip(side, 0.3, sill - 0.1, 0.0, length), lower)
        b.fill(_strip(side, sill, top - 0.5, 0.3, length - 0.3), (58, 72, 90), size=0.8)
        _coach_side(b, rng, side, length, sill, top, light)
        if not tram:
            _wheels(b, side, (1.9, length - 2.2), 0.48)
        else:
            b.fill(_strip(side, 0.06, 0.36, 0.6, length - 0.6), (48, 50, 56), Kind.FACE)
    _dark_floor(b, half, length, 0.34)
    if tram:
        _pantograph(b, top, length)
    return b.build(label, x, z, velocity=(0.0, speed))


def _coach_side(
    b: Builder, rng: np.random.Generator, x: float, length: float, sill: float, top: float,
    light: Light,
) -> None:  # fmt: skip
    """Window posts, doors and, at night, lit panes on the side at `x`."""
    step = 1.45
    starts = np.arange(0.3, length - 1.4, step)
    panes = [_strip(x, sill + 0.06, top - 0.58, s + 0.07, s + step - 0.07) for s in starts]
    shade: Color = mix((96, 124, 152), light.zenith, 0.35)
    if light.night > 0.5:
        shade = (255, 226, 160)
    b.fill(panes, shade, lit=light.night < 0.5, size=0.7)
    doors = [_strip(x, 0.42, top - 0.62, s + 0.1, s + step - 0.1) for s in starts[1::4]]
    if doors:
        b.fill(doors, (44, 54, 66), size=0.8)
        b.stroke([[p[0], p[3]] for p in ([[x, 0.42, s + step / 2], [0, 0, 0], [0, 0, 0],
                 [x, top - 0.62, s + step / 2]] for s in starts[1::4])],
                 (150, 156, 162), 0.05, Kind.STROKE)  # fmt: skip


def _coach_end(
    b: Builder, light: Light, half: float, top: float, sill: float, lower: Color,
    oncoming: bool, tram: bool,
) -> None:  # fmt: skip
    """Windscreen, destination sign and lamps on the end that faces the camera."""
    b.fill(_board(half, 0.3, sill - 0.25, -0.01), lower)
    b.fill(_board(half * 0.92, sill - 0.1, top - 0.55, -0.02), (52, 66, 84))
    sky = mix((70, 90, 112), light.zenith, 0.5)
    b.fill([[-half * 0.9, sill + 0.5, -0.03], [half * 0.4, sill + 0.5, -0.03],
            [half * 0.86, top - 0.6, -0.03], [-half * 0.9, top - 0.6, -0.03]], sky)  # fmt: skip
    b.fill(_board(half * 0.6, top - 0.42, top - 0.14, -0.02), (28, 30, 34))
    b.fill(_board(half * 0.45, top - 0.35, top - 0.22, -0.03), (255, 190, 70), lit=False)
    b.fill(_board(half, 0.3, 0.5, -0.02), (60, 62, 68))
    _lamps(b, half, 0.72, -0.03, not (oncoming or tram), light.night)


def _pantograph(b: Builder, top: float, length: float) -> None:
    """The folding arm on a tram's roof."""
    b.flat()
    z = length * 0.35
    b.stroke([[[-0.5, top, z], [0.0, top + 0.7, z + 0.5]], [[0.5, top, z], [0.0, top + 0.7, z + 0.5]],
              [[-0.7, top + 0.7, z + 0.5], [0.7, top + 0.7, z + 0.5]]], (64, 66, 72), 0.07)  # fmt: skip


def truck(
    rng: np.random.Generator, light: Light, x: float, z: float, *, oncoming: bool = False,
    speed: float = 0.0,
) -> Thing:  # fmt: skip
    """A lorry: a coloured cab and a tall cargo box or a tarpaulin."""
    length, half, top = between(rng, 7.0, 9.5), 1.26, between(rng, 3.1, 3.6)
    cab_color = jitter(rng, pick(rng, _PAINT), 10.0)
    cargo = pick(rng, ((236, 236, 232), (206, 196, 176), (88, 128, 170), (178, 66, 56), (96, 138, 104)))
    cab0, cab1 = (0.0, 2.1) if oncoming else (length - 2.1, length)
    box0, box1 = (2.25, length) if oncoming else (0.0, length - 2.25)
    b = Builder(light, (0.0, 1.6, length / 2))
    parts = [lambda: _cargo(b, rng, half, top, box0, box1, cargo, oncoming),
             lambda: _cab(b, light, half * 0.94, 2.7, cab0, cab1, cab_color, oncoming)]  # fmt: skip
    for draw in parts if oncoming else parts[::-1]:  # the far half first
        draw()
    for side in (-half, half):
        b.flat()
        b.fill(_strip(side * 0.95, 0.55, 0.95, 0.1, length - 0.1), (52, 54, 60), Kind.FACE)
        _wheels(b, side, (1.1, length - 2.6, length - 1.3), 0.47)
    _dark_floor(b, half, length, 0.95)
    b.fill(_board(half, 0.5, 0.74, -0.02), (70, 72, 78))
    _lamps(b, half, 0.64 if not oncoming else 0.85, -0.03, not oncoming, light.night)
    return b.build("truck", x, z, velocity=(0.0, speed))


def _cargo(
    b: Builder, rng: np.random.Generator, half: float, top: float, z0: float, z1: float,
    color: Color, oncoming: bool,
) -> None:  # fmt: skip
    """The load: a box with ribs, a stripe and doors."""
    b.face(_board(half, 0.9, top, z0), tone(color, 0.94))
    if not oncoming:
        b.stroke([[0.0, 0.95, z0 - 0.01], [0.0, top - 0.05, z0 - 0.01]], tone(color, 0.5), 0.05,
                 Kind.STROKE)  # fmt: skip
        for s in (-0.35, 0.35):
            b.stroke([[s, 1.0, z0 - 0.01], [s, top - 0.1, z0 - 0.01]], tone(color, 0.62), 0.05,
                     Kind.STROKE)  # fmt: skip
        hazard = [[[s, 0.95, z0 - 0.02], [s + 0.3, 0.95, z0 - 0.02], [s + 0.3, 1.12, z0 - 0.02],
                   [s, 1.12, z0 - 0.02]] for s in np.arange(-half + 0.05, half - 0.3, 0.6)]  # fmt: skip
        b.fill(hazard, (224, 60, 40), size=0.15)
    _cuboid(b, half, 0.9, top, z0, z1, color)
    stripe = jitter(rng, pick(rng, _PAINT), 10.0)
    for s in (-half, half):
        ribs = [[[s, 0.95, zz], [s, top - 0.05, zz]] for zz in np.arange(z0 + 0.6, z1, 0.9)]
        b.center = b.center or (0.0, 1.6, (z0 + z1) / 2)
        b.face(_strip(s, 0.9, top, z0, z1), color)
        b.fill(_strip(s, 1.5, 2.0, z0, z1), stripe, size=0.5)
        b.stroke(ribs, tone(color, 0.72), 0.05, Kind.STROKE)


def _cab(
    b: Builder, light: Light, half: float, top: float, z0: float, z1: float, color: Color,
    oncoming: bool,
) -> None:  # fmt: skip
    """The driver's cab."""
    b.face(_board(half, 0.5, top, z0), color)
    if oncoming:
        b.fill(_board(half * 0.9, 1.55, top - 0.3, z0 - 0.01), (54, 68, 86))
        b.fill(_board(half * 0.86, 2.0, top - 0.36, z0 - 0.02), mix(_GLASS, light.zenith, 0.5))
        b.fill(_board(half * 0.6, 0.95, 1.35, z0 - 0.01), tone(color, 0.45))
    _cuboid(b, half, 0.5, top, z0, z1, color)
    for s in (-half, half):
        b.face(_strip(s, 0.5, top, z0, z1), color)
        b.fill(_strip(s, 1.5, top - 0.35, z0 + 0.3, z1 - 0.5), _GLASS, size=0.5)
