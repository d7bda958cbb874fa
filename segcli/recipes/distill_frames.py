"""Videos as pictures: every so many frames, as PNG, written once beside the prepared labels."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from segcli import files
from segcli.errors import DataError, SegcliError
from segcli.inference.video_probe import probe
from segcli.inference.video_read import VideoReader
from segcli.reporting.events import Reporter

SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v")
_DONE = "frames.json"


def is_video(path: Path) -> bool:
    """Whether a file is taken for a video, by its name."""
    return path.suffix.lower() in SUFFIXES


def frames_folder(video: Path, every: int, root: Path) -> Path:
    """Where the frames of `video` lie below the prepared folder `root`."""
    where = hashlib.sha256(str(video.resolve()).encode()).hexdigest()[:8]
    return root / "frames" / f"{video.stem}-{where}-{every}"


def extract_frames(video: Path, every: int, root: Path, reporter: Reporter) -> Path:
    """Write frames 0, `every`, 2 `every`, ... of `video` and return their folder.

    The same file gives the same pictures; those that are there already are kept.

    Raises:
        DataError: no video, or one that is cut off or damaged.
    """
    folder = frames_folder(video, every, root)
    try:
        wanted = {"sha256": files.sha256_file(video), "every": every}
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror})", file=video) from None
    if _is_done(folder, wanted):
        return folder
    for old in folder.glob("frame_*.png"):
        old.unlink()
    reader = VideoReader(probe(video))
    count = 0
    try:
        total = (reader.info.frames or 0) // every
        with reporter.progress(f"frames of {video.name}", total, unit="frames") as progress:
            for frame in reader:
                if frame.index % every == 0:
                    data = cv2.imencode(".png", np.ascontiguousarray(frame.image[:, :, ::-1]))[1]
                    path = folder / f"frame_{frame.index:07d}.png"
                    files.write_bytes(path, data.tobytes(), durable=False)
                    count += 1
                    progress.advance()
        fault = reader.fault()
    finally:
        reader.close()
    if fault is not None:
        raise DataError(f"video: {fault}", file=video)
    files.write_json(folder / _DONE, {**wanted, "frames": count})
    return folder


def _is_done(folder: Path, wanted: dict[str, object]) -> bool:
    try:
        done = files.read_json(folder / _DONE)
    except SegcliError:
        return False
    there = len(list(folder.glob("frame_*.png")))
    return isinstance(done, dict) and done == {**wanted, "frames": there}
