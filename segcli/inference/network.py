"""What the predictor asks of a network, and the torch network that answers.

Shape legend: batch uint8 (N, 3, H, W), coarse logits (N, K, h, w) at the network's stride.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segcli.errors import UsageError
from segcli.models.segmenter import SIZE_MULTIPLE

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = tuple(_DTYPES)
# Sides of the pictures by which memory is estimated.
_PROBES = (128, 256)


@runtime_checkable
class Backend(Protocol):
    """A network that runs somewhere: in torch, ONNX Runtime or OpenVINO.

    Attributes:
        device: where the batch is wanted and where the logits lie.
        precision: what it computes in, one of `PRECISIONS`.
        multiple: a picture's sides are padded, inside the network, on the right and at the
            bottom to multiples of this many pixels; 1 where nothing is padded.
    """

    device: torch.device
    precision: str
    multiple: int

    def __call__(self, batch: Tensor) -> Tensor:
        """Coarse logits of RGB pictures.

        Args:
            batch: uint8 (N, 3, H, W) on `device`.

        Returns:
            float32 (N, K, h, w), which cover the picture with its padding: resized
            bilinearly to (H', W'), the next multiples, and cropped on the right and at the
            bottom to (H, W), they are the logits of the picture.
        """

    def pixel_bytes(self) -> float | None:
        """Working memory per pixel of a batch, for large pictures; None where nobody can say."""


class TorchBackend:
    """A torch module as a `Backend`.

    A `Segmenter` stops before its last upsampling; any other module is taken to return logits
    (N, K, h, w) that cover the picture as it is, and are made in eval mode.

    Args:
        model: moved to `device` and, before every prediction, put in eval mode; not copied,
            so that weights which change later are the ones used later.
        precision: `fp32`, or autocast to `bf16` or `fp16`.
        channels_last: memory layout of weights and pictures.

    Raises:
        UsageError: an unknown precision.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        channels_last: bool = False,
    ) -> None:
        if precision not in _DTYPES:
            raise UsageError(
                f"unknown precision '{precision}'", hint=f"one of {', '.join(PRECISIONS)}"
            )
        self.device, self.precision = torch.device(device), precision
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(self.device)
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self._coarse = getattr(self.model, "logits_at_stride", None)
        self.multiple = SIZE_MULTIPLE if self._coarse is not None else 1
        self._pixel_bytes: float | None = None

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> Tensor:
        """As `Backend` has it."""
        if self.model.training:
            self.model.eval()
        batch = batch.to(self.device).contiguous(memory_format=self._layout)
        with torch.autocast(
            self.device.type, _DTYPES[self.precision], enabled=self.precision != "fp32"
        ):
            result = self._coarse(batch).logits if self._coarse is not None else self.model(batch)
        # In float32 planes: 16 bits are too few for the differences that interpolation makes.
        logits: Tensor = result.float().contiguous()
        return logits

    def pixel_bytes(self) -> float:
        """The slope of the peak of live tensors between two small pictures, measured once."""
        if self._pixel_bytes is None:
            small, large = (self._peak(side) for side in _PROBES)
            pixels = _PROBES[1] ** 2 - _PROBES[0] ** 2
            self._pixel_bytes = max(1.0, (large - small) / pixels)
        return self._pixel_bytes

    def _peak(self, side: int) -> int:
        batch = torch.zeros((1, 3, side, side), dtype=torch.uint8, device=self.device)
        with LiveBytes() as live:
            self(batch)
        return int(live.peak)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are made and alive at a time within the block.

    Attributes:
        peak: the most there were. What an operator takes for itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator, then count."""
        result = func(*args, **(kwargs or {}))
        self._alive = {k: v for k, v in self._alive.items() if not _expired(v[0])}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self._alive[storage._cdata] = (_weak(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


# torch has no types for these.
_weak: Any = StorageWeakRef


def _expired(reference: Any) -> bool:
    return bool(reference.expired())
