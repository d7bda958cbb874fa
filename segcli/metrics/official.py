"""The official Cityscapes protocol: class IoU, iIoU, category IoU, category iIoU.

The definitions are those of the official tool (https://github.com/mcordts/cityscapesScripts,
`evaluation/evalPixelLevelSemanticLabeling.py`), on label ids:

- IoU of a class: rows whose label the evaluation ignores give no false positives;
- IoU of a category: of the block of its evaluated labels;
- iIoU: the pixels of an instance weigh (average size of its class) / (its size); false
  positives weigh 1. A category has one where all its labels have instances, and there its
  ignored labels (caravan, trailer) count as right and as false positives.

Shapes: maps (H, W); the matrix is (34, 34), rows = truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.labels import CITYSCAPES_LABELS, LabelSpace
from segcli.metrics.confusion import ConfusionMatrix, Scores
from segcli.metrics.objects import ObjectTable, instance_table

LABELS = tuple(label for label in CITYSCAPES_LABELS if label.id >= 0)
NUM_IDS = len(LABELS)
CATEGORIES = tuple(dict.fromkeys(label.category for label in LABELS))
# The constants of the official script, in pixels.
AVERAGE_SIZE: Mapping[str, float] = {
    "bicycle": 4672.3249222261,
    "caravan": 36771.8241758242,
    "motorcycle": 6298.7200839748,
    "rider": 3930.4788056518,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "car": 12794.0202738185,
    "person": 3462.4756337644,
    "truck": 27855.1264367816,
    "trailer": 16926.9763313609,
}
_IDS = np.arange(NUM_IDS)
_NO_IGNORE = 256  # no uint8 has this value: the matrix counts every pixel, ignored rows too
_EVALUATED = np.array([not label.ignore_in_eval for label in LABELS])
_WEIGHED = np.array([label.has_instances and not label.ignore_in_eval for label in LABELS])
_SIZES = np.array([AVERAGE_SIZE.get(label.name, math.nan) for label in LABELS])
_CATEGORY = np.array([CATEGORIES.index(label.category) for label in LABELS])
# Categories of which every label has instances.
_COUNTABLE = np.array(
    [all(label.has_instances for label in LABELS if label.category == c) for c in CATEGORIES]
)


class OfficialScores:
    """Everything that the official scores follow from, over any number of images.

    Attributes:
        confusion: pixels by label id.
        weighted: float64 (34, 2), weighted true positives and false negatives by label.
        weighted_category: float64 (34, 2), the same against the label's category.
        instances: int64 (34,), how many of each label were counted.
    """

    def __init__(self) -> None:
        self.confusion = ConfusionMatrix(NUM_IDS, _NO_IGNORE)
        self.weighted: NDArray[np.float64] = np.zeros((NUM_IDS, 2))
        self.weighted_category: NDArray[np.float64] = np.zeros((NUM_IDS, 2))
        self.instances: NDArray[np.int64] = np.zeros(NUM_IDS, np.int64)

    def update(
        self,
        truth: NDArray[np.uint8],
        instances: NDArray[np.uint16],
        prediction: NDArray[np.uint8],
    ) -> ObjectTable:
        """Count one image, all maps of label ids (instance ids), all of one shape.

        Returns:
            The evaluated instances of the image, by label id, for other scores to use.

        Raises:
            ValueError: shapes that differ, or values that are no label ids; nothing is
                counted then.
        """
        if instances.shape != truth.shape:
            raise ValueError(f"truth is {truth.shape} but its instances are {instances.shape}")
        self.confusion.update(truth, prediction)
        table = instance_table(instances, prediction, NUM_IDS)
        known = np.array([k < NUM_IDS and _WEIGHED[k] for k in table.classes], bool)
        table = ObjectTable(table.classes[known], table.counts[known])
        self._weigh(table)
        return table

    def _weigh(self, table: ObjectTable) -> None:
        sizes, hits = table.sizes, table.hits
        same_category = _CATEGORY[table.classes][:, None] == _CATEGORY[None]
        category_hits = (table.counts * same_category).sum(1)
        weight = _SIZES[table.classes] / sizes
        pairs = np.stack([hits * weight, (sizes - hits) * weight], 1)
        np.add.at(self.weighted, table.classes, pairs)
        pairs = np.stack([category_hits * weight, (sizes - category_hits) * weight], 1)
        np.add.at(self.weighted_category, table.classes, pairs)
        np.add.at(self.instances, table.classes, 1)

    def merge(self, other: OfficialScores) -> None:
        """Add what `other` has counted (another thread, another part of the images)."""
        self.confusion.merge(other.confusion)
        self.weighted += other.weighted
        self.weighted_category += other.weighted_category
        self.instances += other.instances

    @property
    def matrix(self) -> NDArray[np.int64]:
        """int64 (34, 34), rows = truth."""
        return self.confusion.matrix

    def class_scores(self) -> dict[str, float]:
        """IoU by label name, all 34; nan for those that are not evaluated or never occur."""
        values = {}
        for k, label in enumerate(LABELS):
            hits = self.matrix[k, k]
            union = self.matrix[k].sum() + self._false_positives([k], np.equal(_IDS, k))
            values[label.name] = _ratio(hits, union) if _EVALUATED[k] else math.nan
        return values

    def class_instance_scores(self) -> dict[str, float]:
        """iIoU by label name, all 34; nan for labels without instances."""
        values = {}
        for k, label in enumerate(LABELS):
            hits, misses = self.weighted[k]
            wrong = self._false_positives([k], np.equal(_IDS, k))
            values[label.name] = _ratio(hits, hits + wrong + misses) if _WEIGHED[k] else math.nan
        return values

    def category_scores(self) -> dict[str, float]:
        """IoU by category, all 8 with void."""
        values = {}
        for c, name in enumerate(CATEGORIES):
            own = np.equal(_CATEGORY, c)
            ids = np.flatnonzero(own & _EVALUATED)
            hits = self.matrix[np.ix_(ids, ids)].sum()
            union = self.matrix[ids].sum() + self._false_positives(ids, own)
            values[name] = _ratio(hits, union)
        return values

    def category_instance_scores(self) -> dict[str, float]:
        """iIoU by category, all 8; nan for those without instances."""
        values = {}
        for c, name in enumerate(CATEGORIES):
            own = np.equal(_CATEGORY, c)
            hits, misses = self.weighted_category[own].sum(0)
            wrong = self._false_positives(np.flatnonzero(own), own)
            values[name] = _ratio(hits, hits + wrong + misses) if _COUNTABLE[c] else math.nan
        return values

    def _false_positives(self, columns: Iterable[int], own: NDArray[np.bool_]) -> int:
        """Pixels predicted as `columns` in evaluated rows that are not their `own`."""
        rows = np.flatnonzero(_EVALUATED & ~own)
        return int(self.matrix[np.ix_(rows, np.asarray(list(columns), np.int64))].sum())

    def to_official(self) -> dict[str, Any]:
        """The structure of the official ``resultPixelLevelSemanticLabeling.json``.

        Plain JSON types; where the official file has NaN, this has null.
        """
        parts = {
            "classScores": self.class_scores(),
            "classInstScores": self.class_instance_scores(),
            "categoryScores": self.category_scores(),
            "categoryInstScores": self.category_instance_scores(),
        }
        total = self.matrix.sum()
        return {
            "confMatrix": self.matrix.tolist(),
            "priors": {
                label.name: _or_none(_ratio(self.matrix[label.id].sum(), total)) for label in LABELS
            },
            "labels": {label.name: label.id for label in LABELS},
            **{name: {k: _or_none(v) for k, v in values.items()} for name, values in parts.items()},
            "averageScoreClasses": _or_none(average(parts["classScores"])),
            "averageScoreInstClasses": _or_none(average(parts["classInstScores"])),
            "averageScoreCategories": _or_none(average(parts["categoryScores"])),
            "averageScoreInstCategories": _or_none(average(parts["categoryInstScores"])),
        }

    def to_dict(self, *, classes: bool = True) -> dict[str, Any]:
        """The `instance` section of scores.json; without `classes`, of categories alone."""
        per_class, per_category = self.class_instance_scores(), self.category_instance_scores()
        counted = [label for label in LABELS if _WEIGHED[label.id]]
        return {
            "iiou": _or_none(average(per_class)) if classes else None,
            "category_iiou": _or_none(average(per_category)),
            "instances": int(self.instances.sum()),
            "classes": {
                label.name: {
                    "iiou": _or_none(per_class[label.name]),
                    "instances": int(self.instances[label.id]),
                }
                for label in counted
                if classes
            },
            "categories": {
                name: {"iiou": _or_none(per_category[name])}
                for c, name in enumerate(CATEGORIES)
                if _COUNTABLE[c]
            },
        }


def evaluated_scores(official: OfficialScores) -> Scores:
    """The pixel scores of the 19 evaluated classes, in the order of their train ids.

    A pixel predicted as a label that is not evaluated is wrong, as in the official scores.
    """
    labels = sorted((x for x in LABELS if not x.ignore_in_eval), key=lambda x: x.train_id)
    matrix, class_iou = official.matrix, official.class_scores()
    rows = matrix[[x.id for x in labels]]
    hits, pixels = [int(matrix[x.id, x.id]) for x in labels], rows.sum(1).tolist()
    accuracy = {x.name: _ratio(h, n) for x, h, n in zip(labels, hits, pixels, strict=True)}
    category_iou = official.category_scores()
    categories = dict.fromkeys(x.category for x in labels)
    return Scores(
        miou=average(class_iou),
        pixel_accuracy=_ratio(sum(hits), sum(pixels)),
        mean_accuracy=average(accuracy),
        category_miou=average(category_iou),
        class_names=tuple(accuracy),
        class_iou=tuple(class_iou[name] for name in accuracy),
        class_accuracy=tuple(accuracy.values()),
        class_pixels=tuple(pixels),
        category_names=tuple(categories),
        category_iou=tuple(category_iou[name] for name in categories),
    )


def objects_by_class(table: ObjectTable, space: LabelSpace) -> ObjectTable:
    """Instances by label id as objects by class: columns of one class are added up."""
    classes = space.lut()[:NUM_IDS]
    counts = np.zeros((len(table.counts), space.num_classes), np.int64)
    for label_id in np.flatnonzero(classes != space.ignore_index):
        counts[:, classes[label_id]] += table.counts[:, label_id]
    return ObjectTable(classes[table.classes].astype(np.int64), counts)


def label_id_lut(space: LabelSpace) -> NDArray[np.uint8] | None:
    """uint8 (256,): class index -> label id, or None where `space` cannot be scored officially.

    Every evaluated label has to belong to a class, and the labels of a class to one category;
    a class of several labels stands for the first, so that its category is right.
    """
    if space.source != "cityscapes":
        return None
    by_id = {label.id: label for label in LABELS}
    covered = {i for c in space.classes for i in c.raw_ids}
    if any(_EVALUATED[label.id] and label.id not in covered for label in LABELS):
        return None
    table = np.zeros(256, np.uint8)
    for k, c in enumerate(space.classes):
        evaluated = [i for i in c.raw_ids if i in by_id and not by_id[i].ignore_in_eval]
        chosen = evaluated or [i for i in c.raw_ids if i in by_id]
        if not chosen or len({by_id[i].category for i in chosen}) > 1:
            return None
        table[k] = chosen[0]
    return table


def one_label_a_class(space: LabelSpace) -> bool:
    """Whether each class is a single label, so that scores by class mean something."""
    return all(len(c.raw_ids) == 1 for c in space.classes)


def average(values: Mapping[str, float]) -> float:
    """The mean of the values that are numbers, nan where there is none."""
    known = [v for v in values.values() if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def _ratio(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else math.nan


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
