"""Writes the demo city to disk in the layout of Cityscapes, over several processes.

leftImg8bit/<split>/<city>/<city>_<seq>_<frame>_leftImg8bit.png
gtFine/<split>/<city>/<city>_<seq>_<frame>_gtFine_polygons.json      train, val
gtCoarse/<split>/<city>/<city>_<seq>_<frame>_gtCoarse_polygons.json  train, train_extra
leftImg8bit/demoVideo/<name>/frame_0000.png ... and motion.json      drives, no labels
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segcli.data.city.render import Frame, Size, render_frame, render_scene, scene_camera
from segcli.data.city.scene import Scene, draw_scene
from segcli.data.layouts import DEMO_VIDEO
from segcli.environment import die_with_parent, usable_cores
from segcli.errors import SegcliError, UsageError
from segcli.files import make_folder, write_bytes, write_json

CITIES: dict[str, tuple[str, ...]] = {
    "train": ("altbruck", "lindhaven", "morwick", "rosental"),
    "val": ("sternfurt", "ostermouth"),
    "test": ("nordhallen",),
    "train_extra": ("kaltwasser", "veldemar", "brigstone"),
}
DRIVES = f"leftImg8bit/{DEMO_VIDEO}"
_SPLITS = ("train", "val", "train_extra", "test")  # their position seeds the frames
_FINE = ("train", "val")
_COARSE = ("train", "train_extra")
_DRIVE_STREAM = 1000  # far from every split's number
DRIVE_SPEED = 0.45  # metres per frame, about 28 km/h at 17 frames a second
DRIVE_RATE = 17.0  # frames per second, as in the original recordings
_SMALLEST, _LARGEST = 32, 4096


@dataclass(frozen=True)
class CitySummary:
    """What `generate_city` wrote."""

    root: Path
    size: Size  # height, width
    frames: dict[str, int]  # per split
    drives: tuple[Path, ...]  # their folders


@dataclass(frozen=True)
class _Job:
    """One file to render: `kind` is a split's name or "drive"."""

    root: Path
    size: Size
    seed: int
    kind: str
    index: int
    drive: int = 0
    frames: int = 0


