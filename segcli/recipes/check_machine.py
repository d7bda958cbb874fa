"""The installation: Python, libraries that fit together, devices, threads, memory, disk."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from segcli import __version__, resources
from segcli import findings as codes
from segcli.environment import usable_cores
from segcli.findings import ERROR, OK, WARNING, Finding

Version = tuple[int, ...]

PYTHON: Version = (3, 11)
# Lowest version, and the first that does not do; a test holds this against pyproject.toml.
NEEDED: dict[str, tuple[Version, Version | None]] = {
    "torch": ((2, 10), None),
    "torchvision": ((0, 25), None),
    "typer": ((0, 16), None),
    "rich": ((13, 9), None),
    "albumentations": ((2, 0, 8), (2, 1)),
    "pyyaml": ((6, 0, 2), None),
    "opencv-python-headless": ((4, 12), None),
    "imageio-ffmpeg": ((0, 6), None),
    "tensorboard": ((2, 21), None),
    "numpy": ((2, 1), None),
    "pillow": ((11, 3), None),
    "pydantic": ((2, 11), None),
    "safetensors": ((0, 5), None),
}
_OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
_LEAST_SHARED, _LEAST_DISK = 2**30, 5 * 2**30


def check_machine() -> list[Finding]:
    """A line for each part: `ok` with its version, or what is wrong with it.

    Nothing is left undone because an earlier part is broken, a failing import included.
    """
    parts: tuple[Callable[[], list[Finding]], ...] = (
        _python,
        _torch,
        _accelerator,
        _opencv,
        _libraries,
        _tensorboard,
        _threads,
        _ffmpeg,
        _shared_memory,
        _disk,
    )
    return [finding for part in parts for finding in part()]


def _python() -> list[Finding]:
    what = f"segcli {__version__}, Python {platform.python_version()} at {sys.executable}"
    if sys.version_info < PYTHON:
        return [Finding(codes.PYTHON, ERROR, what, None, f"Python {_dotted(PYTHON)} is needed")]
    return [Finding(codes.PYTHON, OK, what)]


def _libraries() -> list[Finding]:
    """Versions of the other libraries; those that do not do, one by one."""
    good, found = [], []
    for name, (lowest, limit) in NEEDED.items():
        wanted = f"{name}>={_dotted(lowest)}" + (f",<{_dotted(limit)}" if limit else "")
        hint = f"pip install '{wanted}'"
        try:
            text = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(Finding(codes.LIBRARY, ERROR, f"{name} is not installed", None, hint))
            continue
        version = _version(text)
        if version < lowest or (limit is not None and version >= limit):
            what = f"{name} {text} is too {'old' if version < lowest else 'new'}"
            found.append(Finding(codes.LIBRARY, ERROR, what, None, hint))
        else:
            good.append(f"{name} {text}")
    return [Finding(codes.LIBRARY, OK, ", ".join(good)), *found]


def _torch() -> list[Finding]:
    """Whether torch and torchvision were built for one another: an operator of C++ says it."""
    hint = "install torch and torchvision anew, together and from one index"
    try:
        import torch
        import torchvision

        boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 7.0]])
        kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist()
    except Exception as error:
        what = f"torch and torchvision do not work together, {_short(error)}"
        return [Finding(codes.TORCH, ERROR, what, None, hint)]
    if kept != [0]:
        return [Finding(codes.TORCH, ERROR, "torchvision's operators answer wrongly", None, hint)]
    what = f"torch {torch.__version__} and torchvision {torchvision.__version__} work together"
    return [Finding(codes.TORCH, OK, what)]


def _accelerator() -> list[Finding]:
    try:
        import torch

        count = torch.cuda.device_count()
        devices = [torch.cuda.get_device_properties(i) for i in range(count)]
    except Exception as error:
        what = f"CUDA does not answer, {_short(error)}"
        return [Finding(codes.ACCELERATOR, ERROR, what, None, "look at nvidia-smi")]
    if devices:
        lines = [f"{d.name} with {resources.amount(d.total_memory)}" for d in devices]
        what = f"CUDA {torch.version.cuda}: {', '.join(lines)}"
        return [Finding(codes.ACCELERATOR, OK, what)]
    if Path("/proc/driver/nvidia").is_dir():
        if torch.version.cuda is None:
            what, hint = "an NVIDIA driver is here, this torch is for CPUs", "install a CUDA build"
        else:
            what = f"an NVIDIA driver is here, CUDA {torch.version.cuda} sees no device"
            hint = "look at nvidia-smi and CUDA_VISIBLE_DEVICES; the driver may be too old"
        return [Finding(codes.ACCELERATOR, WARNING, what, None, hint)]
    capability = torch.backends.cpu.get_cpu_capability()
    return [Finding(codes.ACCELERATOR, OK, f"no CUDA device, the CPU has {capability}")]


def _opencv() -> list[Finding]:
    """OpenCV's packages all write one folder `cv2`, and the last one installed wins."""
    there = []
    for name in _OPENCV:
        try:
            there.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    hint = f"pip uninstall {' '.join(_OPENCV)}; pip install --force-reinstall {_OPENCV[1]}"
    try:
        import cv2

        what = f"cv2 {cv2.__version__} of {' and '.join(there) or 'no known package'}"
    except Exception as error:
        what = f"cv2 cannot be imported, {_short(error)}"
        return [Finding(codes.OPENCV, ERROR, what, None, hint)]
    if len(there) > 1:
        return [Finding(codes.OPENCV, WARNING, f"two packages own cv2: {what}", None, hint)]
    return [Finding(codes.OPENCV, OK, what)]


