"""Which sample each loader worker is at, so that a dead or hung one can be named."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from segcli.data.manifest import Sample
from segcli.errors import DataError

MAX_WORKERS = 256
_PID, _INDEX, _SINCE = range(3)


class WorkerLog:
    """A table in shared memory with a row per worker: process, sample, since when.

    Workers write their own row, the main process reads all of them when a worker fails.
    """

    def __init__(self) -> None:
        self.rows: Tensor = torch.zeros((MAX_WORKERS, 3), dtype=torch.float64)
        self.rows.share_memory_()  # type: ignore[no-untyped-call]

    def begin(self, index: int) -> None:
        """Called in a worker before it reads sample `index`; in the main process it is free."""
        info = torch.utils.data.get_worker_info()
        if info is not None:
            row = [float(os.getpid()), float(index), time.monotonic()]
            self.rows[info.id % MAX_WORKERS] = torch.tensor(row, dtype=torch.float64)

    def end(self) -> None:
        """Called in a worker when the sample is done."""
        info = torch.utils.data.get_worker_info()
        if info is not None:
            self.rows[info.id % MAX_WORKERS, _INDEX] = -1

    def busy(self) -> list[tuple[int, int, float]]:
        """(process, sample index, seconds at it) of the workers in the middle of a sample."""
        now = time.monotonic()
        rows = [r for r in self.rows.tolist() if r[_PID] > 0 and r[_INDEX] >= 0]
        return [(int(r[_PID]), int(r[_INDEX]), now - r[_SINCE]) for r in rows]


def blame(error: RuntimeError, log: WorkerLog, samples: Sequence[Sample]) -> Exception:
    """The `DataError` that names the sample at fault; `error` itself when it is another.

    A worker's death reaches the main process as an exception wherever it stands, so that the
    caller has to guard the whole of its loop.
    """
    text = str(error)
    if not text.startswith("DataLoader"):
        return error
    busy = log.busy()
    if "timed out" in text:
        for process, _, _ in busy:
            # A hung worker would not hear a request to end, and the exit would wait for it.
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        longest = max(busy, key=lambda row: row[2], default=None)
        return DataError(
            "a loader worker gave no batch in time",
            file=_file(samples, longest),
            hint="a stuck disk? data.worker_timeout sets the limit, data.workers=0 does without",
        )
    if "shared memory" in text:
        return DataError(
            "loader workers ran out of shared memory",
            file="/dev/shm",
            hint="fewer data.workers, or more of it: docker run --shm-size=8g",
        )
    dead = {int(number) for number in re.findall(r"\d+", text)}
    row = next((row for row in busy if row[0] in dead), None)
    return DataError(
        "a loader worker died" + ("" if row is None else " at this sample"),
        file=_file(samples, row),
        hint="out of memory? Fewer data.workers or smaller batches need less",
    )


def _file(samples: Sequence[Sample], row: tuple[int, int, float] | None) -> Path | None:
    return None if row is None else samples[row[1]].image
