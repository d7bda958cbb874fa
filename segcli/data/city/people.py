"""Persons as boards that face the camera."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from segcli.data.city.light import Color, Light, between, jitter, pick, tone
from segcli.data.city.thing import (
    Builder,
    Coordinates,
    Kind,
    Thing,
    disc,
    upright,
)

SKIN: tuple[Color, ...] = ((238, 200, 170), (214, 166, 130), (160, 110, 80), (104, 72, 54))


HAIR: tuple[Color, ...] = ((44, 34, 30), (92, 62, 40), (190, 150, 92), (150, 150, 152))


TOPS: tuple[Color, ...] = (
    (206, 58, 52), (58, 92, 168), (240, 238, 230), (42, 44, 52), (226, 172, 54), (70, 134, 98),
    (168, 98, 156), (232, 128, 74), (112, 150, 190), (120, 84, 64), (232, 150, 170),
)  # fmt: skip


LEGS: tuple[Color, ...] = (
    (48, 58, 88), (40, 40, 46), (120, 108, 92), (84, 92, 104), (168, 156, 136), (66, 48, 42),
)  # fmt: skip


class _Figure(NamedTuple):
    """Draws one person's shapes: (k, 2) of a figure 1.75 m tall that stands at 0."""

    b: Builder
    scale: float
    x: float
    z: float

    def put(
        self, points: Coordinates, color: Color, kind: Kind = Kind.FACE, light: float = 1.0
    ) -> None:
        """One polygon of the body, or a detail on it."""
        at = np.asarray(points, np.float32) * self.scale + np.array([self.x, 0.0], np.float32)
        size = 9.0 if kind is Kind.FACE else 0.12
        self.b.fill(upright(at, self.z), tone(color, light), kind, size=size)


def add_person(b: Builder, rng: np.random.Generator, x: float = 0.0, z: float = 0.0) -> None:
    """A standing or walking person as a board that faces the camera."""
    figure = _Figure(b, between(rng, 1.56, 1.88) / 1.75, x, z)
    stride, lean = between(rng, 0.02, 0.26), between(rng, -0.04, 0.04)
    skin, back = pick(rng, SKIN), rng.random() < 0.5
    b.flat()
    _legs(figure, stride, jitter(rng, pick(rng, LEGS)))
    low = 0.62 if rng.random() < 0.3 else 0.82  # a coat or a jacket
    _torso(figure, low, stride * 0.7, lean, jitter(rng, pick(rng, TOPS)), skin)
    _head(figure, lean, skin, pick(rng, HAIR), back)
    if rng.random() < 0.3:
        bag = [[0.18, 0.72], [0.36, 0.72], [0.34, 0.98], [0.20, 0.98]]
        figure.put(bag, pick(rng, TOPS))
    elif back and rng.random() < 0.4:
        rucksack = [[-0.17, 0.98], [0.17, 0.98], [0.15, 1.40], [-0.15, 1.40]]
        figure.put(rucksack, pick(rng, TOPS), Kind.DETAIL)


def _legs(figure: _Figure, stride: float, color: Color) -> None:
    """Trousers and shoes, the left leg a little darker."""
    for side, light in ((-1.0, 0.86), (1.0, 1.0)):
        foot = side * (0.07 + stride)
        hip, knee = side * 0.01, side * 0.19
        ankles = [[foot + side * 0.08, 0.05], [foot - side * 0.06, 0.05]]
        figure.put([[hip, 0.86], [knee, 0.86], *ankles], color, light=light)
        shoe = [[foot - 0.08, 0.0], [foot + 0.10, 0.0], [foot + 0.09, 0.09], [foot - 0.08, 0.09]]
        figure.put(shoe, (46, 40, 40))


def _torso(
    figure: _Figure, low: float, swing: float, lean: float, color: Color, skin: Color
) -> None:
    """Jacket with a lit side, arms and hands."""
    right = [[0.20, low], [0.18, 1.10], [0.25, 1.42]]
    left = [[-x, y] for x, y in reversed(right)]
    figure.put([*right, [0.12 + lean, 1.49], [-0.12 + lean, 1.49], *left], color)
    figure.put([[0.02, low], *right, [0.10, 1.46]], color, Kind.DETAIL, 1.12)
    for side in (-1.0, 1.0):
        hand = side * (0.27 + swing)
        wrist = [[hand + side * 0.05, 0.86], [hand - side * 0.05, 0.84]]
        figure.put([[side * 0.18, 1.44], [side * 0.27, 1.40], *wrist], color, light=0.88)
        figure.put(disc(hand, 0.82, 0.055, 8), skin)


def _head(figure: _Figure, lean: float, skin: Color, hair: Color, back: bool) -> None:
    """Neck, face and hair; from the `back` only hair."""
    figure.put([[-0.05, 1.44], [0.05, 1.44], [0.05, 1.56], [-0.05, 1.56]], tone(skin, 0.85))
    figure.put(disc(lean, 1.63, 0.125, 14), skin)
    crown = disc(lean, 1.65, 0.132, 14)
    figure.put(crown if back else crown[:8], hair)


def person(
    rng: np.random.Generator,
    light: Light,
    x: float,
    z: float,
    velocity: tuple[float, float] = (0.0, 0.0),
) -> Thing:
    """One person."""
    b = Builder(light)
    add_person(b, rng)
    return b.build("person", x, z, velocity=velocity)


def crowd(rng: np.random.Generator, light: Light, x: float, z: float, count: int) -> Thing:
    """Several persons close together, annotated as one group."""
    b = Builder(light)
    for i in range(count):
        add_person(b, rng, x=(i - count / 2) * 0.55 + between(rng, -0.1, 0.1), z=0.3 - 0.1 * i)
    return b.build("persongroup", x, z)
