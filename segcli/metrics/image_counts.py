"""What IoU needs to know of each image: true positives, unions and truth, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class ImageCounts(NamedTuple):
    """Tables of N images and K classes.

    Attributes:
        hits: float64 (N, K) of whole numbers, pixels where truth and prediction are k.
        union: the same, pixels where truth or prediction is k, ignored truth left out.
        truth: the same, pixels where truth is k.
    """

    hits: Floats
    union: Floats
    truth: Floats


def image_counts(matrices: Sequence[Sequence[Sequence[int]]], num_classes: int) -> ImageCounts:
    """From each image's confusion matrix as ``[[truth, prediction, n], ...]``.

    Raises:
        ValueError: an entry that is no triple, or of a class that there is not.
    """
    triples = np.asarray([entry for m in matrices for entry in m], np.int64).reshape(-1, 3)
    truth, prediction, number = triples.T
    classes = triples[:, :2]
    if triples.size and (classes.min() < 0 or classes.max() >= num_classes or number.min() < 0):
        raise ValueError(f"counts of other than {num_classes} classes")
    image = np.repeat(np.arange(len(matrices)), [len(m) for m in matrices])
    tables = np.zeros((3, len(matrices), num_classes))
    hit = truth == prediction
    np.add.at(tables[0], (image[hit], truth[hit]), number[hit])
    np.add.at(tables[1], (image, truth), number)
    np.add.at(tables[2], (image, prediction), number)
    hits, rows, columns = tables
    return ImageCounts(hits, rows + columns - hits, rows)
