"""Label spaces: which classes there are, how they look, which raw ids they come from.

A label space is an ordered list of classes and an ignore index. It travels inside every
manifest, checkpoint and export, and two that differ are never mixed. The Cityscapes table
below states the official definition (ids, train ids, categories, colours) of
https://www.cityscapes-dataset.com.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from segcli.errors import LabelSpaceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IGNORE_INDEX = 255
Color = tuple[int, int, int]


class RawLabel(NamedTuple):
    """One of the labels that Cityscapes annotates; `train_id` 255 and -1 are not trained."""

    name: str
    id: int
    train_id: int
    category: str
    category_id: int
    has_instances: bool
    ignore_in_eval: bool
    color: Color


# fmt: off
CITYSCAPES_LABELS: tuple[RawLabel, ...] = (
    RawLabel("unlabeled",             0, 255, "void",         0, False, True,  (0, 0, 0)),
    RawLabel("ego vehicle",           1, 255, "void",         0, False, True,  (0, 0, 0)),
    RawLabel("rectification border",  2, 255, "void",         0, False, True,  (0, 0, 0)),
    RawLabel("out of roi",            3, 255, "void",         0, False, True,  (0, 0, 0)),
    RawLabel("static",                4, 255, "void",         0, False, True,  (0, 0, 0)),
    RawLabel("dynamic",               5, 255, "void",         0, False, True,  (111, 74, 0)),
    RawLabel("ground",                6, 255, "void",         0, False, True,  (81, 0, 81)),
    RawLabel("road",                  7, 0,   "flat",         1, False, False, (128, 64, 128)),
    RawLabel("sidewalk",              8, 1,   "flat",         1, False, False, (244, 35, 232)),
    RawLabel("parking",               9, 255, "flat",         1, False, True,  (250, 170, 160)),
    RawLabel("rail track",           10, 255, "flat",         1, False, True,  (230, 150, 140)),
    RawLabel("building",             11, 2,   "construction", 2, False, False, (70, 70, 70)),
    RawLabel("wall",                 12, 3,   "construction", 2, False, False, (102, 102, 156)),
    RawLabel("fence",                13, 4,   "construction", 2, False, False, (190, 153, 153)),
    RawLabel("guard rail",           14, 255, "construction", 2, False, True,  (180, 165, 180)),
    RawLabel("bridge",               15, 255, "construction", 2, False, True,  (150, 100, 100)),
    RawLabel("tunnel",               16, 255, "construction", 2, False, True,  (150, 120, 90)),
    RawLabel("pole",                 17, 5,   "object",       3, False, False, (153, 153, 153)),
    RawLabel("polegroup",            18, 255, "object",       3, False, True,  (153, 153, 153)),
    RawLabel("traffic light",        19, 6,   "object",       3, False, False, (250, 170, 30)),
    RawLabel("traffic sign",         20, 7,   "object",       3, False, False, (220, 220, 0)),
    RawLabel("vegetation",           21, 8,   "nature",       4, False, False, (107, 142, 35)),
    RawLabel("terrain",              22, 9,   "nature",       4, False, False, (152, 251, 152)),
    RawLabel("sky",                  23, 10,  "sky",          5, False, False, (70, 130, 180)),
    RawLabel("person",               24, 11,  "human",        6, True,  False, (220, 20, 60)),
    RawLabel("rider",                25, 12,  "human",        6, True,  False, (255, 0, 0)),
    RawLabel("car",                  26, 13,  "vehicle",      7, True,  False, (0, 0, 142)),
    RawLabel("truck",                27, 14,  "vehicle",      7, True,  False, (0, 0, 70)),
    RawLabel("bus",                  28, 15,  "vehicle",      7, True,  False, (0, 60, 100)),
    RawLabel("caravan",              29, 255, "vehicle",      7, True,  True,  (0, 0, 90)),
    RawLabel("trailer",              30, 255, "vehicle",      7, True,  True,  (0, 0, 110)),
    RawLabel("train",                31, 16,  "vehicle",      7, True,  False, (0, 80, 100)),
    RawLabel("motorcycle",           32, 17,  "vehicle",      7, True,  False, (0, 0, 230)),
    RawLabel("bicycle",              33, 18,  "vehicle",      7, True,  False, (119, 11, 32)),
    RawLabel("license plate",        -1, -1,  "vehicle",      7, False, True,  (0, 0, 142)),
)

# The order of the widely used 11-class split of CamVid; its void is 11.
_CAMVID: tuple[tuple[str, Color, str], ...] = (
    ("sky",        (128, 128, 128), "sky"),
    ("building",   (128, 0, 0),     "construction"),
    ("pole",       (192, 192, 128), "object"),
    ("road",       (128, 64, 128),  "flat"),
    ("pavement",   (60, 40, 222),   "flat"),
    ("tree",       (128, 128, 0),   "nature"),
    ("sign",       (192, 128, 128), "object"),
    ("fence",      (64, 64, 128),   "construction"),
    ("car",        (64, 0, 128),    "vehicle"),
    ("pedestrian", (64, 64, 0),     "human"),
    ("bicyclist",  (0, 128, 192),   "human"),
)

_CATEGORY_COLORS: dict[str, Color] = {
    "flat": (128, 64, 128), "construction": (70, 70, 70), "object": (220, 220, 0),
    "nature": (107, 142, 35), "sky": (70, 130, 180), "human": (220, 20, 60),
    "vehicle": (0, 0, 142),
}
# fmt: on

SOURCES = ("cityscapes", "camvid", "indices")
CAMVID_VOID = 11


@dataclasses.dataclass(frozen=True)
class LabelClass:
    """A class that is predicted: its name, RGB colour, the raw ids it gathers, its category."""

    name: str
    color: Color
    raw_ids: tuple[int, ...]
    category: str


@dataclasses.dataclass(frozen=True)
class LabelSpace:
    """An ordered list of classes; class `k` has index `k` in every label and prediction.

    Attributes:
        name: what users call it.
        source: what `raw_ids` count: Cityscapes label ids, CamVid ids, or plain indices.
        classes: at least one and at most 254 of them.
        ignore_index: the value of pixels that take no part in loss and scores.
    """

    name: str
    source: str
    classes: tuple[LabelClass, ...]
    ignore_index: int = IGNORE_INDEX

    def __post_init__(self) -> None:
        names = [c.name for c in self.classes]
        if not 1 <= len(names) <= 254:
            raise LabelSpaceError(f"label space '{self.name}' needs 1 to 254 classes")
        if self.source not in SOURCES:
            raise LabelSpaceError(f"label space '{self.name}': unknown source '{self.source}'")
        _refuse_twice(self.name, "class", names)
        _refuse_twice(self.name, "raw id", [i for c in self.classes for i in c.raw_ids])
        for c in self.classes:
            if any(not 0 <= i <= 255 for i in c.raw_ids):
                raise LabelSpaceError(f"label space '{self.name}': raw ids of '{c.name}' not 0-255")
            if len(c.color) != 3 or any(not 0 <= v <= 255 for v in c.color):
                raise LabelSpaceError(f"label space '{self.name}': colour of '{c.name}' not RGB")

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """Category names in the order of their first class."""
        return tuple(dict.fromkeys(c.category for c in self.classes))

    @cached_property
    def category_of(self) -> tuple[int, ...]:
        """For each class, the index of its category in `categories`."""
        return tuple(self.categories.index(c.category) for c in self.classes)

    def lut(self) -> NDArray[np.uint8]:
        """uint8 (256,): raw id -> class index, or the ignore index."""
        import numpy as np

        table = np.full(256, self.ignore_index, np.uint8)
        for index, c in enumerate(self.classes):
            table[list(c.raw_ids)] = index
        return table

    def palette(self) -> NDArray[np.uint8]:
        """uint8 (256, 3) RGB: class index -> colour; everything else is black."""
        import numpy as np

        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = [c.color for c in self.classes]
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` gives an equal label space back."""
        return {
            "name": self.name,
            "source": self.source,
            "ignore_index": self.ignore_index,
            "classes": [
                {
                    "name": c.name,
                    "color": list(c.color),
                    "ids": list(c.raw_ids),
                    "category": c.category,
                }
                for c in self.classes
            ],
        }

    @classmethod
    def from_dict(cls, value: Any, *, file: str | Path | None = None) -> LabelSpace:
        """The inverse of `to_dict`.

        Raises:
            LabelSpaceError: when `value` does not have that form.
        """
        try:
            classes = tuple(
                LabelClass(
                    str(c["name"]),
                    (int(c["color"][0]), int(c["color"][1]), int(c["color"][2])),
                    tuple(int(i) for i in c["ids"]),
                    str(c["category"]),
                )
                for c in value["classes"]
            )
            return cls(str(value["name"]), str(value["source"]), classes, value["ignore_index"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise LabelSpaceError(f"not a label space ({error!r})", file=file) from None

    def fingerprint(self) -> str:
        """Hex digest of what makes predictions comparable: class names, order, ignore index."""
        text = json.dumps([list(self.class_names), self.ignore_index])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def difference(self, other: LabelSpace) -> str:
        """'' when labels in both mean the same, else one clause that says what differs."""
        if self.fingerprint() == other.fingerprint():
            return ""
        if self.num_classes != other.num_classes:
            return (
                f"'{self.name}' has {self.num_classes} classes, "
                f"'{other.name}' has {other.num_classes}"
            )
        pairs = zip(self.class_names, other.class_names, strict=True)
        index, (a, b) = next(((i, p) for i, p in enumerate(pairs) if p[0] != p[1]), (0, ("", "")))
        return f"class {index} is '{a}' in '{self.name}' and '{b}' in '{other.name}'"


def _refuse_twice(space: str, what: str, values: Iterable[Any]) -> None:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise LabelSpaceError(f"label space '{space}': {what} '{value}' stands there twice")
        seen.add(value)


def _cityscapes(name: str, labels: Iterable[RawLabel]) -> LabelSpace:
    return LabelSpace(
        name,
        "cityscapes",
        tuple(LabelClass(r.name, r.color, (r.id,), r.category) for r in labels),
    )


def _cityscapes_19() -> LabelSpace:
    trained = [r for r in CITYSCAPES_LABELS if 0 <= r.train_id < 255]
    return _cityscapes("cityscapes-19", sorted(trained, key=lambda r: r.train_id))


def _cityscapes_ids() -> LabelSpace:
    # All 34 ids, so that index = id; 'unlabeled' and its void kin are classes here.
    return _cityscapes("cityscapes-ids", [r for r in CITYSCAPES_LABELS if r.id >= 0])


def _cityscapes_categories() -> LabelSpace:
    # A category gathers the trained classes; labels that the evaluation ignores stay ignored.
    classes = []
    for category, color in _CATEGORY_COLORS.items():
        members = [r for r in CITYSCAPES_LABELS if r.category == category and not r.ignore_in_eval]
        classes.append(LabelClass(category, color, tuple(r.id for r in members), category))
    return LabelSpace("cityscapes-categories", "cityscapes", tuple(classes))


def _camvid_11() -> LabelSpace:
    classes = (LabelClass(n, c, (i,), category) for i, (n, c, category) in enumerate(_CAMVID))
    return LabelSpace("camvid-11", "camvid", tuple(classes))


SHIPPED = {
    "cityscapes-19": _cityscapes_19,
    "cityscapes-categories": _cityscapes_categories,
    "cityscapes-ids": _cityscapes_ids,
    "camvid-11": _camvid_11,
}


def load_label_space(name: str | Path) -> LabelSpace:
    """A shipped label space by name, or one from a YAML file of the user's or a shipped one.

    The YAML names a `base` and picks, merges and renames its classes, or lists classes with
    the mask values (`ids`) they have::

        name: traffic                       name: my-masks
        base: cityscapes-19                 classes:
        classes:                              - {name: ground, ids: [0, 1], color: [90, 90, 90]}
          - road                              - {name: thing, ids: [2]}
          - {name: vehicle, from: [car, truck, bus]}

    What no class takes is ignored.

    Raises:
        LabelSpaceError: an unknown name or class (with the nearest one), or a malformed file.
    """
    if str(name) in SHIPPED:
        return SHIPPED[str(name)]()
    from segcli.label_file import find_label_file, parse_label_space

    return parse_label_space(find_label_file(name))
