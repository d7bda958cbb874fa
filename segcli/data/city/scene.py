"""Lays out one street: which houses, plants, vehicles and people stand where."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from segcli.data.city import furniture as fur
from segcli.data.city import streetside
from segcli.data.city.camera import Road
from segcli.data.city.cyclists import bicycle, crowd, motorcycle, person, rider
from segcli.data.city.ground import Ground, Marking, Strip
from segcli.data.city.light import Light, between, draw_light, jitter, pick
from segcli.data.city.thing import Material, Thing
from segcli.data.city.vehicles import car, coach, truck

FAR = 150.0  # metres; the street ends in haze there


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
        lane=between(rng, 3.2, 3.9), parking=2.2 if rng.random() < 0.6 else 0.0,
        verge=between(rng, 1.2, 2.0) if rng.random() < 0.45 else 0.0,
        sidewalk=between(rng, 2.4, 3.8), tram=tram,
    )  # fmt: skip
    bend = between(rng, -7.0, 7.0) if rng.random() < 0.6 else 0.0
    road = Road(bend, between(rng, 48.0, 70.0), between(rng, 0.0, 2.0 * math.pi))
    scene = Scene(
        light, road, layout,
        camera_x=layout.lane * between(rng, 0.35, 0.55), camera_y=between(rng, 1.7, 2.3),
        yaw=between(rng, -0.05, 0.05), horizon=between(rng, 0.40, 0.48),
        hood=rng.random() < 0.18, border=rng.random() < 0.1, sky_seed=int(rng.integers(1 << 16)),
        exposure=between(rng, 1.0, 1.1), softness=between(rng, 0.25, 0.55),
        noise=between(rng, 1.0, 2.6),
    )  # fmt: skip
    length = FAR + drive
    _pave(scene, rng, length)
    for side in (-1.0, 1.0):
        streetside.lots(scene.things, scene.ground, rng, light, layout.front, side, length)
        _kerbside(scene, rng, side, 70.0 + drive)
        _parked(scene, rng, side, 75.0 + drive)
    _traffic(scene, rng, drive)
    _walkers(scene, rng, drive)
    if rng.random() < 0.06:
        scene.things.append(streetside.bridge(light, layout.front, between(rng, 45.0, 70.0)))
    scene.things.sort(key=lambda t: -(t.z + t.key))
    return scene


def _pave(scene: Scene, rng: np.random.Generator, length: float) -> None:
    """Grass below everything, then sidewalks, verges, the road and its paint."""
    m, g = scene.layout, scene.ground
    grass = jitter(rng, (124, 150, 84), 14.0)
    paving = jitter(rng, pick(rng, ((178, 172, 164), (190, 176, 160), (164, 166, 170), (186, 162, 146))), 8.0)
    slab = pick(rng, (Material(0.05, 0.22, 0.8, 0.8), Material(0.05, 0.2, 0.5, 0.25), Material(0.06, 0.2, 1.2, 0.6)))
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
    _markings(scene, rng, length)


def _bar(x0: float, x1: float, z0: float, z1: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    n = max(2, int((z1 - z0) / 3.0) + 1)
    z = np.linspace(z0, z1, n)
    left = np.stack((np.full(n, x0), z), axis=1)
    right = np.stack((np.full(n, x1), z[::-1]), axis=1)
    return np.concatenate((left, right)).astype(np.float32)


def _markings(scene: Scene, rng: np.random.Generator, length: float) -> None:
    """Repairs, tracks, dashes, edge lines and a crossing."""
    m, marks = scene.layout, scene.ground.markings
    white = (236, 236, 230) if rng.random() < 0.85 else (240, 204, 96)
    for _ in range(5):
        x, z = between(rng, -m.road, m.road - 1.5), between(rng, 5.0, 40.0)
        shade = pick(rng, ((80, 80, 86), (122, 122, 124)))
        marks.append(Marking(_bar(x, x + between(rng, 0.6, 1.5), z, z + between(rng, 1.5, 5.0)), shade, 0.6))
    for x in (-m.lane / 2 - 0.75, -m.lane / 2 + 0.75, m.lane / 2 - 0.75, m.lane / 2 + 0.75):
        marks.append(Marking(_bar(x - 0.22, x + 0.22, 2.0, 120.0), (84, 84, 90), 0.35))
    if m.tram:
        if rng.random() < 0.3:
            scene.ground.strips.append(
                Strip("rail track", -3.3, 0.0, 0.0, length, (136, 124, 114), Material(0.12, 0.25, 4.0, 0.7)))
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
            add(fur.tree(rng, light, x + side * between(rng, 0.1, 0.6), z))
        elif what == "bikes":
            angle = between(rng, -0.5, 0.5)
            count = 3 if rng.random() < 0.2 else 1
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
            scene.things.append(car(rng, light, x, z, oncoming=oncoming, plate=rng.random() < 0.4))
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
        vehicle(pick(rng, ("bus", "truck", "car", "car", "bus", "truck")), right, between(rng, 13.0, 26.0), False)
    x = right + m.lane * 0.30
    if rng.random() < 0.6:
        _two_wheeler(scene, rng, x, between(rng, 7.5, 11.5), 0.3 if moving else 0.0, rng.random() < 0.5)
    if rng.random() < 0.6:
        _two_wheeler(scene, rng, -m.lane * 0.08, between(rng, 8.0, 12.0), 0.0, rng.random() < 0.5)


def _two_wheeler(
    scene: Scene, rng: np.random.Generator, x: float, z: float, speed: float, motor: bool
) -> None:
    """A bicycle or motorcycle with its rider, seen at a slant."""
    angle = between(rng, 0.35, 1.15) * pick(rng, (-1.0, 1.0))
    if abs(angle) < 0.0:
        angle = 0.4
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
