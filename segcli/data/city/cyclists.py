"""Bicycles, motorcycles and those who ride them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from segcli.data.city.light import Color, Light, jitter, pick, tone
from segcli.data.city.people import HAIR, LEGS, SKIN, TOPS
from segcli.data.city.thing import Builder, Coordinates, Kind, Thing, disc

_HELMETS: tuple[Color, ...] = ((230, 230, 228), (200, 52, 46), (46, 48, 54), (64, 120, 180))


def _along(points: Coordinates, angle: float) -> NDArray[np.float32]:
    """(..., 2) points of a side view as (..., 3), turned about the upright axis.

    At 0 the side view faces the camera, at pi / 2 it runs along the street.
    """
    p = np.asarray(points, np.float32)
    u, y = p[..., 0], p[..., 1]
    return np.stack((u * math.cos(angle), y, u * math.sin(angle)), axis=-1)


def _wheel(b: Builder, u: float, radius: float, angle: float, width: float, spokes: int) -> None:
    """A wheel of a two-wheeler: label filled, picture a tyre and spokes."""
    ring = disc(u, radius, radius, 18)
    b.fill(_along(ring, angle), (0, 0, 0), Kind.MASK)
    if spokes:
        t = np.arange(spokes) * (math.pi / spokes)
        ends = np.stack((np.cos(t), np.sin(t)), axis=-1) * radius * 0.92
        hub = np.array([u, radius])
        lines = np.stack((hub - ends, hub + ends), axis=1)
        b.stroke(_along(lines, angle), (176, 180, 186), 0.018, Kind.STROKE)
    closed = np.concatenate((ring, ring[:1]))
    b.stroke(_along(closed, angle), (36, 36, 40), width)


def add_bicycle(b: Builder, rng: np.random.Generator, angle: float, u: float = 0.0) -> None:
    """A bicycle, its side view turned by `angle` and moved by `u` along itself."""
    color = jitter(rng, pick(rng, TOPS))
    along = np.array([u, 0.0])
    b.flat()
    for wheel in (-0.54, 0.54):
        _wheel(b, u + wheel, 0.36, angle, 0.065, 6)
    crank, seat, head, rear, front = (
        (-0.06, 0.32),
        (-0.2, 0.88),
        (0.4, 0.92),
        (-0.54, 0.36),
        (0.54, 0.36),
    )
    frame = [[rear, seat], [rear, crank], [crank, seat], [crank, head], [seat, head], [head, front]]
    b.stroke(_along(np.asarray(frame) + along, angle), color, 0.075)
    bars = [[(0.4, 0.92), (0.36, 1.06)], [(0.36, 1.06), (0.5, 1.08)]]
    b.stroke(_along(np.asarray(bars) + along, angle), (44, 44, 50), 0.06)
    b.stroke(
        _along(np.asarray([[(-0.32, 0.92), (-0.08, 0.92)]]) + along, angle), (40, 32, 30), 0.09
    )
    b.fill(_along(disc(u - 0.06, 0.32, 0.09, 8), angle), (70, 72, 78), size=0.1)


def bicycle(
    rng: np.random.Generator,
    light: Light,
    x: float,
    z: float,
    angle: float,
    velocity: tuple[float, float] = (0.0, 0.0),
    count: int = 1,
) -> Thing:
    """A bicycle, or a rack of several annotated as a group."""
    b = Builder(light)
    for i in range(count):
        add_bicycle(b, rng, angle, u=i * 0.75 - (count - 1) * 0.375)
    label = "bicycle" if count == 1 else "bicyclegroup"
    return b.build(label, x, z, velocity=velocity)


def rider(
    rng: np.random.Generator,
    light: Light,
    x: float,
    z: float,
    angle: float,
    velocity: tuple[float, float] = (0.0, 0.0),
    motor: bool = False,
) -> Thing:
    """Whoever rides a bicycle, or a motorcycle when `motor`, leaning over the bars."""
    top, legs, skin = jitter(rng, pick(rng, TOPS)), pick(rng, LEGS), pick(rng, SKIN)
    if motor:
        top, legs = tone(top, 0.7), (44, 46, 54)
    w = 0.17 + 0.08 * math.sin(abs(angle))  # seen from behind a back is broader
    seat, hip = (-0.18, 0.95) if not motor else (-0.12, 0.88)
    b = Builder(light)

    foot = (0.0 if not motor else 0.1, 0.26)
    for dx, shade in ((0.13, 0.8), (-0.13, 1.0)):
        leg = _along([[seat, hip], [seat + 0.3, hip - 0.22], [foot[0], foot[1]]], angle)
        leg[:, 0] += dx
        b.stroke(leg, tone(legs, shade), 0.16)
        shoe = _along([[foot[0] - 0.06, 0.22], [foot[0] + 0.14, 0.22]], angle)
        shoe[:, 0] += dx
        b.stroke(shoe, (40, 36, 36), 0.10)
    chest = (0.12, 1.38)
    spine = _along([[seat, hip], [chest[0], chest[1]]], angle)
    hull = np.stack(
        (
            spine[0] + [-w, -0.05, 0],
            spine[0] + [w, -0.05, 0],
            spine[1] + [w * 1.1, 0.0, 0],
            spine[1] + [w * 0.6, 0.12, 0],
            spine[1] + [-w * 0.6, 0.12, 0],
            spine[1] + [-w * 1.1, 0.0, 0],
        )
    )
    b.fill(hull, top, Kind.FACE)
    b.fill(hull[[1, 2, 3]] * 0.96 + hull.mean(axis=0) * 0.04, tone(top, 1.15), size=0.2)
    for side in (-1.0, 1.0):
        arm = _along([[chest[0], chest[1] - 0.02], [0.28, 1.14], [0.44, 1.06]], angle)
        arm[:, 0] += side * w
        b.stroke(arm, tone(top, 0.85), 0.11)
    _helmet(b, rng, angle, skin, motor)
    return b.build("rider", x, z, key=-0.05, velocity=velocity)


def _helmet(b: Builder, rng: np.random.Generator, angle: float, skin: Color, motor: bool) -> None:
    """A rider's head: face and helmet or hair, or a full helmet with its visor."""
    cover = pick(rng, _HELMETS if rng.random() < 0.7 else HAIR)
    if not motor:
        b.fill(_along(disc(0.22, 1.62, 0.13, 14), angle), skin, Kind.FACE)
        b.fill(_along(disc(0.21, 1.65, 0.145, 14)[:8], angle), cover, Kind.FACE)
        return
    b.fill(_along(disc(0.22, 1.62, 0.16, 14), angle), (40, 42, 48), Kind.FACE)
    b.fill(_along(disc(0.21, 1.65, 0.17, 14), angle), cover, Kind.FACE)
    visor = [[0.24, 1.58], [0.38, 1.58], [0.36, 1.70], [0.24, 1.70]]
    b.fill(_along(visor, angle), (30, 34, 42), size=0.1)


