"""What `segcli predict` writes for a picture, and how it knows that it has written it before.

A mask carries a record in a text chunk: what it was made with and from, and how many pixels
each class has. It is written last, atomically: a mask with the right record says that all of
the picture's results are there, after whatever kill. There is no other state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segcli import files, png
from segcli.errors import DataError, OutputError
from segcli.labels import IGNORE_INDEX, LabelClass, LabelSpace
from segcli.recipes.predict_inputs import CONFIDENCE, FOLDERS, MASKS, OVERLAYS, Job
from segcli.reporting import render

UNSURE = "unsure"
_KEYWORD = "segcli"
# The first that is far from every class's colour.
_UNSURE_COLORS = ((255, 255, 255), (0, 0, 0), (255, 0, 255), (0, 255, 255), (255, 128, 0))
_FAR = 60


@dataclass(frozen=True)
class Wanted:
    """What is written, and how.

    Attributes:
        overlays: the picture tinted in the classes' colours, with a legend.
        opacity: of the colours, 0..1.
        confidence: grey PNGs of the probability of each pixel's class, 255 is certain.
        reject_below: pixels of a lower probability become unsure; None keeps all.
    """

    overlays: bool = True
    opacity: float = 0.55
    confidence: bool = False
    reject_below: float | None = None

    @property
    def asks_confidence(self) -> bool:
        return self.confidence or self.reject_below is not None

    @property
    def folders(self) -> list[str]:
        """In which a picture has a file; the masks' comes last."""
        return [OVERLAYS] * self.overlays + [CONFIDENCE] * self.confidence + [MASKS]


@dataclass(frozen=True)
class Outcome:
    """A picture on its way: read, predicted, written, or why it was not.

    Attributes:
        origin: what the mask's record says of its making, see `Writer.origin`.
        image, label, sure: (H, W, 3), (H, W), and float32 (H, W) in 0..1 if it is asked for.
        record: of the results that are written.
    """

    job: Job
    origin: str = ""
    image: NDArray[np.uint8] | None = None
    label: NDArray[np.uint8] | None = None
    sure: NDArray[np.float32] | None = None
    record: dict[str, Any] | None = None
    error: DataError | None = None


