"""Prediction: pictures in, indexed PNG masks and colour overlays out."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segcli import files
from segcli.data.images import IMAGE_SUFFIXES, read_image
from segcli.errors import DataError, OutputError
from segcli.inference.predictor import Predictor
from segcli.labels import LabelSpace
from segcli.parallel import map_ahead
from segcli.reporting import render
from segcli.reporting.events import NullReporter, Reporter
from segcli.runs import find_checkpoint

MASKS, OVERLAYS = "masks", "overlays"


@dataclass(frozen=True)
class Job:
    """A picture to predict, and its name below `masks/` and `overlays/`, without suffix."""

    image: Path
    name: str

    @property
    def file_name(self) -> str:
        return f"{self.name}.png"


@dataclass(frozen=True)
class PredictResult:
    """How many pictures were predicted, which could not be, and seconds in all."""

    predicted: int
    failed: tuple[DataError, ...]
    seconds: float


def find_jobs(inputs: Sequence[str], out: Path) -> list[Job]:
    """Files, folders (recursively) and globs as pictures with a name each.

    A file is named by its stem; what lies in a folder keeps its place below it. Earlier
    results in `out` are not taken for input when a folder or a glob happens to hold them.

    Raises:
        DataError: nothing there, or two pictures whose results would have one name.
    """
    jobs: dict[Path, Job] = {}
    for text in inputs:
        found = list(_expand(text, out))
        if not found:
            raise DataError("no images here", file=text, hint=f"known: {' '.join(IMAGE_SUFFIXES)}")
        for job in found:
            jobs.setdefault(_real(job.image), job)
    names: dict[str, Job] = {}
    for job in jobs.values():
        # Some file systems take a.png and A.png for one file.
        other = names.setdefault(job.name.casefold(), job)
        if other is not job:
            raise DataError(
                f"two images would be written as {job.file_name}",
                file=job.image,
                hint=f"the other is {other.image}; predict them into two --out folders",
            )
    for job in jobs.values():
        for folder in (MASKS, OVERLAYS):
            if _real(out / folder / job.file_name) in jobs:
                raise DataError(
                    "this image would be overwritten",
                    file=out / folder / job.file_name,
                    hint="choose another --out folder",
                )
    return list(jobs.values())


def _expand(text: str, out: Path) -> Iterator[Job]:
    path = Path(text)
    if path.is_dir():
        yield from _walk(path, out)
    elif path.exists():
        yield Job(path, path.stem)
    elif glob.has_magic(text):
        for name in sorted(glob.glob(text, recursive=True)):
            match = Path(name)
            if match.is_dir() and "**" not in text:
                yield from _walk(match, out)
            elif _is_image(match) and not _is_in(match, out):
                yield Job(match, match.stem)
    else:
        raise DataError("no such file or folder", file=text)


def _walk(folder: Path, out: Path) -> Iterator[Job]:
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in place.parts)
        if _is_image(path) and not hidden and not _is_in(path, out):
            yield Job(path, place.with_suffix("").as_posix())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def _is_in(path: Path, out: Path) -> bool:
    """Whether `path` is an earlier result."""
    return any(_real(path).is_relative_to(_real(out / name)) for name in (MASKS, OVERLAYS))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def predict_files(
    inputs: Sequence[str],
    *,
    checkpoint: Path | None = None,
    out: Path = Path("predictions"),
    opacity: float = 0.55,
    overlays: bool = True,
    device: str | None = None,
    precision: str | None = None,
    reporter: Reporter | None = None,
) -> PredictResult:
    """Predict every picture of `inputs` and write its results below `out`.

    A picture that cannot be read is reported in a line and left out; the others are done.

    Args:
        checkpoint: a run or a checkpoint; None takes the newest run's best.
        opacity: of the classes' colours over the picture, 0..1.
        overlays: write these beside the masks.

    Raises:
        CheckpointError, DataError, OutputError, UsageError.
    """
    reporter = reporter or NullReporter()
    jobs = find_jobs(inputs, out)
    found = find_checkpoint(checkpoint)
    predictor = Predictor.from_checkpoint(
        found, device=device, precision=precision, warn=reporter.warning
    )
    writer = _Writer(out, predictor.label_space, opacity if overlays else None)
    reporter.message(f"{found} on {len(jobs)} images")
    failed: list[DataError] = []
    start = time.perf_counter()
    with reporter.progress("predict", len(jobs), unit="images") as progress:
        done = map_ahead(writer.write, _predict(predictor, jobs))
        for error in done:
            if error is not None:
                failed.append(error)
                reporter.warning(f"left out: {error}")
            progress.advance()
    return PredictResult(len(jobs) - len(failed), tuple(failed), time.perf_counter() - start)


@dataclass(frozen=True)
class _Outcome:
    job: Job
    image: NDArray[np.uint8] | None = None
    label: NDArray[np.uint8] | None = None
    error: DataError | None = None


def _predict(predictor: Predictor, jobs: Sequence[Job]) -> Iterator[_Outcome]:
    for outcome in map_ahead(_read, jobs):
        if outcome.image is None:
            yield outcome
        else:
            label = predictor.predict(outcome.image)
            yield _Outcome(outcome.job, outcome.image, label)


def _read(job: Job) -> _Outcome:
    try:
        return _Outcome(job, read_image(job.image))
    except DataError as error:
        return _Outcome(job, error=error)


class _Writer:
    """Draws and writes the results of one picture; called from several threads."""

    def __init__(self, out: Path, space: LabelSpace, opacity: float | None) -> None:
        self._out, self._space, self._opacity = out, space, opacity
        self._palette = space.palette()

    def write(self, outcome: _Outcome) -> DataError | None:
        image, label = outcome.image, outcome.label
        if image is None or label is None:
            return outcome.error
        mask = render.label_png(label, self._palette)
        name = outcome.job.file_name
        files.write_bytes(self._out / MASKS / name, mask, durable=False)
        if self._opacity is not None:
            picture = render.overlay(image, label, self._palette, self._opacity)
            classes = render.occurring(label, self._space)
            picture = render.draw_legend(picture, self._space, classes)
            path = self._out / OVERLAYS / name
            files.write_bytes(path, _encode(picture, path), durable=False)
        return None


def _encode(picture: NDArray[np.uint8], path: Path) -> bytes:
    ok, data = cv2.imencode(".png", picture[:, :, ::-1])
    if not ok:
        raise OutputError("cannot encode picture", file=path)
    return bytes(data)