def generate_city(
    root: Path,
    *,
    size: Size,
    counts: Mapping[str, int],
    seed: int = 0,
    drives: int = 1,
    drive_frames: int = 60,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CitySummary:
    """Write a whole demo city below `root`: the same bytes for the same arguments.

    Args:
        size: (height, width) of every picture, pixels.
        counts: frames per split, of "train", "val", "train_extra" and "test".
        drives, drive_frames: image sequences with known motion of the camera.
        workers: processes; None for one per core. The result does not depend on it.
        progress: called in this process with (done, total) after every frame.

    Raises:
        UsageError: for a size or a count that cannot be meant, or an unknown split.
        OutputError: when a file cannot be written.
    """
    root = Path(root)
    _check(size, counts, drives, drive_frames)
    make_folder(root)
    jobs = [_Job(root, size, seed, s, i) for s in _SPLITS for i in range(counts.get(s, 0))]
    jobs += [
        _Job(root, size, seed, "drive", i, d, drive_frames)
        for d in range(drives)
        for i in range(drive_frames)
    ]
    _run(jobs, workers, progress)
    folders = tuple(_write_motion(root, size, seed, d, drive_frames) for d in range(drives))
    return CitySummary(root, size, {s: n for s, n in counts.items() if n}, folders)


def _check(size: Size, counts: Mapping[str, int], drives: int, drive_frames: int) -> None:
    if len(size) != 2 or min(size) < _SMALLEST or max(size) > _LARGEST:
        raise UsageError(
            f"the demo city cannot be drawn at {'x'.join(map(str, size))}",
            hint=f"height and width must lie between {_SMALLEST} and {_LARGEST}",
        )
    unknown = [s for s in counts if s not in _SPLITS]
    if unknown:
        raise UsageError(f"unknown split {unknown[0]!r}", hint=f"splits: {', '.join(_SPLITS)}")
    if min([*counts.values(), drives, drive_frames, 0]) < 0 or (drives and drive_frames < 1):
        raise UsageError("the demo city needs counts of zero or more, and drives with frames")


def _run(
    jobs: list[_Job], workers: int | None, progress: Callable[[int, int], None] | None
) -> None:
    """Do the jobs, in this process or in several."""
    workers = min(workers or usable_cores(), max(1, len(jobs) // 4))
    if workers <= 1:
        for done, job in enumerate(jobs, 1):
            _do(job)
            if progress:
                progress(done, len(jobs))
        return
    # spawn: a fork of a process that runs threads (torch, cv2) may hang
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker) as pool:
        try:
            for done, _ in enumerate(pool.map(_do, jobs, chunksize=2), 1):
                if progress:
                    progress(done, len(jobs))
        except BrokenProcessPool:
            raise SegcliError(
                "a worker process died while drawing the demo city",
                hint="out of memory?",
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker() -> None:
    cv2.setNumThreads(1)
    die_with_parent()


def _do(job: _Job) -> None:
    if job.kind == "drive":
        _write_drive_frame(job)
    else:
        _write_frame(job)


def frame_name(split: str, index: int) -> tuple[str, str]:
    """City and key `<city>_<seq>_<frame>` of a frame."""
    cities = CITIES[split]
    city = cities[index % len(cities)]
    return city, f"{city}_{index // len(cities):06d}_000019"


def _write_frame(job: _Job) -> None:
    frame = render_frame(job.seed, job.index, job.size, split=_SPLITS.index(job.kind))
    city, key = frame_name(job.kind, job.index)
    part = Path(job.kind) / city
    if job.kind in _FINE:
        path = job.root / "gtFine" / part / f"{key}_gtFine_polygons.json"
        write_bytes(path, _json(frame.polygons()), durable=False)
    if job.kind in _COARSE:
        path = job.root / "gtCoarse" / part / f"{key}_gtCoarse_polygons.json"
        write_bytes(path, _json(frame.coarse_polygons()), durable=False)
    # last, so that a picture never stands without its annotation
    _write_image(job.root / "leftImg8bit" / part / f"{key}_leftImg8bit.png", frame.image)


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, allow_nan=False) + "\n").encode()


def _write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write RGB (H, W, 3) uint8 as PNG."""
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise SegcliError("cannot encode a picture as PNG", file=path)
    write_bytes(path, data.tobytes(), durable=False)


@functools.lru_cache(maxsize=2)
def drive_scene(seed: int, drive: int, frames: int) -> Scene:
    """The street of one drive; the camera moves `DRIVE_SPEED` metres a frame."""
    rng = np.random.default_rng([seed, _DRIVE_STREAM, drive])
    scene = draw_scene(rng, drive=DRIVE_SPEED * frames)
    scene.speed = DRIVE_SPEED
    return scene


def render_drive_frame(seed: int, drive: int, step: int, frames: int, size: Size) -> Frame:
    """Frame `step` of a drive of `frames` frames, a pure function of its arguments."""
    rng = np.random.default_rng([seed, _DRIVE_STREAM, drive, step])
    return render_scene(drive_scene(seed, drive, frames), size, rng, float(step))


def drive_folder(root: Path, drive: int) -> Path:
    """Where a drive's frames lie."""
    return root / DRIVES / f"{CITIES['val'][drive % 2]}_{drive:02d}"


def _write_drive_frame(job: _Job) -> None:
    frame = render_drive_frame(job.seed, job.drive, job.index, job.frames, job.size)
    _write_image(drive_folder(job.root, job.drive) / f"frame_{job.index:04d}.png", frame.image)


def _write_motion(root: Path, size: Size, seed: int, drive: int, frames: int) -> Path:
    """Write the camera's path beside the frames."""
    folder = drive_folder(root, drive)
    scene = drive_scene(seed, drive, frames)
    cameras = [scene_camera(scene, size, float(step)) for step in range(frames)]
    path = [
        {
            "frame": f"frame_{i:04d}.png",
            "position": [round(v, 5) for v in c.position],
            "yaw": round(c.yaw, 6),
        }
        for i, c in enumerate(cameras)
    ]
    write_json(
        folder / "motion.json",
        {
            "format": 1,
            "unit": "metres",
            "metres_per_frame": DRIVE_SPEED,
            "frames_per_second": DRIVE_RATE,
            "size": list(size),
            "focal": round(cameras[0].focal, 4),
            "principal_point": [round(cameras[0].u0, 4), round(cameras[0].v0, 4)],
            "frames": path,
        },
    )
    return folder
