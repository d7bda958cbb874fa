"""All that one pass over the predictions measures beside the confusion matrix.

An image is measured on its own, in a thread, while the next one is predicted; what it gave is
then added up in the order of the images.

Shapes: maps (H, W), K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcli.data.cityscapes_truth import Truth, read_truth
from segcli.data.manifest import Sample
from segcli.errors import DataError
from segcli.labels import LabelSpace
from segcli.metrics.boundary import BoundaryScores
from segcli.metrics.calibration import Calibration, reliability
from segcli.metrics.confusion import ConfusionMatrix
from segcli.metrics.critical import CriticalMisses
from segcli.metrics.objects import ObjectScores, ObjectTable, component_table, thing_classes
from segcli.metrics.official import (
    OfficialScores,
    label_id_lut,
    objects_by_class,
    one_label_a_class,
)

Map = NDArray[np.uint8]


class Part(NamedTuple):
    """What one image gave."""

    matrix: ConfusionMatrix
    table: ObjectTable
    boundary: BoundaryScores | None
    official: OfficialScores | None
    reliability: NDArray[np.float64] | None


class Measures:
    """Adds up what images give.

    Args:
        images: how many will come.
        truths: the official truth of each image by (split, id), where there is one.
        boundary: whether to look at boundaries, which takes the longest.
        sure: whether predictions will say how sure they are.
    """

    def __init__(
        self,
        space: LabelSpace,
        images: int,
        *,
        truths: Mapping[tuple[str, str], Truth] | None = None,
        boundary: bool = True,
        sure: bool = True,
    ) -> None:
        self.space = space
        self.matrix = ConfusionMatrix(space.num_classes, space.ignore_index)
        self.objects = ObjectScores(space, "instances" if truths else "components")
        self.critical = CriticalMisses(space)
        self.boundary = BoundaryScores(space) if boundary else None
        self.calibration = Calibration(images, ignore_index=space.ignore_index) if sure else None
        self.official = OfficialScores() if truths else None
        self.images: list[dict[str, Any]] = []
        self._truths, self._things = truths or {}, thing_classes(space)
        self._ids = label_id_lut(space) if truths else None

    def measure(
        self,
        split: str,
        sample: Sample,
        truth: Map,
        prediction: Map,
        confidence: NDArray[np.float32] | None = None,
    ) -> Part:
        """Measure one image; safe to call from several threads.

        Raises:
            DataError: an official truth that cannot be read, or is of another size.
        """
        matrix = ConfusionMatrix(self.space.num_classes, self.space.ignore_index)
        matrix.update(truth, prediction)
        boundary = sums = official = None
        if self.boundary is not None:
            boundary = BoundaryScores(self.space)
            boundary.update(truth, prediction)
        if confidence is not None:
            sums = reliability(truth, prediction, confidence, self.space.ignore_index)
        if self._ids is not None:
            official, table = self._officially(self._truths[split, sample.id], prediction)
        else:
            table = component_table(truth, prediction, self.space.num_classes, self._things)
        return Part(matrix, table, boundary, official, sums)

    def _officially(self, truth: Truth, prediction: Map) -> tuple[OfficialScores, ObjectTable]:
        official = OfficialScores()
        ids, instances = read_truth(truth)
        if ids.shape != prediction.shape or instances is None or instances.shape != ids.shape:
            raise DataError("label and instances do not have one size", file=truth.labels)
        if self._ids is None:
            raise ValueError("this label space is not scored officially")
        by_id = official.update(ids, instances, self._ids[prediction])
        return official, objects_by_class(by_id, self.space)

    def add(self, split: str, id: str, paths: tuple[Path | None, Path], part: Part) -> None:
        """Add what an image gave, in one thread; `paths` are those of image and label."""
        self.matrix.merge(part.matrix)
        self.objects.update(part.table)
        if self.boundary is not None and part.boundary is not None:
            self.boundary.merge(part.boundary)
        if self.official is not None and part.official is not None:
            self.official.merge(part.official)
        if self.calibration is not None and part.reliability is not None:
            self.calibration.sums += part.reliability
        critical = self.critical.update(id, split, part.matrix.matrix, part.table)
        self.images.append(
            {
                "id": id,
                "split": split,
                "image": None if paths[0] is None else str(paths[0]),
                "label": str(paths[1]),
                **_image_scores(part.matrix.matrix),
                "critical": critical,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """The sections ``instance`` to ``objects`` of scores.json; null for what was not asked."""
        by_class = one_label_a_class(self.space)
        return {
            "instance": self.official.to_dict(classes=by_class) if self.official else None,
            "boundary": self.boundary.to_dict() if self.boundary else None,
            "calibration": self.calibration.to_dict() if self.calibration else None,
            "critical": self.critical.to_dict(self.matrix.matrix),
            "objects": self.objects.to_dict(),
        }


def _image_scores(matrix: NDArray[np.int64]) -> dict[str, Any]:
    """Scores of one image, and the entries of its (K, K) matrix that are not 0."""
    hits, total = matrix.diagonal(), matrix.sum()
    union = matrix.sum(0) + matrix.sum(1) - hits
    iou = hits[union > 0] / union[union > 0]
    return {
        "miou": float(iou.mean()) if iou.size else None,
        "pixel_accuracy": float(hits.sum() / total) if total else None,
        "counts": [[int(t), int(p), int(matrix[t, p])] for t, p in np.argwhere(matrix)],
    }
