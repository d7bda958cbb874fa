"""Buses, trams and lorries as small 3-D models; axes as in vehicles.py."""

from __future__ import annotations

import numpy as np

from segcli.data.city.light import Color, Light, between, jitter, mix, pick, tone
from segcli.data.city.thing import (
    Builder,
    Kind,
    Thing,
)
from segcli.data.city.vehicles import GLASS, PAINT, dark_floor, lamps, wheels


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
    rng: np.random.Generator,
    light: Light,
    label: str,
    x: float,
    z: float,
    *,
    oncoming: bool = False,
    speed: float = 0.0,
) -> Thing:
    """A bus, or a tram when `label` is "train"."""
    tram = label == "train"
    length, half = (between(rng, 16, 22), 1.25) if tram else (between(rng, 9.5, 12), 1.28)
    top, sill = (3.45, 1.35) if tram else (3.05, 1.25)
    schemes: tuple[tuple[Color, Color], ...] = (
        (
            ((226, 206, 92), (244, 242, 234)),
            ((196, 52, 44), (246, 240, 226)),
            ((72, 130, 108), (236, 232, 214)),
        )
        if tram
        else (
            ((214, 58, 46), (214, 58, 46)),
            ((58, 112, 178), (238, 240, 242)),
            ((236, 150, 44), (246, 242, 232)),
            ((92, 156, 92), (240, 240, 232)),
        )
    )
    lower, upper = pick(rng, schemes)
    b = Builder(light, (0.0, top / 2, length / 2))
    b.face([[-half, 0.3, 0], [half, 0.3, 0], [half, top, 0], [-half, top, 0]], upper)
    _coach_end(b, light, half, top, sill, lower, oncoming, tram)
    b.face(
        [[-half, top, 0], [half, top, 0], [half, top, length], [-half, top, length]],
        tone(upper, 0.9),
    )
    for side in (-half, half):
        b.face(_strip(side, 0.3, top, 0.0, length), upper)
        b.fill(_strip(side, 0.3, sill - 0.1, 0.0, length), lower)
        b.fill(_strip(side, sill, top - 0.5, 0.3, length - 0.3), (58, 72, 90), size=0.8)
        _coach_side(b, rng, side, length, sill, top, light)
        if not tram:
            wheels(b, side, (1.9, length - 2.2), 0.48)
        else:
            b.fill(_strip(side, 0.06, 0.36, 0.6, length - 0.6), (48, 50, 56), Kind.FACE)
    dark_floor(b, half, length, 0.34)
    if tram:
        _pantograph(b, top, length)
    return b.build(label, x, z, velocity=(0.0, speed))


def _coach_side(
    b: Builder,
    rng: np.random.Generator,
    x: float,
    length: float,
    sill: float,
    top: float,
    light: Light,
) -> None:
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
        b.stroke(
            [
                [p[0], p[3]]
                for p in (
                    [[x, 0.42, s + step / 2], [0, 0, 0], [0, 0, 0], [x, top - 0.62, s + step / 2]]
                    for s in starts[1::4]
                )
            ],
            (150, 156, 162),
            0.05,
            Kind.STROKE,
        )


def _coach_end(
    b: Builder,
    light: Light,
    half: float,
    top: float,
    sill: float,
    lower: Color,
    oncoming: bool,
    tram: bool,
) -> None:
    """Windscreen, destination sign and lamps on the end that faces the camera."""
    b.fill(_board(half, 0.3, sill - 0.25, -0.01), lower)
    b.fill(_board(half * 0.92, sill - 0.1, top - 0.55, -0.02), (52, 66, 84))
    sky = mix((70, 90, 112), light.zenith, 0.5)
    b.fill(
        [
            [-half * 0.9, sill + 0.5, -0.03],
            [half * 0.4, sill + 0.5, -0.03],
            [half * 0.86, top - 0.6, -0.03],
            [-half * 0.9, top - 0.6, -0.03],
        ],
        sky,
    )
    b.fill(_board(half * 0.6, top - 0.42, top - 0.14, -0.02), (28, 30, 34))
    b.fill(_board(half * 0.45, top - 0.35, top - 0.22, -0.03), (255, 190, 70), lit=False)
    b.fill(_board(half, 0.3, 0.5, -0.02), (60, 62, 68))
    lamps(b, half, 0.72, -0.03, not (oncoming or tram), light.night)


def _pantograph(b: Builder, top: float, length: float) -> None:
    """The folding arm on a tram's roof."""
    b.flat()
    z = length * 0.35
    b.stroke(
        [
            [[-0.5, top, z], [0.0, top + 0.7, z + 0.5]],
            [[0.5, top, z], [0.0, top + 0.7, z + 0.5]],
            [[-0.7, top + 0.7, z + 0.5], [0.7, top + 0.7, z + 0.5]],
        ],
        (64, 66, 72),
        0.07,
    )


