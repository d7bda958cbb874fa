"""Pictures in, class maps out: the one object behind validation, `eval`, `predict` and `video`.

Shape legend: image uint8 (H, W, 3) RGB, class map uint8 (H, W), logits (N, K, h, w).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segcli.environment import resolve_device
from segcli.errors import CheckpointError
from segcli.inference.geometry import Size, SizeRule
from segcli.inference.network import PRECISIONS, Backend, TorchBackend
from segcli.inference.tiles import Tiler
from segcli.inference.tta import PLAIN, TTA, View
from segcli.inference.upsample import Frame, argmax, class_map, strips, upsample
from segcli.labels import LabelSpace

if TYPE_CHECKING:
    from segcli.checkpoint import Checkpoint

Image = NDArray[np.uint8]


class Predictor:
    """Predicts at a picture's own size, whatever size the model sees.

    Args:
        model: uint8 (N, 3, H, W) RGB -> logits in eval mode, see `TorchBackend`; or a
            `Backend`, which then has a device, a precision and a layout of its own.
        label_space: what the K channels mean.
        device: where to compute.
        precision: `fp32`, or autocast to `bf16` or `fp16`.
        channels_last: memory layout of weights and images.
        size: at which the model sees a picture: a `SizeRule`, or what `SizeRule.of` takes.
        tta: views to average; None is the plain picture alone.
        tile: `auto` shows the model a whole picture where memory allows, else tiles with
            blended overlap; (h, w) are tiles of that size.
    """

    def __init__(
        self,
        model: nn.Module | Backend,
        label_space: LabelSpace,
        *,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        channels_last: bool = False,
        size: SizeRule | Sequence[int] | None = None,
        tta: TTA | None = None,
        tile: str | Size = "auto",
    ) -> None:
        self.backend: Backend
        if isinstance(model, nn.Module):
            self.backend = TorchBackend(
                model, device=device, precision=precision, channels_last=channels_last
            )
        else:
            self.backend = model
        self.label_space, self.tta = label_space, tta
        # What `confident` divides the logits of the plain view by; see `segcli.temperature`.
        self.temperature = 1.0
        self._network = Tiler(self.backend, tile)
        self.size_rule = SizeRule.of(size)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        device: str | None = None,
        precision: str | None = None,
        warn: Callable[[str], None] | None = None,
        tta: TTA | None = None,
    ) -> Predictor:
        """From a checkpoint folder or an exported file alone, predicting as it was validated.

        Raises:
            CheckpointError: a missing or damaged checkpoint.
            UsageError: a device that is not here.
        """
        from segcli.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(path, warn=warn)
        return cls.of_checkpoint(checkpoint, device=device, precision=precision, tta=tta)

    @classmethod
    def of_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        device: str | None = None,
        precision: str | None = None,
        tta: TTA | None = None,
    ) -> Predictor:
        """As `from_checkpoint`, for one that was read before."""
        from segcli.checkpoint import build_from_checkpoint
        from segcli.exported import is_exported
        from segcli.temperature import stored_temperature

        stored = checkpoint.inference
        if is_exported(checkpoint.path):
            from segcli.inference.backends import open_backend

            backend = open_backend(checkpoint.path, device=device, precision=precision)
            rule = _stored_rule(checkpoint)
            predictor = cls(backend, checkpoint.label_space, size=rule, tta=tta)
            predictor.temperature = float(stored.get("temperature") or 1.0)
            return predictor
        where = resolve_device(device)
        usual = str(stored.get("precision", "fp32"))
        if usual not in PRECISIONS or (usual == "fp16" and where.type == "cpu"):
            usual = "fp32"
        predictor = cls(
            build_from_checkpoint(checkpoint),
            checkpoint.label_space,
            device=where,
            precision=precision or usual,
            channels_last=bool(stored.get("channels_last", False)),
            size=_stored_rule(checkpoint),
            tta=tta,
        )
        predictor.temperature = stored_temperature(checkpoint.path) or 1.0
        return predictor

    @property
    def device(self) -> torch.device:
        """Where the network computes, and where logits and probabilities lie."""
        return self.backend.device

    @property
    def precision(self) -> str:
        """What the network computes in."""
        return self.backend.precision

    @property
    def views(self) -> tuple[View, ...]:
        """What is averaged; the plain view alone without TTA."""
        return (PLAIN,) if self.tta is None else self.tta.views()

    def with_tta(self, tta: TTA | None) -> Predictor:
        """The same predictor, weights shared, with other views."""
        other = copy.copy(self)
        other.tta = tta
        return other

    def with_tile(self, tile: str | Size) -> Predictor:
        """The same predictor, weights shared, that shows the network other tiles."""
        other = copy.copy(self)
        other._network = Tiler(self.backend, tile)
        return other

    def with_backend(self, backend: Backend) -> Predictor:
        """The same predictor around another network."""
        other = copy.copy(self)
        other.backend, other._network = backend, Tiler(backend, self._network.tile)
        return other

    def predict(self, image: Image, output_size: Size | None = None) -> Image:
        """The class map of one picture, at its own size or at `output_size`."""
        result: Image = self.predict_batch([image], output_size)[0]
        return result

    @torch.inference_mode()
    def predict_batch(self, images: Sequence[Image], output_size: Size | None = None) -> Image:
        """The class maps uint8 (N, h, w) of N pictures of one size.

        Raises:
            ValueError: pictures that are not uint8 (H, W, 3), or not of one size.
        """
        if self.tta is None:
            coarse, frame = self.coarse(images, output_size)
            maps = [class_map(logits, frame) for logits in coarse]
        else:
            maps = [argmax(self._mean(image, output_size)) for image in _checked(images)]
        return torch.stack(maps).cpu().numpy()

    @torch.inference_mode()
    def confident(
        self, images: Sequence[Image], output_size: Size | None = None
    ) -> tuple[Image, NDArray[np.float32]]:
        """The class maps uint8 (N, h, w), and their probabilities float32 (N, h, w) in 0..1.

        Where `segcli eval` has left a temperature with the checkpoint, those of the plain view
        are at that temperature: as sure as the model was right.
        """
        size = output_size or _common_size(images)
        maps = torch.empty((len(images), *size), dtype=torch.uint8, device=self.device)
        sure = torch.empty((len(images), *size), dtype=torch.float32, device=self.device)
        if self.tta is None:
            coarse, frame = self.coarse(images, output_size)
            for index, logits in enumerate(coarse):
                for rows, strip in strips(logits, frame):
                    sure[index, rows] = (strip / self.temperature).softmax(0).amax(0)
                    maps[index, rows] = argmax(strip)
        else:
            for index, image in enumerate(images):
                values, indices = self._mean(image, output_size).max(0)
                maps[index], sure[index] = indices, values
        return maps.cpu().numpy(), sure.cpu().numpy()

    @torch.inference_mode()
    def probabilities(self, images: Sequence[Image], output_size: Size | None = None) -> Tensor:
        """Softmax float32 (N, K, h, w) on the device, the mean over the views.

        That is K numbers a pixel: `predict_batch` and `confident` make no such thing of more
        than one picture, and none at all without TTA.
        """
        means = [self._mean(image, output_size) for image in _checked(images)]
        return means[0][None] if len(means) == 1 else torch.stack(means)

    @torch.inference_mode()
    def logits(self, images: Sequence[Image], output_size: Size | None = None) -> Tensor:
        """Logits of the plain view (N, K, h, w) on the device, resized to `output_size`.

        Raises:
            ValueError: pictures that are not uint8 (H, W, 3), or not of one size.
        """
        return upsample(*self.coarse(images, output_size))

    @torch.inference_mode()
    def coarse(
        self, images: Sequence[Image], output_size: Size | None = None, view: View = PLAIN
    ) -> tuple[Tensor, Frame]:
        """Logits at the network's own stride, and how they lie on the output.

        Args:
            view: `upsample` and `strips` give the columns in its order: `view.invert` them.

        Returns:
            float32 (N, K, h, w) on the device, and the `Frame` for `segcli.inference.upsample`.

        Raises:
            ValueError: pictures that are not uint8 (H, W, 3), or not of one size.
        """
        size = _common_size(images)
        seen = np.stack([view.apply(image, self.size_rule) for image in images])
        content = (seen.shape[1], seen.shape[2])
        batch = torch.from_numpy(seen).permute(0, 3, 1, 2).to(self.device)
        multiple = self.backend.multiple
        covered = tuple(-(-side // multiple) * multiple for side in content)
        frame = Frame((covered[0], covered[1]), content, output_size or size)
        # A scaled view needs no more memory than the plain one: tiles where it is larger.
        usual = self.size_rule.target(size)
        most = None if view.scale == 1 else usual[0] * usual[1]
        return self._network(batch, most), frame

    def _mean(self, image: Image, output_size: Size | None) -> Tensor:
        """Softmax (K, h, w) of one picture, as a running mean over the views."""
        mean: Tensor | None = None
        for count, view in enumerate(self.views, start=1):
            coarse, frame = self.coarse([image], output_size, view)
            if mean is None:
                mean = coarse.new_zeros((coarse.shape[1], *frame.output))
            for rows, strip in strips(coarse[0], frame):
                # m + (p - m) / n: equal views leave the mean as it is, to the last bit.
                mean[:, rows].lerp_(view.invert(strip).softmax(0), 1 / count)
        if mean is None:
            raise ValueError("no views")
        return mean


def _stored_rule(checkpoint: Checkpoint) -> SizeRule:
    try:
        return SizeRule.of(checkpoint.inference.get("size"))
    except ValueError as error:
        raise CheckpointError(str(error), file=checkpoint.path) from None


def _checked(images: Sequence[Image]) -> Sequence[Image]:
    _common_size(images)
    return images


def _common_size(images: Sequence[Image]) -> Size:
    shapes = {image.shape for image in images}
    if len(shapes) != 1 or any(image.dtype != np.uint8 for image in images):
        raise ValueError(f"pictures must be uint8 and of one size, not {sorted(shapes)}")
    shape = shapes.pop()
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"a picture is (H, W, 3), not {shape}")
    return shape[0], shape[1]
