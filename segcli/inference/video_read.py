"""Frames of a video file as a player shows them: upright, square pixels, each with its time.

ffmpeg decodes to PPM, where each picture brings its own size, and writes the time of each to a
second pipe. Frames that share a time are shown as one; otherwise none is added or left out.

Shapes: image uint8 (H, W, 3) RGB.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import IO

import numpy as np
from numpy.typing import NDArray

from segcli.errors import DataError
from segcli.inference.video_ffmpeg import MAX_PIXELS, Ffmpeg, input_arguments, reason
from segcli.inference.video_probe import VideoInfo

# A small file can hold endless frames of nothing; this is more than nine hours at 30 a second.
MAX_FRAMES = 1_000_000
# Containers round times to milliseconds, which a constant rate does not deserve.
_ROUNDING = Fraction(6, 10_000)
_PIPE = 2**20
_SQUARE = "scale=w='max(1,round(iw*clip(if(sar,sar,1),0.1,10)))':h=ih,setsar=1,format=rgb24"
_CUT_OFF = ("partial file", "ended prematurely", "Truncat", "truncat", "Packet corrupt")


@dataclass(frozen=True)
class Frame:
    """One picture of a video.

    Attributes:
        index: counted from 0.
        time: seconds from the start of the file.
        image: uint8 (H, W, 3) RGB.
    """

    index: int
    time: Fraction
    image: NDArray[np.uint8]


class VideoReader:
    """Decodes one file; iterate over it once, and close it.

    Args:
        info: of the file.
        limit: frames at most; None takes `MAX_FRAMES`.
    """

    def __init__(self, info: VideoInfo, limit: int | None = None) -> None:
        self.info = info
        self._most = min(limit or MAX_FRAMES, MAX_FRAMES)
        self._asked = limit is not None
        self.count, self.ended = 0, False
        reading, writing = os.pipe()
        try:
            self._process = Ffmpeg(
                [
                    *("-v", "error", *input_arguments(info.path)),
                    *("-map", f"0:{info.stream}", "-an", "-sn", "-dn", "-vf", _SQUARE),
                    *("-fps_mode", "vfr", "-enc_time_base", "demux"),
                    *("-stats_enc_pre", f"pipe:{writing}", "-stats_enc_pre_fmt", "{pts} {tb}"),
                    *("-c:v", "ppm", "-f", "image2pipe", "pipe:1"),
                ],
                stdout=True,
                pass_fds=(writing,),
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._times = os.fdopen(reading, "rb")
        _widen(self._process.stdout)

    def __iter__(self) -> Iterator[Frame]:
        """Frames in order; a damaged file yields what can be decoded.

        Raises:
            DataError: pictures that are too large.
        """
        clock = _Clock(self.info.rate)
        while self.count < self._most:
            line = self._times.readline()
            image = self._picture() if line.endswith(b"\n") else None
            if image is None:
                self._process.wait()
                self.ended = True
                return
            yield Frame(self.count, clock.time(line), image)
            self.count += 1

    def _picture(self) -> NDArray[np.uint8] | None:
        pipe = self._process.stdout
        head = [pipe.readline(32) for _ in range(3)]
        if head[0] != b"P6\n" or head[2] != b"255\n":
            return None
        width, height = (int(side) for side in head[1].split())
        if width * height > MAX_PIXELS:
            raise DataError(f"{width}x{height} is too large a video", file=self.info.path)
        image = np.empty((height, width, 3), np.uint8)
        view, at = image.data.cast("B"), 0
        while at < len(view):
            got = pipe.readinto(view[at:])  # type: ignore[attr-defined]
            if not got:
                return None
            at += got
        return image

    def fault(self) -> str | None:
        """Why the end of the stream is not the end of the video; None when it is.

        To be asked once the frames are through.
        """
        messages = list(self._process.messages)
        if not self.ended:
            return None if self._asked else f"more than {MAX_FRAMES} frames"
        if not self.count:
            return reason(messages)
        short = self.info.exact and self.count < 0.98 * (self.info.frames or 0) - 1
        if short or any(words in line for line in messages for words in _CUT_OFF):
            return "truncated or damaged"
        return None

    def cpu_seconds(self) -> float:
        """CPU time of decoding so far."""
        return self._process.cpu_seconds()

    def close(self) -> None:
        """End decoding, wherever it is."""
        self._process.stop()
        self._times.close()


class _Clock:
    """Times from ffmpeg's lines, rounding undone, each later than the one before."""

    def __init__(self, rate: Fraction | None) -> None:
        self._rate, self._last = rate, Fraction(-1)

    def time(self, line: bytes) -> Fraction:
        number, base = line.split()
        time = max(int(number) * Fraction(base.decode("ascii")), Fraction(0))
        if self._rate:
            even = round(time * self._rate) / self._rate
            time = even if abs(even - time) <= _ROUNDING else time
        if time <= self._last:
            time = self._last + Fraction(1, 1000)
        self._last = time
        return time


def _widen(pipe: IO[bytes]) -> None:
    """A larger pipe buffer, where the system allows it: fewer turns per frame."""
    try:
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
    except (ImportError, AttributeError, OSError):
        pass
