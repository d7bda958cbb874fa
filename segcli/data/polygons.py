"""A fast reader for the JSON of Cityscapes polygons.

A full frame has 10,000 points and more, each a small list for a JSON parser: building and
freeing those takes longer than painting them. Here the text of the polygons is cut out, its
numbers are parsed in one call, and the short rest goes to the JSON parser. What does not look
exactly as expected is left to that parser altogether.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

# Inside a JSON string a quote follows a backslash, so that no string looks like this.
_POLYGON = re.compile(rb'"polygon"\s*:\s*(\[[-\d\s,\[\]]*\])')
_NOT_STRUCTURE = b"0123456789 -\t\r\n"
_TO_SPACES = bytes.maketrans(b"[],", b"   ")


class Flat:
    """The points of a polygon: `xy` is x0, y0, x1, y1, ... as integers."""

    __slots__ = ("xy",)

    def __init__(self, xy: list[float]) -> None:
        self.xy = xy


def read_polygons(data: bytes, limit: int) -> dict[str, Any] | None:
    """The value of a polygons file, each 'polygon' a `Flat`; None where JSON has to decide.

    None means that something is unusual: fractions, coordinates beyond ±`limit`, points of
    other than two numbers, other keys of that name. The file need not be wrong.

    Raises:
        ValueError: the text around the polygons is not JSON.
    """
    parts = _POLYGON.split(data)
    spans = parts[1::2]
    counts = [_count(span) for span in spans]
    if not spans or 0 in counts:
        return None
    numbers = np.fromstring(b" ".join(spans).translate(_TO_SPACES), np.int64, sep=" ")
    if numbers.size != sum(counts) or numbers.min() < -limit or numbers.max() > limit:
        return None
    xy = numbers.tolist()
    rest = [parts[0]]
    for index, text in enumerate(parts[2::2]):
        rest += (b'"polygon":%d' % index, text)
    value: dict[str, Any] = json.loads(b"".join(rest))
    objects = value.get("objects") if isinstance(value, dict) else None
    if not isinstance(objects, list) or len(objects) != len(spans):
        return None
    at = 0
    for index, (o, count) in enumerate(zip(objects, counts, strict=True)):
        if not isinstance(o, dict) or o.get("polygon") != index:
            return None
        o["polygon"] = Flat(xy[at : at + count])
        at += count
    return value


def _count(span: bytes) -> int:
    """How many numbers '[[x, y], [x, y]]' holds; 0 where brackets and commas differ."""
    structure = span.translate(None, _NOT_STRUCTURE)
    points = len(structure) // 4
    expected = b"[" + b",".join([b"[,]"] * points) + b"]"
    return 2 * points if structure == expected else 0
