"""From flat paint to a photograph: texture, haze, light on surfaces, bloom and lens."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segcli.data.city.ground import noise_tile
from segcli.data.city.light import Light
from segcli.data.city.paint import Painter

Image = NDArray[np.float32]


def depth_map(painter: Painter) -> NDArray[np.float32]:
    """Depth along the view axis for every pixel, metres; (H, W) float32."""
    planes = np.array([s.plane for s in painter.surfaces], np.float32)
    h, w = painter.ids.shape
    u = np.arange(w, dtype=np.float32)[None, :]
    v = np.arange(h, dtype=np.float32)[:, None]
    inverse = planes[:, 0].take(painter.ids) * u
    inverse += planes[:, 1].take(painter.ids) * v
    inverse += planes[:, 2].take(painter.ids)
    depth: Image = (1.0 / np.clip(inverse, 1e-5, 2.0)).astype(np.float32)
    return depth


class Lens(NamedTuple):
    """What the camera adds: exposure factor, blur (pixels), noise (grey levels)."""

    exposure: float
    softness: float
    noise: float


def develop(painter: Painter, lens: Lens, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The finished picture (H, W, 3) uint8 RGB; the annotation is not touched."""
    light = painter.light
    depth = depth_map(painter)
    kinds = np.array([s.kind for s in painter.surfaces], np.uint8).take(painter.ids)
    image = painter.picture.astype(np.float32)
    image *= _texture(painter, depth, kinds)[..., None]
    _haze(image, depth, kinds, light)
    if painter.glows:
        _bloom(image, painter.glow)
    return _through(image, lens, rng)


def _texture(painter: Painter, depth: Image, kinds: NDArray[np.uint8]) -> Image:
    """Grain, joints of stones and darkness near the ground, as a factor (H, W)."""
    camera, ids = painter.camera, painter.ids
    ray_u, ray_v = camera.rays()
    sin, cos = math.sin(camera.yaw), math.cos(camera.yaw)
    x = (ray_u[None] * cos + sin) * depth + camera.position[0]
    y = ray_v[:, None] * depth + camera.position[1]
    z = (cos - ray_u[None] * sin) * depth + camera.position[2]
    x -= painter.road.center(z).astype(np.float32)
    ground = kinds == 1
    u = np.where(ground, x, x + z).astype(np.float32)
    v = np.where(ground, z, y).astype(np.float32)
    table = np.array(
        [
            (s.material.grain, s.material.joint, s.material.joint_u, s.material.joint_v)
            for s in painter.surfaces
        ],
        np.float32,
    )
    scale = camera.focal / depth  # pixels per metre
    fine = _noise(u * 24.0, v * 24.0) * np.clip(scale / 40.0, 0.15, 1.0)
    broad = _noise(u * 3.0, v * 3.0)
    factor: Image = 1.0 + table[:, 0].take(ids) * (0.75 * fine + 0.7 * broad)
    factor -= _joints(table, ids, u, v, scale)
    occlusion = (
        np.exp(-np.clip(y, 0.0, 8.0) / 0.55) * 0.26 + np.exp(-np.clip(y, 0.0, 30.0) / 3.5) * 0.08
    )
    factor *= np.where(kinds == 2, 1.0 - occlusion, 1.0).astype(np.float32)
    factor[kinds == 0] = 1.0
    return factor


def _noise(u: Image, v: Image) -> Image:
    tile = noise_tile()
    n = float(tile.shape[0])
    out = cv2.remap(
        tile,
        np.mod(u, n).astype(np.float32),
        np.mod(v, n).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
    return np.asarray(out, np.float32)


def _joints(table: Image, ids: NDArray[np.int16], u: Image, v: Image, scale: Image) -> Image:
    """Dark lines between stones, fading where they are finer than a pixel; (H, W)."""
    joints = np.zeros(ids.shape, np.float32)
    at = np.flatnonzero((table[:, 1] > 0.0).take(ids))
    if not len(at):
        return joints
    surface = table.take(ids.ravel().take(at), axis=0)
    size_u, size_v = surface[:, 2], surface[:, 3]
    scale = scale.ravel().take(at)
    row = v.ravel().take(at) / size_v
    layer = np.floor(row)
    column = u.ravel().take(at) / size_u + 0.5 * np.mod(layer, 2.0)
    stone = np.floor(column)
    across = np.abs(column - stone - 0.5) * 2.0  # 1 on the joint
    along = np.abs(row - layer - 0.5) * 2.0
    pixels = scale * np.minimum(size_u, size_v)  # per stone
    blur = np.clip(2.4 / pixels, 0.06, 1.0)
    line = np.clip((np.maximum(across, along) - 1.0 + blur) / blur, 0.0, 1.0)
    tint = np.sin(stone * 12.9898 + layer * 78.233) * 0.18
    visible = np.clip(pixels / 5.0 - 0.3, 0.0, 1.0)
    joints.ravel()[at] = surface[:, 1] * visible * (line + tint)
    return joints


def _haze(image: Image, depth: Image, kinds: NDArray[np.uint8], light: Light) -> None:
    """Blend towards the sky at the horizon with distance."""
    veil = 1.0 - np.exp(-np.maximum(depth - 6.0, 0.0) * light.haze)
    veil = np.where(kinds == 0, 0.0, veil).astype(np.float32)[..., None]
    image += (np.asarray(light.horizon, np.float32) * 0.97 - image) * veil


def _bloom(image: Image, glow: NDArray[np.uint8]) -> None:
    """Lamps and lit windows spill a little light."""
    h, w = glow.shape[:2]
    small = cv2.resize(glow, (max(1, w // 4), max(1, h // 4)), interpolation=cv2.INTER_AREA)
    size = max(1, round(w * 0.006)) * 2 + 1
    halo = cv2.GaussianBlur(small, (size, size), 0).astype(np.float32)
    image += cv2.resize(halo, (w, h), interpolation=cv2.INTER_LINEAR) * 0.9
    image += glow.astype(np.float32) * 0.12


def _through(image: Image, lens: Lens, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Slight contrast, vignette, softness and sensor noise."""
    h, w = image.shape[:2]
    u = np.linspace(-1.0, 1.0, w, dtype=np.float32)[None]
    v = np.linspace(-1.0, 1.0, h, dtype=np.float32)[:, None]
    image *= ((1.0 - 0.13 * (u * u + v * v) ** 1.5) * lens.exposure)[..., None]
    gray = image.mean(axis=2, keepdims=True)
    image += (image - gray) * 0.12  # a little more colour
    sigma = lens.softness * max(1.0, w / 1400)
    soft = cv2.GaussianBlur(image, (0, 0), sigma)
    grain = rng.standard_normal((h, w, 1), np.float32) * lens.noise
    return np.clip(soft + grain, 0, 255).astype(np.uint8)
