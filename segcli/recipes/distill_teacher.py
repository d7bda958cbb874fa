"""The teacher: a trained network that is asked, and never changes.

Shapes: N images, K classes, H' × W' pixels of the pictures with their padding, s the stride.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from segcli.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint
from segcli.errors import LabelSpaceError
from segcli.inference.predictor import Predictor
from segcli.labels import LabelSpace
from segcli.models.segmenter import Segmenter, StrideOutput
from segcli.optim.precision import Precision
from segcli.runs import find_checkpoint


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A checkpoint's network in eval mode, without gradients, outside of any other module.

    Attributes:
        digest: SHA-256 of weights and buffers, by name.
        precision: how it computes; that of the student's training, once that is known.
    """

    path: Path
    model: Segmenter
    checkpoint: Checkpoint
    digest: str
    precision: Precision | None = None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> StrideOutput:
        """Logits `(N, K, H'/s, W'/s)` and features for uint8 `(N, 3, H, W)`."""
        if self.precision is None:
            return self.model.logits_at_stride(images)
        with self.precision.autocast(images.device):
            return self.model.logits_at_stride(images)

    def predictor(self, device: torch.device) -> Predictor:
        """Predicts as the teacher's own run validated it, with these very weights."""
        stored = self.checkpoint.inference
        return Predictor(
            self.model,
            self.checkpoint.label_space,
            device=device,
            precision=str(stored.get("precision", "fp32")),
            channels_last=bool(stored.get("channels_last", False)),
            size=stored.get("size"),
        )

    def placed(self, device: torch.device, precision: Precision) -> Teacher:
        """On the student's device, in its arithmetic."""
        self.model.to(device).to(memory_format=precision.memory_format)
        return dataclasses.replace(self, precision=precision)


def load_teacher(
    path: str | Path, space: LabelSpace | None = None, *, warn: Callable[[str], None] | None = None
) -> Teacher:
    """The teacher that a run folder or a checkpoint holds.

    Args:
        space: the student's classes, which have to be the teacher's.

    Raises:
        CheckpointError: missing, damaged, or weights that do not fit the model they name.
        LabelSpaceError: other classes than the student's.
    """
    folder = find_checkpoint(path)
    checkpoint = load_checkpoint(folder, warn=warn)
    if space is not None and (clause := checkpoint.label_space.difference(space)):
        raise LabelSpaceError(f"teacher and data have different classes, {clause}", file=folder)
    model = build_from_checkpoint(checkpoint).requires_grad_(False)
    return Teacher(folder, model, checkpoint, digest(model))


def describe_teacher(path: str | Path) -> Checkpoint:
    """What the checkpoint of a teacher says of itself; raises as `load_teacher` does."""
    return load_checkpoint(find_checkpoint(path))


def digest(model: torch.nn.Module) -> str:
    """SHA-256 of all weights and buffers of a model, by name."""
    result = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        result.update(name.encode())
        result.update(value.detach().cpu().contiguous().numpy().tobytes())
    return result.hexdigest()
