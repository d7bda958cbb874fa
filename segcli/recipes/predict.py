"""Prediction: pictures in, indexed PNG masks and colour overlays out.

Run again, it does what is missing: after a kill at whatever moment the end is the same files.
For that pictures are predicted in the same company every time, in groups that are cut from the
list of all; under torchrun each process takes its share of the groups.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from segcli import distributed, files
from segcli.checkpoint import DESCRIPTION
from segcli.data.images import read_image
from segcli.environment import resolve_device
from segcli.errors import DataError
from segcli.inference.predictor import Predictor
from segcli.inference.tta import TTA
from segcli.labels import LabelSpace
from segcli.parallel import map_ahead
from segcli.recipes.predict_inputs import CONFIDENCE, MASKS, OVERLAYS, STDIN, Job, find_jobs
from segcli.recipes.predict_output import Outcome, Wanted, Writer, remove_leftovers, unsure_index
from segcli.recipes.predict_pseudo import write_pseudo_labels
from segcli.reporting.events import NullReporter, Reporter
from segcli.runs import find_checkpoint

if TYPE_CHECKING:
    from segcli.distributed import World
    from segcli.inference.geometry import Size

SUMMARY = "predictions.json"


@dataclass(frozen=True)
class PredictResult:
    """What became of the pictures, over all processes.

    Attributes:
        predicted: how many were predicted now.
        skipped: how many had been before.
        failed: why the others could not be.
        seconds: in all.
        summary: what predictions.json holds.
    """

    predicted: int
    skipped: int
    failed: tuple[DataError, ...]
    seconds: float
    summary: dict[str, Any]


def predict_files(
    inputs: Sequence[str],
    *,
    checkpoint: Path | None = None,
    out: Path = Path("predictions"),
    wanted: Wanted | None = None,
    tta: TTA | None = None,
    tile: str | Size = "auto",
    batch_size: int | None = None,
    redo: bool = False,
    pseudo_labels: bool = False,
    device: str | None = None,
    precision: str | None = None,
    stdin: BinaryIO | None = None,
    reporter: Reporter | None = None,
) -> PredictResult:
    """Predict every picture of `inputs` and write its results below `out`.

    A picture that cannot be read is reported in a line and left out; the others are done.
    Results that are there, of the same picture, network and options, are left as they are.
    Under torchrun every process does its share, and the first one writes the summary.

    Args:
        inputs: see `find_jobs`.
        checkpoint: a run, a checkpoint or an exported file; None takes the newest run's best.
        wanted: what to write; None takes masks and overlays.
        tta: views to average.
        tile: `auto`, or (h, w) of tiles for large pictures.
        batch_size: pictures predicted together, if of one size; None takes 1, and 8 on CUDA.
        redo: predict all of them again.
        pseudo_labels: make `out` a prepared data set, see `write_pseudo_labels`.
        stdin: the list that ``-`` reads.

    Raises:
        CheckpointError, DataError, OutputError, UsageError.
    """
    reporter, wanted = reporter or NullReporter(), wanted or Wanted()
    start = time.perf_counter()
    place = distributed.world()
    several = place.size > 1 and device is None
    where = resolve_device(device, place.local_rank if several else None)
    with distributed.process_group(where):
        # One process lists: a folder may change meanwhile, and a list can be read only once.
        jobs, found = distributed.from_main(place, _prepare(place, inputs, out, stdin, checkpoint))
        predictor = Predictor.from_checkpoint(
            found, device=str(where), precision=precision, warn=reporter.warning, tta=tta
        ).with_tile(tile)
        count = batch_size or (8 if where.type == "cuda" else 1)
        sure = wanted.asks_confidence
        settings = _settings(found, predictor, tile, count, sure=sure)
        writer = Writer(out, predictor.label_space, wanted, settings)
        reporter.message(f"{found} on {len(jobs)} images")
        work = _Work(predictor, writer, wanted, redo)
        groups = [jobs[i : i + count] for i in range(0, len(jobs), count)]
        mine = _run(work, place.share(groups), reporter)
        parts = distributed.from_all(place, mine)
    done = [outcome for part in parts for outcome in part]
    place_of = {job.name: number for number, job in enumerate(jobs)}
    done.sort(key=lambda outcome: place_of[outcome.job.name])
    head = {"checkpoint": _text(found), **settings}
    summary = _summary(done, wanted, head, predictor.label_space)
    if place.is_main:
        files.write_json(out / SUMMARY, summary)
        if pseudo_labels:
            known = [(o.job, o.record) for o in done if o.record is not None]
            write_pseudo_labels(out, known, predictor.label_space)
    failed = tuple(outcome.error for outcome in done if outcome.error is not None)
    skipped = sum(outcome.error is None and not outcome.fresh for outcome in done)
    predicted = len(done) - skipped - len(failed)
    return PredictResult(predicted, skipped, failed, time.perf_counter() - start, summary)


def _prepare(
    place: World, inputs: Sequence[str], out: Path, stdin: BinaryIO | None, checkpoint: Path | None
) -> tuple[list[Job], Path]:
    if not place.is_main:
        return [], Path()
    if stdin is None and STDIN in inputs:
        stdin = sys.stdin.buffer
    jobs = find_jobs(inputs, out, stdin)
    found = find_checkpoint(checkpoint)
    remove_leftovers(out)
    return jobs, found


def _settings(
    found: Path, predictor: Predictor, tile: str | Size, batch_size: int, *, sure: bool
) -> dict[str, Any]:
    """What the results depend on, beside the pictures; `sure`: on how sure the network is."""
    if found.is_dir():
        weights = str(files.read_json(found / DESCRIPTION).get("sha256", ""))
    else:
        parts = (p for p in found.parent.glob(f"{found.stem}.*") if p.is_file())
        weights = files.sha256_bytes("".join(sorted(map(files.sha256_file, parts))).encode())
    return {
        "weights": weights,
        "label_space": predictor.label_space.name,
        "precision": predictor.precision,
        "views": [view.name for view in predictor.views],
        "tile": tile if isinstance(tile, str) else list(tile),
        "batch_size": batch_size,
        # An evaluation may have fitted another one since.
        **({"temperature": predictor.temperature} if sure and predictor.tta is None else {}),
    }


@dataclass(frozen=True)
class _Done:
    """An outcome without pixels; `fresh` is what was made now."""

    job: Job
    record: dict[str, Any] | None
    error: DataError | None
    fresh: bool


@dataclass(frozen=True)
class _Work:
    """What is done to each group of pictures."""

    predictor: Predictor
    writer: Writer
    wanted: Wanted
    redo: bool

    def read(self, group: Sequence[Job]) -> list[Outcome]:
        """A group in memory, or the records of its results where all of them are there."""
        known = [self._known(job) for job in group]
        if all(o.record is not None or o.error is not None for o in known):
            return known
        # One that is there is predicted all the same: its company decides on the last bits.
        return [o if o.error is not None else _read(o) for o in known]

    def _known(self, job: Job) -> Outcome:
        try:
            origin = self.writer.origin(job.image)
        except DataError as error:
            return Outcome(job, error=error)
        return Outcome(job, origin, record=None if self.redo else self.writer.record(job, origin))

    def predict(self, group: Sequence[Outcome]) -> Iterator[Outcome]:
        """The group with class maps, neighbours of one size together."""
        for shape, part in groupby(group, lambda o: None if o.image is None else o.image.shape):
            if shape is None:
                yield from part
                continue
            batch = list(part)
            images = [o.image for o in batch if o.image is not None]
            if self.wanted.asks_confidence:
                maps, sure = self.predictor.confident(images)
                for o, label, confidence in zip(batch, maps, sure, strict=True):
                    yield replace(o, label=label, sure=confidence)
            else:
                for o, label in zip(batch, self.predictor.predict_batch(images), strict=True):
                    yield replace(o, label=label)

    def write(self, outcome: Outcome) -> _Done:
        if outcome.record is not None or outcome.error is not None:
            return _Done(outcome.job, outcome.record, outcome.error, fresh=False)
        return _Done(outcome.job, self.writer.write(outcome).record, None, fresh=True)


def _read(outcome: Outcome) -> Outcome:
    try:
        return replace(outcome, image=read_image(outcome.job.image))
    except DataError as error:
        return Outcome(outcome.job, error=error)


def _run(work: _Work, groups: Sequence[Sequence[Job]], reporter: Reporter) -> list[_Done]:
    """Read ahead, predict here, write behind."""
    done = []
    total = sum(map(len, groups))
    with reporter.progress("predict", total, unit="images") as progress:
        predicted = (o for group in map_ahead(work.read, groups) for o in work.predict(group))
        for outcome in map_ahead(work.write, predicted):
            done.append(outcome)
            if outcome.error is not None:
                reporter.warning(f"left out: {outcome.error}")
            progress.advance()
    return done


def _summary(
    done: Sequence[_Done], wanted: Wanted, head: dict[str, Any], space: LabelSpace
) -> dict[str, Any]:
    """The pictures and what is in them; the same for the same results, however often run."""
    pixels: Counter[int] = Counter()
    images = []
    for outcome in done:
        if outcome.record is None:
            continue
        images.append(_entry(outcome.job, outcome.record, wanted, space))
        pixels.update(dict(outcome.record["pixels"]))
    failed = [
        {"image": _text(o.job.image), "error": _text(str(o.error))}
        for o in done
        if o.error is not None
    ]
    return {
        **head,
        "reject_below": wanted.reject_below,
        "unsure_index": None if wanted.reject_below is None else unsure_index(space),
        **_shares(pixels, wanted, space),
        "images": images,
        "failed": failed,
    }


def _entry(job: Job, record: dict[str, Any], wanted: Wanted, space: LabelSpace) -> dict[str, Any]:
    return {
        "image": _text(job.image),
        "mask": _text(f"{MASKS}/{job.file_name}"),
        "overlay": _text(f"{OVERLAYS}/{job.file_name}") if wanted.overlays else None,
        "confidence_map": _text(f"{CONFIDENCE}/{job.file_name}") if wanted.confidence else None,
        "size": record["size"],
        "confidence": record["confidence"],
        **_shares(Counter(dict(record["pixels"])), wanted, space),
    }


def _text(name: str | Path) -> str:
    """A file name as valid UTF-8; bytes that are not come out as escapes."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def _shares(pixels: Counter[int], wanted: Wanted, space: LabelSpace) -> dict[str, Any]:
    """Shares of all pixels: of every class that occurs, and of what is unsure."""
    total = sum(pixels.values()) or 1
    unsure = pixels[unsure_index(space)] / total
    return {
        "classes": {
            name: round(pixels[k] / total, 6)
            for k, name in enumerate(space.class_names)
            if pixels[k]
        },
        "unsure": None if wanted.reject_below is None else round(unsure, 6),
    }