def truck(
    rng: np.random.Generator,
    light: Light,
    x: float,
    z: float,
    *,
    oncoming: bool = False,
    speed: float = 0.0,
) -> Thing:
    """A lorry: a coloured cab and a tall cargo box or a tarpaulin."""
    length, half, top = between(rng, 7.0, 9.5), 1.26, between(rng, 3.1, 3.6)
    cab_color = jitter(rng, pick(rng, PAINT), 10.0)
    cargo = pick(
        rng, ((236, 236, 232), (206, 196, 176), (88, 128, 170), (178, 66, 56), (96, 138, 104))
    )
    cab0, cab1 = (0.0, 2.1) if oncoming else (length - 2.1, length)
    box0, box1 = (2.25, length) if oncoming else (0.0, length - 2.25)
    b = Builder(light, (0.0, 1.6, length / 2))
    for load in (True, False) if oncoming else (False, True):  # the far half first
        if load:
            _cargo(b, rng, half, top, box0, box1, cargo, oncoming)
        else:
            _cab(b, light, half * 0.94, 2.7, cab0, cab1, cab_color, oncoming)
    for side in (-half, half):
        b.flat()
        b.fill(_strip(side * 0.95, 0.55, 0.95, 0.1, length - 0.1), (52, 54, 60), Kind.FACE)
        wheels(b, side, (1.1, length - 2.6, length - 1.3), 0.47)
    dark_floor(b, half, length, 0.95)
    b.fill(_board(half, 0.5, 0.74, -0.02), (70, 72, 78))
    lamps(b, half, 0.64 if not oncoming else 0.85, -0.03, not oncoming, light.night)
    return b.build("truck", x, z, velocity=(0.0, speed))


def _cargo(
    b: Builder,
    rng: np.random.Generator,
    half: float,
    top: float,
    z0: float,
    z1: float,
    color: Color,
    oncoming: bool,
) -> None:
    """The load: a box with ribs, a stripe and doors."""
    b.face(_board(half, 0.9, top, z0), tone(color, 0.94))
    if not oncoming:
        b.stroke(
            [[0.0, 0.95, z0 - 0.01], [0.0, top - 0.05, z0 - 0.01]],
            tone(color, 0.5),
            0.05,
            Kind.STROKE,
        )
        for s in (-0.35, 0.35):
            b.stroke(
                [[s, 1.0, z0 - 0.01], [s, top - 0.1, z0 - 0.01]],
                tone(color, 0.62),
                0.05,
                Kind.STROKE,
            )
        hazard = [
            [
                [s, 0.95, z0 - 0.02],
                [s + 0.3, 0.95, z0 - 0.02],
                [s + 0.3, 1.12, z0 - 0.02],
                [s, 1.12, z0 - 0.02],
            ]
            for s in np.arange(-half + 0.05, half - 0.3, 0.6)
        ]
        b.fill(hazard, (224, 60, 40), size=0.15)
    _cuboid(b, half, 0.9, top, z0, z1, color)
    stripe = jitter(rng, pick(rng, PAINT), 10.0)
    for s in (-half, half):
        ribs = [[[s, 0.95, zz], [s, top - 0.05, zz]] for zz in np.arange(z0 + 0.6, z1, 0.9)]
        b.face(_strip(s, 0.9, top, z0, z1), color)
        b.fill(_strip(s, 1.5, 2.0, z0, z1), stripe, size=0.5)
        b.stroke(ribs, tone(color, 0.72), 0.05, Kind.STROKE)


def _cab(
    b: Builder,
    light: Light,
    half: float,
    top: float,
    z0: float,
    z1: float,
    color: Color,
    oncoming: bool,
) -> None:
    """The driver's cab."""
    b.face(_board(half, 0.5, top, z0), color)
    if oncoming:
        b.fill(_board(half * 0.9, 1.55, top - 0.3, z0 - 0.01), (54, 68, 86))
        b.fill(_board(half * 0.86, 2.0, top - 0.36, z0 - 0.02), mix(GLASS, light.zenith, 0.5))
        b.fill(_board(half * 0.6, 0.95, 1.35, z0 - 0.01), tone(color, 0.45))
    _cuboid(b, half, 0.5, top, z0, z1, color)
    for s in (-half, half):
        b.face(_strip(s, 0.5, top, z0, z1), color)
        b.fill(_strip(s, 1.5, top - 0.35, z0 + 0.3, z1 - 0.5), GLASS, size=0.5)
