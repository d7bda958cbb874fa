"""Trees, bushes and hedges: foliage as discs in three layers of light."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from segcli.data.city.light import Color, Light, between, jitter, pick, tone
from segcli.data.city.thing import (
    Builder,
    Kind,
    Material,
    Part,
    Thing,
    box,
    upright,
)

_LEAVES: tuple[Color, ...] = (
    (92, 142, 66), (72, 122, 62), (116, 150, 60), (60, 112, 78), (134, 146, 62), (186, 132, 52),
    (88, 132, 92),
)  # fmt: skip


_LEAF = Material(grain=0.10)


def leaves_at(
    b: Builder,
    rng: np.random.Generator,
    middle: tuple[float, float, float],
    spread: tuple[float, float, float],
    radius: float,
    count: int,
    color: Color,
) -> None:
    """Foliage in three layers: a dark body, lit clumps, and glints on the sunny side."""
    light = b.light
    for layer, (share, size, reach) in enumerate(
        ((0.3, 1.0, 0.8), (0.4, 0.62, 1.0), (0.5, 0.36, 1.05))
    ):
        n = max(4, int(count * share))
        t = rng.random((n, 3)) * 2.0 - 1.0
        t /= np.maximum(np.linalg.norm(t, axis=1, keepdims=True), 1.0)
        t[:, 2] = -np.abs(t[:, 2]) * 0.5
        lit = (t @ np.asarray(light.sun)) * 0.5 + t[:, 1] * 0.25 + 0.32
        lit = np.clip(lit + (layer - 1) * 0.16 + rng.normal(0.0, 0.08, n), -0.25, 1.0)
        base = np.array([light.soft(color, 0.0), light.soft(tone(color, 1.12), 1.1)])
        shade = base[0] * 0.72 + (base[1] - base[0] * 0.72) * np.clip(lit, 0.0, 1.0)[:, None]
        centers = np.asarray(middle) + t * np.asarray(spread) * reach
        radii = radius * size * (0.7 + 0.5 * rng.random(n))
        order = np.argsort(lit)
        kind = Kind.BLOB if layer < 2 else Kind.DOT
        b.discs(centers[order], radii[order], shade[order], kind)


def detail(distance: float) -> float:
    """Share of the leaves that is worth drawing at a distance in metres."""
    return min(1.0, max(0.3, 22.0 / max(distance, 1.0)))


def tree(rng: np.random.Generator, light: Light, x: float, z: float, leaves: float = 1.0) -> Thing:
    """A broad tree, a poplar or a conifer, trunk included."""
    color = jitter(rng, pick(rng, _LEAVES), 12.0)
    kind = rng.random()
    b = Builder(light)
    bark: Color = (104, 82, 64)
    if kind < 0.16:
        _conifer(b, rng, color)
    else:
        poplar = kind < 0.34
        height = between(rng, 6.0, 8.5) if poplar else between(rng, 4.6, 7.0)
        wide = between(rng, 0.9, 1.2) if poplar else between(rng, 1.5, 2.3)
        stem = height * (0.22 if poplar else 0.36)
        trunk = [[-0.19, 0.0], [0.19, 0.0], [0.12, stem + 0.8], [-0.12, stem + 0.8]]
        b.fill(upright(trunk), bark, Kind.FACE)
        b.fill(
            upright([[0.02, 0.0], [0.19, 0.0], [0.12, stem], [0.02, stem]]),
            tone(bark, 0.7),
            size=0.2,
        )
        for side in (-1.0, 1.0):
            b.stroke(upright([[0.0, stem - 0.1], [side * wide * 0.4, stem + 0.9]]), bark, 0.13)
        tall = (height - stem) / 2 + 0.2
        leaves_at(
            b,
            rng,
            (0.0, stem + tall, 0.0),
            (wide, tall, 1.0),
            wide * (0.62 if poplar else 0.42),
            int(72 * leaves),
            color,
        )
    return b.build("vegetation", x, z, material=_LEAF)


def _conifer(b: Builder, rng: np.random.Generator, color: Color) -> None:
    """Layered skirts of needles."""
    green = tone(color, 0.72)
    b.fill(upright(box(-0.16, 0.0, 0.16, 1.0)), (92, 70, 56), Kind.FACE)
    tiers = 5
    for i in range(tiers):
        y, w = 0.7 + i * 1.15, 1.7 * (1.0 - i / (tiers + 0.6))
        teeth = np.linspace(-w, w, 9)
        hem = [[u, y + (0.22 if j % 2 else 0.0)] for j, u in enumerate(teeth)]
        b.fill(
            upright([*hem, [0.12, y + 1.9], [-0.12, y + 1.9]]),
            tone(green, 0.82 + 0.07 * i),
            Kind.FACE,
        )
        b.fill(
            upright(
                [[-w * 0.85, y + 0.2], [-0.1, y + 0.15], [-0.05, y + 1.7]]
                if b.light.sun[0] < 0
                else [[w * 0.85, y + 0.2], [0.1, y + 0.15], [0.05, y + 1.7]]
            ),
            tone(green, 1.12 + 0.05 * i),
            size=0.5,
        )


def bush(
    rng: np.random.Generator,
    light: Light,
    x: float,
    z: float,
    leaves: float = 1.0,
    bloom: bool = True,
) -> Thing:
    """A bush, now and then in blossom."""
    color = jitter(rng, pick(rng, _LEAVES), 12.0)
    b = Builder(light)
    wide, tall = between(rng, 0.7, 1.4), between(rng, 0.5, 0.8)
    leaves_at(b, rng, (0.0, tall, 0.0), (wide, tall, 0.6), 0.34, int(36 * leaves), color)
    if bloom and rng.random() < 0.4:
        n = 14
        t = rng.random((n, 2)) * 2.0 - 1.0
        spots = upright(np.stack((t[:, 0] * wide, tall + t[:, 1] * tall), axis=1), -0.3)
        petal = light.soft(pick(rng, ((240, 120, 150), (250, 230, 120), (244, 240, 250))), 0.9)
        b.discs(spots, np.full(n, 0.09), np.tile(petal, (n, 1)), Kind.DOT)
    return b.build("vegetation", x, z, material=_LEAF)


def hedge(
    rng: np.random.Generator, light: Light, x: float, z: float, length: float, height: float
) -> Thing:
    """A clipped hedge along the street, its face at `x`."""
    color = jitter(rng, pick(rng, _LEAVES[:5]), 10.0)
    inner = math.copysign(0.9, x)
    b = Builder(light, (inner / 2, height / 2, length / 2))
    b.face([[0, 0, 0], [0, 0, length], [0, height, length], [0, height, 0]], tone(color, 0.95))
    b.face([[0, 0, 0], [inner, 0, 0], [inner, height, 0], [0, height, 0]], color)
    b.face(
        [[0, height, 0], [inner, height, 0], [inner, height, length], [0, height, length]],
        tone(color, 1.1),
    )
    b.flat()
    n = int(12 * length)
    at = np.stack(
        (np.full(n, -0.02 * inner), rng.random(n) * height, rng.random(n) * length), axis=1
    )
    lit = 0.45 + 0.5 * at[:, 1:2] / height + rng.normal(0.0, 0.12, (n, 1))
    b.discs(
        at,
        0.10 + 0.10 * rng.random(n),
        np.asarray(light.soft(color)) * (0.55 + 0.5 * lit),
        Kind.BLOB,
    )
    return b.build("vegetation", x, z, key=length * 0.5, planar=True, material=_LEAF)


def resized(part: Part, factor: float) -> Part:
    """A part of discs with its radii scaled."""
    sizes = None if part.sizes is None else part.sizes * np.float32(factor)
    return replace(part, size=part.size * factor, sizes=sizes)
