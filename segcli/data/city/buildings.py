"""Facades, garden houses, walls and fences along the street.

A front runs along the street at local x = 0; `side` is -1 on the left and 1 on the right,
and the body lies away from the road, towards `side`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segcli.data.city.light import Color, Light, between, jitter, mix, pick, tone
from segcli.data.city.thing import Builder, Kind, Material, Thing

_PLASTER: tuple[Color, ...] = (
    (236, 222, 196), (222, 178, 138), (206, 138, 110), (196, 200, 206), (170, 190, 186),
    (232, 206, 146), (214, 168, 160), (180, 106, 84), (156, 168, 190), (240, 236, 228),
    (148, 112, 96), (186, 190, 158), (128, 138, 152), (226, 190, 176),
)  # fmt: skip
_ROOFS: tuple[Color, ...] = ((168, 86, 66), (96, 92, 100), (130, 74, 62), (78, 84, 96))
AWNINGS: tuple[Color, ...] = (
    (198, 60, 52),
    (52, 110, 92),
    (44, 84, 146),
    (226, 164, 60),
    (110, 64, 96),
)

Quads = NDArray[np.float32]


def front(
    z0: NDArray[np.floating] | float,
    z1: NDArray[np.floating] | float,
    y0: NDArray[np.floating] | float,
    y1: NDArray[np.floating] | float,
    x: float = 0.0,
) -> Quads:
    """Rectangles on the front: broadcast bounds (...) to (n, 4, 3)."""
    z0, z1, y0, y1 = np.broadcast_arrays(*np.atleast_1d(z0, z1, y0, y1))
    flat = [np.ravel(v) for v in (z0, z1, y0, y1)]
    zs = np.stack((flat[0], flat[1], flat[1], flat[0]), axis=1)
    ys = np.stack((flat[2], flat[2], flat[3], flat[3]), axis=1)
    return np.stack((np.full_like(zs, x), ys, zs), axis=2).astype(np.float32)


def building(
    rng: np.random.Generator, light: Light, x: float, z: float, length: float, side: float
) -> Thing:
    """A town house with floors of windows, a ground floor, cornice and roof."""
    floors = int(rng.integers(2, 6))
    ground, storey = between(rng, 3.2, 4.0), between(rng, 2.9, 3.4)
    top = ground + floors * storey
    color = jitter(rng, pick(rng, _PLASTER), 12.0)
    b = Builder(light, (side * 5.0, top / 2, length / 2))
    b.face([[0, 0, 0], [side * 10, 0, 0], [side * 10, top, 0], [0, top, 0]], tone(color, 0.92))
    _end_windows(b, rng, side, ground, storey, floors)
    b.face(front(0.0, length, 0.0, top)[0], color)
    _bands(b, length, ground, top, color)
    _windows(b, rng, light, length, ground, storey, floors, color)
    _ground_floor(b, rng, light, length, ground, color)
    roof = jitter(rng, pick(rng, _ROOFS), 10.0)
    high = between(rng, 1.6, 3.0)
    if rng.random() < 0.65:
        b.face(
            [
                [-0.3 * side, top, -0.1],
                [-0.3 * side, top, length + 0.1],
                [side * 2.6, top + high, length],
                [side * 2.6, top + high, 0.0],
            ],
            roof,
        )
        rows = [
            [
                [-0.3 * side + side * 2.9 * t, top + high * t, 0.0],
                [-0.3 * side + side * 2.9 * t, top + high * t, length],
            ]
            for t in (0.25, 0.5, 0.75)
        ]
        b.stroke(rows, tone(roof, 0.8), 0.07, Kind.STROKE)
        b.face(
            [
                [0, top, 0],
                [side * 2.6, top + high, 0],
                [side * 10, top + high, 0],
                [side * 10, top, 0],
            ],
            tone(color, 0.9),
        )
    brick = rng.random() < 0.3
    material = Material(0.05, 0.16, 0.6, 0.22) if brick else Material(0.045)
    return b.build("building", x, z, key=length, planar=True, material=material)


def _bands(b: Builder, length: float, ground: float, top: float, color: Color) -> None:
    """Plinth, string course and cornice."""
    light = mix(color, (255, 252, 244), 0.5)
    b.fill(front(0.0, length, ground - 0.16, ground + 0.10), light, size=0.2)
    b.fill(front(0.0, length, top - 0.42, top), light, size=0.3)
    b.fill(front(0.0, length, top - 0.56, top - 0.42), tone(color, 0.68), size=0.14)
    b.fill(front(0.0, 0.22, 0.0, top), tone(color, 0.86), size=0.3)


def _windows(
    b: Builder,
    rng: np.random.Generator,
    light: Light,
    length: float,
    ground: float,
    storey: float,
    floors: int,
    color: Color,
) -> None:
    """Frames, panes in a few tones, sills, now and then shutters or balconies."""
    columns = max(2, int(length / between(rng, 1.9, 2.7)))
    pitch = length / columns
    wide, tall = pitch * between(rng, 0.40, 0.56), storey * between(rng, 0.50, 0.64)
    zc = (np.arange(columns) + 0.5) * pitch
    yc = ground + (np.arange(floors) + 0.52) * storey
    z, y = (v.ravel() for v in np.meshgrid(zc, yc))
    half, rise = wide / 2, tall / 2
    frame = mix(color, (255, 255, 250), 0.7) if rng.random() < 0.8 else tone(color, 0.5)
    if rng.random() < 0.3 and wide < pitch * 0.5:
        shutter = jitter(
            rng, pick(rng, ((70, 110, 96), (120, 66, 56), (72, 92, 130), (214, 208, 196)))
        )
        for s in (-1.0, 1.0):
            c = z + s * (half + 0.26)
            b.fill(front(c - 0.2, c + 0.2, y - rise, y + rise), shutter, size=0.3)
    b.fill(front(z - half - 0.1, z + half + 0.1, y - rise - 0.1, y + rise + 0.1), frame, size=0.7)
    _panes(b, rng, light, z, y, half, rise)
    b.fill(
        front(z - half - 0.2, z + half + 0.2, y - rise - 0.26, y - rise - 0.1),
        tone(frame, 0.78),
        size=0.16,
    )
    if rng.random() < 0.35:
        keep = rng.random(len(z)) < 0.5
        zb, yb = z[keep], y[keep]
        if len(zb):
            b.fill(
                front(zb - half - 0.25, zb + half + 0.25, yb - rise - 0.1, yb - rise + 0.7),
                (58, 62, 68),
                size=0.5,
            )
            b.fill(
                front(zb - half - 0.2, zb + half + 0.2, yb - rise + 0.02, yb - rise + 0.6),
                mix((58, 62, 68), color, 0.55),
                size=0.5,
            )


def _panes(
    b: Builder,
    rng: np.random.Generator,
    light: Light,
    z: NDArray[np.floating],
    y: NDArray[np.floating],
    half: float,
    rise: float,
) -> None:
    """The glass: three tones of reflected sky, or lamplight at night; a mullion each."""
    tones: tuple[Color, ...] = (
        (62, 78, 98),
        mix((70, 92, 116), light.zenith, 0.35),
        mix((92, 112, 132), light.horizon, 0.35),
    )
    which = rng.integers(0, 3, len(z))
    for i, color in enumerate(tones):
        m = which == i
        if not m.any():
            continue
        night = light.night > 0.5 and i > 0
        shade: Color = ((255, 214, 140), (255, 190, 104))[i - 1] if night else color
        b.fill(
            front(z[m] - half, z[m] + half, y[m] - rise, y[m] + rise),
            shade,
            lit=not night,
            size=0.6,
            glow=night,
        )
        if not night:
            b.fill(
                front(z[m] - half, z[m] + half, y[m], y[m] + rise),
                mix(shade, light.zenith, 0.3),
                lit=False,
                size=0.8,
            )
    lines = np.stack(
        (
            np.stack((np.zeros_like(z), y - rise, z), 1),
            np.stack((np.zeros_like(z), y + rise, z), 1),
        ),
        axis=1,
    )
    b.stroke(lines, (230, 228, 222), 0.07, Kind.STROKE)


def _ground_floor(
    b: Builder, rng: np.random.Generator, light: Light, length: float, ground: float, color: Color
) -> None:
    """A shop with an awning and a sign, or a plinth with a door and windows."""
    night = light.night > 0.5
    if rng.random() < 0.6:
        trim = jitter(rng, pick(rng, AWNINGS), 14.0)
        b.fill(front(0.3, length - 0.3, 0.0, ground - 0.3), tone(trim, 0.6), size=1.0)
        n = max(2, int(length / 3.0))
        step = (length - 0.8) / n
        z = 0.4 + np.arange(n) * step
        glass: Color = (255, 222, 156) if night else (84, 104, 122)
        b.fill(
            front(z + 0.15, z + step - 0.15, 0.5, ground - 1.0),
            glass,
            lit=not night,
            size=1.0,
            glow=night,
        )
        b.fill(
            front(z + 0.15, z + step * 0.6, 1.4, ground - 1.0),
            mix(glass, light.horizon, 0.35),
            lit=False,
            size=1.0,
        )
        stripes = np.arange(0.3, length - 0.7, 0.8)
        b.fill(
            front(0.3, length - 0.3, ground - 1.05, ground - 0.4, 0.0), (244, 240, 230), size=0.5
        )
        b.fill(front(stripes, stripes + 0.4, ground - 1.05, ground - 0.4), trim, size=0.3)
    else:
        b.fill(front(0.0, length, 0.0, ground - 0.2), tone(color, 0.84), size=1.0)
        n = max(2, int(length / 2.6))
        z = (np.arange(n) + 0.5) * length / n
        b.fill(front(z - 0.6, z + 0.6, 1.0, 2.6), (230, 226, 218), size=0.8)
        b.fill(front(z - 0.5, z + 0.5, 1.1, 2.5), (66, 80, 98), size=0.8)
        door = float(z[int(rng.integers(n))])
        b.fill(front(door - 0.75, door + 0.75, 0.0, 2.7), tone(color, 0.6), size=1.0)
        b.fill(
            front(door - 0.55, door + 0.55, 0.0, 2.4),
            jitter(rng, pick(rng, ((96, 60, 44), (48, 84, 76), (60, 66, 96), (132, 44, 42)))),
            size=1.0,
        )


def _end_windows(
    b: Builder, rng: np.random.Generator, side: float, ground: float, storey: float, floors: int
) -> None:
    """A few small windows on the end wall."""
    quads = []
    for f in range(floors):
        y = ground + (f + 0.5) * storey
        for u in (2.6, 6.4):
            a, c = side * (u - 0.5), side * (u + 0.5)
            quads.append([[a, y - 0.7, 0], [c, y - 0.7, 0], [c, y + 0.7, 0], [a, y + 0.7, 0]])
    b.fill(quads, (70, 84, 102), size=0.7)


def house(rng: np.random.Generator, light: Light, x: float, z: float, side: float) -> Thing:
    """A small house with a pitched roof, gable towards the street."""
    w, top = between(rng, 6.5, 9.0), between(rng, 3.4, 5.6)
    ridge = top + between(rng, 2.0, 3.2)
    color = jitter(rng, pick(rng, _PLASTER), 12.0)
    roof = jitter(rng, pick(rng, _ROOFS), 10.0)
    b = Builder(light, (side * 4.0, top / 2, w / 2))
    b.face([[0, 0, 0], [side * 8, 0, 0], [side * 8, top, 0], [0, top, 0]], color)
    b.fill(
        [
            [
                [side * a, 1.0, 0],
                [side * (a + 1.1), 1.0, 0],
                [side * (a + 1.1), 2.4, 0],
                [side * a, 2.4, 0],
            ]
            for a in (1.2, 3.6, 6.0)
        ],
        (70, 86, 106),
        size=0.7,
    )
    b.face(
        [
            [-0.3 * side, top - 0.1, -0.3],
            [side * 8.3, top - 0.1, -0.3],
            [side * 8, ridge, w / 2],
            [0, ridge, w / 2],
        ],
        roof,
    )
    b.face([[0, 0, 0], [0, 0, w], [0, top, w], [0, ridge, w / 2], [0, top, 0]], color)
    floors = [1.7] if top < 4.4 else [1.6, 4.1]
    zc, yc = (v.ravel() for v in np.meshgrid(np.array([w * 0.28, w * 0.72]), np.array(floors)))
    b.fill(front(zc - 0.7, zc + 0.7, yc - 0.8, yc + 0.8), (240, 238, 230), size=0.7)
    _panes(b, rng, light, zc, yc, 0.58, 0.68)
    return b.build("building", x, z, key=w, planar=True, material=Material(0.05))
