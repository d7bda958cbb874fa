"""The lots behind the sidewalks: houses, gardens, walls, parks, and the far horizon."""

from __future__ import annotations

import numpy as np

from segcli.data.city import plants
from segcli.data.city.barriers import bridge, fence, guard_rail, wall
from segcli.data.city.buildings import building, house
from segcli.data.city.ground import Ground
from segcli.data.city.light import Light, between
from segcli.data.city.thing import Thing

__all__ = ["bridge", "lots"]

_KINDS = ("building", "wall", "park", "fence", "building", "wall", "fence")


def lots(
    things: list[Thing],
    ground: Ground,
    rng: np.random.Generator,
    light: Light,
    front: float,
    side: float,
    length: float,
    drive: float,
) -> None:
    """Fill one side of the street from the camera to the horizon."""
    kinds = list(_KINDS)
    rng.shuffle(kinds)
    z, i = -4.0, 0
    x = side * (front + 0.3)
    while z < length:
        kind = kinds[i % len(kinds)]
        i += 1
        if kind == "building":
            wide = between(rng, 10.0, 17.0)
            things.append(building(rng, light, x, z, wide, side))
        else:
            wide = between(rng, 9.0, 15.0)
            first = len(things)
            _garden(things, rng, light, kind, x, z, wide, side, drive)
            _order(things[first:], z, wide)
            _edge(things, rng, light, kind, x, z, wide, side)
        z += wide + (between(rng, 0.0, 2.0) if kind == "building" else 0.0)
    _horizon(things, rng, light, side, length)


def _order(things: list[Thing], z: float, wide: float) -> None:
    """What stands behind a fence or wall is painted before it, after the next lot."""
    for thing in things:
        inside = min(max(thing.z - z, 0.0), wide)
        thing.key = z + wide * (1.0 + 0.4 * inside / wide) + 0.2 - thing.z


def _edge(
    things: list[Thing],
    rng: np.random.Generator,
    light: Light,
    kind: str,
    x: float,
    z: float,
    wide: float,
    side: float,
) -> None:
    """What closes a lot towards the sidewalk."""
    if kind == "wall":
        edge = wall(rng, light, x, z, wide, side)
    elif kind == "fence":
        edge = fence(rng, light, x, z, wide)
    elif rng.random() < 0.5:
        edge = plants.hedge(rng, light, x, z, wide * 0.8, between(rng, 0.8, 1.5))
    elif rng.random() < 0.15:
        edge = guard_rail(light, x, z, wide)
    else:
        return
    edge.key = wide
    things.append(edge)


def _garden(
    things: list[Thing],
    rng: np.random.Generator,
    light: Light,
    kind: str,
    x: float,
    z: float,
    wide: float,
    side: float,
    drive: float,
) -> None:
    """Trees, bushes and perhaps a house, set back from the street."""
    if kind != "park" and rng.random() < 0.75:
        things.append(house(rng, light, x + side * between(rng, 3.5, 6.0), z + wide * 0.3, side))
    count = 3 if kind == "park" else 2
    for k in range(count):
        at = z + wide * (0.15 + 0.7 * (k + float(rng.random()) * 0.6) / count)
        things.append(
            plants.tree(
                rng, light, x + side * between(rng, 2.2, 9.0), at, plants.detail(at - drive)
            )
        )
    for _ in range(2):
        at = z + wide * between(rng, 0.1, 0.9)
        things.append(
            plants.bush(
                rng, light, x + side * between(rng, 1.2, 4.0), at, plants.detail(at - drive)
            )
        )


def _horizon(
    things: list[Thing], rng: np.random.Generator, light: Light, side: float, length: float
) -> None:
    """Woods and roofs that close the view."""
    for k in range(5):
        x = side * (4.0 + 15.0 * k) + between(rng, -4.0, 4.0)
        if k % 3 == 2:
            block = house(rng, light, x, length + between(rng, 12.0, 24.0), side)
            things.append(block)
        tree = plants.bush(rng, light, x, length + between(rng, 4.0, 12.0), 1.0, bloom=False)
        tree.points = tree.points * np.array([6.0, 3.6, 1.0], np.float32)
        for i, part in enumerate(tree.parts):
            if part.sizes is not None:
                tree.parts[i] = plants.resized(part, 5.0)
        things.append(tree)
