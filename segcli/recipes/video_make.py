"""One video from its source to its file: frames, masks, sound, and what there is to say of it."""

from __future__ import annotations

import re
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from segcli import files
from segcli.errors import DataError, SegcliError
from segcli.inference.predictor import Predictor
from segcli.inference.video_write import VideoWriter, add_audio
from segcli.recipes.video_inputs import Source, VideoJob
from segcli.recipes.video_stages import Item, Pipeline
from segcli.reporting.events import NullReporter, Progress, Reporter
from segcli.reporting.render import label_png
from segcli.reporting.video import Look

_SHOWN_EVERY = 0.5  # seconds between two looks at where the time goes


@dataclass(frozen=True)
class VideoOptions:
    """How videos are made.

    Attributes:
        every: predict one frame of this many.
        smooth: weight of the past in 0..1, None for no smoothing.
        masks: folder for one indexed PNG a frame, or None.
        audio: keep the sound.
        limit: frames of each input at most, None for all.
        rate: frames per second of a folder of frames, None for 25.
        crf, preset: of x264.
    """

    look: Look = field(default_factory=Look)
    every: int = 1
    smooth: float | None = None
    masks: Path | None = None
    audio: bool = True
    limit: int | None = None
    rate: float | None = None
    crf: int = 20
    preset: str = "superfast"


@dataclass(frozen=True)
class VideoResult:
    """What became of one input.

    Attributes:
        path: of the video; None when nothing could be decoded.
        frames: how many it has, and `total` how many there should be, if that is known.
        seconds: of wall clock; `duration` is that of the video.
        shares: of the time that each stage took, 0..1.
        flicker: before and after smoothing, 0..1, or None.
        fault: why it is not whole, or None.
    """

    job: VideoJob
    path: Path | None
    frames: int = 0
    total: int | None = None
    seconds: float = 0.0
    duration: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)
    flicker: tuple[float, float] | None = None
    fault: SegcliError | None = None


def make_video(
    job: VideoJob,
    predictor: Predictor,
    out: Path,
    options: VideoOptions,
    *,
    stop: threading.Event | None = None,
    reporter: Reporter | None = None,
) -> VideoResult:
    """One input to ``out/NAME.mp4``, which appears when it is whole.

    Raises:
        DataError: nothing of it can be decoded.
        OutputError: the video cannot be written.
    """
    reporter = reporter or NullReporter()
    stop = stop or threading.Event()
    source = job.open(rate=options.rate, limit=options.limit)
    try:
        with files.atomic_path(out / f"{job.name}.mp4") as temporary:
            maker = _Maker(job, source, predictor, options, stop, reporter)
            return maker.make(temporary, out / f"{job.name}.mp4")
    finally:
        source.close()


class _Maker:
    """The way of one video from its source to its file."""

    def __init__(
        self,
        job: VideoJob,
        source: Source,
        predictor: Predictor,
        options: VideoOptions,
        stop: threading.Event,
        reporter: Reporter,
    ) -> None:
        self._job, self._source, self._options = job, source, options
        self._stop, self._reporter = stop, reporter
        self._palette = predictor.label_space.palette()
        self._pipeline = Pipeline(
            predictor, options.look, every=options.every, smooth=options.smooth, stop=stop
        )
        self._writer: VideoWriter | None = None
        self._has_sound = False
        self._shown = 0.0

    def make(self, temporary: Path, path: Path) -> VideoResult:
        """Write to `temporary`, which is to become `path`."""
        silent = temporary.with_name(f"{temporary.name}.silent")
        with ExitStack() as stack:
            sound = self._source.sound if self._options.audio else None
            stack.callback(silent.unlink, missing_ok=True)
            target = silent if sound else temporary
            target.unlink(missing_ok=True)
            try:
                self._frames(target)
                if self._writer is None:
                    raise DataError(self._nothing(), file=self._job.text)
                self._writer.finish()
            except BaseException:
                if self._writer is not None:
                    self._writer.abort()
                raise
            if sound:
                self._add_sound(silent, temporary, sound)
            return self._result(path, self._writer)

    def _frames(self, target: Path) -> None:
        title, total = printable(self._job.name), self._source.total
        with self._reporter.progress(title, total or 0, unit="frames") as progress:
            for item in self._pipeline.run(self._source):
                with self._pipeline.clock.measure("encode"):
                    self._write(item, target)
                self._show(progress)

    def _write(self, item: Item, target: Path) -> None:
        picture, label = item.picture, item.label
        assert picture is not None and label is not None
        if self._writer is None:
            self._forget_masks()
            self._writer = VideoWriter(
                target,
                (picture.shape[0], picture.shape[1]),
                rate=self._source.rate,
                crf=self._options.crf,
                preset=self._options.preset,
            )
        self._writer.write(picture, item.frame.time)
        if self._options.masks is not None:
            name = f"{item.frame.index:06d}.png"
            png = label_png(label, self._palette)
            files.write_bytes(self._options.masks / self._job.name / name, png, durable=False)

    def _forget_masks(self) -> None:
        """Masks of an earlier video of this name would stand among the new ones."""
        if self._options.masks is not None:
            for mask in (self._options.masks / self._job.name).glob("*.png"):
                if re.fullmatch(r"\d{6,}\.png", mask.name):
                    mask.unlink(missing_ok=True)

    def _shares(self) -> dict[str, float]:
        encode = self._writer.cpu_seconds() if self._writer else 0.0
        return self._pipeline.clock.shares(decode=self._source.cpu_seconds(), encode=encode)

    def _show(self, progress: Progress) -> None:
        now = time.perf_counter()
        if now - self._shown < _SHOWN_EVERY:
            progress.advance()
            return
        self._shown = now
        progress.advance(1, **{name: f"{part:.0%}" for name, part in self._shares().items()})

    def _nothing(self) -> str:
        if self._stop.is_set():
            return "stopped before its first frame"
        return self._source.fault() or "there are no frames in it"

    def _add_sound(self, silent: Path, temporary: Path, sound: tuple[Path, str]) -> None:
        writer = self._writer
        assert writer is not None
        # The sound of a whole video is kept whole; beside a part of one it ends with it.
        cut = self._stop.is_set() or writer.count == self._options.limit
        part = cut or self._source.fault() is not None
        temporary.unlink(missing_ok=True)
        done = add_audio(
            silent,
            sound[0],
            temporary,
            codec=sound[1],
            start=writer.start or Fraction(0),
            end=writer.end if part else None,
        )
        if not done:
            self._reporter.warning(f"the sound cannot be kept: {printable(self._job.text)}")
            temporary.unlink(missing_ok=True)
            silent.rename(temporary)
        self._has_sound = done

    def _result(self, path: Path, writer: VideoWriter) -> VideoResult:
        smoother = self._pipeline.smoother
        before, after = (smoother.before.share, smoother.after.share) if smoother else (None, None)
        return VideoResult(
            job=self._job,
            path=path,
            frames=writer.count,
            total=self._source.total,
            seconds=self._pipeline.clock.elapsed,
            duration=float(writer.end - (0 if self._has_sound else writer.start or 0)),
            shares=self._shares(),
            flicker=None if before is None or after is None else (before, after),
            fault=self._fault(writer.count),
        )

    def _fault(self, frames: int) -> SegcliError | None:
        what = None if self._stop.is_set() else self._source.fault()
        if what is None:
            return None
        total = self._source.total
        of = f" of {'' if self._source.exact else 'about '}{total}" if total else ""
        return DataError(f"{what}, made a video of {frames}{of} frames", file=self._job.text)


def printable(name: str) -> str:
    """A name as it can be shown: control characters in it are replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
