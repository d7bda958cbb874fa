"""What the student gained: its last checkpoint and its control's on the same pictures, paired."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcli.data.manifest import Sample
from segcli.inference.predictor import Predictor
from segcli.labels import LabelSpace
from segcli.metrics.bootstrap import Interval, difference, draw_scores, run_scores
from segcli.metrics.confusion import ConfusionMatrix
from segcli.metrics.image_counts import ImageCounts, image_counts
from segcli.recipes.evaluate import Loaded, evaluate_model
from segcli.reporting.events import Reporter


@dataclasses.dataclass(frozen=True)
class Gain:
    """Scores in 0..1 by name, ``mIoU`` first and then every class; nan where there is none.

    Attributes:
        delta: student minus control, with the 95 % interval over images.
    """

    names: tuple[str, ...]
    control: tuple[float, ...]
    student: tuple[float, ...]
    delta: tuple[Interval, ...]
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, null for nan."""
        rows = zip(self.names, self.control, self.student, self.delta, strict=True)
        return {
            "images": self.images,
            "scores": {
                name: {
                    "control": _or_none(before),
                    "student": _or_none(after),
                    "difference": _or_none(delta.value),
                    "interval": [_or_none(delta.low), _or_none(delta.high)],
                }
                for name, before, after, delta in rows
            },
        }


def compare_with_control(
    student: Path,
    control: Path,
    samples: Sequence[Sample],
    device: torch.device,
    reporter: Reporter,
    *,
    batch_size: int,
) -> Gain:
    """Evaluate both checkpoints on `samples` and report the difference, class by class."""
    counts: list[list[ImageCounts]] = []
    for path, title in ((control, "control"), (student, "student")):
        predictor = Predictor.from_checkpoint(path, device=str(device))
        counts.append([_counts(predictor, samples, reporter, title, batch_size)])
    space = predictor.label_space
    before, after = counts
    draws = draw_scores([*before, *after])
    found = difference(before, after, draws[:, :1], draws[:, 1:])
    gain = Gain(
        ("mIoU", *space.class_names),
        tuple(run_scores(before)[0].tolist()),
        tuple(run_scores(after)[0].tolist()),
        found.over_images,
        len(samples),
    )
    _report(gain, reporter)
    return gain


def _counts(
    predictor: Predictor,
    samples: Sequence[Sample],
    reporter: Reporter,
    title: str,
    batch_size: int,
) -> ImageCounts:
    space = predictor.label_space
    triples: list[list[list[int]]] = []

    def count(item: Loaded, prediction: NDArray[np.uint8]) -> None:
        triples.append(_triples(item.truth, prediction, space))

    evaluate_model(
        predictor,
        samples,
        batch_size=batch_size,
        reporter=reporter,
        title=title,
        on_prediction=count,
    )
    return image_counts(triples, space.num_classes)


def _triples(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], space: LabelSpace
) -> list[list[int]]:
    """An image's confusion matrix as [[truth, prediction, pixels], ...]."""
    one = ConfusionMatrix(space.num_classes, space.ignore_index)
    one.update(truth, prediction)
    return [[int(t), int(p), int(one.matrix[t, p])] for t, p in np.argwhere(one.matrix)]


def _report(gain: Gain, reporter: Reporter) -> None:
    rows = [
        [name, _percent(before), _percent(after), f"{_points(delta.value)} {_range(delta)}"]
        for name, before, after, delta in zip(
            gain.names, gain.control, gain.student, gain.delta, strict=True
        )
        if not math.isnan(delta.value)
    ]
    columns = ["IoU in %", "control", "student", "difference (95 % over images)"]
    reporter.table(f"What the teacher gave, on {gain.images} pictures", columns, rows)
    total = gain.delta[0]
    sure = "above" if total.low > 0 else "below" if total.high < 0 else ""
    verdict = f"{sure} 0 by its interval" if sure else "not to be told from 0"
    reporter.message(
        f"paired difference to the control: {_points(total.value)} points of mIoU, {verdict}; "
        "other seeds may differ by more, segcli compare takes several"
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


def _range(delta: Interval) -> str:
    return f"[{_points(delta.low)}, {_points(delta.high)}]"


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
