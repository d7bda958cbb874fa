"""What stands in the street: named bundles of polygons in metres.

A `Builder` collects parts; the painter draws them in order. Part kinds:
    FACE    fills the picture and the label
    MASK    fills the label alone (a fence's gaps, a wheel between its spokes)
    DETAIL  fills the picture alone (windows, lamps)
    LINE    a stroke in picture and label
    STROKE  a stroke in the picture alone
    BLOB    discs in picture and label
    DOT     discs in the picture alone
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.data.city.camera import newell
from segcli.data.city.light import Color, Light

Coordinates = Sequence[Any] | NDArray[Any]  # nested numbers, as numpy takes them


class Kind(IntEnum):
    """How a part is drawn; see the module's text."""

    FACE = 0
    MASK = 1
    DETAIL = 2
    LINE = 3
    STROKE = 4
    BLOB = 5
    DOT = 6


@dataclass(frozen=True)
class Material:
    """Surface texture: grain strength, and the joints of stones (size in metres)."""

    grain: float = 0.03
    joint: float = 0.0  # darkness of the joints
    joint_u: float = 1.0
    joint_v: float = 1.0


PLAIN = Material()


@dataclass(frozen=True)
class Part:
    """`count` polygons of `corners` points each, from `start` on in the thing's points."""

    kind: Kind
    start: int
    count: int
    corners: int
    color: Color
    face: int  # index of the face it lies on; -1 where it is always seen
    size: float  # metres; drawn only where this is more than about a pixel
    glow: bool = False
    colors: NDArray[np.float32] | None = None  # (count, 3), of discs
    sizes: NDArray[np.float32] | None = None  # (count,), radii of discs in metres


@dataclass
class Thing:
    """One annotated object. `points` (M, 3) are metres relative to (x, 0, z)."""

    label: str
    x: float
    z: float
    points: NDArray[np.float32]
    parts: list[Part]
    centers: NDArray[np.float32]  # (F, 3) middles of the faces
    normals: NDArray[np.float32]  # (F, 3)
    key: float = 0.0  # added to z for the painting order
    velocity: tuple[float, float] = (0.0, 0.0)  # metres per frame: x, z
    planar: bool = False  # its largest face gives the depth, else its middle does
    material: Material = PLAIN
    shadow: bool = True
    extras: list[tuple[str, int, int]] = field(default_factory=list)  # label, start, stop


