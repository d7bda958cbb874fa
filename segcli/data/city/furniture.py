"""Street furniture and plants: poles, lamps, signs, traffic lights, trees, hedges, bins."""

from __future__ import annotations

import numpy as np

from segcli.data.city.light import Color, Light, between, jitter, pick, tone
from segcli.data.city.plants import leaves_at
from segcli.data.city.thing import Builder, Kind, Thing, box, disc, upright

_METAL: tuple[Color, ...] = ((112, 118, 124), (74, 84, 82), (150, 152, 154), (58, 62, 70))


def _mast(b: Builder, width: float, height: float, color: Color, z: float = 0.0) -> None:
    """A round post: a lit and a shaded half."""
    b.fill(upright(box(-width / 2, 0.0, width / 2, height), z), color, Kind.FACE)
    shade = box(width * 0.05, 0.0, width / 2, height)
    if b.light.sun[0] > 0:
        shade[:, 0] -= width * 0.5
    b.fill(upright(shade, z), tone(color, 0.72), size=width / 2)
    b.fill(upright(box(-width * 0.9, 0.0, width * 0.9, 0.28), z), tone(color, 0.8), Kind.FACE)


def street_lamp(
    rng: np.random.Generator, light: Light, x: float, z: float, inwards: float
) -> Thing:
    """A lamp post whose arm reaches `inwards` (-1 or 1) over the road."""
    color, height = pick(rng, _METAL), between(rng, 5.6, 7.5)
    b = Builder(light)
    _mast(b, 0.22, height, color)
    arm = upright(
        [[0.0, height - 0.1], [inwards * 0.5, height + 0.25], [inwards * 1.5, height + 0.3]]
    )
    b.stroke(arm, color, 0.14)
    head = upright(box(-0.4, -0.1, 0.4, 0.12) + np.array([inwards * 1.6, height + 0.3], np.float32))
    b.fill(head, tone(color, 0.8), Kind.FACE)
    bulb = upright(
        box(-0.3, -0.12, 0.3, -0.04) + np.array([inwards * 1.6, height + 0.3], np.float32)
    )
    lit = light.night > 0.5
    b.fill(bulb, (255, 238, 190), lit=not lit, size=0.3, glow=lit)
    return b.build("pole", x, z)


def post(
    rng: np.random.Generator, light: Light, x: float, z: float, height: float, width: float = 0.17
) -> Thing:
    """A plain pole, for signs and traffic lights; its key puts it behind what it carries."""
    b = Builder(light)
    _mast(b, width, height, pick(rng, _METAL))
    return b.build("pole", x, z, key=0.05)


