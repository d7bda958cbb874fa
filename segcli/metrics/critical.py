"""The misses that hurt: people taken for the ground that a vehicle drives on.

Who counts as people and what as ground follows from the categories `human` and `flat` of the
label space: person and rider, road and sidewalk in Cityscapes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.labels import LabelSpace
from segcli.metrics.objects import ObjectTable

HUMAN, GROUND = "human", "flat"
WORST = 20


class CriticalMisses:
    """Counts of people, of those mostly taken for ground, and the images with the most."""

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        self.human = [i for i, c in enumerate(space.classes) if c.category == HUMAN]
        self.ground = [i for i, c in enumerate(space.classes) if c.category == GROUND]
        self.objects = self.missed = 0
        self._worst: list[tuple[int, str, str]] = []

    @property
    def applies(self) -> bool:
        """Whether the label space knows people and ground at all."""
        return bool(self.human and self.ground)

    def pixels(self, matrix: NDArray[np.int64]) -> int:
        """Pixels of people taken for ground in a (K, K) matrix."""
        return int(matrix[np.ix_(self.human, self.ground)].sum())

    def update(
        self, id: str, split: str, matrix: NDArray[np.int64], table: ObjectTable | None = None
    ) -> int:
        """Count one image by its own matrix, and its objects where they are known.

        Returns:
            `pixels` of the image.
        """
        taken = self.pixels(matrix)
        if taken:
            self._worst.append((taken, id, split))
            self._worst.sort(key=lambda item: (-item[0], item[1:]))
            del self._worst[WORST:]
        if table is not None:
            counts = table.counts[np.isin(table.classes, self.human)]
            self.objects += len(counts)
            self.missed += int((2 * counts[:, self.ground].sum(1) > counts.sum(1)).sum())
        return taken

    def merge(self, other: CriticalMisses) -> None:
        """Add what `other` has counted."""
        self.objects += other.objects
        self.missed += other.missed
        self._worst = sorted([*self._worst, *other._worst], key=lambda item: (-item[0], item[1:]))[
            :WORST
        ]

    def to_dict(self, matrix: NDArray[np.int64]) -> dict[str, Any] | None:
        """The `critical` section of scores.json, with the (K, K) matrix of all images."""
        if not self.applies:
            return None
        names = self.space.class_names
        people = int(matrix[self.human].sum())
        taken = self.pixels(matrix)
        return {
            "truth": [names[i] for i in self.human],
            "prediction": [names[i] for i in self.ground],
            "pixels": people,
            "taken": taken,
            "share": taken / people if people else None,
            "pairs": [
                {
                    "truth": names[t],
                    "prediction": names[p],
                    "pixels": int(matrix[t, p]),
                    "share": int(matrix[t, p]) / int(matrix[t].sum()) if matrix[t].any() else None,
                }
                for t in self.human
                for p in self.ground
            ],
            "objects": self.objects,
            "missed": self.missed,
            "images": [{"id": i, "split": s, "pixels": n} for n, i, s in self._worst],
        }