class Writer:
    """Draws, writes and recognises the results of pictures; called from several threads.

    Args:
        out: nothing is written outside of it, wherever links in it lead.
        settings: all that the results depend on beside the pictures, as JSON types.
    """

    def __init__(
        self, out: Path, space: LabelSpace, wanted: Wanted, settings: dict[str, Any]
    ) -> None:
        self._out, self._space, self._wanted = out, space, wanted
        self._settings = json.dumps([settings, dataclasses.asdict(wanted)], sort_keys=True)
        self._root = Path(os.path.realpath(out))
        self.unsure = unsure_index(space)
        color = _unsure_color(space)
        self._palette = space.palette()
        self._palette[self.unsure] = color
        self._drawn = _with_unsure(space, color)

    def origin(self, image: Path) -> str:
        """A digest of the settings and of which picture this is: its size and its time.

        Raises:
            DataError: no such picture.
        """
        try:
            found = image.stat()
        except OSError as error:
            raise DataError(f"cannot read ({error.strerror})", file=image) from None
        text = f"{self._settings} {found.st_size} {found.st_mtime_ns}"
        return files.sha256_bytes(text.encode())[:32]

    def record(self, job: Job, origin: str) -> dict[str, Any] | None:
        """The record of results that are there already and were made just so, or None."""
        text = png.read_text(self.path(job, MASKS), _KEYWORD)
        try:
            found = json.loads(text or "null")
            same = found["origin"] == origin
        except (ValueError, TypeError, KeyError):
            return None
        there = all(self.path(job, folder).is_file() for folder in self._wanted.folders)
        return dict(found) if same and there else None

    def path(self, job: Job, folder: str) -> Path:
        return self._out / folder / job.file_name

    def write(self, outcome: Outcome) -> Outcome:
        """The results of a picture, unless they are there; without its pixels, to go on with.

        Raises:
            OutputError: a full disk, or a link that leads out of the output folder.
        """
        image, label, sure = outcome.image, outcome.label, outcome.sure
        if image is None or label is None:
            return outcome
        if sure is not None and self._wanted.reject_below is not None:
            label = np.where(sure < self._wanted.reject_below, np.uint8(self.unsure), label)
        record = self._record(outcome.origin, label, sure)
        job = outcome.job
        if self._wanted.overlays:
            self._write(job, OVERLAYS, _png(self._overlay(image, label)))
        if self._wanted.confidence and sure is not None:
            self._write(job, CONFIDENCE, png.encode(np.rint(255 * sure).astype(np.uint8)))
        text = json.dumps(record, separators=(",", ":"))
        mask = png.with_text(render.label_png(label, self._palette), _KEYWORD, text)
        self._write(job, MASKS, mask)
        return Outcome(job, outcome.origin, record=record)

    def _record(
        self, origin: str, label: NDArray[np.uint8], sure: NDArray[np.float32] | None
    ) -> dict[str, Any]:
        counts = np.bincount(label.ravel(), minlength=256)
        return {
            "origin": origin,
            "size": list(label.shape),
            "pixels": [[int(k), int(counts[k])] for k in np.flatnonzero(counts)],
            "confidence": None if sure is None else round(float(sure.mean(dtype=np.float64)), 6),
        }

    def _overlay(self, image: NDArray[np.uint8], label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        space = self._drawn
        drawn = label
        if self._wanted.reject_below is not None and space.num_classes > self._space.num_classes:
            drawn = np.where(label == self.unsure, np.uint8(space.num_classes - 1), label)
        picture = render.overlay(image, drawn, space.palette(), self._wanted.opacity)
        return render.draw_legend(picture, space, render.occurring(drawn, space))

    def _write(self, job: Job, folder: str, data: bytes) -> None:
        path = self.path(job, folder)
        # Checked before folders are made: a link may stand for any of them.
        if not Path(os.path.realpath(path.parent)).is_relative_to(self._root):
            raise OutputError(
                "a link leads out of the output folder", file=path.parent, hint="remove the link"
            )
        files.write_bytes(path, data, durable=False)


def unsure_index(space: LabelSpace) -> int:
    """The value of rejected pixels: the one that training and scores ignore, if it is free."""
    return space.ignore_index if space.ignore_index >= space.num_classes else IGNORE_INDEX


def _unsure_color(space: LabelSpace) -> tuple[int, int, int]:
    def far(color: tuple[int, int, int]) -> int:
        return min(max(abs(a - b) for a, b in zip(color, c.color, strict=True))
                   for c in space.classes)  # fmt: skip

    return next((c for c in _UNSURE_COLORS if far(c) >= _FAR), max(_UNSURE_COLORS, key=far))


def _with_unsure(space: LabelSpace, color: tuple[int, int, int]) -> LabelSpace:
    """The label space with one class more, for overlays and legends, if there is room."""
    if space.num_classes >= 254 or UNSURE in space.class_names:
        return space
    more = LabelClass(UNSURE, color, (), UNSURE)
    return dataclasses.replace(space, classes=(*space.classes, more))


def remove_leftovers(out: Path) -> None:
    """Delete the temporary files of runs that were killed while writing."""
    for folder in FOLDERS:
        for place, _, names in os.walk(out / folder):
            for name in names:
                path = Path(place, name)
                if files.is_temporary(path) and not _alive(path):
                    with contextlib.suppress(OSError):
                        path.unlink()


def _alive(path: Path) -> bool:
    """Whether the process that is writing this temporary file still runs."""
    parts = path.name.rsplit("-", 2)
    return len(parts) > 1 and files.is_running(parts[-2])


def _png(picture: NDArray[np.uint8]) -> bytes:
    ok, data = cv2.imencode(".png", picture[:, :, ::-1])
    if not ok:
        raise OutputError("cannot encode picture")
    return bytes(data)
