"""Sky and ground: the backdrop that everything else stands on."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from segcli.data.city.camera import NEAR, Camera, Floats
from segcli.data.city.light import Color, Light, mix, tone
from segcli.data.city.paint import Painter, Placed
from segcli.data.city.thing import Material

_SHIFT = 4
_SOIL = Material(0.10)


@dataclass(frozen=True)
class Strip:
    """A band of ground from `x0` to `x1` between `z0` and `z1`, metres of the street."""

    label: str
    x0: float
    x1: float
    z0: float
    z1: float
    color: Color
    material: Material = _SOIL


@dataclass(frozen=True)
class Marking:
    """Paint on the ground: a polygon (k, 2) of x and z; not annotated."""

    points: NDArray[np.float32]
    color: Color
    opacity: float = 1.0


@dataclass
class Ground:
    """All of the ground of a scene, back to front."""

    strips: list[Strip] = field(default_factory=list)
    markings: list[Marking] = field(default_factory=list)


@functools.lru_cache(maxsize=4)
def noise_tile(size: int = 256, seed: int = 7, octaves: int = 5) -> NDArray[np.float32]:
    """Seamless fractal noise (size, size) with mean 0 and deviation 1."""
    rng = np.random.default_rng(seed)
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = 4 << octave
        coarse = rng.normal(0.0, 1.0, (cells, cells)).astype(np.float32)
        padded = np.pad(coarse, 2, mode="wrap")
        scale = size // cells
        fine = cv2.resize(padded, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        total += fine[2 * scale : -2 * scale, 2 * scale : -2 * scale] * 0.62**octave
    total -= total.mean()
    tile: NDArray[np.float32] = (total / total.std()).astype(np.float32)
    return tile


def draw_sky(painter: Painter, seed: int) -> None:
    """A gradient, a glow around the sun and soft clouds that flatten at the horizon."""
    camera, light = painter.camera, painter.light
    h, w = camera.height, camera.width
    painter.add_surface((0.0, 0.0, 1e-5), 0, Material(0.0))
    painter.ids[:] = 0
    # clouds are soft: a quarter of the pixels or fewer will do
    coarse = 1 if w < 200 else max(2, round(w / 400))
    ray_u, ray_v = (r[::coarse] for r in camera.rays())
    rise = np.clip(ray_v, 0.0, None)[:, None]
    t = (1.0 - np.exp(-rise * 3.4))[..., None]
    sky = np.asarray(light.horizon, np.float32) * (1 - t) + np.asarray(light.zenith, np.float32) * t
    sky = np.repeat(sky.astype(np.float32), len(ray_u), axis=1)
    direction = ray_u + camera.yaw
    _clouds(sky, light, direction, rise, seed)
    if light.sun[2] > 0.15:
        su, sv = light.sun[0] / light.sun[2], light.sun[1] / light.sun[2]
        away = (direction[None] - su) ** 2 + (ray_v[:, None] - sv) ** 2
        glow = np.exp(-away * 5.0)[..., None] * np.asarray((120.0, 96.0, 56.0), np.float32)
        sky += glow * (sum(light.sun_color) / 1.6)
    small = np.clip(sky, 0, 255).astype(np.uint8)
    painter.picture[:] = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
    painter.annotate("sky", 0, (0, 0, w, h))


def _clouds(
    sky: NDArray[np.float32], light: Light, direction: Floats, rise: Floats, seed: int
) -> None:
    """Blend clouds into `sky` (h, w, 3), given the slopes of columns (w,) and rows (h, 1)."""
    tile = noise_tile(256, 7 + seed % 13)
    far = 1.0 / (rise + 0.09)
    shape = sky.shape[:2]
    map_u = np.broadcast_to(direction[None] * 22.0 * far**0.55 + seed % 251, shape)
    map_v = np.broadcast_to(far * 16.0 + seed % 239, shape)
    cloud = _sample(tile, map_u, map_v) * 0.75 + _sample(tile, map_u * 3.1, map_v * 3.1) * 0.25
    edge = 1.3 - 2.2 * light.cloudiness
    alpha = np.clip((cloud - edge) / 1.1, 0.0, 1.0) * np.clip(rise * 9.0, 0.0, 1.0) * 0.85
    body = np.asarray(light.cloud, np.float32)
    under = body * 0.82 + np.asarray(light.zenith, np.float32) * 0.12
    lit = np.clip((cloud - edge) / 2.0, 0.0, 1.0)[..., None]
    sky += (under * lit + body * (1.0 - lit) - sky) * alpha[..., None]


def _sample(tile: NDArray[np.float32], u: Floats, v: Floats) -> NDArray[np.float32]:
    """`tile` at wrapped coordinates."""
    n = float(tile.shape[0])
    out = cv2.remap(
        tile,
        np.mod(u, n).astype(np.float32),
        np.mod(v, n).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
    return np.asarray(out, np.float32)


def _ground_plane(camera: Camera) -> tuple[float, float, float]:
    scale = 1.0 / (camera.focal * camera.position[1])
    return 0.0, scale, -camera.v0 * scale


def _outline(camera: Camera, painter: Painter, strip: Strip) -> NDArray[np.int32] | None:
    """A strip as a fixed-point polygon (k, 2), following the bend of the street."""
    near = max(strip.z0, camera.position[2] + 2.2)
    if strip.z1 <= near:
        return None
    steps = near + (strip.z1 - near) * np.linspace(0.0, 1.0, 26) ** 2.2
    center = painter.road.center(steps)
    zero = np.zeros_like(steps)
    left = np.stack((center + strip.x0, zero, steps), axis=1)
    right = np.stack((center + strip.x1, zero, steps), axis=1)
    view = camera.to_view(np.concatenate((left, right[::-1])))
    view = view[view[:, 2] > NEAR]
    if len(view) < 3:
        return None
    return np.rint(camera.to_pixels(view) * (1 << _SHIFT)).astype(np.int32)


def draw_ground(painter: Painter, ground: Ground, placed: list[Placed]) -> None:
    """Strips, paint on the road, and the shadows that fall on both."""
    camera, light = painter.camera, painter.light
    plane = _ground_plane(camera)
    h, w = camera.height, camera.width
    up = (0.0, 1.0, 0.0)
    top = max(0, min(h, int(camera.v0) + 1))
    for strip in ground.strips:
        outline = _outline(camera, painter, strip)
        if outline is None:
            continue
        number = painter.add_surface(plane, 1, strip.material)
        r, g, b = light.shade(strip.color, up)
        cv2.fillPoly(painter.picture, [outline], (r, g, b), cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(painter.ids, [outline], (number,), cv2.LINE_8, _SHIFT)
        if (painter.ids[top:] == number).any():
            painter.annotate(strip.label, number, (0, top, w, h))
    _draw_markings(painter, ground)
    draw_shadows(painter, placed, top)


def _draw_markings(painter: Painter, ground: Ground) -> None:
    camera, light = painter.camera, painter.light
    for mark in ground.markings:
        x, z = mark.points[:, 0], mark.points[:, 1].astype(np.float64)
        if z.max() < camera.position[2] + 2.2:
            continue
        z = np.maximum(z, camera.position[2] + 2.2)
        world = np.stack((x + painter.road.center(z), np.zeros_like(z), z), axis=1)
        fixed = np.rint(camera.project(world) * (1 << _SHIFT)).astype(np.int32)
        color = light.shade(mark.color, (0.0, 1.0, 0.0))
        if np.ptp(fixed, axis=0).min() < 6:
            continue
        if mark.opacity < 1.0:
            under = light.shade((104, 104, 108), (0.0, 1.0, 0.0))
            color = mix(under, color, mark.opacity)
        cv2.fillPoly(painter.picture, [fixed], color, cv2.LINE_AA, _SHIFT)


def draw_shadows(painter: Painter, placed: list[Placed], top: int) -> None:
    """Cast shadows and the darkness of contact, multiplied onto rows from `top` down."""
    camera, light = painter.camera, painter.light
    h, w = camera.height, camera.width
    if h - top < 2:
        return
    cast = np.zeros((h, w), np.uint8)
    touch = np.zeros((h, w), np.uint8)
    slope = np.array([light.sun[0], light.sun[2]]) / max(light.sun[1], 0.25)
    for thing, world, view, _ in placed:
        if not thing.shadow or float(view[:, 2].max()) < 1.0 or float(view[:, 2].min()) > 70.0:
            continue
        flat = world.copy()
        flat[:, [0, 2]] -= np.minimum(world[:, 1:2], 6.0) * slope
        flat[:, 1] = 0.0
        _shade_hull(cast, camera, flat)
        feet = world[world[:, 1] < 0.45]
        if len(feet) >= 3 and not thing.planar:
            feet = feet.copy()
            feet[:, 1] = 0.0
            _shade_hull(touch, camera, feet)
    blur = max(1, round(w * 0.004)) * 2 + 1
    cast_f = cv2.GaussianBlur(cast[top:], (blur, blur), 0).astype(np.float32) / 255.0
    touch_f = cv2.GaussianBlur(touch[top:], (blur, blur), 0).astype(np.float32) / 255.0
    depth = sum(light.sun_color) / (sum(light.sun_color) + sum(light.ambient))
    dark = np.maximum(cast_f * depth * 0.85, touch_f * 0.55)[..., None]
    tint = np.asarray(tone((1.0, 0.96, 0.86), 1.0), np.float32)
    rows = painter.picture[top:].astype(np.float32)
    ground = (painter.ids[top:] > 0)[..., None]
    rows *= 1.0 - dark * tint * ground
    painter.picture[top:] = rows.astype(np.uint8)


def _shade_hull(mask: NDArray[np.uint8], camera: Camera, flat: Floats) -> None:
    view = camera.to_view(flat)
    view = view[view[:, 2] > 1.5]
    if len(view) < 3:
        return
    hull = cv2.convexHull(np.rint(camera.to_pixels(view) * (1 << _SHIFT)).astype(np.int32))
    cv2.fillConvexPoly(mask, hull, (255,), cv2.LINE_AA, _SHIFT)
