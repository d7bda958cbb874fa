"""Frames to an H.264 file that every browser plays, with the sound of the input.

Frames go to ffmpeg as Matroska with uncompressed pictures, which carries a time for each of
them; a variable frame rate stays one. Colours: BT.601, limited range, as the file then says.

Shapes: image uint8 (H, W, 3) RGB.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segcli.errors import OutputError
from segcli.inference.video_ffmpeg import Ffmpeg, file_url, input_arguments, reason

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow")
_COPIED_AUDIO = ("aac", "mp3", "opus")
_TICK = 1000  # nanoseconds: times are written in microseconds
_KEY_SECONDS = 2
_USUAL_RATE = Fraction(25)


class VideoWriter:
    """Encodes one video without sound; `finish` or `abort` ends it.

    Odd sides are made even by repeating the last row or column, as H.264 4:2:0 wants them.

    Args:
        path: written as it is; the caller makes that safe.
        size: (height, width) of the frames.
        rate: frames per second, or None; it spaces key frames and times the last frame.
        crf: x264's constant rate factor, 0 (lossless) to 51; lower is better and larger.
        preset: of x264, one of `PRESETS`.

    Raises:
        OutputError: from every method, when the encoder gives up.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        *,
        rate: Fraction | None = None,
        crf: int = 20,
        preset: str = "superfast",
    ) -> None:
        self._path, self._size = path, size
        self._rate = rate or _USUAL_RATE
        self._even = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        scale = self._rate.numerator if self._rate.numerator <= 240_000 else 90_000
        self._process = Ffmpeg(
            [
                *("-v", "error", "-protocol_whitelist", "pipe", "-f", "matroska"),
                *("-i", "pipe:0", "-map", "0:v:0", "-c:v", "libx264", "-preset", preset),
                *("-crf", str(crf), "-pix_fmt", "yuv420p", "-profile:v", "high"),
                *("-colorspace", "smpte170m", "-color_range", "tv"),
                *("-color_primaries", "smpte170m", "-color_trc", "smpte170m"),
                *("-g", str(max(2, round(_KEY_SECONDS * self._rate)))),
                *("-fps_mode", "passthrough", "-enc_time_base", "demux"),
                *("-video_track_timescale", str(scale if scale > 1000 else scale * 1000)),
                *("-fflags", "+bitexact", "-map_metadata", "-1", "-movflags", "+faststart"),
                *("-f", "mp4", "-y", file_url(path)),
            ],
            stdin=True,
        )
        self.count, self.end = 0, Fraction(0)
        self.start: Fraction | None = None
        self._last: Fraction | None = None
        self._send([_header(self._even, self._rate)])

    def write(self, image: NDArray[np.uint8], time: Fraction) -> None:
        """Append a frame that is shown from `time` (seconds) on, later than the one before."""
        if image.shape != (*self._size, 3) or image.dtype != np.uint8:
            raise ValueError(f"a frame is uint8 {(*self._size, 3)}, not {image.shape}")
        bottom, right = self._even[0] - self._size[0], self._even[1] - self._size[1]
        if bottom or right:
            image = np.asarray(
                cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE), np.uint8
            )
        planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
        step = 1 / self._rate if self._last is None else time - self._last
        self.start = time if self.start is None else self.start
        self._last, self.end = time, time + min(step, Fraction(1))
        pixels: memoryview = np.ascontiguousarray(planes).data.cast("B")
        self._send([_cluster(time, self.end - time, len(pixels)), pixels])
        self.count += 1

    def _send(self, parts: Sequence[bytes | memoryview]) -> None:
        try:
            for part in parts:
                self._process.stdin.write(part)
        except (BrokenPipeError, ValueError):
            self._fail()

    def finish(self) -> None:
        """Write the rest and the index; the file is whole afterwards."""
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            self._fail()
        if self._process.wait():
            self._fail()
        self._process.stop()

    def _fail(self) -> None:
        self._process.wait(10)
        messages = list(self._process.messages)
        self._process.stop()
        raise OutputError(f"the encoder gave up, {reason(messages)}", file=self._path)

    def abort(self) -> None:
        """End the encoder; what is in the file is of no use."""
        self._process.stop()

    def cpu_seconds(self) -> float:
        """CPU time of encoding so far."""
        return self._process.cpu_seconds()


