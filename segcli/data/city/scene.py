"""Lays out one street: which houses, plants, vehicles and people stand where."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from segcli.data.city import furniture as fur
from segcli.data.city import plants, streetside
from segcli.data.city.camera import Road
from segcli.data.city.cyclists import bicycle, motorcycle, rider
from segcli.data.city.ground import Ground
from segcli.data.city.heavy import coach, truck
from segcli.data.city.light import Light, between, draw_light, pick
from segcli.data.city.paving import Layout, pave
from segcli.data.city.people import crowd, person
from segcli.data.city.thing import Thing
from segcli.data.city.vehicles import car

FAR = 120.0  # metres; the street ends in haze there


@dataclass
class Scene:
    """A street at one time of day, and where the camera starts."""

    light: Light
    road: Road
    layout: Layout
    ground: Ground = field(default_factory=Ground)
    things: list[Thing] = field(default_factory=list)
    camera_x: float = 1.6
    camera_y: float = 1.9
    yaw: float = 0.0
    horizon: float = 0.44  # share of the height
    speed: float = 0.0  # metres per frame
    hood: bool = False
    border: bool = False
    sky_seed: int = 0
    exposure: float = 1.0
    softness: float = 0.4  # blur, pixels
    noise: float = 2.0  # deviation, grey levels


def draw_scene(rng: np.random.Generator, *, drive: float = 0.0) -> Scene:
    """A street drawn at random; `drive` is how far the camera will go, metres."""
    light = draw_light(rng)
    tram = rng.random() < 0.55
    layout = Layout(
        lane=between(rng, 3.2, 3.9),
        parking=2.2 if rng.random() < 0.55 else 0.0,
        verge=between(rng, 1.3, 2.4) if rng.random() < 0.5 else 0.0,
        sidewalk=between(rng, 2.6, 4.0),
        tram=tram,
    )
    bend = between(rng, -7.0, 7.0) if rng.random() < 0.6 else 0.0
    road = Road(bend, between(rng, 48.0, 70.0), between(rng, 0.0, 2.0 * math.pi))
    scene = Scene(
        light,
        road,
        layout,
        camera_x=layout.lane * between(rng, 0.35, 0.55),
        camera_y=between(rng, 1.7, 2.3),
        yaw=between(rng, -0.05, 0.05),
        horizon=between(rng, 0.40, 0.48),
        hood=rng.random() < 0.18,
        border=rng.random() < 0.1,
        sky_seed=int(rng.integers(1 << 16)),
        exposure=between(rng, 1.0, 1.1),
        softness=between(rng, 0.25, 0.55),
        noise=between(rng, 1.0, 2.6),
    )
    length = FAR + drive
    pave(layout, scene.ground, rng, length)
    for side in (-1.0, 1.0):
        streetside.lots(scene.things, scene.ground, rng, light, layout.front, side, length, drive)
        _kerbside(scene, rng, side, 70.0 + drive)
        _parked(scene, rng, side, 75.0 + drive)
    _traffic(scene, rng, drive)
    _walkers(scene, rng, drive)
    if rng.random() < 0.06:
        scene.things.append(streetside.bridge(light, layout.front, between(rng, 45.0, 70.0)))
    scene.things.sort(key=lambda t: -(t.z + t.key))
    return scene


def _kerbside(scene: Scene, rng: np.random.Generator, side: float, reach: float) -> None:
    """Lamps, signs, traffic lights, trees, bins and bicycles along one kerb."""
    m, light, add = scene.layout, scene.light, scene.things.append
    x = side * (m.road + (0.5 * m.verge if m.verge else 0.45))
    z = between(rng, 9.0, 13.0)
    options = ["lamp", "sign", "signal", "tree", "sign", "bikes", "clutter", "signal", "tree"]
    rng.shuffle(options)
    i = 0
    while z < reach:
        what = options[i % len(options)]
        i += 1
        if what == "lamp":
            add(fur.street_lamp(rng, light, x, z, -side))
        elif what == "sign":
            high = between(rng, 2.3, 2.9)
            add(fur.post(rng, light, x, z, high + 0.35))
            add(fur.sign(rng, light, x, z, high, between(rng, 0.42, 0.58)))
            if rng.random() < 0.35:
                add(fur.sign(rng, light, x, z, high - 0.95, 0.36))
        elif what == "signal":
            add(fur.post(rng, light, x, z, 3.4))
            add(fur.traffic_light(rng, light, x, z, between(rng, 2.3, 2.6), int(rng.integers(3))))
        elif what == "tree":
            add(
                plants.tree(
                    rng,
                    light,
                    x + side * between(rng, 0.1, 0.6),
                    z,
                    plants.detail(z - reach + 70.0),
                )
            )
        elif what == "bikes":
            angle, kind = between(rng, -0.5, 0.5), rng.random()
            if kind < 0.3:
                add(motorcycle(rng, light, x + side * 0.9, z, angle))
            else:
                count = 3 if kind > 0.8 else 1
                add(bicycle(rng, light, x + side * 0.7, z, angle, count=count))
        else:
            add(fur.clutter(rng, light, x + side * 0.3, z))
        z += between(rng, 3.0, 6.5)


def _parked(scene: Scene, rng: np.random.Generator, side: float, reach: float) -> None:
    """Vehicles in the parking lane."""
    m, light = scene.layout, scene.light
    if not m.parking:
        return
    x, z = side * (m.road - m.parking / 2), between(rng, 9.0, 15.0)
    while z < reach:
        roll = rng.random()
        oncoming = side < 0
        if roll < 0.50:
            parked = car(rng, light, x, z, oncoming=oncoming, plate=rng.random() < 0.4)
            if z > reach - 25.0 and rng.random() < 0.4:
                parked.label = "cargroup"  # a far row that nobody would take apart
            scene.things.append(parked)
            z += 6.2
        elif roll < 0.60:
            scene.things.append(truck(rng, light, x, z, oncoming=oncoming))
            z += 11.0
        elif roll < 0.72:
            angle = between(rng, 0.3, 1.0) * pick(rng, (-1.0, 1.0))
            scene.things.append(motorcycle(rng, light, x, z, angle))
            z += 3.5
        else:
            z += between(rng, 3.0, 7.0)


def _traffic(scene: Scene, rng: np.random.Generator, drive: float) -> None:
    """Vehicles on the move: one ahead, some that come towards the camera, two-wheelers."""
    m, light, add = scene.layout, scene.light, scene.things.append
    moving = drive > 0.0

    def vehicle(kind: str, x: float, z: float, oncoming: bool) -> None:
        speed = (-0.35 if oncoming else 0.5) if moving else 0.0
        if kind in ("bus", "train"):
            add(coach(rng, light, kind, x, z, oncoming=oncoming, speed=speed))
        elif kind == "truck":
            add(truck(rng, light, x, z, oncoming=oncoming, speed=speed))
        else:
            add(car(rng, light, x, z, oncoming=oncoming, speed=speed, plate=rng.random() < 0.5))

    left = -1.65 if m.tram else -m.lane / 2
    if m.tram:
        vehicle("train", -1.65, between(rng, 11.0, 26.0), True)
        if rng.random() < 0.5:
            vehicle(pick(rng, ("car", "bus", "truck")), left, between(rng, 55.0, 70.0), True)
    else:
        z = between(rng, 9.0, 18.0)
        for _ in range(3):
            vehicle(pick(rng, ("bus", "truck", "car", "bus", "truck")), left, z, True)
            z += between(rng, 18.0, 30.0)
    right = m.lane / 2
    if rng.random() < 0.72:
        vehicle(
            pick(rng, ("bus", "truck", "car", "car", "bus", "truck")),
            right,
            between(rng, 13.0, 26.0),
            False,
        )
    x = right + m.lane * between(rng, 0.1, 0.5)
    if rng.random() < 0.72:
        near, speed = between(rng, 7.5, 11.0), 0.45 if moving else 0.0
        _two_wheeler(scene, rng, x, near, speed, rng.random() < 0.48)
    if rng.random() < 0.66:
        _two_wheeler(
            scene,
            rng,
            m.lane * between(rng, -0.35, 0.3),
            between(rng, 8.0, 13.0),
            0.0,
            rng.random() < 0.55,
        )


def _two_wheeler(
    scene: Scene, rng: np.random.Generator, x: float, z: float, speed: float, motor: bool
) -> None:
    """A bicycle or motorcycle with its rider, seen at a slant."""
    angle = between(rng, 0.35, 1.15) * pick(rng, (-1.0, 1.0))
    make = motorcycle if motor else bicycle
    scene.things.append(make(rng, scene.light, x, z, angle, velocity=(0.0, speed)))
    scene.things.append(rider(rng, scene.light, x, z, angle, (0.0, speed), motor=motor))


def _walkers(scene: Scene, rng: np.random.Generator, drive: float) -> None:
    """People on both sidewalks, sometimes a crowd, sometimes someone who crosses."""
    m, light, add = scene.layout, scene.light, scene.things.append
    for side in (-1.0, 1.0):
        z = between(rng, 9.0, 14.0)
        while z < 50.0 + drive:
            x = side * (m.road + m.verge + between(rng, 0.9, m.sidewalk - 0.2))
            step = pick(rng, (-0.04, 0.04)) if drive else 0.0
            if rng.random() < 0.12:
                add(crowd(rng, light, x, z, int(rng.integers(3, 6))))
            else:
                add(person(rng, light, x, z, (0.0, step)))
            z += between(rng, 2.5, 8.0)
    if rng.random() < 0.4:
        x = between(rng, -m.lane * 0.6, m.lane)
        add(person(rng, light, x, between(rng, 9.5, 13.0), (0.03 if drive else 0.0, 0.0)))
