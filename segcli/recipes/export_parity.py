"""Does an exported network still predict the same, and how much faster?

Both questions are asked of whole predictors, uint8 pictures in and class maps out, on real
pictures with known truth.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.data.images import read_image, read_label
from segcli.data.manifest import Sample
from segcli.errors import DataError
from segcli.inference.predictor import Predictor
from segcli.inference.upsample import class_map
from segcli.metrics.confusion import ConfusionMatrix, scores
from segcli.parallel import map_ahead
from segcli.reporting.events import Reporter

# Share of pixels whose class has to stay. int8 moves borders; its mIoU is what counts.
AGREEMENT = {"fp32": 0.999, "bf16": 0.995, "fp16": 0.995, "int8": 0.95}
# mIoU that may be lost, 0..1.
LOSS = 0.005
WARM_UP = 2


@dataclass(frozen=True)
class Limits:
    """Beyond what an export has failed: agreement 0..1, or None by precision; loss of mIoU."""

    agreement: float | None = None
    loss: float = LOSS

    def least_agreement(self, precision: str) -> float:
        """The share of pixels, 0..1, that has to agree."""
        return AGREEMENT.get(precision, 0.95) if self.agreement is None else self.agreement


@dataclass(frozen=True)
class Parity:
    """How an exported network compares with the torch network in fp32.

    Attributes:
        images: how many were compared.
        largest_difference: of coarse logits, absolute.
        agreement: share of pixels with the same class, 0..1.
        miou_before, miou_after: 0..1, of torch and of the exported one; NaN without truth.
        failure: what is beyond a limit, or an empty text.
    """

    images: int
    largest_difference: float
    agreement: float
    miou_before: float
    miou_after: float
    failure: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; NaN is null."""
        values = asdict(self).items()
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values}


class _Comparison:
    """The counts of one exported network."""

    def __init__(self, predictor: Predictor) -> None:
        space = predictor.label_space
        self.predictor = predictor
        self.matrix = ConfusionMatrix(space.num_classes, space.ignore_index)
        self.same = self.pixels = 0
        self.difference = 0.0

    def update(
        self, image: NDArray[np.uint8], truth: NDArray[np.uint8], coarse: Any, before: Any
    ) -> None:
        mine, frame = self.predictor.coarse([image])
        difference = float((mine - coarse).abs().max())
        # max() would let a NaN pass.
        self.difference = difference if not difference <= self.difference else self.difference
        after = class_map(mine[0], frame).numpy()  # as `predict` has it
        self.same += int((after == before).sum())
        self.pixels += after.size
        self.matrix.update(truth, after)

    def parity(self, images: int, miou_before: float, limits: Limits) -> Parity:
        agreement = self.same / self.pixels
        miou = scores(self.matrix, self.predictor.label_space).miou
        least = limits.least_agreement(self.predictor.precision)
        failure = ""
        if not math.isfinite(self.difference):
            failure = "its logits are not finite"
        elif agreement < least:
            failure = f"{agreement:.3%} of pixels keep their class, not {least:.3%}"
        elif miou_before - miou > limits.loss:
            points = 100 * (miou_before - miou)
            failure = f"loses {points:.2f} points of mIoU, more than {100 * limits.loss:g}"
        return Parity(images, self.difference, agreement, miou_before, miou, failure)


def compare(
    reference: Predictor,
    candidates: Mapping[str, Predictor],
    samples: Sequence[Sample],
    *,
    limits: Limits,
    reporter: Reporter,
) -> dict[str, Parity]:
    """Hold every candidate against `reference` on `samples`, in one pass.

    Raises:
        DataError: an image or label that cannot be read.
    """
    space = reference.label_space
    before = ConfusionMatrix(space.num_classes, space.ignore_index)
    comparisons = {name: _Comparison(predictor) for name, predictor in candidates.items()}

    def load(sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, truth = read_image(sample.image), read_label(sample.label, label_space=space)
        if image.shape[:2] != truth.shape:
            hint = "run segcli prepare-labels again"
            raise DataError("image and label differ in size", file=sample.label, hint=hint)
        return image, truth

    with reporter.progress("parity", len(samples), unit="images") as progress:
        for image, truth in map_ahead(load, samples):
            coarse, frame = reference.coarse([image])
            prediction = class_map(coarse[0], frame).numpy()
            before.update(truth, prediction)
            for comparison in comparisons.values():
                comparison.update(image, truth, coarse, prediction)
            progress.advance()
    miou = scores(before, space).miou
    return {name: c.parity(len(samples), miou, limits) for name, c in comparisons.items()}


def benchmark(
    predictors: Mapping[str, Predictor],
    images: Sequence[NDArray[np.uint8]],
    *,
    rounds: int = 10,
    reporter: Reporter,
) -> dict[str, float]:
    """Median milliseconds per image of each predictor, picture in, class map out.

    They take turns, picture by picture, so that whatever else the machine does meets all.
    """
    times: dict[str, list[float]] = {name: [] for name in predictors}
    with reporter.progress("benchmark", rounds + WARM_UP, unit="rounds") as progress:
        for turn in range(rounds + WARM_UP):
            image = images[turn % len(images)]
            for name, predictor in predictors.items():
                start = time.perf_counter()
                predictor.predict(image)
                if turn >= WARM_UP:
                    times[name].append(1000 * (time.perf_counter() - start))
            progress.advance()
    return {name: statistics.median(values) for name, values in times.items()}
