"""Walls, fences, crash barriers and bridges; axes as in buildings.py."""

from __future__ import annotations

import numpy as np

from segcli.data.city.buildings import AWNINGS, front
from segcli.data.city.light import Color, Light, between, jitter, mix, pick, tone
from segcli.data.city.thing import (
    Builder,
    Kind,
    Material,
    Thing,
)

_WALLS: tuple[tuple[Color, Material], ...] = (
    ((172, 92, 72), Material(0.06, 0.34, 0.50, 0.18)),
    ((160, 154, 144), Material(0.10, 0.30, 0.9, 0.40)),
    ((190, 184, 172), Material(0.07, 0.24, 2.4, 3.0)),
    ((200, 178, 140), Material(0.09, 0.30, 0.8, 0.36)),
)  # fmt: skip


def wall(
    rng: np.random.Generator, light: Light, x: float, z: float, length: float, side: float
) -> Thing:
    """A free-standing wall of brick, stone or concrete, sometimes with graffiti."""
    color, material = pick(rng, _WALLS)
    color = jitter(rng, color, 14.0)
    high = between(rng, 1.9, 2.9)
    b = Builder(light, (side * 0.2, high / 2, length / 2))
    b.face([[0, 0, 0], [side * 0.4, 0, 0], [side * 0.4, high, 0], [0, high, 0]], tone(color, 0.9))
    b.face(front(0.0, length, 0.0, high)[0], color)
    b.fill(front(0.0, length, high - 0.22, high), mix(color, (240, 236, 226), 0.45), size=0.2)
    posts = np.arange(0.0, length - 0.3, 3.2)
    b.fill(front(posts, posts + 0.4, 0.0, high - 0.22), tone(color, 1.08), size=0.3)
    if rng.random() < 0.35:
        _graffiti(b, rng, length, high)
    return b.build("wall", x, z, key=length * 0.6, planar=True, material=material)


def _graffiti(b: Builder, rng: np.random.Generator, length: float, high: float) -> None:
    """Loops of spray paint."""
    for _ in range(3):
        t = np.linspace(0.0, between(rng, 5.0, 9.0), 26)
        z0, scale = between(rng, 0.8, max(1.0, length - 4.0)), between(rng, 0.25, 0.5)
        z = z0 + t * scale + np.sin(t * 2.1) * 0.3
        y = high * 0.45 + np.sin(t * between(rng, 1.4, 2.6)) * high * 0.22
        line = np.stack((np.zeros_like(z), y, z), axis=1)
        b.stroke(line, jitter(rng, pick(rng, AWNINGS), 40.0), 0.12, Kind.STROKE)


def fence(rng: np.random.Generator, light: Light, x: float, z: float, length: float) -> Thing:
    """A picket, plank or iron fence: the gaps belong to its label."""
    kind = int(rng.integers(3))
    high = (between(rng, 1.1, 1.4), between(rng, 1.5, 1.9), between(rng, 1.4, 1.8))[kind]
    color = jitter(rng, ((244, 242, 234), (168, 122, 82), (52, 66, 62))[kind], 12.0)
    b = Builder(light)
    b.fill(front(0.0, length, 0.0, high)[0], (0, 0, 0), Kind.MASK)
    pitch, wide = ((0.34, 0.2), (0.5, 0.42), (0.3, 0.1))[kind]
    s = np.arange(0.0, length - wide, pitch)
    rails = np.array([0.25, 0.75]) * high
    b.fill(front(0.0, length, rails - 0.06, rails + 0.06), tone(color, 0.8), size=0.1)
    quads = front(s, s + wide, 0.04, high - 0.08)
    if kind != 1:  # pointed tops
        peak = (quads[:, 2:3] + quads[:, 3:4]) / 2 + np.array([0.0, 0.12, 0.0], np.float32)
        quads = np.concatenate((quads[:, :3], peak, quads[:, 3:]), axis=1)
    b.fill(quads[::2], color, size=0.45)
    b.fill(quads[1::2], tone(color, 0.92), size=0.45)
    posts = np.arange(0.0, length, 3.0)
    b.fill(front(posts, posts + 0.18, 0.0, high + 0.1), tone(color, 0.85), Kind.FACE)
    return b.build("fence", x, z, key=length * 0.6, planar=True, material=Material(0.05))


def guard_rail(light: Light, x: float, z: float, length: float) -> Thing:
    """A steel crash barrier."""
    b = Builder(light)
    posts = np.arange(0.0, length, 2.0)
    b.fill(front(posts, posts + 0.12, 0.0, 0.5), (120, 124, 128), Kind.FACE)
    b.fill(front(0.0, length, 0.45, 0.8)[0], (186, 190, 194), Kind.FACE)
    b.fill(front(0.0, length, 0.58, 0.66), (132, 136, 142), size=0.1)
    return b.build("guard rail", x, z, key=length * 0.6, planar=True)


def bridge(light: Light, half: float, z: float) -> Thing:
    """A bridge across the street, its piers at plus and minus `half`."""
    b = Builder(light)
    low, high = 5.2, 6.6
    reach = half + 16.0
    b.fill(
        [[-reach, low, 0], [reach, low, 0], [reach, high, 0], [-reach, high, 0]],
        (150, 148, 144),
        Kind.FACE,
    )
    b.fill(
        [[-reach, high - 0.3, 0], [reach, high - 0.3, 0], [reach, high, 0], [-reach, high, 0]],
        (186, 184, 178),
        size=0.3,
    )
    for s in (-1.0, 1.0):
        a, c = s * half, s * (half + 2.0)
        b.fill([[a, 0, 0], [c, 0, 0], [c, low, 0], [a, low, 0]], (134, 132, 128), Kind.FACE)
    return b.build("bridge", 0.0, z, planar=True, material=Material(0.06))
