"""What a video file says of itself, read before a frame is decoded."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from segcli.errors import DataError
from segcli.inference.video_ffmpeg import Ffmpeg, check_file, input_arguments, reason

_STREAM = re.compile(r"^  Stream #0:(\d+)(?:\[\w+\])?(?:\([^)]*\))?: (Video|Audio): (.*)$")
_CLOCK = re.compile(r"^  Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_RATE = re.compile(r"([\d.]+)(k?) (fps|tbr)\b")
_PROBE_SECONDS = 60.0
_HEADER = 5000  # lines: of each stream all its tags, and chapters
_FASTEST = 300  # a "rate" above this is a time base, as files with a variable one show it


@dataclass(frozen=True)
class VideoInfo:
    """One video stream, and the sound beside it.

    Attributes:
        stream: index of the stream in the file.
        rate: frames per second; None where the file names none, or a variable one.
        duration: of the file in seconds, None where it is not known.
        frames: number of frames that its index lists or its duration comes to, if known.
        exact: whether `frames` is from an index.
        audio: codec of the first audio stream, None without one.
    """

    path: Path
    stream: int
    rate: Fraction | None
    duration: float | None
    frames: int | None
    exact: bool
    audio: str | None


def probe(path: Path) -> VideoInfo:
    """Ask ffmpeg what is in a file.

    Raises:
        DataError: no video, not a file, or one that may not be opened.
    """
    process = Ffmpeg(["-v", "info", *input_arguments(path)], kept=_HEADER)
    try:
        process.wait(_PROBE_SECONDS)
    except Exception:
        raise DataError("ffmpeg does not get through its header", file=path) from None
    finally:
        process.stop()
    messages = list(process.messages)
    streams = [m for line in messages if (m := _STREAM.match(line))]
    video = [m for m in streams if m[2] == "Video" and "(attached pic)" not in m[3]]
    if not video:
        raise DataError("there is no video in it" if streams else reason(messages[-8:]), file=path)
    chosen = next((m for m in video if "(default)" in m[3]), video[0])
    sound = next((m for m in streams if m[2] == "Audio"), None)
    clock = next((m for line in messages if (m := _CLOCK.match(line))), None)
    duration = _seconds(clock) if clock else None
    average, nominal = _rates(chosen[3])
    counted = mp4_frames(path, video.index(chosen))
    guess = round(duration * average) if duration and average else None
    return VideoInfo(
        path=path,
        stream=int(chosen[1]),
        rate=nominal,
        duration=duration,
        frames=counted if counted is not None else guess,
        exact=counted is not None,
        audio=re.split(r"[ ,]", sound[3])[0] if sound else None,
    )


def _seconds(clock: re.Match[str]) -> float:
    return int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])


def _rates(text: str) -> tuple[Fraction | None, Fraction | None]:
    """(average, nominal) frames per second of a stream line."""
    found = {m[3]: float(m[1]) * (1000 if m[2] else 1) for m in _RATE.finditer(text)}
    average = found.get("fps") or found.get("tbr")
    nominal = found.get("tbr")
    return (
        exact_rate(average) if average and average <= _FASTEST else None,
        exact_rate(nominal) if nominal and nominal <= _FASTEST else None,
    )


def exact_rate(rate: float) -> Fraction:
    """The rate that is meant by a rounded one: 29.97 is 30000/1001."""
    ntsc = Fraction(round(rate * 1.001) * 1000, 1001)
    if abs(ntsc - Fraction(rate)) < Fraction(1, 150) and round(rate) != rate and ntsc:
        return ntsc
    return Fraction(rate).limit_denominator(1000)


def mp4_frames(path: Path, number: int) -> int | None:
    """Samples of the `number`-th video track in the index of an MP4 or MOV file.

    None for other files, for fragmented ones, whose index is spread over them, and for tracks of
    which an edit list shows but a part.
    Format: ISO/IEC 14496-12, 8.2 to 8.7.
    """
    check_file(path)
    try:
        with open(path, "rb") as handle:
            end = path.stat().st_size
            moov = _box(handle, 0, end, b"moov")
            if moov is None or _box(handle, *moov, b"mvex") is not None:
                return None
            clock = _box(handle, *moov, b"mvhd")
            scale = _timescale(handle, clock)[0] if clock else 0
            counts = [_samples(handle, t, scale) for t in _boxes(handle, *moov, b"trak")]
    except (OSError, struct.error):
        return None
    video = [count for count in counts if count is not None]
    return video[number] if number < len(video) and video[number] else None


def _timescale(handle: BinaryIO, box: tuple[int, int]) -> tuple[int, int]:
    """(units a second, duration in them) of a mvhd or mdhd box; 8.2.2 and 8.4.2."""
    handle.seek(box[0])
    if handle.read(4)[0]:
        handle.seek(16, 1)
        return struct.unpack(">IQ", handle.read(12))
    handle.seek(8, 1)
    return struct.unpack(">II", handle.read(8))


def _is_cut(handle: BinaryIO, track: tuple[int, int], mdia: tuple[int, int], scale: int) -> bool:
    """Whether a track's edit list (8.6.6) plays clearly less than all of its samples."""
    edits = _box(handle, *track, b"edts")
    at = _box(handle, *edits, b"elst") if edits else None
    clock = _box(handle, *mdia, b"mdhd")
    if at is None or clock is None or not scale:
        return False
    handle.seek(at[0])
    version = handle.read(4)[0]
    (count,) = struct.unpack(">I", handle.read(4))
    layout = struct.Struct(">Qqi" if version else ">Iii")
    played = 0
    for _ in range(min(count, 1000)):
        length, begins, _rate = layout.unpack(handle.read(layout.size))
        played += length if begins >= 0 else 0  # an empty edit shows nothing
    units, duration = _timescale(handle, clock)
    # A length of 0 means all there is.
    return bool(units and 0 < played / scale < 0.98 * duration / units)


def _samples(handle: BinaryIO, track: tuple[int, int], scale: int) -> int | None:
    """The sample count of a video track, 0 of a cut one; None for another kind.

    Args:
        scale: units of the edit list a second.
    """
    mdia = _box(handle, *track, b"mdia")
    kind = _box(handle, *mdia, b"hdlr") if mdia else None
    if mdia is None or kind is None:
        return None
    handle.seek(kind[0] + 8)
    if handle.read(4) != b"vide":
        return None
    if _is_cut(handle, track, mdia, scale):
        return 0
    at: tuple[int, int] | None = mdia
    for name in (b"minf", b"stbl", b"stsz"):
        at = _box(handle, *at, name) if at else None
    if at is None:
        return None
    handle.seek(at[0] + 8)
    return int(struct.unpack(">I", handle.read(4))[0])


def _box(handle: BinaryIO, start: int, end: int, name: bytes) -> tuple[int, int] | None:
    return next(iter(_boxes(handle, start, end, name)), None)


def _boxes(handle: BinaryIO, start: int, end: int, name: bytes) -> list[tuple[int, int]]:
    """(start, end) of the bodies of the boxes called `name` between two positions."""
    found: list[tuple[int, int]] = []
    for _ in range(1000):  # more boxes than any index has: a file that leads in circles
        if start + 8 > end:
            break
        handle.seek(start)
        size, kind = struct.unpack(">I4s", handle.read(8))
        head = 8
        if size == 1:
            size, head = struct.unpack(">Q", handle.read(8))[0], 16
        elif size == 0:
            size = end - start
        if size < head:
            break
        if kind == name:
            found.append((start + head, min(start + size, end)))
        start += size
    return found
