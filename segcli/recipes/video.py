"""`segcli video`: films in, films with the classes painted over them out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from segcli.errors import DataError, SegcliError
from segcli.inference.predictor import Predictor
from segcli.inference.tta import TTA
from segcli.recipes.video_inputs import find_jobs
from segcli.recipes.video_make import VideoOptions, VideoResult, make_video, printable
from segcli.reporting.events import NullReporter, Reporter
from segcli.runs import find_checkpoint


class Stopped(SegcliError):  # noqa: N818 (no error: what was asked for)
    """Ctrl-C, or a polite end from elsewhere, after the video was closed in order."""

    def __init__(self, what: str, *, number: int, file: Path | None = None) -> None:
        super().__init__(what, file=file)
        self.exit_code = 128 + number


def make_videos(
    inputs: Sequence[str],
    *,
    checkpoint: Path | None = None,
    out: Path = Path("videos"),
    tta: TTA | None = None,
    options: VideoOptions | None = None,
    device: str | None = None,
    precision: str | None = None,
    reporter: Reporter | None = None,
) -> list[VideoResult]:
    """Make ``out/NAME.mp4`` of every input; what is wrong with one does not stop the others.

    Args:
        checkpoint: a run or a checkpoint; None takes the newest run's best.
        tta: views of every frame to average; None is the plain one.

    Raises:
        CheckpointError, DataError, OutputError, UsageError.
        Stopped: after a signal; the video under way is whole up to there.
    """
    reporter = reporter or NullReporter()
    options = options or VideoOptions()
    jobs = find_jobs(inputs, out, options.masks)
    predictor = Predictor.from_checkpoint(
        find_checkpoint(checkpoint),
        device=device,
        precision=precision,
        warn=reporter.warning,
        tta=tta,
    )
    results = []
    with _stop_in_order() as stop:
        for job in jobs:
            try:
                result = make_video(job, predictor, out, options, stop=stop, reporter=reporter)
            except DataError as error:
                result = VideoResult(job, None, fault=error)
            results.append(result)
            for line in _told(result):
                reporter.message(line)
            if stop.number:
                raise _stopped(result, stop.number)
    return results


def _stopped(result: VideoResult, number: int) -> Stopped:
    """What a signal has left of the video that was under way."""
    if result.path is None:
        return Stopped("stopped before its first frame", number=number, file=result.job.path)
    what = f"stopped after {result.frames} frames, which are in"
    return Stopped(what, number=number, file=result.path)


def _told(result: VideoResult) -> list[str]:
    """What there is to say of a video that was made."""
    if result.path is None:
        return []
    rate = result.frames / max(result.seconds, 1e-9)
    where = ", ".join(f"{name} {part:.0%}" for name, part in result.shares.items())
    lines = [
        f"{printable(str(result.path))}: {result.frames} frames, {result.duration:.2f} s, "
        f"made at {rate:.1f} fps ({where})"
    ]
    if result.flicker is not None:
        before, after = result.flicker
        less = f", {1 - after / before:.0%} less" if before else ""
        lines.append(f"flicker {before:.2%} before smoothing, {after:.2%} after{less}")
    return lines


class _Stop(threading.Event):
    """Set by the first signal, which it remembers."""

    number = 0


@contextmanager
def _stop_in_order() -> Iterator[_Stop]:
    """The first Ctrl-C ends the video behind the frame at hand, a second one at once."""
    stop = _Stop()

    def heard(number: int, frame: FrameType | None) -> None:
        if stop.number:
            raise KeyboardInterrupt
        stop.number = number
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