def _tensorboard() -> list[Finding]:
    """Old versions import a module that new setuptools has not: the import tells."""
    try:
        from tensorboard.compat.proto.event_pb2 import SessionLog  # noqa: F401
        from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: F401
        from tensorboard.version import VERSION
    except Exception as error:
        what = f"TensorBoard cannot be imported, {_short(error)}"
        hint = "pip install 'tensorboard>=2.21'"
        return [Finding(codes.TENSORBOARD, ERROR, what, None, hint)]
    return [Finding(codes.TENSORBOARD, OK, f"TensorBoard {VERSION} writes events")]


def _threads() -> list[Finding]:
    import torch

    cores, threads, quota = usable_cores(), torch.get_num_threads(), _quota()
    what = f"threads: {threads}, usable cores: {cores}"
    hint = "set OMP_NUM_THREADS to the number of cores"
    if quota is not None and quota < cores:
        what += f", the container may use the time of {quota:g}"
    if threads > min(cores, quota or cores) + 0.5:
        return [Finding(codes.THREADS, WARNING, what, None, hint)]
    return [Finding(codes.THREADS, OK, what)]


def _quota() -> float | None:
    """Cores' worth of time that a container gets (control groups, version 2)."""
    try:
        most, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if most == "max" else int(most) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _ffmpeg() -> list[Finding]:
    hint = "pip install imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to an ffmpeg; only videos need it"
    try:
        import imageio_ffmpeg

        program = Path(imageio_ffmpeg.get_ffmpeg_exe())
        command = [str(program), "-nostdin", "-version"]
        # The path is imageio-ffmpeg's own, and no shell reads it.
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        version = re.match(r"ffmpeg version (\S+)", answer.stdout)
    except Exception as error:
        what = f"ffmpeg cannot be run, {_short(error)}"
        return [Finding(codes.FFMPEG, WARNING, what, None, hint)]
    what = f"ffmpeg {version.group(1) if version else 'of an unknown version'}"
    return [Finding(codes.FFMPEG, OK, what, program)]


def _shared_memory() -> list[Finding]:
    free = resources.free_shared_memory()
    if free is None:
        return [Finding(codes.MACHINE_SHARED_MEMORY, OK, "no /dev/shm on this system")]
    what = f"{resources.amount(free)} of shared memory free for loader processes"
    if free < _LEAST_SHARED:
        hint = "in a container: --shm-size=8g or --ipc=host; else --set data.workers=0"
        severity = WARNING
    else:
        hint, severity = "", OK
    return [Finding(codes.MACHINE_SHARED_MEMORY, severity, what, resources.SHARED_MEMORY, hint)]


def _disk() -> list[Finding]:
    here = Path.cwd()
    free = resources.free_disk(here)
    if free is None:
        return [Finding(codes.MACHINE_DISK, WARNING, "nobody can say how much disk is free", here)]
    what = f"{resources.amount(free)} of disk free"
    if not os.access(here, os.W_OK):
        hint = "runs/ goes into the current folder; choose another with --runs"
        return [Finding(codes.MACHINE_DISK, WARNING, "this folder is not writable", here, hint)]
    if free < _LEAST_DISK:
        hint = "checkpoints and prepared labels want some GiB"
        return [Finding(codes.MACHINE_DISK, WARNING, what, here, hint)]
    return [Finding(codes.MACHINE_DISK, OK, what, here)]


def _version(text: str) -> Version:
    """(2, 21, 0) of '2.21.0rc1+cpu'; what is no number ends it."""
    numbers = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(n) for n in numbers.group().split(".")) if numbers else ()


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _short(error: BaseException) -> str:
    lines = str(error).split("\n")
    return f"{type(error).__name__}: {lines[0][:120]}"
