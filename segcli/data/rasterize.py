"""Cityscapes polygons -> label ids, train ids, instance ids and colours, pixel for pixel.

The rules are those of the official tools (https://github.com/mcordts/cityscapesScripts,
`preparation/json2labelImg.py` and `json2instanceImg.py`): polygons are painted in file order
with Pillow's `ImageDraw.polygon`, whose edges no other fill reproduces; deleted objects are
skipped; an unknown label that ends in `group` counts as the label without it; labels with
negative ids (license plates) are not painted.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from segcli.data.images import MAX_PIXELS
from segcli.data.polygons import Flat, read_polygons
from segcli.errors import DataError
from segcli.labels import CITYSCAPES_LABELS, RawLabel

# A polygon may leave the image, but not by a thousand image widths.
MAX_COORDINATE = 2**20
_GROUP = "group"
_MALFORMED = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
_BY_NAME = {label.name: label for label in CITYSCAPES_LABELS}


class Shape(NamedTuple):
    """A polygon to paint: `xy` is flat, x0, y0, x1, y1, ... in pixels."""

    label: RawLabel
    is_group: bool
    xy: list[float]


class Annotation(NamedTuple):
    """What one polygons file says about an image of `width` x `height` pixels."""

    width: int
    height: int
    shapes: list[Shape]


def parse_annotation(data: bytes, path: Path) -> Annotation:
    """Parse the bytes of a `*_polygons.json` file; `path` is for messages.

    Raises:
        DataError: not such a file, an unknown label, a polygon that cannot be painted.
    """
    try:
        value = read_polygons(data, MAX_COORDINATE)
        if value is None:
            value = json.loads(data, parse_constant=_refuse_constant)
        width, height = int(value["imgWidth"]), int(value["imgHeight"])
        if width < 1 or height < 1 or width * height > MAX_PIXELS:
            raise DataError(f"impossible image size {width}x{height}", file=path)
        shapes = [_shape(o, path) for o in value["objects"] if not o.get("deleted", 0)]
    except _MALFORMED as error:
        text = f"{type(error).__name__}: {error}"
        raise DataError(f"not a polygons file, {text}", file=path) from None
    return Annotation(width, height, [s for s in shapes if s.label.id >= 0])


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no coordinate")


def _shape(value: dict[str, Any], path: Path) -> Shape:
    name = str(value["label"])
    is_group = name not in _BY_NAME and name.endswith(_GROUP)
    label = _BY_NAME.get(name[: -len(_GROUP)] if is_group else name)
    if label is None:
        raise DataError(f"unknown label '{name}'", file=path)
    if label.id < 0:
        return Shape(label, is_group, [])
    points = value["polygon"]
    xy = points.xy if isinstance(points, Flat) else _flatten(points, path)
    # Pillow, and so the official tools, refuse a polygon of one point.
    if len(xy) < 4:
        raise DataError(f"'{name}' polygon with fewer than 2 points", file=path)
    return Shape(label, is_group, xy)


def _flatten(points: Any, path: Path) -> list[float]:
    """x0, y0, x1, y1, ... of a list of points; array() takes numbers only, NaN is not <=."""
    xy = array("d", [c for point in points for c in (point[0], point[1])]).tolist()
    if not all(abs(c) <= MAX_COORDINATE for c in xy):
        raise DataError(f"polygon coordinates beyond ±{MAX_COORDINATE}", file=path)
    return xy


def paint_ids(annotation: Annotation, lut: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Label ids, uint8 (H, W), background 0; with `lut` (256,) the ids mapped through it.

    Painting mapped ids equals mapping painted ids, and spares a pass over the pixels.
    """
    from PIL import Image, ImageDraw

    values = range(256) if lut is None else lut.tolist()
    size = annotation.width, annotation.height
    pixels = np.full((annotation.height, annotation.width), values[0], np.uint8)
    # The canvas is a view of `pixels`: copying out of Pillow took as long as painting.
    canvas = Image.frombuffer("L", size, pixels, "raw", "L", 0, 1)
    canvas.readonly = 0
    drawer = ImageDraw.Draw(canvas)
    for shape in annotation.shapes:
        drawer.polygon(shape.xy, fill=values[shape.label.id])
    return pixels


def paint_instance_ids(annotation: Annotation) -> NDArray[np.uint16]:
    """Instance ids, uint16 (H, W): `id * 1000 + n` for the n-th object of a countable label.

    Groups and labels without instances carry the plain id.
    """
    from PIL import Image, ImageDraw

    canvas = Image.new("I", (annotation.width, annotation.height), 0)
    drawer = ImageDraw.Draw(canvas)
    seen: Counter[int] = Counter()
    for shape in annotation.shapes:
        value = shape.label.id
        if shape.label.has_instances and not shape.is_group:
            value = value * 1000 + seen[value]
            seen[shape.label.id] += 1
        drawer.polygon(shape.xy, fill=value)
    return np.asarray(canvas).astype(np.uint16)


def train_id_lut() -> NDArray[np.uint8]:
    """uint8 (256,): label id -> official train id, 255 where a label is not trained."""
    table = np.full(256, 255, np.uint8)
    for label in CITYSCAPES_LABELS:
        if label.id >= 0:
            table[label.id] = label.train_id
    return table


def color_table() -> NDArray[np.uint8]:
    """uint8 (256, 4): label id -> official colour, RGBA and opaque."""
    table = np.zeros((256, 4), np.uint8)
    table[:, 3] = 255
    for label in CITYSCAPES_LABELS:
        if label.id >= 0:
            table[label.id, :3] = label.color
    return table