class Builder:
    """Collects the parts of one thing. Coordinates are (x, y, z) in metres."""

    def __init__(self, light: Light, center: tuple[float, float, float] | None = None) -> None:
        self.light, self.center = light, center
        self._points: list[NDArray[np.float32]] = []
        self._length = 0
        self._parts: list[Part] = []
        self._centers: list[NDArray[np.float32]] = []
        self._normals: list[NDArray[np.float32]] = []
        self._normal: tuple[float, float, float] | None = None
        self._face = -1
        self._extras: list[tuple[str, int, int]] = []

    def _append(self, points: NDArray[np.float32]) -> int:
        start = self._length
        self._points.append(points)
        self._length += len(points)
        return start

    def _lit(self, color: Color) -> Color:
        if self._normal is None:
            return self.light.soft(color)
        return self.light.shade(color, self._normal)

    def face(self, points: Coordinates, color: Color, *, lit: bool = True) -> None:
        """A polygon (k, 3). With a `center`, it is hidden when seen from behind."""
        p = np.asarray(points, np.float32)
        self._face, self._normal = -1, None
        if self.center is not None:
            middle = p.mean(axis=0)
            n = newell(p)
            n = n / max(float(np.linalg.norm(n)), 1e-6)
            if float(n @ (middle - np.asarray(self.center))) < 0.0:
                n = -n
            self._face = len(self._normals)
            self._normals.append(n.astype(np.float32))
            self._centers.append(middle)
            self._normal = (float(n[0]), float(n[1]), float(n[2]))
        start = self._append(p)
        shade = self._lit(color) if lit else color
        self._parts.append(Part(Kind.FACE, start, 1, len(p), shade, self._face, 9.0))

    def flat(self) -> None:
        """What follows lies on no face: it is always seen and lit as something round."""
        self._face, self._normal = -1, None

    def fill(
        self,
        points: Coordinates,
        color: Color,
        kind: Kind = Kind.DETAIL,
        *,
        lit: bool = True,
        size: float | None = None,
        glow: bool = False,
    ) -> None:
        """Polygons (n, k, 3) or (k, 3) on the current face; those of one call must not overlap."""
        p = np.asarray(points, np.float32)
        p = p[None] if p.ndim == 2 else p
        if size is None:
            extent = np.ptp(p[0], axis=0)
            size = float(np.sort(extent)[1]) if kind is Kind.DETAIL else 9.0
        start = self._append(p.reshape(-1, 3))
        shade = self._lit(color) if lit else color
        self._parts.append(Part(kind, start, p.shape[0], p.shape[1], shade, self._face, size, glow))

    def stroke(
        self, points: Coordinates, color: Color, width: float, kind: Kind = Kind.LINE
    ) -> None:
        """Open lines (n, k, 3) or (k, 3), `width` metres thick."""
        p = np.asarray(points, np.float32)
        p = p[None] if p.ndim == 2 else p
        start = self._append(p.reshape(-1, 3))
        part = Part(kind, start, p.shape[0], p.shape[1], self._lit(color), self._face, width)
        self._parts.append(part)

    def discs(
        self, centers: Coordinates, radii: Coordinates, colors: Coordinates, kind: Kind = Kind.BLOB
    ) -> None:
        """Discs that face the camera: (n, 3) middles, (n,) radii, (n, 3) lit colours."""
        c = np.asarray(centers, np.float32)
        r = np.asarray(radii, np.float32)
        start = self._append(c)
        self._parts.append(
            Part(
                kind,
                start,
                len(c),
                1,
                (0.0, 0.0, 0.0),
                -1,
                2.0 * float(r.mean()),
                colors=np.asarray(colors, np.float32),
                sizes=r,
            )
        )

    def extra(self, label: str, points: Coordinates) -> None:
        """A polygon (k, 3) annotated by itself after this thing, such as a licence plate."""
        p = np.asarray(points, np.float32)
        start = self._append(p)
        self._extras.append((label, start, start + len(p)))

    def build(
        self,
        label: str,
        x: float,
        z: float,
        *,
        key: float = 0.0,
        velocity: tuple[float, float] = (0.0, 0.0),
        planar: bool = False,
        material: Material = PLAIN,
        shadow: bool = True,
    ) -> Thing:
        """The finished thing, standing at (x, 0, z) of the street."""
        empty = np.zeros((0, 3), np.float32)
        return Thing(
            label,
            x,
            z,
            np.concatenate(self._points) if self._points else empty,
            self._parts,
            np.stack(self._centers) if self._centers else empty,
            np.stack(self._normals) if self._normals else empty,
            key,
            velocity,
            planar,
            material,
            shadow,
            self._extras,
        )


def upright(points: Coordinates, z: float = 0.0) -> NDArray[np.float32]:
    """(..., 2) x and y of a board that faces the camera, as (..., 3) points."""
    p = np.asarray(points, np.float32)
    return np.concatenate((p, np.full((*p.shape[:-1], 1), z, np.float32)), axis=-1)


def disc(x: float, y: float, radius: float, corners: int = 12) -> NDArray[np.float32]:
    """A regular polygon (corners, 2)."""
    t = np.arange(corners, dtype=np.float32) * (2.0 * np.pi / corners)
    return np.stack((x + radius * np.cos(t), y + radius * np.sin(t)), axis=-1).astype(np.float32)


def box(x0: float, y0: float, x1: float, y1: float) -> NDArray[np.float32]:
    """A rectangle (4, 2)."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)
