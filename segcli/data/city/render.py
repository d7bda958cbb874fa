"""One frame: a scene seen through a camera, as picture and annotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segcli.data.city.camera import Camera, Road
from segcli.data.city.coarse import coarse_objects
from segcli.data.city.develop import Lens, depth_map, develop
from segcli.data.city.ground import draw_ground, draw_sky
from segcli.data.city.paint import Painter
from segcli.data.city.scene import FAR, Scene, draw_scene
from segcli.data.city.thing import Material

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Frame:
    """A rendered street.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        objects: annotation in painting order, each `{"label": str, "polygon": [[x, y], ...]}`
            with integer pixels.
        depth: (H, W) float32, metres along the view axis.
        motion: (H, W, 2) float32, metres per frame that the surface under a pixel moves
            by itself along x and z.
        camera, road: the exact geometry, for `optical_flow`.
        items: (H, W) int16, index of the object whose surface is seen; -1 for none.
    """

    image: NDArray[np.uint8]
    objects: list[dict[str, Any]]
    depth: NDArray[np.float32]
    motion: NDArray[np.float32]
    camera: Camera
    road: Road
    items: NDArray[np.int16]

    def polygons(self) -> dict[str, Any]:
        """The content of a `_gtFine_polygons.json`."""
        return {
            "imgHeight": self.image.shape[0],
            "imgWidth": self.image.shape[1],
            "objects": self.objects,
        }

    def coarse_polygons(self) -> dict[str, Any]:
        """The content of a `_gtCoarse_polygons.json`: cautious outlines, void in between."""
        labels = [o["label"] for o in self.objects]
        return {
            "imgHeight": self.image.shape[0],
            "imgWidth": self.image.shape[1],
            "objects": coarse_objects(self.items, labels),
        }


def scene_camera(scene: Scene, size: Size, step: float) -> Camera:
    """The camera of a scene after `step` frames."""
    height, width = size
    focal = 0.88 * max(width, 1.4 * height)
    z = scene.speed * step
    x = float(scene.road.center(np.array(z))) + scene.camera_x
    yaw = scene.road.heading(z) + scene.yaw
    return Camera(
        height, width, focal, (width - 1) / 2, height * scene.horizon, (x, scene.camera_y, z), yaw
    )


def render_scene(scene: Scene, size: Size, rng: np.random.Generator, step: float = 0.0) -> Frame:
    """Render `scene` after `step` frames; `rng` draws only lens and noise."""
    camera = scene_camera(scene, size, step)
    painter = Painter(camera, scene.road, scene.light)
    draw_sky(painter, scene.sky_seed)
    farthest = camera.position[2] + FAR + 30.0
    ahead = [t for t in scene.things if t.z + t.velocity[1] * step < farthest]
    if step:
        ahead.sort(key=lambda t: -(t.z + t.velocity[1] * step + t.key))
    placed = painter.place(ahead, step)
    draw_ground(painter, scene.ground, placed)
    for each in placed:
        painter.draw(each, step)
    if scene.hood:
        _draw_hood(painter)
    image = develop(painter, Lens(scene.exposure, scene.softness, scene.noise), rng)
    if scene.border:
        _draw_border(painter, image)
    return _frame(painter, image)


def _draw_hood(painter: Painter) -> None:
    """The bonnet of the car that carries the camera."""
    h, w = painter.ids.shape
    t = np.linspace(-1.0, 1.0, 25)
    arc = np.stack((w * (0.5 + 0.47 * t), h * (0.935 + 0.065 * np.abs(t) ** 3)), axis=1)
    hull = np.rint(np.concatenate((arc, [[w, h + 2], [0, h + 2]])) * 16).astype(np.int32)
    number = painter.add_surface((0.0, 0.0, 0.5), 3, Material(0.0))
    r, g, b = painter.light.soft((58, 64, 76), 0.5)
    cv2.fillPoly(painter.picture, [hull], (r, g, b), cv2.LINE_AA, 4)
    cv2.fillPoly(painter.ids, [hull], (number,), cv2.LINE_8, 4)
    shine = np.stack((arc[4:-4, 0], arc[4:-4, 1] + h * 0.012), axis=1)
    line = np.rint(shine * 16).astype(np.int32)
    wide = max(1, round(h * 0.008))
    r, g, b = painter.light.horizon
    cv2.polylines(
        painter.picture, [line], False, (r * 0.7, g * 0.7, b * 0.72), wide, cv2.LINE_AA, 4
    )
    painter.annotate("ego vehicle", number, (0, 0, w, h))


def _draw_border(painter: Painter, image: NDArray[np.uint8]) -> None:
    """A rectification border: black, out of the region of interest."""
    h, w = painter.ids.shape
    wide = max(1, round(w * 0.006))
    number = painter.add_surface((0.0, 0.0, 1.0), 3, Material(0.0))
    image[:, :wide] = 0
    painter.ids[:, :wide] = number
    painter.annotate("out of roi", number, (0, 0, w, h))


def _frame(painter: Painter, image: NDArray[np.uint8]) -> Frame:
    objects: list[dict[str, Any]] = []
    first: dict[int, int] = {}
    for i, item in enumerate(painter.items):
        first[i] = len(objects)
        for polygon in item.polygons:
            objects.append({"label": item.label, "polygon": [[x, y] for x, y in polygon]})
    table = [
        first[s.item] if s.item in first and painter.items[s.item].polygons else -1
        for s in painter.surfaces
    ]
    motion = np.array([s.velocity for s in painter.surfaces], np.float32)[painter.ids]
    items = np.array(table, np.int16)[painter.ids]
    return Frame(image, objects, depth_map(painter), motion, painter.camera, painter.road, items)


def render_frame(seed: int, index: int, size: Size, *, split: int = 0) -> Frame:
    """The frame number `index` of a split, a pure function of its arguments.

    Args:
        seed, split, index: numbers that seed the frame's own random stream.
        size: (height, width) in pixels.
    """
    rng = np.random.default_rng([seed, split, index])
    scene = draw_scene(rng)
    return render_scene(scene, size, rng)


def optical_flow(before: Frame, after: Camera) -> NDArray[np.float32]:
    """Where each pixel of `before` has gone one frame later, (H, W, 2) float32 pixels.

    Exact for the static street; vehicles and people are moved by their own velocity.
    """
    camera = before.camera
    ray_u, ray_v = camera.rays()
    depth = before.depth.astype(np.float64)
    sin, cos = np.sin(camera.yaw), np.cos(camera.yaw)
    x, y = ray_u[None] * depth, ray_v[:, None] * depth
    world = np.stack((cos * x + sin * depth, y, -sin * x + cos * depth), axis=-1)
    world += np.asarray(camera.position)
    z = world[..., 2] + before.motion[..., 1]
    world[..., 0] += (
        before.road.center(z) - before.road.center(world[..., 2]) + before.motion[..., 0]
    )
    world[..., 2] = z
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    return (after.project(world) - np.stack((u, v), axis=-1)).astype(np.float32)
