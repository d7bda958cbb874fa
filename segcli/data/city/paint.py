"""Draws things into a picture and, at the same time, into a map of surface numbers.

Shapes
    picture   (H, W, 3) uint8 RGB, antialiased
    ids       (H, W) int16: index into `Painter.surfaces`; a thing's last stroke wins
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segcli.data.city.camera import NEAR, Camera, Floats, Road, clip_near
from segcli.data.city.light import Light
from segcli.data.city.thing import PLAIN, Kind, Material, Part, Thing

_SHIFT = 4  # cv2's fixed point: 1/16 pixel
_ONE = 1 << _SHIFT

Polygon = list[tuple[int, int]]


class Surface(NamedTuple):
    """What the later light pass knows about every pixel of one surface number."""

    plane: tuple[float, float, float]  # 1 / depth = a u + b v + c
    material: Material
    kind: int  # 0 sky, 1 ground, 2 upright
    velocity: tuple[float, float]  # metres per frame
    item: int  # index into the list of annotated objects


class Placed(NamedTuple):
    """A thing at one moment, seen by the camera."""

    thing: Thing
    world: Floats  # (M, 3) metres
    view: Floats  # (M, 3) metres
    pixels: Floats  # (M, 2)


class Annotated(NamedTuple):
    """One object of the annotation, with the outline that was painted."""

    label: str
    polygons: list[Polygon]


class Painter:
    """A canvas and everything painted on it so far, back to front."""

    def __init__(self, camera: Camera, road: Road, light: Light) -> None:
        self.camera, self.road, self.light = camera, road, light
        self.picture = np.zeros((camera.height, camera.width, 3), np.uint8)
        self.ids = np.zeros((camera.height, camera.width), np.int16)
        self.glow = np.zeros((camera.height, camera.width, 3), np.uint8)
        self.glows = False
        self.surfaces: list[Surface] = []
        self.items: list[Annotated] = []

    def add_surface(
        self,
        plane: tuple[float, float, float],
        kind: int,
        material: Material = PLAIN,
        velocity: tuple[float, float] = (0.0, 0.0),
    ) -> int:
        """Register a surface of the object that is annotated next; its number."""
        self.surfaces.append(Surface(plane, material, kind, velocity, len(self.items)))
        return len(self.surfaces) - 1

    def annotate(self, label: str, first: int, window: tuple[int, int, int, int]) -> None:
        """Record what now carries surface numbers from `first` on, within (x0, y0, x1, y1)."""
        x0, y0, x1, y1 = window
        mask = (self.ids[y0:y1, x0:x1] >= first).astype(np.uint8)
        polygons = outlines(mask, (x0, y0))
        self.items.append(Annotated(label, polygons))

    def place(self, things: list[Thing], time: float) -> list[Placed]:
        """All things `time` frames after the start, projected in one go."""
        if not things:
            return []
        lengths = [len(t.points) for t in things]
        anchors = [(t.x + t.velocity[0] * time, 0.0, t.z + t.velocity[1] * time) for t in things]
        world = np.concatenate([t.points for t in things]).astype(np.float64)
        world += np.repeat(np.array(anchors), lengths, axis=0)
        world[:, 0] += self.road.center(world[:, 2])
        view = self.camera.to_view(world)
        pixels = self.camera.to_pixels(view)
        ends = np.cumsum(lengths)
        cuts = [slice(int(e) - n, int(e)) for e, n in zip(ends, lengths, strict=True)]
        return [Placed(t, world[c], view[c], pixels[c]) for t, c in zip(things, cuts, strict=True)]

    def draw(self, placed: Placed, time: float) -> None:
        """Paint one thing and annotate it; things behind or beside the camera are skipped."""
        thing, view, pixels = placed.thing, placed.view, placed.pixels
        nearest = float(view[:, 2].min())
        if nearest < 2.0 and (not thing.planar or view[:, 2].max() < NEAR):
            return
        x0, y0, x1, y1 = self._window(placed, nearest)
        if x1 - x0 < 2 or y1 - y0 < 2:
            return
        depth = float(view[:, 2].mean())
        first = self.add_surface(
            (0.0, 0.0, 1.0 / max(depth, NEAR)), 2, thing.material, thing.velocity
        )
        fixed = np.rint(pixels * _ONE).astype(np.int32)
        faces = self._facing(thing, time)
        for part in thing.parts:
            if part.face < 0 or faces[part.face]:
                self._part(thing, part, view, fixed, first)
        if (self.ids[y0:y1, x0:x1] >= first).any():
            self.annotate(thing.label, first, (x0, y0, x1, y1))
            self._extras(thing, fixed, view)

    def _window(self, placed: Placed, nearest: float) -> tuple[int, int, int, int]:
        """The part of the picture that a thing may touch: x0, y0, x1, y1."""
        camera, pixels = self.camera, placed.pixels
        if nearest < NEAR:
            behind = placed.view[:, 2] < NEAR
            ahead = pixels[~behind, 0]
            if (ahead < 0).all() or (ahead > camera.width).all():
                side = placed.view[:, 0] * camera.focal
                limit = 0.5 * camera.width * np.maximum(placed.view[:, 2], 0.0)
                if (side < -limit).all() or (side > limit).all():
                    return 0, 0, 0, 0
            return 0, 0, camera.width, camera.height
        reach = camera.focal / nearest
        swell = max(
            (float(p.sizes.max()) * reach for p in placed.thing.parts if p.sizes is not None),
            default=2.0,
        )
        (u0, v0), (u1, v1) = pixels.min(axis=0) - swell, pixels.max(axis=0) + swell
        return (
            max(0, int(u0) - 2),
            max(0, int(v0) - 2),
            min(camera.width, int(u1) + 3),
            min(camera.height, int(v1) + 3),
        )

    def _extras(self, thing: Thing, fixed: NDArray[np.int32], view: Floats) -> None:
        for label, start, stop in thing.extras:
            if view[start:stop, 2].min() > NEAR:
                corners = fixed[start:stop] // _ONE
                if np.ptp(corners, axis=0).min() >= 1:
                    self.items.append(Annotated(label, [[(int(x), int(y)) for x, y in corners]]))

    def _facing(self, thing: Thing, time: float) -> NDArray[np.bool_]:
        """Which faces of the thing turn to the camera; (F,)."""
        if not len(thing.centers):
            return np.zeros(0, bool)
        centers = thing.centers.astype(np.float64)
        z = centers[:, 2] + thing.z + thing.velocity[1] * time
        x = centers[:, 0] + thing.x + thing.velocity[0] * time + self.road.center(z)
        at = np.stack((x, centers[:, 1], z), axis=1) - np.asarray(self.camera.position)
        facing: NDArray[np.bool_] = (at * thing.normals).sum(axis=1) < 0.0
        return facing

    def _part(
        self, thing: Thing, part: Part, view: Floats, fixed: NDArray[np.int32], first: int
    ) -> None:
        rows = slice(part.start, part.start + part.count * part.corners)
        z = view[rows, 2]
        nearest = float(z.min())
        if part.kind in (Kind.BLOB, Kind.DOT):
            self._discs(part, z, fixed[rows], first)
            return
        if nearest < NEAR and not (
            thing.planar and part.kind in (Kind.FACE, Kind.MASK, Kind.DETAIL)
        ):
            return
        if part.kind not in (Kind.FACE, Kind.MASK, Kind.LINE):
            scale = self.camera.focal / max(nearest, NEAR)
            if part.size * scale < 0.7:
                return
        number = first
        if thing.planar and part.kind in (Kind.FACE, Kind.MASK) and part.face + part.count > 0:
            plane = self.camera.plane(view[rows][: part.corners])
            number = self.add_surface(plane, 2, thing.material, thing.velocity)
        if part.kind in (Kind.LINE, Kind.STROKE):
            polygons = list(fixed[rows].reshape(part.count, part.corners, 2))
            self._lines(part, polygons, float(z.mean()), number)
            return
        if nearest < NEAR:
            shapes = view[rows].reshape(part.count, part.corners, 3)
            cut = [self.camera.to_pixels(clip_near(s)) for s in shapes]
            polygons = [np.rint(p * _ONE).astype(np.int32) for p in cut if len(p) > 2]
        else:
            polygons = list(fixed[rows].reshape(part.count, part.corners, 2))
        if polygons:
            self._polygons(part, polygons, number)

    def _polygons(self, part: Part, polygons: list[NDArray[np.int32]], number: int) -> None:
        if part.kind is not Kind.MASK:
            color = _bytes(part.color)
            cv2.fillPoly(self.picture, polygons, color, cv2.LINE_AA, _SHIFT)
            if part.glow or self.glows:
                self.glows = self.glows or part.glow
                cv2.fillPoly(
                    self.glow, polygons, color if part.glow else (0, 0, 0), cv2.LINE_8, _SHIFT
                )
        if part.kind is not Kind.DETAIL:
            cv2.fillPoly(self.ids, polygons, (number,), cv2.LINE_8, _SHIFT)

    def _lines(self, part: Part, lines: list[NDArray[np.int32]], depth: float, number: int) -> None:
        wide = max(1, round(part.size * self.camera.focal / max(depth, NEAR)))
        cv2.polylines(self.picture, lines, False, _bytes(part.color), wide, cv2.LINE_AA, _SHIFT)
        if part.kind is Kind.LINE:
            cv2.polylines(self.ids, lines, False, (number,), wide, cv2.LINE_8, _SHIFT)
            if self.glows:
                cv2.polylines(self.glow, lines, False, (0, 0, 0), wide, cv2.LINE_8, _SHIFT)

    def _discs(self, part: Part, z: Floats, middles: NDArray[np.int32], number: int) -> None:
        if part.colors is None or part.sizes is None:
            return
        scale = self.camera.focal / np.maximum(z, NEAR)
        radii = np.maximum(np.rint(part.sizes * scale * _ONE), 0.6 * _ONE).astype(np.int32)
        if part.kind is Kind.DOT and float(radii.mean()) < 0.9 * _ONE:
            return
        colors = np.clip(part.colors, 0, 255).astype(int).tolist()
        small = float(radii.mean()) < 2.0 * _ONE
        for (x, y), r, color, near in zip(middles.tolist(), radii.tolist(), colors, z, strict=True):
            if near < NEAR or r > 40 * self.camera.width:
                continue
            style = cv2.LINE_8 if small else cv2.LINE_AA
            cv2.circle(self.picture, (x, y), r, color, -1, style, _SHIFT)
            if part.kind is Kind.BLOB:
                cv2.circle(self.ids, (x, y), r, (number,), -1, cv2.LINE_8, _SHIFT)
                if self.glows:
                    cv2.circle(self.glow, (x, y), r, (0, 0, 0), -1, cv2.LINE_8, _SHIFT)


def outlines(mask: NDArray[np.uint8], offset: tuple[int, int], slack: float = 0.6) -> list[Polygon]:
    """Outer outlines of a 0/1 mask (H, W) as integer polygons, largest first.

    Specks of a few pixels are dropped unless nothing else is there.
    """
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    found: list[tuple[float, Polygon]] = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, slack, True)
        if len(points) < 3:
            points = contour if len(contour) >= 3 else points
        if len(points) >= 3:
            moved = points[:, 0, :] + np.asarray(offset)
            polygon = [(int(x), int(y)) for x, y in moved]
            found.append((float(cv2.contourArea(contour)), polygon))
    found.sort(key=lambda pair: -pair[0])
    return [p for i, (area, p) in enumerate(found) if i == 0 or area > 8.0][:6]


def _bytes(color: tuple[float, float, float]) -> tuple[int, int, int]:
    r, g, b = color
    return (
        min(255, max(0, round(r))),
        min(255, max(0, round(g))),
        min(255, max(0, round(b))),
    )
