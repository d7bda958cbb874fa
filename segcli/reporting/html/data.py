"""What the evaluation report shows: the scores as they were written, and pictures of them.

`Picture` and `Crop` hold data URIs, so that drawing a page needs no file but its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segcli.labels import LabelSpace


@dataclass(frozen=True)
class Picture:
    """An image and what can be laid over it, of one size, as data URIs.

    Attributes:
        id: of the sample; may hold any character.
        size: (height, width) of the layers in pixels.
        photo: opaque; `truth`, `prediction` and `errors` are transparent where they say nothing.
        miou, pixel_accuracy: of this image, 0..1; None where they have no meaning.
        classes: that occur in truth or prediction, the most frequent first.
    """

    id: str
    size: tuple[int, int]
    photo: str
    truth: str
    prediction: str
    errors: str
    miou: float | None
    pixel_accuracy: float | None
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Crop:
    """A part of an image, or a small copy of it, with something pointed out.

    Attributes:
        id: of the sample.
        size: (height, width) in pixels.
        uri: a data URI.
        pixels: of the sample that are meant, such as those confused.
        iou: of the class in this sample, 0..1; None where it is not about one.
    """

    id: str
    size: tuple[int, int]
    uri: str
    pixels: int
    iou: float | None = None


@dataclass(frozen=True)
class Confusion:
    """Pixels of a class that were taken for another; `share` is of all its pixels, 0..1."""

    truth: int
    prediction: int
    pixels: int
    share: float
    crops: tuple[Crop, ...] = ()


@dataclass(frozen=True)
class ClassDetail:
    """A class's worst images and what it is taken for most."""

    index: int
    worst: tuple[Crop, ...]
    confusions: tuple[Confusion, ...]


@dataclass(frozen=True)
class ReportData:
    """All that `write_report` draws; what is missing leaves its section out.

    Attributes:
        title: such as the name of the run.
        space: the classes.
        scores: what ``scores.json`` holds, see docs/evaluation.md.
        images: what ``images.json`` holds.
        worst: the images with the lowest scores, the lowest first.
        classes: one for each class that has something to show.
    """

    title: str
    space: LabelSpace
    scores: Mapping[str, Any]
    images: Sequence[Mapping[str, Any]] = ()
    worst: Sequence[Picture] = field(default_factory=tuple)
    classes: Sequence[ClassDetail] = field(default_factory=tuple)
