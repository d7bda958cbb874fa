"""Where a run happens: device, processor, threads and versions, for the record."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from segcli.checkpoint import library_versions
from segcli.errors import UsageError


def resolve_device(name: str | None) -> Any:
    """The `torch.device` called `name`; None takes CUDA where there is one.

    Raises:
        UsageError: an unknown device, or one that this machine does not have.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device '{name}'", hint="cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device '{name}' is not supported", hint="cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
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


def keep_freed_memory() -> None:
    """Let glibc keep freed tensors for the next ones, in place of giving their pages back.

    For training on a CPU, where every step allocates and frees the same sizes: with large
    pages, a step of 1.3 s took 1.05 s. Elsewhere, or with another libc, nothing happens.
    """
    import ctypes

    m_trim_threshold, m_mmap_threshold = -1, -3
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_threshold, 2**31 - 1)
        libc.mallopt(m_trim_threshold, -1)
    except (OSError, AttributeError):
        return


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


def usable_cores() -> int:
    """Cores that this process may use; fewer than the machine's in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
