"""`segcli eval --predictions`: a folder of PNGs against a Cityscapes tree or a prepared data set.

No model and no torch: decoding the PNGs is most of the work, and counting what they hold goes
on beside it, on every core.

Shapes: maps (H, W).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcli import files
from segcli.data.cityscapes_truth import Truth, find_truths, read_truth
from segcli.data.images import read_label
from segcli.data.manifest import Manifest, Sample, load_manifest
from segcli.environment import usable_cores
from segcli.errors import DataError, UsageError
from segcli.labels import LabelSpace, load_label_space
from segcli.metrics.boundary import BoundaryScores
from segcli.metrics.confusion import ConfusionMatrix, scores
from segcli.metrics.official import (
    NUM_IDS,
    OfficialScores,
    evaluated_scores,
    label_id_lut,
    objects_by_class,
)
from segcli.parallel import map_ahead
from segcli.recipes.evaluate_measures import Measures, Part
from segcli.recipes.evaluate_output import evenly, report_result, write_results
from segcli.reporting.events import NullReporter, Reporter

Map = NDArray[np.uint8]
# The values of so many files say what the values of all are.
_LOOKED_AT = 16


class Pair(NamedTuple):
    """A truth and the PNG of label ids (or train ids) that predicts it."""

    truth: Truth
    prediction: Path


def evaluate_folder(
    predictions: Path,
    *,
    truth: Path | None = None,
    prepared: Path | None = None,
    splits: Sequence[str] | None = None,
    ids: str = "auto",
    out: Path | None = None,
    limit: int | None = None,
    boundary: bool = False,
    official_json: bool = False,
    reporter: Reporter | None = None,
) -> tuple[dict[str, Any], Path]:
    """Score a folder of PNGs, found by name at any depth, and write the results.

    Args:
        truth: a Cityscapes tree; the scores are the official ones, with instances.
        prepared: a prepared data set, in place of `truth`: of a Cityscapes tree, it leads
            there; of any other, the PNGs hold its class indices.
        splits: evaluated as one; None is val.
        ids: what PNGs of Cityscapes hold: `label` ids as the official tool takes them,
            `train` ids as `segcli predict` writes them, or `auto`: what the values of some
            files say.
        out: None takes the folder ``PREDICTIONS-eval`` beside it.

    Returns:
        What scores.json holds, and the folder it lies in.

    Raises:
        DataError, OutputError, UsageError.
    """
    reporter = reporter or NullReporter()
    if not predictions.is_dir():
        raise DataError("no such folder", file=predictions)
    splits = tuple(dict.fromkeys(splits or ("val",)))
    manifest = None if prepared is None else load_manifest(prepared)
    if manifest is not None:
        truth = manifest.source if manifest.layout == "cityscapes" else None
    elif truth is None:
        raise UsageError(
            "predictions of what?", hint="give --truth CITYSCAPES or --prepared FOLDER"
        )
    if truth is not None:
        truths = [t for name in splits for t in find_truths(truth, name)]
        result, measures = _cityscapes(
            predictions, evenly(truths, limit), ids, boundary=boundary, reporter=reporter
        )
    elif manifest is None or official_json:
        raise UsageError("no official scores without Cityscapes' labels and instances")
    else:
        samples = [(name, s) for name in splits for s in manifest.split(name)]
        result, measures = _indices(
            predictions, manifest, evenly(samples, limit), boundary=boundary, reporter=reporter
        )
    place = predictions.resolve()
    folder = files.make_folder(out or place.with_name(f"{place.name}-eval"))
    head = {"checkpoint": None, "step": None, "predictions": str(place), "splits": list(splits)}
    result = {**head, **result, "tta": None, "stress": None}
    write_results(folder, result, measures, official=official_json)
    reporter.message(f"scores and confusion matrix: {folder}")
    return result, folder


def _cityscapes(
    predictions: Path, truths: Sequence[Truth], ids: str, *, boundary: bool, reporter: Reporter
) -> tuple[dict[str, Any], Measures]:
    """Scores by the official protocol."""
    found = _by_key(predictions)
    missing = [t.id for t in truths if t.id not in found]
    if missing:
        raise DataError(
            f"no prediction of {len(missing)} of {len(truths)} images, such as '{missing[0]}'",
            file=predictions,
            hint="a file's name begins with city_sequence_frame and ends with .png",
        )
    pairs = [Pair(t, found[t.id]) for t in truths]
    if ids == "auto":
        ids = _guess([p.prediction for p in evenly(pairs, _LOOKED_AT)])
        reporter.message(f"the values of the PNGs are {ids} ids (--ids says otherwise)")
    space = load_label_space("cityscapes-19")
    instances = all(t.instances is not None for t in truths)
    if not instances:
        reporter.warning("no instance scores: *_instanceIds.png are not there")
    measures = Measures(space, len(pairs), boundary=boundary, sure=False)
    measures.official = official = OfficialScores()
    counter = _Counter(space, train_ids=ids == "train", boundary=boundary)
    parts = map_ahead(counter, pairs, threads=usable_cores())
    with reporter.progress("eval", len(pairs), unit="images") as progress:
        for pair, part in zip(pairs, parts, strict=True):
            measures.add(pair.truth.split, pair.truth.id, (None, pair.truth.labels), part)
            progress.advance()
    found_scores = evaluated_scores(official)
    unscored = int(found_scores.pixels - measures.matrix.matrix.sum())
    if unscored:
        reporter.warning(f"{unscored} pixels are predicted as labels that are not evaluated")
    result = {
        "prepared": None,
        "label_space": space.name,
        "ids": ids,
        "images": len(pairs),
        **found_scores.to_dict(),
        "unscored": unscored,
        "confusion_matrix": measures.matrix.matrix.tolist(),
        **measures.to_dict(),
    }
    if not instances:
        result |= {"instance": None, "objects": None}
    report_result(reporter, result, found_scores, predictions.name)
    return result, measures


class _Counter:
    """Reads and counts one pair; safe to call from several threads."""

    def __init__(self, space: LabelSpace, *, train_ids: bool, boundary: bool) -> None:
        self._space, self._train_ids, self._boundary = space, train_ids, boundary
        table = label_id_lut(space)
        if table is None:
            raise ValueError(f"'{space.name}' is not scored officially")
        self._to_id, self._to_class = table, space.lut()
        self._rows = np.ix_(table[: space.num_classes], table[: space.num_classes])

    def __call__(self, pair: Pair) -> Part:
        import cv2

        said = read_label(pair.prediction)
        if self._train_ids:
            if int(said.max()) >= self._space.num_classes:
                raise _wrong_values(said, self._space.num_classes, "train", pair.prediction)
            said = np.asarray(cv2.LUT(said, self._to_id), np.uint8)
        elif int(said.max()) >= NUM_IDS:
            raise _wrong_values(said, NUM_IDS, "label", pair.prediction)
        truth, instances = read_truth(pair.truth)
        if said.shape != truth.shape:
            raise DataError(
                f"prediction is {said.shape}, truth {truth.shape}", file=pair.prediction
            )
        if instances is None:
            instances = np.zeros(truth.shape, np.uint16)
        official = OfficialScores()
        try:
            table = official.update(truth, instances, said)
        except ValueError as error:
            raise DataError(str(error), file=pair.truth.labels) from None
        matrix = ConfusionMatrix(self._space.num_classes, self._space.ignore_index)
        matrix.matrix += official.matrix[self._rows]
        boundary = None
        if self._boundary:
            boundary = BoundaryScores(self._space)
            boundary.update(self._to_class[truth], self._to_class[said])
        return Part(matrix, objects_by_class(table, self._space), boundary, official, None)


def _wrong_values(said: Map, count: int, kind: str, path: Path) -> DataError:
    value = int(said.max())
    other = "train" if kind == "label" else "label"
    return DataError(
        f"value {value} is no {kind} id, which go from 0 to {count - 1}",
        file=path,
        hint=f"--ids {other}?" if value < NUM_IDS else "every pixel needs a prediction",
    )


def _guess(paths: Iterable[Path]) -> str:
    """`train` where the values are 0 to 18 and some below 7, ids that nobody predicts."""
    values = np.zeros(256, bool)
    for path in paths:
        values[np.unique(read_label(path))] = True
    return "train" if values[:7].any() and not values[19:NUM_IDS].any() else "label"


def _by_key(folder: Path) -> dict[str, Path]:
    """PNGs by city_sequence_frame."""
    # What `segcli predict` writes: the masks, not the overlays beside them.
    folder = folder / "masks" if (folder / "masks").is_dir() else folder
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.png")):
        parts = path.stem.split("_")
        key = "_".join(parts[:3])
        if len(parts) < 3 or not (parts[1] + parts[2]).isdigit():
            continue
        if key in found:
            raise DataError(f"two predictions of '{key}', {found[key]} and", file=path)
        found[key] = path
    return found


def _indices(
    predictions: Path,
    manifest: Manifest,
    samples: Sequence[tuple[str, Sample]],
    *,
    boundary: bool,
    reporter: Reporter,
) -> tuple[dict[str, Any], Measures]:
    """Scores of PNGs of class indices against the labels of a prepared data set."""
    space = manifest.label_space
    folder = predictions / "masks" if (predictions / "masks").is_dir() else predictions
    missing = [s for _, s in samples if not (folder / f"{s.id}.png").is_file()]
    if missing:
        raise DataError(
            f"no prediction of {len(missing)} of {len(samples)} images",
            file=folder / f"{missing[0].id}.png",
        )
    measures = Measures(space, len(samples), boundary=boundary, sure=False)

    def count(item: tuple[str, Sample]) -> Part:
        split, sample = item
        path = folder / f"{sample.id}.png"
        truth, said = read_label(sample.label, label_space=space), read_label(path)
        if said.shape != truth.shape or int(said.max()) >= space.num_classes:
            raise DataError(f"not {truth.shape} of classes of '{space.name}'", file=path)
        return measures.measure(split, sample, truth, said)

    parts = map_ahead(count, samples, threads=usable_cores())
    with reporter.progress("eval", len(samples), unit="images") as progress:
        for (split, sample), part in zip(samples, parts, strict=True):
            measures.add(split, sample.id, (sample.image, sample.label), part)
            progress.advance()
    found = scores(measures.matrix, space)
    result = {
        "prepared": str(manifest.folder),
        "label_space": space.name,
        "images": len(samples),
        **found.to_dict(),
        "confusion_matrix": measures.matrix.matrix.tolist(),
        **measures.to_dict(),
    }
    report_result(reporter, result, found, predictions.name)
    return result, measures
