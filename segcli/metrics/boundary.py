"""Scores at boundaries: boundary IoU, boundary F-score, error against distance to a boundary.

All distances are chessboard distances in pixels (1 to each of the 8 neighbours), which squares
slide over a map in no time. A contour pixel has another class of the same map beside it, at
distance 1; any other pixel is 1 further away than its way to the next contour pixel. Ignored
pixels and the picture's frame are no neighbours: what the truth does not know is no boundary.

Boundary IoU: Cheng et al., Boundary IoU, CVPR 2021, with the pixels of all images counted
together. F-score: Csurka et al., What is a good evaluation measure for semantic segmentation?,
BMVC 2013, its contours likewise counted together, with a square tolerance for its disc.

Shapes: maps uint8 (H, W); K classes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.labels import LabelSpace

U8 = NDArray[np.uint8]
# As shares of the image's diagonal: 11 and 17 pixels at 2048x1024, 3 and 4 at 480x360.
IOU_WIDTH, F_TOLERANCE = 0.005, 0.0075
DISTANCE_EDGES = (1, 2, 3, 5, 9, 17, 33, 65)
# What ignored pixels hold here; no class has this index.
_BLANK = 255


class BoundaryScores:
    """Counts near boundaries over any number of images.

    Attributes:
        iou_counts: int64 (K, 3): pixels near a boundary in both maps and of one class, in
            truth, in prediction.
        contours: int64 (K, 4): predicted contour pixels, those matched, true ones, those
            matched.
        distances: int64 (bins, 2): labelled pixels and wrong ones by distance.
    """

    def __init__(
        self, space: LabelSpace, *, iou_width: float = IOU_WIDTH, tolerance: float = F_TOLERANCE
    ) -> None:
        self.space, self.iou_width, self.tolerance = space, iou_width, tolerance
        self.iou_counts: NDArray[np.int64] = np.zeros((space.num_classes, 3), np.int64)
        self.contours: NDArray[np.int64] = np.zeros((space.num_classes, 4), np.int64)
        self.distances: NDArray[np.int64] = np.zeros((len(DISTANCE_EDGES), 2), np.int64)

    def update(self, truth: U8, prediction: U8) -> None:
        """Count one image, both maps uint8 (H, W); `truth` may hold the ignore index."""
        known = truth != self.space.ignore_index
        blank = np.where(known, np.uint8(0), np.uint8(_BLANK))
        truth, said = truth | blank, prediction | blank
        diagonal = math.hypot(*truth.shape)
        self._count_regions(truth, said, max(1, round(self.iou_width * diagonal)))
        true_edge, said_edge = _near(truth, 1), _near(said, 1)
        tolerance = max(1, round(self.tolerance * diagonal))
        self._count_contours(_only(truth, true_edge), _only(said, said_edge), tolerance)
        self._count_distances(true_edge, known, said != truth)

    def merge(self, other: BoundaryScores) -> None:
        """Add what `other` has counted."""
        self.iou_counts += other.iou_counts
        self.contours += other.contours
        self.distances += other.distances

    def _count_regions(self, truth: U8, said: U8, width: int) -> None:
        near_true, near_said = _near(truth, width), _near(said, width)
        both = near_true & near_said & (truth == said)
        masks = (both, truth), (near_true, truth), (near_said, said)
        for column, (mask, labels) in enumerate(masks):
            self.iou_counts[:, column] += _histogram(labels, mask, self.space.num_classes)

    def _count_contours(self, truth: U8, said: U8, tolerance: int) -> None:
        """Contour pixels of each class, blank elsewhere, and those the other map confirms."""
        import cv2

        window = np.ones((2 * tolerance + 1,) * 2, np.uint8)
        occur = _histogram(truth, None, 256) + _histogram(said, None, 256)
        for k in np.flatnonzero(occur[: self.space.num_classes]):
            true_k, said_k = (truth == k).view(np.uint8), (said == k).view(np.uint8)
            x, y, w, h = cv2.boundingRect(true_k | said_k)
            true_k, said_k = true_k[y : y + h, x : x + w], said_k[y : y + h, x : x + w]
            said_right = cv2.countNonZero(said_k & cv2.dilate(true_k, window))
            true_found = cv2.countNonZero(true_k & cv2.dilate(said_k, window))
            counts = cv2.countNonZero(said_k), said_right, cv2.countNonZero(true_k), true_found
            self.contours[k] += counts

    def _count_distances(
        self, edge: NDArray[np.bool_], known: NDArray[np.bool_], wrong: NDArray[np.bool_]
    ) -> None:
        import cv2

        if not edge.any():
            bins = np.full(edge.shape, len(DISTANCE_EDGES) - 1, np.uint8)
        else:
            # Pixels at an edge have distance 1, and each step away from it adds 1.
            steps = cv2.distanceTransform((~edge).view(np.uint8), cv2.DIST_C, cv2.DIST_MASK_3)
            distance = cv2.convertScaleAbs(steps, alpha=1, beta=1)  # at most 255
            table = np.searchsorted(DISTANCE_EDGES, np.arange(256), side="right") - 1
            bins = np.asarray(cv2.LUT(distance, table.astype(np.uint8)), np.uint8)
        count = len(DISTANCE_EDGES)
        self.distances[:, 0] += _histogram(bins, known, count)
        self.distances[:, 1] += _histogram(bins, known & wrong, count)

    def to_dict(self) -> dict[str, Any]:
        """The `boundary` section of scores.json, plain JSON types."""
        both, true, said = self.iou_counts.T
        iou = _ratios(both, true + said - both)
        said_all, said_right, true_all, true_found = self.contours.T
        precision, recall = _ratios(said_right, said_all), _ratios(true_found, true_all)
        f_score = [_f_score(p, r) for p, r in zip(precision, recall, strict=True)]
        edges: list[int | None] = [*DISTANCE_EDGES, None]
        return {
            "iou": _mean(iou),
            "f_score": _mean(f_score),
            "iou_width": self.iou_width,
            "f_tolerance": self.tolerance,
            "classes": {
                name: {"iou": i, "f_score": f}
                for name, i, f in zip(self.space.class_names, iou, f_score, strict=True)
            },
            "by_distance": [
                {
                    "from": edges[i],
                    "to": edges[i + 1],
                    "pixels": pixels,
                    "errors": errors,
                    "error": errors / pixels if pixels else None,
                }
                for i, (pixels, errors) in enumerate(self.distances.tolist())
            ],
        }


def _near(labels: U8, distance: int) -> NDArray[np.bool_]:
    """Where another class lies within `distance`, bool (H, W); nowhere on blank pixels."""
    import cv2

    window = np.ones((2 * distance + 1,) * 2, np.uint8)
    # Blank pixels must win neither: 255 is the largest for the minimum, 255 + 1 the smallest
    # for the maximum.
    lowest = cv2.erode(labels, window)
    highest = cv2.dilate(labels + np.uint8(1), window)
    return np.asarray((highest - np.uint8(1) != lowest) & (labels != _BLANK))


def _only(labels: U8, mask: NDArray[np.bool_]) -> U8:
    """`labels` where `mask` is set, blank elsewhere."""
    return labels | np.where(mask, np.uint8(0), np.uint8(_BLANK))


def _histogram(labels: U8, mask: NDArray[np.bool_] | None, count: int) -> NDArray[np.int64]:
    import cv2

    chosen = None if mask is None else mask.view(np.uint8)
    return np.asarray(cv2.calcHist([labels], [0], chosen, [count], [0, count]), np.int64).ravel()


def _ratios(part: NDArray[np.int64], whole: NDArray[np.int64]) -> list[float | None]:
    return [p / w if w else None for p, w in zip(part.tolist(), whole.tolist(), strict=True)]


def _f_score(precision: float | None, recall: float | None) -> float | None:
    """None for a class that has no contour in either map; 0 where it has in one alone."""
    if precision is None and recall is None:
        return None
    if not precision or not recall:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
