"""What `segcli video` may be given: video files, folders of frames, a webcam; and their names."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from segcli.data.images import IMAGE_SUFFIXES, read_image
from segcli.errors import DataError
from segcli.inference.video_ffmpeg import check_file
from segcli.inference.video_probe import probe
from segcli.inference.video_read import MAX_FRAMES, Frame, VideoReader

FOLDER_RATE = 25.0
_CAMERA = re.compile(r"\d{1,2}")


class Source(Protocol):
    """Frames in order, and what is known of them beforehand.

    Attributes:
        rate: frames per second; None where it is variable or not known.
        total: how many frames are expected, None where nobody knows.
        exact: whether `total` is more than a guess.
        sound: the file with a sound track and its codec, or None.
    """

    rate: Fraction | None
    total: int | None
    exact: bool
    sound: tuple[Path, str] | None

    def __iter__(self) -> Iterator[Frame]: ...

    def fault(self) -> str | None:
        """Why there were fewer frames than there should be; None when all is well."""

    def cpu_seconds(self) -> float:
        """CPU time taken in other processes."""

    def close(self) -> None:
        """Let go of files and processes."""


@dataclass(frozen=True)
class VideoJob:
    """One input: what the user typed, the name of its results, and where it lies.

    Attributes:
        camera: number of a webcam; None for a file or a folder.
    """

    text: str
    name: str
    path: Path
    camera: int | None = None

    def open(self, *, rate: float | None, limit: int | None) -> Source:
        """Begin to read it.

        Args:
            rate: frames per second of a folder of frames.
            limit: frames at most.

        Raises:
            DataError: nothing that can be shown.
        """
        if self.camera is not None:
            return CameraSource(self.camera, limit)
        if self.path.is_dir():
            return FolderSource(self.path, rate or FOLDER_RATE, limit)
        return FileSource(self.path, limit)


def find_jobs(inputs: Sequence[str], out: Path, masks: Path | None = None) -> list[VideoJob]:
    """The inputs with a name each.

    Args:
        masks: folder that gets a folder of masks for each of them.

    Raises:
        DataError: not there, two results of one name, or a result that would replace its input.
    """
    jobs: dict[str, VideoJob] = {}
    for text in inputs:
        job = _job(text)
        other = jobs.setdefault(job.name.casefold(), job)
        if other is not job:
            raise DataError(
                f"two inputs would be written as {job.name}.mp4",
                file=text,
                hint=f"the other is {other.text}; give them two --out folders",
            )
        target = out / f"{job.name}.mp4"
        if job.camera is None and target.exists() and target.samefile(job.path):
            raise DataError(
                "this video would be overwritten", file=target, hint="choose another --out folder"
            )
        frames = None if masks is None else masks / job.name
        if job.camera is None and frames and frames.exists() and frames.samefile(job.path):
            raise DataError(
                "masks would be written among these frames",
                file=job.path,
                hint="choose another --masks folder",
            )
    return list(jobs.values())


def _job(text: str) -> VideoJob:
    path = Path(text)
    try:
        there = path.exists()
    except (OSError, ValueError):
        there = False
    if not there and _CAMERA.fullmatch(text):
        return VideoJob(text, f"camera-{int(text)}", path, int(text))
    if not there:
        raise DataError("no such file or folder", file=text)
    if path.is_dir():
        return VideoJob(text, path.resolve().name or "frames", path)
    check_file(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise DataError("a picture, not a video", file=path, hint="segcli predict takes pictures")
    return VideoJob(text, path.stem, path)


class FileSource:
    """A video file."""

    def __init__(self, path: Path, limit: int | None) -> None:
        info = probe(path)
        self.rate, self.exact, self.total = info.rate, info.exact, info.frames
        if limit is not None:
            self.total = min(limit, info.frames) if info.frames else limit
        self.sound = (path, info.audio) if info.audio else None
        self._reader = VideoReader(info, limit)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._reader)

    def fault(self) -> str | None:
        return self._reader.fault()

    def cpu_seconds(self) -> float:
        return self._reader.cpu_seconds()

    def close(self) -> None:
        self._reader.close()


class FolderSource:
    """The pictures of a folder, by name, numbers in them counted as numbers.

    Raises:
        DataError: no pictures; when iterated, one that is unreadable or of another size.
    """

    exact = True
    sound: tuple[Path, str] | None = None

    def __init__(self, folder: Path, rate: float, limit: int | None) -> None:
        try:
            names = sorted(folder.iterdir())
        except OSError as error:
            raise DataError(f"cannot read ({error.strerror})", file=folder) from None
        found = [
            path
            for path in names
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        ]
        if not found:
            raise DataError(
                "no frames in this folder", file=folder, hint=f"known: {' '.join(IMAGE_SUFFIXES)}"
            )
        self._paths = sorted(found, key=_natural)[: limit or MAX_FRAMES]
        self.rate: Fraction | None = Fraction(rate).limit_denominator(1001)
        self.total: int | None = len(self._paths)

    def __iter__(self) -> Iterator[Frame]:
        size: tuple[int, ...] | None = None
        for index, path in enumerate(self._paths):
            image = read_image(path)
            size = size or image.shape
            if image.shape != size:
                raise DataError(
                    f"a frame of {image.shape[1]}x{image.shape[0]} among frames of "
                    f"{size[1]}x{size[0]}",
                    file=path,
                )
            yield Frame(index, index / (self.rate or Fraction(1)), image)

    def fault(self) -> str | None:
        return None

    def cpu_seconds(self) -> float:
        return 0.0

    def close(self) -> None:
        pass


def _natural(path: Path) -> list[tuple[int, str]]:
    """frame_9 before frame_10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return [(int(part), part) if part.isdecimal() else (0, part) for part in parts]


@contextmanager
def _silent_opencv() -> Iterator[None]:
    """Without OpenCV's own lines: which of its drivers found no camera is no help to anyone."""
    logging = getattr(cv2.utils, "logging", None)
    if logging is None:
        yield
        return
    before = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)


class CameraSource:
    """A webcam, until it is stopped; its frames carry the time at which they came.

    Raises:
        DataError: no such camera.
    """

    exact = False
    rate: Fraction | None = None
    sound: tuple[Path, str] | None = None

    def __init__(self, number: int, limit: int | None) -> None:
        with _silent_opencv():
            self._camera: Any = cv2.VideoCapture(number)
        if not self._camera.isOpened():
            raise DataError(f"no webcam {number} here, and no file of that name", file=str(number))
        self._limit, self.total = limit or MAX_FRAMES, limit

    def __iter__(self) -> Iterator[Frame]:
        start, last = time.monotonic(), Fraction(-1)
        for index in range(self._limit):
            got, image = self._camera.read()
            if not got:
                return
            now = Fraction(round((time.monotonic() - start) * 1000), 1000)
            last = max(now, last + Fraction(1, 1000))
            yield Frame(index, last, np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8))

    def fault(self) -> str | None:
        return None

    def cpu_seconds(self) -> float:
        return 0.0

    def close(self) -> None:
        self._camera.release()