def _polygon(shape: str, r: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The outline of a sign of radius `r` around (0, 0)."""
    if shape == "triangle":
        return np.array([[-r, -0.75 * r], [r, -0.75 * r], [0.0, 0.95 * r]], np.float32)
    if shape == "diamond":
        return disc(0.0, 0.0, r * 1.1, 4)
    if shape == "octagon":
        t = disc(0.0, 0.0, r * 1.05, 16)
        return t[1::2]
    if shape == "square":
        return box(-r * 0.9, -r * 0.9, r * 0.9, r * 0.9)
    if shape == "board":
        return box(-r * 1.7, -r * 0.7, r * 1.7, r * 0.7)
    return disc(0.0, 0.0, r, 18)


_SIGNS: tuple[tuple[str, Color, Color], ...] = (
    ("circle", (206, 36, 40), (246, 246, 242)), ("circle", (28, 84, 172), (28, 84, 172)),
    ("triangle", (206, 36, 40), (246, 246, 242)), ("octagon", (244, 244, 240), (198, 34, 38)),
    ("diamond", (246, 246, 240), (244, 196, 40)), ("square", (236, 240, 244), (30, 92, 180)),
    ("board", (250, 250, 246), (246, 206, 60)), ("board", (246, 248, 250), (34, 110, 84)),
    ("circle", (206, 36, 40), (206, 36, 40)),
)  # fmt: skip


def sign(
    rng: np.random.Generator, light: Light, x: float, z: float, y: float, radius: float
) -> Thing:
    """A traffic sign with its middle at height `y`; the post comes separately."""
    shape, rim, inner = pick(rng, _SIGNS)
    outline = _polygon(shape, radius)
    up = np.array([0.0, y], np.float32)
    b = Builder(light)
    b.fill(upright(outline + up, -0.05), rim, Kind.FACE)
    b.fill(upright(outline * 0.80 + up, -0.05), inner, size=radius)
    dark = sum(inner) > 480
    ink: Color = (38, 38, 44) if dark else (248, 248, 246)
    if shape == "board":
        rows = [
            box(-r0 * radius, dy, radius * 0.7, dy + radius * 0.16)
            for r0, dy in ((1.2, 0.16 * radius), (1.0, -0.28 * radius))
        ]
        b.fill(upright(np.stack(rows) + up, -0.05), ink, size=radius * 0.2)
    elif rim == inner:
        b.fill(upright(box(-0.6, -0.14, 0.6, 0.14) * radius + up, -0.05), ink, size=radius * 0.3)
    else:
        glyphs = (
            [box(-0.1, -0.35, 0.1, 0.45)],
            [box(-0.4, -0.3, -0.12, 0.3), box(0.1, -0.3, 0.4, 0.3)],
            [np.array([[-0.3, -0.3], [0.3, -0.3], [0.0, 0.4]], np.float32)],
        )
        scale = radius * (0.62 if shape == "triangle" else 0.95)
        b.fill(upright(np.stack(pick(rng, glyphs)) * scale + up, -0.05), ink, size=radius * 0.3)
    return b.build("traffic sign", x, z, key=-0.05, shadow=False)


def traffic_light(
    rng: np.random.Generator, light: Light, x: float, z: float, y: float, state: int
) -> Thing:
    """A signal head from height `y` up; `state` 0, 1, 2 lights red, amber, green."""
    b = Builder(light)
    wide, tall = 0.30, 1.30
    up = np.array([0.0, y], np.float32)
    if rng.random() < 0.5:
        plate = box(-wide * 1.35, -0.12, wide * 1.35, tall + 0.12) + up
        b.fill(upright(plate, -0.05), (236, 236, 230), Kind.FACE)
        b.fill(
            upright((plate - plate.mean(0)) * 0.93 + plate.mean(0), -0.05), (34, 36, 40), size=0.5
        )
    b.fill(upright(box(-wide, 0.0, wide, tall) + up, -0.05), (40, 44, 46), Kind.FACE)
    lamps: tuple[Color, ...] = ((255, 58, 44), (255, 190, 48), (70, 240, 130))
    for i, color in enumerate(lamps):
        circle = upright(disc(0.0, y + tall - 0.22 - 0.43 * i, 0.17, 14), -0.06)
        hood = upright(disc(0.0, y + tall - 0.19 - 0.43 * i, 0.20, 14), -0.06)
        b.fill(hood, (22, 24, 26), size=0.2)
        on = i == state
        b.fill(circle, color if on else tone(color, 0.24), lit=not on, size=0.2, glow=on)
    return b.build("traffic light", x, z, key=-0.05, shadow=False)


def clutter(rng: np.random.Generator, light: Light, x: float, z: float) -> Thing:
    """A bin, a bench, a flower tub or a suitcase: the void classes static and dynamic."""
    b = Builder(light)
    what = int(rng.integers(4))
    if what == 0:  # bin
        color = pick(rng, ((70, 96, 74), (84, 88, 94), (206, 120, 40)))
        b.fill(upright([[-0.24, 0.0], [0.24, 0.0], [0.29, 0.95], [-0.29, 0.95]]), color, Kind.FACE)
        b.fill(upright(box(-0.32, 0.9, 0.32, 1.04)), tone(color, 0.6), Kind.FACE)
    elif what == 1:  # bench
        b.fill(upright(box(-0.9, 0.42, 0.9, 0.52)), (146, 100, 62), Kind.FACE)
        b.fill(upright(box(-0.9, 0.62, 0.9, 0.88)), (160, 112, 70), Kind.FACE)
        for u in (-0.75, 0.65):
            b.fill(upright(box(u, 0.0, u + 0.1, 0.9)), (52, 54, 58), Kind.FACE)
    elif what == 2:  # tub
        b.fill(
            upright([[-0.35, 0.0], [0.35, 0.0], [0.42, 0.55], [-0.42, 0.55]]),
            (176, 110, 80),
            Kind.FACE,
        )
        leaves_at(b, rng, (0.0, 0.75, 0.0), (0.42, 0.25, 0.2), 0.2, 24, (96, 140, 70))
    else:  # suitcase
        b.fill(upright(box(-0.25, 0.06, 0.25, 0.72)), jitter(rng, (70, 90, 140), 40.0), Kind.FACE)
        b.stroke(
            upright([[-0.12, 0.7], [-0.12, 1.0], [0.12, 1.0], [0.12, 0.7]]), (60, 60, 66), 0.04
        )
    return b.build("dynamic" if what == 3 else "static", x, z)
