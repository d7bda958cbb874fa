"""Small videos of every kind, made with ffmpeg, and an independent look at what came out."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from tiny_run import SPACE, RedDecides

from segcli.inference.predictor import Predictor
from segcli.inference.video_ffmpeg import ffmpeg_path
from segcli.recipes.video_inputs import find_jobs
from segcli.recipes.video_make import VideoOptions, VideoResult, make_video


def ffmpeg(*arguments: object) -> str:
    """Run it and return what it says."""
    command = [ffmpeg_path(), "-nostdin", "-hide_banner", "-y", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, timeout=60)
    return result.stderr.decode("utf-8", "replace")


def clip(
    path: Path,
    *output: object,
    size: str = "64x48",
    seconds: float = 1,
    rate: object = 10,
    sound: bool = False,
) -> Path:
    """A test pattern of `seconds`, with a tone; `output` are options of the encoder."""
    source = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}:duration={seconds}"]
    if sound:
        source += ["-f", "lavfi", "-i", f"sine=frequency=440:duration={seconds}"]
    said = ffmpeg(*source, *output, f"file:{path}")
    assert path.is_file() and path.stat().st_size, said
    return path


def predictor() -> Predictor:
    """Its answer is known: red // 64."""
    torch.set_num_threads(1)
    return Predictor(RedDecides(), SPACE)


def make(path: Path | str, out: Path, **options: object) -> VideoResult:
    """The video of one input."""
    (job,) = find_jobs([str(path)], out)
    return make_video(job, predictor(), out, VideoOptions(**options))  # type: ignore[arg-type]


@dataclass
class Seen:
    """What cv2, which has a decoder of its own, finds in a video."""

    frames: list[np.ndarray]
    times: list[float]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.frames[0].shape[:2]


def look(path: Path) -> Seen:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames, times = [], []
    while True:
        got, frame = capture.read()
        if not got:
            break
        frames.append(frame[:, :, ::-1])
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    capture.release()
    return Seen(frames, times)


def describe(path: Path) -> str:
    """What ffmpeg says of a file."""
    return ffmpeg("-i", f"file:{path}")


def boxes(path: Path) -> list[str]:
    """Names of the boxes of an MP4 file, in their order."""
    data, at, names = path.read_bytes(), 0, []
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        names.append(data[at + 4 : at + 8].decode("latin1"))
        at += size or len(data)
    return names
