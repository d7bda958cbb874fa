"""Scores by object: how much of each was found, against its size.

An object is an instance where the data set has them, else a connected component of a class.
Whatever the source, it is a row of an `ObjectTable`: which class it is, and which classes its
pixels were predicted as.

Shapes: image (H, W); N objects, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcli.labels import LabelSpace
from segcli.metrics.confusion import run_starts

# Areas in pixels, of squares with sides of 8, 16, 32, ... pixels.
SIZE_EDGES = (0, 8**2, 16**2, 32**2, 64**2, 128**2, 256**2)
# What Cityscapes has instance ids for begins here: id * 1000 + n.
_FIRST_INSTANCE = 1000
_THINGS = ("human", "vehicle", "object")


class ObjectTable(NamedTuple):
    """The objects of one image.

    Attributes:
        classes: int64 (N,), the class of each.
        counts: int64 (N, K), its pixels by predicted class.
    """

    classes: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Pixels of each object, (N,)."""
        return np.asarray(self.counts.sum(1), np.int64)

    @property
    def hits(self) -> NDArray[np.int64]:
        """Pixels of each object that were predicted as its class, (N,)."""
        return self.counts[np.arange(len(self.classes)), self.classes]


def instance_table(
    instances: NDArray[np.uint16], prediction: NDArray[np.uint8], num_classes: int
) -> ObjectTable:
    """Objects of a Cityscapes instance image: uint16 (H, W), ``label id * 1000 + n``.

    Ids up to 1000 are no instances. `prediction` holds values below `num_classes`; an
    object's class is its label id, whether below `num_classes` or not.
    """
    ids, said = instances.ravel(), prediction.ravel()
    starts = run_starts(ids, said)
    pixels = np.diff(starts, append=ids.size)
    ids, said = ids[starts], said[starts]
    inside = ids > _FIRST_INSTANCE
    present, rows = np.unique(ids[inside], return_inverse=True)
    pairs = rows * num_classes + said[inside]
    counts = np.bincount(pairs, pixels[inside], present.size * num_classes).astype(np.int64)
    return ObjectTable(present.astype(np.int64) // 1000, counts.reshape(present.size, num_classes))


def component_table(
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    num_classes: int,
    classes: Sequence[int],
) -> ObjectTable:
    """Objects as 8-connected components of `classes` in `truth`, both maps uint8 (H, W)."""
    import cv2

    found, rows = [], []
    for k in classes:
        mask = (truth == k).view(np.uint8)
        x, y, width, height = cv2.boundingRect(mask)
        if not width:
            continue
        box = np.s_[y : y + height, x : x + width]
        number, components = cv2.connectedComponents(mask[box], connectivity=8, ltype=cv2.CV_32S)
        inside = np.flatnonzero(components.ravel())
        pairs = (components.ravel()[inside] - 1) * num_classes + prediction[box].ravel()[inside]
        counts = np.bincount(pairs, minlength=(number - 1) * num_classes)
        rows.append(counts.reshape(number - 1, num_classes))
        found.append(np.full(number - 1, k))
    if not rows:
        return ObjectTable(np.zeros(0, np.int64), np.zeros((0, num_classes), np.int64))
    return ObjectTable(np.concatenate(found), np.concatenate(rows))


def thing_classes(space: LabelSpace) -> list[int]:
    """Indices of the classes that come as objects: people, vehicles, signs; all if none do."""
    things = [i for i, c in enumerate(space.classes) if c.category in _THINGS]
    return things or list(range(space.num_classes))


class ObjectScores:
    """Objects, found objects, pixels and wrong pixels by class and size.

    An object counts as found when at least half of its pixels have its class.
    """

    def __init__(self, space: LabelSpace, kind: str = "components") -> None:
        """`kind` says what an object is, "instances" or "components"."""
        self.space, self.kind = space, kind
        # class, size, (objects, found, pixels, errors)
        self.sums: NDArray[np.int64] = np.zeros((space.num_classes, len(SIZE_EDGES), 4), np.int64)

    def update(self, table: ObjectTable) -> None:
        """Count the objects of one image; classes are those of the label space."""
        sizes, hits = table.sizes, table.hits
        bins = np.searchsorted(SIZE_EDGES, sizes, side="right") - 1
        values = np.stack([np.ones_like(sizes), 2 * hits >= sizes, sizes, sizes - hits], 1)
        np.add.at(self.sums, (table.classes, bins), values)

    def merge(self, other: ObjectScores) -> None:
        """Add what `other` has counted."""
        self.sums += other.sums

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; classes that have no object are left out."""
        per_class = self.sums.sum(1)
        return {
            "kind": self.kind,
            "objects": int(per_class[:, 0].sum()),
            "found": int(per_class[:, 1].sum()),
            "by_size": _by_size(self.sums.sum(0)),
            "classes": {
                name: {
                    "objects": int(row[0]),
                    "found": int(row[1]),
                    "by_size": _by_size(self.sums[k]),
                }
                for k, (name, row) in enumerate(zip(self.space.class_names, per_class, strict=True))
                if row[0]
            },
        }


def _by_size(sums: NDArray[np.int64]) -> list[dict[str, Any]]:
    edges: list[int | None] = [*SIZE_EDGES, None]
    return [
        {
            "from": edges[i],
            "to": edges[i + 1],
            "objects": int(objects),
            "found": int(found),
            "pixels": int(pixels),
            "errors": int(errors),
            "error": errors / pixels if pixels else None,
        }
        for i, (objects, found, pixels, errors) in enumerate(sums.tolist())
    ]
