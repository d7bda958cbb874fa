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