def motorcycle(
    rng: np.random.Generator,
    light: Light,
    x: float,
    z: float,
    angle: float,
    velocity: tuple[float, float] = (0.0, 0.0),
) -> Thing:
    """A motorcycle or scooter: heavy wheels, tank, seat, exhaust and lamp."""
    color = jitter(
        rng, pick(rng, ((196, 40, 38), (38, 76, 150), (44, 46, 52), (226, 130, 40), (90, 130, 90)))
    )
    b = Builder(light)
    for u in (-0.66, 0.68):
        _wheel(b, u, 0.33, angle, 0.17, 0)
        b.fill(_along(disc(u, 0.33, 0.12, 10), angle), (150, 154, 160), Kind.FACE)
    _motor_body(b, angle, color)
    b.stroke(_along([[0.68, 0.33], [0.44, 0.98], [0.34, 1.10]], angle), (158, 162, 168), 0.10)
    b.stroke(_along([[-0.2, 0.36], [-0.95, 0.44]], angle), (176, 180, 184), 0.12)
    bars = _along([[0.36, 1.10], [0.36, 1.10]], angle)
    bars[0, 0] -= 0.36
    bars[1, 0] += 0.36
    b.stroke(bars, (48, 50, 56), 0.07)
    b.fill(
        _along(disc(-0.93, 0.82, 0.07, 8), angle), (220, 40, 36), Kind.FACE, glow=light.night > 0.5
    )
    b.fill(
        _along(disc(0.58, 0.90, 0.10, 10), angle),
        (250, 246, 226),
        Kind.FACE,
        glow=light.night > 0.5,
    )
    return b.build("motorcycle", x, z, velocity=velocity)


def _motor_body(b: Builder, angle: float, color: Color) -> None:
    """Engine, tank and seat, with width across the street so that the rear view is no line."""
    engine = [[-0.45, 0.36], [0.30, 0.34], [0.46, 0.72], [-0.30, 0.74]]
    tank = [[-0.10, 0.70], [0.44, 0.66], [0.50, 0.92], [0.30, 1.02], [-0.02, 0.92]]
    seat = [[-0.92, 0.78], [-0.86, 0.92], [0.0, 0.90], [0.0, 0.74], [-0.60, 0.66]]
    for dx, paint in ((0.14, tone(color, 0.75)), (-0.14, color)):
        offset = np.array([dx, 0.0, 0.0], np.float32)
        b.fill(_along(engine, angle) + offset, (66, 68, 74), Kind.FACE)
        b.fill(_along(tank, angle) + offset, paint, Kind.FACE)
        b.fill(_along(seat, angle) + offset, (42, 38, 40), Kind.FACE)