def add_audio(
    video: Path, source: Path, out: Path, *, codec: str, start: Fraction, end: Fraction | None
) -> bool:
    """Write `video` with the first sound track of `source` to `out`; False if that fails.

    Nothing is encoded again, except sound that browsers do not play, which becomes AAC.

    Args:
        codec: of the sound, as the probe names it.
        start: seconds at which the video begins in the source's time.
        end: seconds at which the sound is cut; None keeps all of it.
    """
    sound = ["copy"] if codec in _COPIED_AUDIO else ["aac", "-b:a", "160k"]
    process = Ffmpeg(
        [
            *("-v", "error", "-itsoffset", f"{float(start):.6f}"),
            *("-protocol_whitelist", "file", "-format_whitelist", "mov,mp4"),
            *("-i", file_url(video), *input_arguments(source)),
            *("-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy", "-c:a", *sound),
            *(() if end is None else ("-t", f"{float(end):.6f}")),
            *("-fflags", "+bitexact", "-map_metadata", "-1", "-movflags", "+faststart"),
            *("-f", "mp4", "-y", file_url(out)),
        ]
    )
    try:
        return process.wait() == 0
    finally:
        process.stop()


def _header(size: tuple[int, int], rate: Fraction) -> bytes:
    """The start of a Matroska stream of I420 pictures (RFC 9559)."""
    picture = _element(0xB0, size[1]) + _element(0xBA, size[0]) + _element(0x2EB524, b"I420")
    track = b"".join(
        [
            *(_element(0xD7, 1), _element(0x73C5, 1), _element(0x83, 1), _element(0x9C, 0)),
            *(_element(0x86, b"V_UNCOMPRESSED"), _element(0xE0, picture)),
            _element(0x23E383, round(10**9 / rate)),
        ]
    )
    ebml = _element(0x4282, b"matroska") + _element(0x4287, 4) + _element(0x4285, 2)
    # The segment's length is unknown: it ends with the pipe.
    segment = (0x18538067).to_bytes(4, "big") + b"\x01" + b"\xff" * 7
    info = _element(0x1549A966, _element(0x2AD7B1, _TICK))
    return _element(0x1A45DFA3, ebml) + segment + info + _element(0x1654AE6B, _element(0xAE, track))


def _cluster(time: Fraction, duration: Fraction, size: int) -> bytes:
    """Everything of a cluster of one picture but the `size` bytes of its pixels."""
    per_second = 10**9 // _TICK
    block = _element(0xA1, struct.pack(">BhB", 0x81, 0, 0), more=size)
    length = _element(0x9B, max(1, round(duration * per_second)))
    # The duration stands first, so that the pixels end the group and the cluster.
    group = _element(0xA0, length + block, more=size)
    return _element(0x1F43B675, _element(0xE7, round(time * per_second)) + group, more=size)


def _element(name: int, body: Any, *, more: int = 0) -> bytes:
    """An EBML element (RFC 8794) of a number or of bytes; `more` bytes of it follow later."""
    if isinstance(body, int):
        body = body.to_bytes(max(1, (body.bit_length() + 7) // 8), "big")
    size = (len(body) + more) | 1 << 56
    return bytes(
        name.to_bytes((name.bit_length() + 7) // 8, "big") + size.to_bytes(8, "big") + body
    )


def free_name(folder: Path, name: str) -> Path:
    """A hidden name in `folder` for what is being written."""
    return folder / f".{name[:40]}.tmp-{os.getpid()}.mp4"
