"""What keeps a run safe: signals that stop it in order, and steps whose loss is not finite."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segcli import distributed, files
from segcli.distributed import World
from segcli.errors import OutputError, SegcliError
from segcli.recipes.training import Training

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Batches that are kept for inspection; the first ones tell the story.
KEPT_BATCHES = 3


class Interrupted(SegcliError):  # noqa: N818 (no error: what was asked for)
    """The user, or the machine, asked the run to stop; its exit code is 128 + the signal."""

    def __init__(self, what: str, *, number: int, **details: Any) -> None:
        super().__init__(what, **details)
        self.exit_code = 128 + number


class NonFiniteError(SegcliError):
    """Training has left the numbers."""


class StopWaiting(BaseException):
    """A signal came while the loop waited for data: there is nothing to finish.

    Like KeyboardInterrupt no `Exception`, which the reading of a sample would take for its own.
    """


class StopRequest:
    """Remembers that a signal came. The loop looks at `asked` after every step.

    Several processes have to stop at the same step: there `asked` is what they have agreed on,
    and the signal itself is only this process's news for the next agreement.

    Attributes:
        asked: the number of the signal to stop for, 0 while there is none.
        waiting: set while the loop waits for data and may be called away at once.
    """

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()
        self.waiting = False
        self._heard = self._agreed = 0

    @property
    def asked(self) -> int:
        return self._heard if self.world.size == 1 else self._agreed

    @property
    def heard(self) -> float:
        """1 where this process has heard a signal: its part of an agreement."""
        return float(self._heard > 0)

    def settle(self, heard: float) -> None:
        """Take note of the sum of all processes' `heard`."""
        if heard > 0 and not self._agreed:
            self._agreed = self._heard or signal.SIGTERM

    def agree(self, device: torch.device) -> int:
        """Ask all processes, which have to call this together; returns `asked`."""
        if self.world.size > 1:
            news = torch.tensor([self.heard], device=device)
            self.settle(float(distributed.add_up(self.world, news)))
        return self.asked

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Catch SIGTERM and SIGINT while the block runs; a second SIGINT is not waited out."""
        before = {}
        with contextlib.suppress(ValueError):  # not the main thread: nothing to listen for
            for number in SIGNALS:
                # A job in the background is not meant to hear the Ctrl-C of its terminal.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, self._handle)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._heard == number == signal.SIGINT:
            raise KeyboardInterrupt
        self._heard = number
        if self.waiting and self.world.size == 1:
            self.waiting = False
            raise StopWaiting


def interrupted(run: Training, number: int) -> Interrupted:
    """The error that ends a run whose checkpoint has just been written, where there is one."""
    name = signal.Signals(number).name
    if run.step == 0:
        return Interrupted(f"{name} before the first step", number=number, file=run.folder)
    command = "segcli train" if run.teaching is None else run.teaching.command
    return Interrupted(
        f"{name} at step {run.step} of {run.total_steps}, all of it is saved",
        number=number,
        file=run.folder,
        hint=f"{command} --resume {run.folder} goes on there",
    )


class BufferCopy:
    """A copy of batch norm's statistics, to put back when a step turns out not finite."""

    def __init__(self, run: Training) -> None:
        self._live = [b for b in run.model.buffers() if b.is_floating_point()]
        self._kept = [b.clone() for b in self._live]

    def take(self) -> None:
        """Remember the statistics as they are."""
        if self._live:
            torch._foreach_copy_(self._kept, self._live)

    def restore(self) -> None:
        """Put them back."""
        if self._live:
            torch._foreach_copy_(self._live, self._kept)


def note_nonfinite(run: Training, images: Tensor, target: Tensor, samples: Sequence[str]) -> None:
    """Keep the batch of a skipped step for inspection, and give up after too many in a row.

    Raises:
        NonFiniteError: after `train.nonfinite_limit` steps in a row; no checkpoint is written.
    """
    run.nonfinite += 1
    folder = run.folder / "nonfinite"
    path = folder / f"step-{run.step:07d}-rank{run.world.rank}.npz"
    kept = len(list(folder.glob("*.npz"))) if folder.is_dir() else 0
    where = ""
    if kept < KEPT_BATCHES * run.world.size:
        try:
            with files.atomic_path(path) as temporary, open(temporary, "wb") as handle:
                np.savez_compressed(
                    handle,
                    images=images.cpu().numpy(),
                    target=target.cpu().numpy(),
                    samples=np.array(samples),
                )
            where = f", its batch: {path}"
        except OutputError as error:
            run.reporter.warning(f"the batch could not be kept: {error}")
    limit = run.config.train.nonfinite_limit
    run.reporter.warning(
        f"step {run.step}: the loss is not finite, the step is skipped "
        f"({run.nonfinite} of {limit} in a row{where})"
    )
    if run.nonfinite >= limit:
        raise NonFiniteError(
            f"the loss was not finite for {limit} steps in a row, up to step {run.step}",
            file=run.folder,
            hint="checkpoints are from before; try a lower train.optimizer.lr, or clip_norm",
        )
