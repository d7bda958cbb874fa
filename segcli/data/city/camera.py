"""A pinhole camera in a street, and the plane arithmetic that goes with it.

Shapes and axes
    world   (..., 3) float: x to the right, y up, z along the street; metres
    view    (..., 3) float: the same axes seen from the camera; z is the depth
    pixels  (..., 2) float: u to the right, v down
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

NEAR = 0.6  # metres; what is nearer than this is clipped


@dataclass(frozen=True)
class Road:
    """The centre line of the street: x as a smooth function of z, in metres."""

    amplitude: float = 0.0
    wavelength: float = 60.0
    phase: float = 0.0

    def center(self, z: Floats) -> Floats:
        """x of the centre line at `z` (any shape)."""
        swing: Floats = np.sin(z / self.wavelength + self.phase)
        return self.amplitude * (swing - math.sin(self.phase))

    def heading(self, z: float) -> float:
        """Angle of the centre line at `z`, radians, positive to the right."""
        slope = self.amplitude / self.wavelength * math.cos(z / self.wavelength + self.phase)
        return math.atan(slope)


@dataclass(frozen=True)
class Camera:
    """Where the camera stands and how it maps metres to pixels.

    A pitched view is modelled as a shifted principal point `v0`, so that upright edges
    stay upright, as in an architect's drawing.
    """

    height: int  # pixels
    width: int  # pixels
    focal: float  # pixels
    u0: float
    v0: float  # row of the horizon
    position: tuple[float, float, float]  # x, y (height above the road), z in metres
    yaw: float  # radians, positive to the right

    def to_view(self, world: Floats) -> Floats:
        """World points (..., 3) as the camera sees them (..., 3)."""
        local = world - np.asarray(self.position)
        sin, cos = math.sin(self.yaw), math.cos(self.yaw)
        x, z = local[..., 0], local[..., 2]
        return np.stack((cos * x - sin * z, local[..., 1], sin * x + cos * z), axis=-1)

    def to_pixels(self, view: Floats) -> Floats:
        """View points (..., 3) with positive depth as pixels (..., 2), kept within reach."""
        z = np.maximum(view[..., 2], 1e-3)
        u = self.u0 + self.focal * view[..., 0] / z
        v = self.v0 - self.focal * view[..., 1] / z
        reach = 16.0 * max(self.width, self.height)
        return np.clip(np.stack((u, v), axis=-1), -reach, reach)

    def project(self, world: Floats) -> Floats:
        """World points (..., 3) in front of the camera as pixels (..., 2)."""
        return self.to_pixels(self.to_view(world))

    def plane(self, view: Floats) -> tuple[float, float, float]:
        """Coefficients (a, b, c) with 1 / depth = a u + b v + c on a plane.

        `view` is (k, 3), k >= 3 points of the plane. A plane seen edge-on falls back to the
        constant depth of its middle.
        """
        center = view.mean(axis=0)
        n = newell(view)
        d = float(n @ center)
        if abs(d) < 0.03 * float(np.linalg.norm(n)) * float(np.linalg.norm(center)) + 1e-9:
            return 0.0, 0.0, 1.0 / max(float(center[2]), NEAR)
        a, b = float(n[0]) / (d * self.focal), -float(n[1]) / (d * self.focal)
        return a, b, float(n[2]) / d - a * self.u0 - b * self.v0

    def rays(self) -> tuple[Floats, Floats]:
        """Slopes of the ray through each column (W,) and each row (H,): x / z and y / z."""
        u = (np.arange(self.width, dtype=np.float32) - self.u0) / self.focal
        v = (self.v0 - np.arange(self.height, dtype=np.float32)) / self.focal
        return u, v


def newell(points: Floats) -> Floats:
    """Normal of a polygon (k, 3) by Newell's method, its length twice the area; (3,)."""
    x, y, z = 0.0, 0.0, 0.0
    corners = points.tolist()
    for (ax, ay, az), (bx, by, bz) in zip(corners, corners[1:] + corners[:1], strict=True):
        x += (ay - by) * (az + bz)
        y += (az - bz) * (ax + bx)
        z += (ax - bx) * (ay + by)
    return np.array([x, y, z])


def clip_near(view: Floats) -> Floats:
    """A polygon (k, 3) cut at the near plane; (m, 3), m may be 0 (Sutherland-Hodgman)."""
    kept: list[Floats] = []
    for here, after in zip(view, np.roll(view, -1, axis=0), strict=True):
        if here[2] >= NEAR:
            kept.append(here)
        if (here[2] >= NEAR) != (after[2] >= NEAR):
            t = (NEAR - here[2]) / (after[2] - here[2])
            kept.append(here + t * (after - here))
    return np.array(kept) if kept else np.empty((0, 3))
