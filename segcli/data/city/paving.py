"""The road's cross-section, its surfaces and the paint on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segcli.data.city.ground import Ground, Marking, Strip
from segcli.data.city.light import between, jitter, pick
from segcli.data.city.thing import (
    Material,
)


@dataclass
class Layout:
    """Measures of the street, metres from its centre line."""

    lane: float
    parking: float  # width of the parking lane on each side, 0 for none
    verge: float  # grass between kerb and sidewalk, 0 for none
    sidewalk: float
    tram: bool

    @property
    def road(self) -> float:
        """Half the width of the road, parking lanes included."""
        return self.lane * (1.45 if self.tram else 1.0) + self.parking

    @property
    def front(self) -> float:
        """Where the lots begin."""
        return self.road + self.verge + self.sidewalk


def pave(m: Layout, g: Ground, rng: np.random.Generator, length: float) -> None:
    """Grass below everything, then sidewalks, verges, the road and its paint."""
    grass = jitter(rng, (124, 150, 84), 14.0)
    paving = jitter(
        rng, pick(rng, ((178, 172, 164), (190, 176, 160), (164, 166, 170), (186, 162, 146))), 8.0
    )
    slab = pick(
        rng,
        (
            Material(0.05, 0.22, 0.8, 0.8),
            Material(0.05, 0.2, 0.5, 0.25),
            Material(0.06, 0.2, 1.2, 0.6),
        ),
    )
    asphalt = jitter(rng, pick(rng, ((98, 98, 104), (88, 90, 96), (112, 110, 110))), 5.0)
    stones = rng.random() < 0.14
    surface = Material(0.07, 0.26, 0.28, 0.2) if stones else Material(0.075)
    g.strips.append(Strip("terrain", -90.0, 90.0, 0.0, length + 60.0, grass, Material(0.16)))
    for s in (-1.0, 1.0):
        a, b = sorted((s * (m.road + m.verge), s * (m.front + 0.6)))
        g.strips.append(Strip("sidewalk", a, b, 0.0, length, paving, slab))
        if m.verge:
            a, b = sorted((s * m.road, s * (m.road + m.verge)))
            g.strips.append(Strip("terrain", a, b, 0.0, length, grass, Material(0.16)))
        kerb = jitter(rng, (206, 202, 196), 6.0)
        edge = s * (m.road + 0.1)
        a, b = sorted((edge - 0.12, edge + 0.16))
        g.strips.append(Strip("sidewalk", a, b, 0.0, length, kerb, Material(0.04, 0.2, 4.0, 1.2)))
    g.strips.append(Strip("road", -m.road, m.road, 0.0, length, asphalt, surface))
    if m.parking and rng.random() < 0.2:
        s = pick(rng, (-1.0, 1.0))
        a, b = sorted((s * (m.road - m.parking), s * m.road))
        tint = jitter(rng, (150, 140, 132), 8.0)
        g.strips.append(Strip("parking", a, b, 0.0, length, tint, Material(0.06, 0.2, 0.3, 0.3)))
    _markings(m, g, rng, length)


def _bar(
    x0: float, x1: float, z0: float, z1: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    n = max(2, int((z1 - z0) / 3.0) + 1)
    z = np.linspace(z0, z1, n)
    left = np.stack((np.full(n, x0), z), axis=1)
    right = np.stack((np.full(n, x1), z[::-1]), axis=1)
    return np.concatenate((left, right)).astype(np.float32)


def _markings(m: Layout, g: Ground, rng: np.random.Generator, length: float) -> None:
    """Repairs, tracks, dashes, edge lines and a crossing."""
    marks = g.markings
    white = (236, 236, 230) if rng.random() < 0.85 else (240, 204, 96)
    for _ in range(5):
        x, z = between(rng, -m.road, m.road - 1.5), between(rng, 5.0, 40.0)
        shade = pick(rng, ((80, 80, 86), (122, 122, 124)))
        marks.append(
            Marking(_bar(x, x + between(rng, 0.6, 1.5), z, z + between(rng, 1.5, 5.0)), shade, 0.6)
        )
    for x in (-m.lane / 2 - 0.75, -m.lane / 2 + 0.75, m.lane / 2 - 0.75, m.lane / 2 + 0.75):
        marks.append(Marking(_bar(x - 0.22, x + 0.22, 2.0, 120.0), (84, 84, 90), 0.35))
    if m.tram:
        if rng.random() < 0.3:
            g.strips.append(
                Strip(
                    "rail track",
                    -3.3,
                    0.0,
                    0.0,
                    length,
                    (136, 124, 114),
                    Material(0.12, 0.25, 4.0, 0.7),
                )
            )
        for x in (-2.37, -0.93):
            marks.append(Marking(_bar(x - 0.1, x + 0.1, 2.0, 150.0), (70, 68, 70)))
            marks.append(Marking(_bar(x - 0.045, x + 0.045, 2.0, 150.0), (190, 194, 200)))
    else:
        for z in np.arange(3.0, length * 0.6, 7.5):
            marks.append(Marking(_bar(-0.09, 0.09, float(z), float(z) + 3.6), white, 0.9))
    if m.parking:
        for s in (-1.0, 1.0):
            x = s * (m.road - m.parking)
            marks.append(Marking(_bar(x - 0.06, x + 0.06, 2.0, 100.0), white, 0.8))
    if rng.random() < 0.45:
        z = between(rng, 9.0, 18.0)
        for x in np.arange(-m.road + 0.3, m.road - 0.4, 1.0):
            marks.append(Marking(_bar(float(x), float(x) + 0.5, z, z + 3.0), (240, 240, 236), 0.92))
        marks.append(Marking(_bar(0.2, m.lane, z - 1.6, z - 1.2), white, 0.9))
