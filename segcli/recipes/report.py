"""The evaluation report: picks what to show, predicts those few images again, draws the page.

What is shown is chosen from the confusion matrices of the single images, so that the pass
over the data keeps no picture in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.data.images import read_image, read_label
from segcli.inference.predictor import Predictor
from segcli.labels import LabelSpace
from segcli.reporting.events import NullReporter, Reporter
from segcli.reporting.html.data import ClassDetail, Confusion, Crop, Picture, ReportData
from segcli.reporting.html.evaluation import write_report
from segcli.reporting.html.pictures import class_thumb, confusion_crop, picture

Map = NDArray[np.uint8]
Counts = NDArray[np.int64]
Entry = Mapping[str, Any]
# From an entry of images.json: image (H, W, 3), truth (H, W), prediction (H, W).
Shown = tuple[Map, Map, Map]
Show = Callable[[Entry], Shown]

_WORST = 8  # images under a slider
_CLASS_IMAGES = 3
_PAIRS = 4
_PAIR_CROPS = 2


@dataclass
class _Task:
    """What to draw of one image: under a slider, its classes, the pairs to crop."""

    entry: Entry
    worst: bool = False
    classes: list[int] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class _Drawn:
    """What was drawn: pictures by position, thumbs by class, crops by (truth, prediction)."""

    pictures: dict[int, Picture] = field(default_factory=dict)
    thumbs: dict[int, list[Crop]] = field(default_factory=dict)
    crops: dict[tuple[int, int], list[Crop]] = field(default_factory=dict)


def report_evaluation(
    folder: Path,
    result: Mapping[str, Any],
    images: Sequence[Entry],
    space: LabelSpace,
    show: Show,
    *,
    title: str = "",
    most: int = 40,
    reporter: Reporter | None = None,
) -> Path:
    """Write ``folder/index.html`` and return its path.

    Args:
        result: what scores.json holds.
        images: what images.json holds.
        show: image, truth and prediction of an entry; see `shown_by`.
        title: such as the run's name; '' takes it from the checkpoint's path.
        most: images that are shown again at most, for all parts of the report together.

    Raises:
        DataError: an image or label that cannot be read any more.
        OutputError: when the page cannot be written.
    """
    matrix = np.asarray(result["confusion_matrix"], np.int64)
    tasks = _choose(images, matrix, most)
    drawn = _Drawn()
    with (reporter or NullReporter()).progress("report", len(tasks), unit="images") as progress:
        for position, task in tasks.items():
            _draw(position, task, show(task.entry), space, drawn)
            progress.advance()
    data = ReportData(
        title=title or _title(result),
        space=space,
        scores=result,
        images=images,
        worst=[drawn.pictures[i] for i, task in tasks.items() if task.worst],
        classes=_details(matrix, drawn),
    )
    return write_report(folder, data)


def shown_by(predictor: Predictor) -> Show:
    """Images are read and predicted again; labels are those of a prepared data set."""

    def show(entry: Entry) -> Shown:
        image = read_image(Path(entry["image"]))
        truth = read_label(Path(entry["label"]), label_space=predictor.label_space)
        return image, truth, predictor.predict(image, (truth.shape[0], truth.shape[1]))

    return show


def _title(result: Mapping[str, Any]) -> str:
    """The run's name: of ``runs/NAME/best`` it is NAME."""
    path = Path(str(result.get("checkpoint") or "evaluation"))
    generic = path.name.removesuffix(".previous") in ("best", "last")
    return path.parent.name if generic and path.parent.name else path.name


def _choose(images: Sequence[Entry], matrix: Counts, most: int) -> dict[int, _Task]:
    """Which images to show for what, by their position; the worst first, the lowest leading.

    When `most` images are chosen, what follows makes do with those.
    """
    counts = _dense(images, len(matrix))
    tasks: dict[int, _Task] = {}

    def pick(badness: NDArray[np.float64], number: int) -> list[int]:
        picked: list[int] = []
        for i in np.argsort(-badness, kind="stable").tolist():
            if len(picked) == number or not badness[i] > 0:
                break
            if i in tasks or len(tasks) < most:
                tasks.setdefault(i, _Task(images[i]))
                picked.append(i)
        return picked

    scores = [1.0 if e["miou"] is None else float(e["miou"]) for e in images]
    for i in pick(1 - np.asarray(scores), min(_WORST, most)):
        tasks[i].worst = True
    hits = counts.diagonal(axis1=1, axis2=2)
    wrong = counts.sum(1) + counts.sum(2) - 2 * hits
    for k in _weakest_first(matrix):
        for i in pick(wrong[:, k].astype(float), _CLASS_IMAGES):
            tasks[i].classes.append(k)
        for said in _taken_for(matrix, k):
            for i in pick(counts[:, k, said].astype(float), _PAIR_CROPS):
                tasks[i].pairs.append((k, said))
    return tasks


def _dense(images: Sequence[Entry], k: int) -> Counts:
    """int64 (N, K, K) from the sparse counts of the entries."""
    counts = np.zeros((len(images), k, k), np.int64)
    for i, entry in enumerate(images):
        for truth, said, pixels in entry["counts"]:
            counts[i, truth, said] += pixels
    return counts


def _weakest_first(matrix: Counts) -> list[int]:
    hits = matrix.diagonal()
    union = np.maximum(1, matrix.sum(0) + matrix.sum(1) - hits)
    return [int(k) for k in np.argsort(hits / union, kind="stable")]


def _taken_for(matrix: Counts, k: int) -> list[int]:
    """The classes that `k` is taken for most, each for more than a thousandth of its pixels."""
    row = matrix[k].copy()
    row[k] = 0
    order = np.argsort(-row, kind="stable")[:_PAIRS]
    return [int(said) for said in order if row[said] > matrix[k].sum() / 1000]


def _draw(position: int, task: _Task, shown: Shown, space: LabelSpace, drawn: _Drawn) -> None:
    image, truth, prediction = shown
    name = str(task.entry["id"])
    if task.worst:
        drawn.pictures[position] = picture(
            name,
            image,
            truth,
            prediction,
            space,
            miou=task.entry["miou"],
            pixel_accuracy=task.entry["pixel_accuracy"],
        )
    for k in task.classes:
        thumb = class_thumb(name, image, truth, prediction, k, space.ignore_index)
        drawn.thumbs.setdefault(k, []).append(thumb)
    for k, said in task.pairs:
        confused = (truth == k) & (prediction == said)
        crop = confusion_crop(name, image, np.where(confused, np.uint8(255), np.uint8(0)))
        if crop is not None:
            drawn.crops.setdefault((k, said), []).append(crop)


def _details(matrix: Counts, drawn: _Drawn) -> list[ClassDetail]:
    details = []
    for k in range(len(matrix)):
        total = max(1, int(matrix[k].sum()))
        thumbs = sorted(drawn.thumbs.get(k, []), key=lambda crop: -crop.pixels)
        confusions = []
        for said in _taken_for(matrix, k):
            crops = sorted(drawn.crops.get((k, said), []), key=lambda c: -c.pixels)
            pixels = int(matrix[k, said])
            confusions.append(Confusion(k, said, pixels, pixels / total, tuple(crops)))
        if thumbs or confusions:
            details.append(ClassDetail(k, tuple(thumbs), tuple(confusions)))
    return details
