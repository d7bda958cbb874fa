"""Evaluation: predictions against truth, streamed through one confusion matrix.

`evaluate_model` is also training's validation; `evaluate_run` is `segcli eval`. Whatever
the number of images, only a few of them are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli import files
from segcli.checkpoint import Checkpoint, load_checkpoint
from segcli.data.images import read_image, read_label
from segcli.data.manifest import Manifest, Sample, load_manifest
from segcli.errors import DataError, LabelSpaceError
from segcli.inference.predictor import Predictor
from segcli.labels import LabelSpace
from segcli.metrics.confusion import ConfusionMatrix, Scores, scores
from segcli.parallel import map_ahead
from segcli.reporting.events import NullReporter, Reporter
from segcli.reporting.tables import report_scores
from segcli.runs import find_checkpoint, is_best, run_folder

Map = NDArray[np.uint8]


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


# Called with every sample and its class map (h, w), in the order of the samples.
OnPrediction = Callable[[Loaded, Map], None]


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
    loaded = map_ahead(lambda s: _load(s, space), samples, threads=threads)
    with (reporter or NullReporter()).progress(title, len(samples), unit="images") as progress:
        for batch in _batches(loaded, batch_size):
            size = (batch[0].truth.shape[0], batch[0].truth.shape[1])
            maps = predictor.predict_batch([item.image for item in batch], size)
            for item, prediction in zip(batch, maps, strict=True):
                matrix.update(item.truth, prediction)
                if on_prediction is not None:
                    on_prediction(item, prediction)
            progress.advance(len(batch))
    return Evaluation(scores(matrix, space), matrix.matrix, len(samples))


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


def evaluate_run(
    run_or_checkpoint: Path | None = None,
    *,
    prepared: Path | None = None,
    splits: Sequence[str] | None = None,
    out: Path | None = None,
    pictures: int | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    reporter: Reporter | None = None,
) -> tuple[dict[str, Any], Path]:
    """Evaluate a checkpoint and write scores.json, confusion.png and pictures.

    Args:
        run_or_checkpoint: None takes the newest run's best.
        prepared: a prepared data set; None takes the one the run was validated on.
        splits: evaluated as one; None takes those the run was validated on.
        out: None takes ``RUN/eval/<splits>``.
        pictures: panels to write, evenly spaced over the samples; None as in the config.
        batch_size: images predicted together; None as in the config.
        limit: evaluate no more than this many, evenly spaced.

    Returns:
        What scores.json holds, and the folder it lies in.

    Raises:
        CheckpointError, DataError, LabelSpaceError, OutputError, UsageError.
    """
    reporter = reporter or NullReporter()
    checkpoint = load_checkpoint(find_checkpoint(run_or_checkpoint), warn=reporter.warning)
    usual = checkpoint.training.get("eval", {})
    batch_size = batch_size or int(usual.get("batch_size", 4))
    pictures = int(usual.get("pictures", 8)) if pictures is None else pictures
    splits = tuple(dict.fromkeys(splits or checkpoint.data.get("val") or ("val",)))
    manifest = _manifest(checkpoint, prepared)
    if prepared is None and manifest.fingerprint() != checkpoint.data.get("fingerprint"):
        reporter.warning(f"{manifest.folder} has changed since this run was trained on it")
    samples = evenly([s for name in splits for s in manifest.split(name)], limit)
    name = "+".join(splits) + ("" if is_best(checkpoint.path) else "-last")
    folder = files.make_folder(out or run_folder(checkpoint.path) / "eval" / name)
    reporter.message(f"{checkpoint.path} on {len(samples)} images of {'+'.join(splits)}")

    predictor = Predictor.of_checkpoint(checkpoint, device=device, precision=precision)
    chosen = evenly(samples, pictures)
    evaluation = evaluate_model(
        predictor,
        samples,
        reporter=reporter,
        batch_size=batch_size,
        on_prediction=_PanelWriter(folder / "pictures", chosen, checkpoint.label_space),
    )
    result = {
        "checkpoint": str(checkpoint.path),
        "step": checkpoint.step,
        "prepared": str(manifest.folder),
        "splits": list(splits),
        "label_space": checkpoint.label_space.name,
        "precision": predictor.precision,
        **evaluation.to_dict(),
    }
    _write(folder, result, evaluation, checkpoint.label_space)
    report_scores(reporter, evaluation.scores, f"{'+'.join(splits)}, {len(samples)} images")
    reporter.message(f"scores, confusion matrix and {len(chosen)} pictures: {folder}")
    return result, folder


def _write(folder: Path, result: dict[str, Any], evaluation: Evaluation, space: LabelSpace) -> None:
    from segcli.reporting.confusion_picture import draw_confusion

    files.write_json(folder / "scores.json", result)
    picture = draw_confusion(evaluation.matrix, space)
    files.write_bytes(folder / "confusion.png", _png(picture))


def _manifest(checkpoint: Checkpoint, prepared: Path | None) -> Manifest:
    """The data to evaluate on, which has to mean the same classes as the checkpoint."""
    usual = Path(str(checkpoint.data.get("prepared", "")))
    if prepared is None and not usual.is_dir():
        raise DataError(
            "the data this run was validated on is not there",
            file=usual,
            hint="say where with --prepared",
        )
    manifest = load_manifest(prepared or usual)
    if clause := checkpoint.label_space.difference(manifest.label_space):
        raise LabelSpaceError(
            f"checkpoint and data have different classes, {clause}",
            file=manifest.folder,
            hint="prepare the data for the checkpoint's label space",
        )
    return manifest


def evenly(items: Sequence[Sample], count: int | None) -> list[Sample]:
    """At most `count` of `items`, evenly spaced from the first on; None takes all."""
    if count is None or count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


class _PanelWriter:
    """Writes a panel of image, truth, prediction and errors for the chosen samples."""

    def __init__(self, folder: Path, chosen: Sequence[Sample], space: LabelSpace) -> None:
        self._folder, self._space = folder, space
        self._chosen = {(s.id, s.label) for s in chosen}
        self._written: set[str] = set()

    def __call__(self, item: Loaded, prediction: Map) -> None:
        if (item.sample.id, item.sample.label) not in self._chosen:
            return
        from segcli.reporting.render import comparison

        sheet = comparison(item.image, item.truth, prediction, self._space)
        # Splits may share ids; the label's folder tells them apart, as in the prepared data.
        split = item.sample.label.parent.name
        name = item.sample.id.replace("/", "_").replace("\\", "_")
        if name in self._written:
            name = f"{name}-{split}"
        self._written.add(name)
        files.write_bytes(self._folder / f"{name}.png", _png(sheet), durable=False)


def _png(picture: Map) -> bytes:
    import cv2

    _, data = cv2.imencode(".png", picture[:, :, ::-1])
    return bytes(data)
