"""Where a run happens: device, processor, threads and versions, for the record."""

from __future__ import annotations

import multiprocessing
import os
import platform
import sys
import threading
from contextlib import suppress
from typing import Any

from segcli import __version__
from segcli.errors import UsageError


def resolve_device(name: str | None, local_rank: int | None = None) -> Any:
    """The `torch.device` called `name`; None takes CUDA where there is one.

    Args:
        local_rank: where several processes share a machine, the number of this one's device.

    Raises:
        UsageError: an unknown device, or one that this machine does not have.
    """
    import torch

    if name is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        name = "cuda"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device '{name}'", hint="cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device '{name}' is not supported", hint="cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if device.type == "cuda" and local_rank is not None:
        if device.index is not None and device.index != local_rank:
            raise UsageError(f"several processes cannot share {name}", hint="--device cuda")
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UsageError(f"no device '{name}'", hint=f"{count} CUDA devices found; try cpu")
    return device


def prepare_process() -> None:
    """Settings that have to stand before torch is imported; what the user has set wins."""
    # OpenMP threads that spin while they wait lose to any other process, our own loader's
    # workers included: one step of 1.3 s took 11 s beside a single busy process. Waiting
    # asleep after a short spin was also the fastest on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    # Large pages for large tensors: a fresh tensor of 65 MB costs 15 ms of page faults.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory(largest: int = 2**31 - 1, kept: int = -1) -> None:
    """Let glibc keep freed arrays for the next ones, in place of giving their pages back.

    For work that allocates and frees the same sizes over and over: a training step on a CPU
    took 1.05 s and not 1.3 s, with large pages. Elsewhere nothing happens.

    Args:
        largest: bytes of the largest array that is kept.
        kept: bytes that are kept at most; -1 keeps all.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # names of mallopt(3)
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, largest)
        library.mallopt(trim_threshold, kept)


def die_with_parent() -> None:
    """In a worker process: end at once, from any moment on, when its parent is gone.

    A parent that is killed tells nobody. Workers that wait for work would wait for ever;
    torch's look at whose child they are now and then, but one whose parent died before the
    first look takes process 1 for it.
    """

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def describe_environment(device: Any) -> dict[str, Any]:
    """JSON types: what may change speed or the last digits of a result."""
    import torch

    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "command": " ".join(sys.argv),
        "platform": platform.platform(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": str(device),
        "gpu": gpu,
        "versions": library_versions(),
    }


def library_versions() -> dict[str, str]:
    """Versions that may change results in the last digits."""
    import numpy
    import torch
    import torchvision

    return {
        "segcli": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "numpy": str(numpy.__version__),
    }


def usable_cores() -> int:
    """Cores that this process may use; fewer than the machine's in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
