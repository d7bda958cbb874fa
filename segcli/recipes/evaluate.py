"""Evaluation: predictions against truth, streamed through one confusion matrix.

`evaluate_model` is training's validation, `evaluate_run` (in a file of its own) is
`segcli eval`. Whatever the number of images, only a few of them are in memory at a time.

Shapes: image (H, W, 3), maps (H, W), K classes, n sampled pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcli.data.images import read_image, read_label
from segcli.data.manifest import Sample
from segcli.errors import DataError, LabelSpaceError
from segcli.inference.geometry import Size
from segcli.inference.predictor import Predictor
from segcli.inference.upsample import argmax, strips
from segcli.labels import LabelSpace
from segcli.metrics.confusion import ConfusionMatrix, Scores, scores
from segcli.parallel import map_ahead
from segcli.recipes.evaluate_output import evenly as evenly
from segcli.reporting.events import NullReporter, Reporter

Map = NDArray[np.uint8]
# Rows of probabilities that are turned into logarithms at a time.
_ROWS = 32


@dataclass(frozen=True)
class Evaluation:
    """The outcome over a set of images.

    Attributes:
        scores: everything that follows from `matrix`.
        matrix: int64 (K, K), rows = truth, columns = prediction.
        images: how many were evaluated.
    """

    scores: Scores
    matrix: NDArray[np.int64]
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, the matrix included."""
        return {
            "images": self.images,
            **self.scores.to_dict(),
            "confusion_matrix": self.matrix.tolist(),
        }


@dataclass(frozen=True)
class Loaded:
    """A sample in memory: image (H, W, 3), truth (h, w) with the ignore index."""

    sample: Sample
    image: Map
    truth: Map


@dataclass(frozen=True)
class Sureness:
    """How sure a prediction was.

    Attributes:
        confidence: float32 (h, w), the probability of the class that was predicted.
        places: int64 (n,), sampled pixels in the flat map, ascending.
        logits: float32 (n, K) of those, or log probabilities where views were averaged.
    """

    confidence: NDArray[np.float32]
    places: NDArray[np.int64]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Predicted:
    """Sample number `index` with its class map uint8 (h, w), and how sure that is if asked."""

    index: int
    item: Loaded
    prediction: Map
    sureness: Sureness | None = None


# Called with every sample and its class map (h, w), in the order of the samples.
OnPrediction = Callable[[Loaded, Map], None]
# Which pixels to sample of a truth (h, w), given its number: int64 (n,), ascending.
Places = Callable[[Map, int], NDArray[np.int64]]


def evaluate_model(
    predictor: Predictor,
    samples: Sequence[Sample],
    label_space: LabelSpace | None = None,
    *,
    reporter: Reporter | None = None,
    batch_size: int = 4,
    threads: int | None = None,
    title: str = "eval",
    on_prediction: OnPrediction | None = None,
) -> Evaluation:
    """Score `predictor` on `samples`, each at its label's own resolution.

    The model is left in eval mode.

    Args:
        label_space: of the labels; None is the predictor's own, and no other will do.
        batch_size: pictures of one size that are predicted together.
        threads: that read pictures ahead; None chooses.
        on_prediction: sees every prediction, to draw some of them.

    Raises:
        DataError: an image or label that cannot be read, or that do not have one size.
        LabelSpaceError: labels of other classes than the predictor's.
    """
    space = predictor.label_space
    if label_space is not None and (clause := space.difference(label_space)):
        raise LabelSpaceError(f"model and data have different classes, {clause}")
    matrix = ConfusionMatrix(space.num_classes, space.ignore_index)
    with (reporter or NullReporter()).progress(title, len(samples), unit="images") as progress:
        for one in predict_samples(predictor, samples, batch_size=batch_size, threads=threads):
            matrix.update(one.item.truth, one.prediction)
            if on_prediction is not None:
                on_prediction(one.item, one.prediction)
            progress.advance()
    return Evaluation(scores(matrix, space), matrix.matrix, len(samples))


def predict_samples(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    batch_size: int = 4,
    threads: int | None = None,
    places: Places | None = None,
) -> Iterator[Predicted]:
    """Read and predict `samples` in their order.

    Args:
        places: chooses pixels to sample logits of; with it, predictions say how sure they are.

    Raises:
        DataError: as `evaluate_model`.
    """
    space, index = predictor.label_space, 0
    loaded = map_ahead(lambda s: _load(s, space), samples, threads=threads)
    for batch in _batches(loaded, batch_size):
        size = (batch[0].truth.shape[0], batch[0].truth.shape[1])
        images = [item.image for item in batch]
        if places is None:
            maps = predictor.predict_batch(images, size)
            looks: Iterator[tuple[Map, Sureness | None]] = ((m, None) for m in maps)
        else:
            chosen = [places(item.truth, index + i) for i, item in enumerate(batch)]
            looks = _look(predictor, images, size, chosen)
        for item, (prediction, sureness) in zip(batch, looks, strict=True):
            yield Predicted(index, item, prediction, sureness)
            index += 1


def _look(
    predictor: Predictor, images: Sequence[Map], size: Size, places: Sequence[NDArray[np.int64]]
) -> Iterator[tuple[Map, Sureness]]:
    """Class map, confidence and sampled logits of images, from one pass of the network."""
    if predictor.tta is not None:
        for image, at in zip(images, places, strict=True):
            mean = predictor.probabilities([image], size)[0]
            yield _read_off(_log_strips(mean), size, at)
    else:
        coarse, frame = predictor.coarse(images, size)
        for logits, at in zip(coarse, places, strict=True):
            yield _read_off(strips(logits, frame), size, at)


def _log_strips(mean: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Logarithms of probabilities (K, h, w), a few rows at a time: K numbers a pixel once."""
    for top in range(0, mean.shape[1], _ROWS):
        rows = slice(top, min(top + _ROWS, mean.shape[1]))
        yield rows, mean[:, rows].clamp(min=1e-12).log()


@torch.inference_mode()
def _read_off(
    parts: Iterable[tuple[slice, Tensor]], size: Size, places: NDArray[np.int64]
) -> tuple[Map, Sureness]:
    """What is kept of logits (or log probabilities) that come in strips (K, rows, w)."""
    prediction, confidence = np.empty(size, np.uint8), np.empty(size, np.float32)
    sampled: list[NDArray[np.float32]] = []
    for rows, strip in parts:
        prediction[rows] = argmax(strip).cpu().numpy()
        # The largest of the softmax, without the others.
        confidence[rows] = (strip.amax(0) - strip.logsumexp(0)).exp().cpu().numpy()
        first, last = np.searchsorted(places, (rows.start * size[1], rows.stop * size[1]))
        at = torch.from_numpy(places[first:last] - rows.start * size[1]).to(strip.device)
        sampled.append(strip.flatten(1)[:, at].T.cpu().numpy())
    return prediction, Sureness(confidence, places, np.concatenate(sampled))


def _load(sample: Sample, space: LabelSpace) -> Loaded:
    image = read_image(sample.image)
    truth = read_label(sample.label, label_space=space)
    if image.shape[:2] != truth.shape:
        raise DataError(
            f"label is {truth.shape[1]}x{truth.shape[0]}, "
            f"its image {image.shape[1]}x{image.shape[0]}",
            file=sample.label,
            hint="run segcli prepare-labels again",
        )
    return Loaded(sample, image, truth)


def _batches(items: Iterator[Loaded], size: int) -> Iterator[list[Loaded]]:
    """Neighbours of one size, `size` at most."""
    batch: list[Loaded] = []
    for item in items:
        if batch and (len(batch) == size or item.image.shape != batch[0].image.shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
