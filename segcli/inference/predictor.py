"""Pictures in, class maps out: the one object behind validation, `eval` and `predict`.

Shape legend: image uint8 (H, W, 3) RGB, class map uint8 (H, W), logits (N, K, h, w).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from segcli.environment import resolve_device
from segcli.errors import CheckpointError, UsageError
from segcli.inference.geometry import Size, SizeRule
from segcli.labels import LabelSpace

if TYPE_CHECKING:
    from segcli.checkpoint import Checkpoint

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = tuple(_DTYPES)


class Predictor:
    """Predicts at a picture's own size, whatever size the model sees.

    Args:
        model: uint8 (N, 3, H, W) RGB -> logits (N, K, H, W) in eval mode. It is moved to
            `device` and, before every prediction, put in eval mode; it is not copied, so
            that weights which change later are the ones used later.
        label_space: what the K channels mean.
        device: where to compute.
        precision: `fp32`, or autocast to `bf16` or `fp16`.
        channels_last: memory layout of weights and images.
        size: at which the model sees a picture: a `SizeRule`, or what `SizeRule.of` takes.
    """

    def __init__(
        self,
        model: nn.Module,
        label_space: LabelSpace,
        *,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        channels_last: bool = False,
        size: SizeRule | Sequence[int] | None = None,
    ) -> None:
        if precision not in _DTYPES:
            raise UsageError(f"unknown precision '{precision}'", hint=f"one of {PRECISIONS}")
        self.device = torch.device(device)
        self.label_space, self.precision = label_space, precision
        self.size_rule = SizeRule.of(size)
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(self.device)
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        device: str | None = None,
        precision: str | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Predictor:
        """From a checkpoint folder alone, predicting as it was validated.

        Raises:
            CheckpointError: a missing or damaged checkpoint.
            UsageError: a device that is not here.
        """
        from segcli.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(path, warn=warn)
        return cls.of_checkpoint(checkpoint, device=device, precision=precision)

    @classmethod
    def of_checkpoint(
        cls, checkpoint: Checkpoint, *, device: str | None = None, precision: str | None = None
    ) -> Predictor:
        """As `from_checkpoint`, for one that was read before."""
        from segcli.checkpoint import build_from_checkpoint

        where = resolve_device(device)
        stored = checkpoint.inference
        usual = str(stored.get("precision", "fp32"))
        if usual not in _DTYPES or (usual == "fp16" and where.type == "cpu"):
            usual = "fp32"
        try:
            size_rule = SizeRule.of(stored.get("size"))
        except ValueError as error:
            raise CheckpointError(str(error), file=checkpoint.path) from None
        return cls(
            build_from_checkpoint(checkpoint),
            checkpoint.label_space,
            device=where,
            precision=precision or usual,
            channels_last=bool(stored.get("channels_last", False)),
            size=size_rule,
        )

    def predict(
        self, image: NDArray[np.uint8], output_size: Size | None = None
    ) -> NDArray[np.uint8]:
        """The class map of one picture, at its own size or at `output_size`."""
        result: NDArray[np.uint8] = self.predict_batch([image], output_size)[0]
        return result

    def predict_batch(
        self, images: Sequence[NDArray[np.uint8]], output_size: Size | None = None
    ) -> NDArray[np.uint8]:
        """The class maps uint8 (N, h, w) of N pictures of one size."""
        return _argmax(self.logits(images, output_size)).cpu().numpy()

    @torch.inference_mode()
    def logits(
        self, images: Sequence[NDArray[np.uint8]], output_size: Size | None = None
    ) -> Tensor:
        """Logits (N, K, h, w) on the device, resized bilinearly to `output_size`.

        Raises:
            ValueError: pictures that are not uint8 (H, W, 3), or not of one size.
        """
        size = _common_size(images)
        seen = np.stack([self.size_rule.apply(image) for image in images])
        batch = torch.from_numpy(seen).permute(0, 3, 1, 2).to(self.device)
        batch = batch.contiguous(memory_format=self._layout)
        if self.model.training:
            self.model.eval()
        with torch.autocast(
            self.device.type, _DTYPES[self.precision], enabled=self.precision != "fp32"
        ):
            logits: Tensor = self.model(batch)
        target = output_size or size
        if tuple(logits.shape[-2:]) == target:
            return logits
        # 16 bits are too few for the small differences that interpolation makes.
        return F.interpolate(logits.float(), size=target, mode="bilinear", align_corners=False)


def _common_size(images: Sequence[NDArray[np.uint8]]) -> Size:
    shapes = {image.shape for image in images}
    if len(shapes) != 1 or any(image.dtype != np.uint8 for image in images):
        raise ValueError(f"pictures must be uint8 and of one size, not {sorted(shapes)}")
    shape = shapes.pop()
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"a picture is (H, W, 3), not {shape}")
    return shape[0], shape[1]


def _argmax(logits: Tensor) -> Tensor:
    """(N, K, h, w) -> uint8 (N, h, w); of equal logits the lowest class wins."""
    # Half the time of argmax on a CPU, and the same answer.
    return logits.max(1).indices.to(torch.uint8)
