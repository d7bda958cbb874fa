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

from segcli import files
from segcli.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint
from segcli.config import Config
from segcli.errors import ConfigError, LabelSpaceError
from segcli.exported import is_exported
from segcli.inference.network import Backend
from segcli.inference.predictor import Predictor
from segcli.labels import LabelSpace
from segcli.models.segmenter import Segmenter, StrideOutput
from segcli.optim.precision import Precision
from segcli.runs import find_checkpoint


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A checkpoint's network in eval mode, without gradients, outside of any other module.

    Attributes:
        model: the network; of an exported file it is a back end, which has no features.
        digest: SHA-256 of weights and buffers, by name, or of the exported file.
        precision: how it computes; that of the student's training, once that is known.
    """

    path: Path
    model: Segmenter | Backend
    checkpoint: Checkpoint
    digest: str
    precision: Precision | None = None

    @property
    def has_features(self) -> bool:
        return isinstance(self.model, Segmenter)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> StrideOutput:
        """Logits `(N, K, H'/s, W'/s)` and features for uint8 `(N, 3, H, W)`."""
        if not isinstance(self.model, Segmenter):
            logits = self.model(images.to(self.model.device).contiguous()).to(images.device)
            height, width = images.shape[-2:]
            m = self.model.multiple
            padded = (-(-height // m) * m, -(-width // m) * m)
            return StrideOutput(logits, {}, padded, logits)
        if self.precision is None:
            return self.model.logits_at_stride(images)
        with self.precision.autocast(images.device):
            return self.model.logits_at_stride(images)

    def predictor(
        self,
        device: torch.device,
        *,
        own_size: bool = True,
        size: tuple[int, int] | None = None,
    ) -> Predictor:
        """Predicts with these very weights as the teacher's own run validated them.

        Args:
            own_size: at the size that run predicted at; else at `size`, or whole pictures.
        """
        stored = self.checkpoint.inference
        usual = str(stored.get("precision", "fp32"))
        if device.type == "cpu" and usual == "fp16":
            usual = "fp32"
        return Predictor(
            self.model,
            self.checkpoint.label_space,
            device=device,
            precision=usual,
            channels_last=bool(stored.get("channels_last", False)),
            size=stored.get("size") if own_size else size,
        )

    def placed(self, device: torch.device, precision: Precision) -> Teacher:
        """On the student's device, in its arithmetic; a back end stays where it runs."""
        if isinstance(self.model, Segmenter):
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
    if is_exported(folder):
        from segcli.inference.backends import open_backend

        return Teacher(folder, open_backend(folder), checkpoint, _digest_of_files(folder))
    model = build_from_checkpoint(checkpoint).requires_grad_(False)
    return Teacher(folder, model, checkpoint, digest(model))


def describe_teacher(path: str | Path) -> Checkpoint:
    """What the checkpoint of a teacher says of itself; raises as `load_teacher` does."""
    return load_checkpoint(find_checkpoint(path))


def check_sizes(config: Config, teacher: Teacher) -> None:
    """That an exported teacher takes the crops of every stage.

    Raises:
        ConfigError: it was exported for pictures of one other size.
    """
    size = getattr(teacher.model, "size", None)
    if teacher.has_features or size is None:
        return
    for number, stage in enumerate(config.train.stages):
        if tuple(stage.size) != tuple(size):
            raise ConfigError(
                f"this teacher takes pictures of {size[0]}x{size[1]} alone, "
                f"train.stages.{number}.size is {stage.size[0]}x{stage.size[1]}",
                file=teacher.path,
                hint="segcli export without --size takes any",
            )


def _digest_of_files(path: Path) -> str:
    """SHA-256 of an exported file and of those with its name beside it, weights among them."""
    beside = sorted(path.parent.glob(f"{path.stem}.*"))
    return files.sha256_bytes("".join(files.sha256_file(p) for p in beside).encode())


def digest(model: torch.nn.Module) -> str:
    """SHA-256 of all weights and buffers of a model, by name."""
    result = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        result.update(name.encode())
        result.update(value.detach().cpu().contiguous().numpy().tobytes())
    return result.hexdigest()
