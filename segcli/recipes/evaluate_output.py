"""What an evaluation leaves behind: JSON files, the confusion picture, panels, tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segcli import files
from segcli.data.manifest import Sample
from segcli.labels import LabelSpace
from segcli.metrics.confusion import Scores
from segcli.metrics.official import OfficialScores
from segcli.reporting.events import Reporter
from segcli.reporting.tables import percent, report_scores

if TYPE_CHECKING:
    from segcli.recipes.evaluate import Loaded
    from segcli.recipes.evaluate_measures import Measures

Map = NDArray[np.uint8]
Item = TypeVar("Item")


def write_results(
    folder: Path, result: Mapping[str, Any], measures: Measures, *, official: bool = False
) -> None:
    """Write scores.json, images.json, confusion.png and, if asked, official.json."""
    from segcli.reporting.confusion_picture import draw_confusion

    write_json_results(folder, result, measures.images, measures.official if official else None)
    picture = draw_confusion(measures.matrix.matrix, measures.space)
    files.write_bytes(folder / "confusion.png", _png(picture))


def write_json_results(
    folder: Path,
    result: Mapping[str, Any],
    images: Sequence[Mapping[str, Any]],
    official: OfficialScores | None,
) -> None:
    """Write scores.json, images.json (a line for each image) and, if given, official.json."""
    files.write_json(folder / "scores.json", result)
    rows = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in images)
    files.write_text(folder / "images.json", "[\n" + ",\n".join(rows) + "\n]\n")
    if official is not None:
        files.write_json(folder / "official.json", official.to_official())
    else:
        (folder / "official.json").unlink(missing_ok=True)  # of an evaluation before this one


def report_result(
    reporter: Reporter, result: Mapping[str, Any], scores: Scores, title: str
) -> None:
    """The tables of the scores, and of whatever else was measured."""
    report_scores(reporter, scores, f"{title}, {result['images']} images")
    instance, boundary = result["instance"] or {}, result["boundary"] or {}
    calibration, critical = result["calibration"] or {}, result["critical"] or {}
    rows = [
        ["frequency weighted IoU", _percent(result["frequency_weighted_iou"])],
        ["iIoU", _percent(instance.get("iiou"))],
        ["category iIoU", _percent(instance.get("category_iiou"))],
        ["boundary IoU", _percent(boundary.get("iou"))],
        ["boundary F-score", _percent(boundary.get("f_score"))],
        ["expected calibration error", _percent(calibration.get("ece"))],
        [f"{_names(critical, 'truth')} taken for ground", _percent(critical.get("share"))],
    ]
    if (after := calibration.get("after")) and (before := calibration.get("before")):
        text = f"{_percent(after['ece'])} (was {_percent(before['ece'])})"
        rows.insert(6, [f"... at temperature {calibration['temperature']:.2f}", text])
    reporter.table("", ("score", "%"), [row for row in rows if row[1] != "-"])


def _names(critical: Mapping[str, Any], key: str) -> str:
    return " and ".join(critical.get(key, ()))


def _percent(value: float | None) -> str:
    return "-" if value is None else percent(value)


def evenly(items: Sequence[Item], count: int | None) -> list[Item]:
    """At most `count` of `items`, evenly spaced from the first on; None takes all."""
    if count is None or count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


class PanelWriter:
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

    def done(self) -> None:
        """Leave no panel of an earlier evaluation among the new ones."""
        for panel in self._folder.glob("*.png"):
            if panel.stem not in self._written:
                panel.unlink(missing_ok=True)


def _png(picture: Map) -> bytes:
    import cv2

    _, data = cv2.imencode(".png", picture[:, :, ::-1])
    return bytes(data)
