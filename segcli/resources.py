"""Disk, shared memory and device memory: what a run needs, what there is, and what to say."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segcli.errors import SegcliError

SHARED_MEMORY = Path("/dev/shm")
PREFETCH = 4
_FP32 = 4
# See mallopt(3).
_M_MMAP_THRESHOLD = -3


class MemoryShortageError(SegcliError):
    """A device, or the machine, has too little memory for what was asked of it."""


def free_disk(folder: Path) -> int | None:
    """Free bytes where `folder` lies or would lie; None where nobody can say."""
    folder = folder.absolute()
    for place in (folder, *folder.parents):
        if place.is_dir():
            try:
                return shutil.disk_usage(place).free
            except OSError:
                return None
    return None


def free_shared_memory() -> int | None:
    """Free bytes of /dev/shm, through which loader workers pass batches; None without one."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return None


def checkpoint_bytes(state: int, trainable: int, optimizer: str) -> int:
    """Bytes that the checkpoints of a run take at most.

    ``last`` has the averaged weights to use, and to go on from: raw weights, averaged ones
    and the optimizer's moments; ``best`` has weights alone. Of each the previous one is kept,
    and a new one is built beside the two before the older goes.

    Args:
        state: bytes of the model's weights and buffers.
        trainable: parameters that are trained.
        optimizer: `adamw` keeps two moments a parameter, `sgd` one.
    """
    moments = (2 if optimizer == "adamw" else 1) * trainable * _FP32
    last = 3 * state + moments
    return 2 * last + 2 * state + last


def loader_bytes(
    size: tuple[int, int],
    batch_size: int,
    workers: int,
    *,
    channels: int = 1,
    target_size: tuple[int, int] | None = None,
) -> int:
    """Bytes of shared memory that batches take while they wait to be trained on.

    Args:
        size: (h, w) of the crops.
        channels: of the target, 1 for class indices, K for soft targets.
        target_size: (h, w) of the target; None is `size`.
    """
    th, tw = target_size or size
    view = size[0] * size[1] * 3 + th * tw * channels
    # One more slot a worker: the one it writes to while the others wait.
    return workers * (PREFETCH + 1) * batch_size * view


def shared_memory_shortage(need: int, workers: int) -> tuple[str, str, bool] | None:
    """(what, hint, whether it is certain) when /dev/shm is too small for `need` bytes."""
    free = free_shared_memory()
    if free is None or not workers or need <= free // 2:
        return None
    most = int(workers * free / 2 / need)
    what = f"batches that wait take up to {amount(need)} of {SHARED_MEMORY}, {amount(free)} is free"
    hint = f"set data.workers to {most}, or give the container more (--shm-size, --ipc=host)"
    return what, hint, need > free


def amount(size: float) -> str:
    """Bytes as people read them: '340 MiB', '1.2 GiB'."""
    if size < 2**20:
        return f"{size / 2**10:.0f} KiB"
    if size < 2**30:
        return f"{size / 2**20:.0f} MiB"
    return f"{size / 2**30:.1f} GiB"


def resident_bytes() -> int | None:
    """Memory of this process now; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def free_memory() -> int | None:
    """Memory that this process may still take, by the machine and its control group; None
    where the system does not say."""
    known = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                known.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        pass
    try:
        # Version 2 writes "max" where there is no limit, which is no number.
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        cache = 0
        for line in (group / "memory.stat").read_text(encoding="ascii").splitlines():
            if line.startswith("inactive_file "):
                cache = int(line.split()[1])
        known.append(max(0, limit - used + cache))
    except (OSError, ValueError, IndexError):
        pass
    return min(known, default=None)


def leave_no_holes() -> None:
    """From now on, give every block of 4 MiB and more back to the system when it is freed.

    The GNU C library keeps holes of up to 32 MiB for later, where tensors of other sizes do
    not fit: pictures at six scales, one after the other, would leave twice the memory of the
    largest behind. It costs some page faults, so that nobody does it who need not.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 4 * 2**20)


def peak_resident_bytes(*, reset: bool = False) -> int | None:
    """Most memory that this process has had, since the last reset where that is allowed."""
    try:
        if reset:
            # 5 sets the high-water mark to the present size, see proc(5).
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch raised `error` because memory ran out, on a device or on the CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "not enough memory" in text
        or "can't allocate memory" in text
        or "CUDA out of memory" in text
        or "CUBLAS_STATUS_ALLOC_FAILED" in text
    )


@contextmanager
def memory_advice(what: str, hint: str) -> Iterator[None]:
    """Turn running out of memory inside the block into one line that says what to do.

    Args:
        what: was computed, such as 'a training step at 512×1024, batch 8'.

    Raises:
        MemoryShortageError: in place of torch's error; other errors pass.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortageError(f"{what} does not fit in memory", hint=hint) from None
