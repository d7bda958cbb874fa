"""What a training engine asks of a teacher, so that `train` need not know of `distill`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from segcli.data.dataset import StageBatches, TrainDataset
from segcli.data.manifest import Sample
from segcli.recipes.training import Stage, Training


class Teaching(Protocol):
    """What `distill` adds to a run. A plain run has none, and nothing here is asked of it.

    Attributes:
        command: the command that goes on with such a run.
    """

    command: str

    @property
    def extra(self) -> Sequence[Sample]:
        """Pictures that join the fine ones; their indices follow those of `run.samples`."""

    def stage_data(self, run: Training, stage: Stage) -> tuple[TrainDataset, StageBatches]:
        """The views of a stage with its extra pictures, and their order."""

    def cut(self, run: Training, images: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
        """A batch in its stage's parts, which have fine and extra pictures like the whole."""

    def labels(self, run: Training, target: Tensor) -> Tensor:
        """What the supervised loss sees of the target of a batch, or of a part of one."""

    def losses(
        self, run: Training, network: nn.Module, images: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """As `forward_losses`, of a part, and ``taught``: what is added to its ``total``."""

    def begin(self, run: Training, images: Tensor, target: Tensor) -> dict[str, float]:
        """Make ready for a step on this batch; figures of it that are taken now and then."""

    def finish(self, run: Training, finite: bool, figures: dict[str, float]) -> None:
        """Take the optimiser steps of what learns beside the student, or drop them.

        `figures` are the named losses of the step, means over all parts and processes.
        """

    def epoch_done(self, run: Training) -> None:
        """Report where things stand."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors, numbers and plain containers."""

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        """Go on from `state_dict`; raises CheckpointError where it does not fit."""
