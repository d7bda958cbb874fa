"""Exported networks behind the predictor: OpenVINO and ONNX Runtime, on the CPU.

Shape legend: batch uint8 (N, 3, H, W), coarse logits (N, K, h, w) at the network's stride.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segcli.environment import resolve_device, usable_cores
from segcli.errors import CheckpointError, UsageError
from segcli.exported import ONNX, import_extra, read_description, read_openvino, unreadable
from segcli.inference.geometry import Size
from segcli.inference.network import Backend

# What OpenVINO is told to compute in. Of an int8 network that is the part left in floats.
_OPENVINO_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "bf16"}
# Compiled networks kept, one per size of picture: an evaluation meets few sizes.
_COMPILED = 6


def open_backend(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    threads: int | None = None,
) -> Backend:
    """The exported file at `path` as a `Backend`.

    Args:
        device: None or the CPU.
        precision: None or the file's own, which cannot be changed any more.
        threads: None takes all usable cores.

    Raises:
        CheckpointError: not a file of `segcli export`, or a damaged one.
        ExtraMissingError: the library that runs it is not installed.
        UsageError: another device or precision.
    """
    path = Path(path)
    description = read_description(path)
    if device is not None and resolve_device(str(device)).type != "cpu":
        raise UsageError(f"an exported network runs on the CPU, not on {device}", file=path)
    own = str(description["precision"])
    if precision not in (None, own):
        raise UsageError(
            f"this network was exported in {own}, it cannot run in {precision}",
            file=path,
            hint="leave --precision out, or export it again",
        )
    if path.suffix.lower() == ONNX:
        return OnnxBackend(path, description, threads=threads)
    return OpenVinoBackend(path, description, threads=threads)


class _Exported:
    """What both share: a picture at a time, of the sizes that the file takes."""

    def __init__(self, path: Path, description: dict[str, Any]) -> None:
        self.path = path
        self.device = torch.device("cpu")
        self.precision = str(description["precision"])
        self.multiple = int(description["multiple"])
        size = description["size"]
        self.size: Size | None = None if size is None else (int(size[0]), int(size[1]))

    def __call__(self, batch: Tensor) -> Tensor:
        """As `Backend` has it.

        Raises:
            UsageError: pictures of another size than the one that the file was made for.
        """
        size = (batch.shape[-2], batch.shape[-1])
        if self.size is not None and size != self.size:
            raise UsageError(
                f"made for pictures of {_text(self.size)} alone, not {_text(size)}",
                file=self.path,
                hint="export without --size for any size, other scales of TTA included",
            )
        # A network is compiled for each shape, so the last batch's size must not be another.
        parts = [self._logits(picture[None].contiguous()) for picture in batch]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def pixel_bytes(self) -> float | None:
        """Nobody can say: the libraries plan their memory by themselves."""
        return None

    def _logits(self, picture: Tensor) -> Tensor:
        """uint8 (1, 3, H, W) to float32 (1, K, h, w)."""
        raise NotImplementedError


class OpenVinoBackend(_Exported):
    """An .xml of `segcli export`, compiled anew for every size of picture it meets.

    Args:
        path: the file; an ONNX file will do as well.
        description: of `read_description`.
        threads: None takes all usable cores.

    Raises:
        CheckpointError: the file cannot be used.
    """

    def __init__(
        self, path: Path, description: dict[str, Any], *, threads: int | None = None
    ) -> None:
        super().__init__(path, description)
        self._openvino = import_extra("openvino")
        self._core = self._openvino.Core()
        self._model = read_openvino(path)
        self._config = {
            "INFERENCE_PRECISION_HINT": _OPENVINO_HINTS.get(self.precision, "f32"),
            "INFERENCE_NUM_THREADS": threads or usable_cores(),
            "PERFORMANCE_HINT": "LATENCY",
            # Pinned, the threads of several networks side by side would share the first core.
            "ENABLE_CPU_PINNING": False,
        }
        self._requests: OrderedDict[Size, Any] = OrderedDict()
        self._lock = threading.Lock()

    def _logits(self, picture: Tensor) -> Tensor:
        size = (picture.shape[-2], picture.shape[-1])
        with self._lock:
            request = self._requests.get(size) or self._compile(size)
            self._requests[size] = request
            self._requests.move_to_end(size)
            while len(self._requests) > _COMPILED:
                self._requests.popitem(last=False)
            # The picture is read in place; the request's own memory is copied out of, once.
            output = request.infer([picture.numpy()], share_inputs=True, share_outputs=True)[0]
            return torch.from_numpy(output).clone()

    def _compile(self, size: Size) -> Any:
        try:
            model = self._model.clone()
            # Fixed shapes let it choose kernels and lay out memory beforehand.
            model.reshape([1, 3, *size])
            return self._core.compile_model(model, "CPU", self._config).create_infer_request()
        except RuntimeError as error:
            raise unreadable(self.path, error) from None


class OnnxBackend(_Exported):
    """An .onnx of `segcli export` in ONNX Runtime.

    Args:
        path: the file.
        description: of `read_description`.
        threads: None takes all usable cores.

    Raises:
        CheckpointError: the file cannot be used.
    """

    def __init__(
        self, path: Path, description: dict[str, Any], *, threads: int | None = None
    ) -> None:
        super().__init__(path, description)
        runtime = import_extra("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.log_severity_level = 3
        # Threads that spin while they wait take the cores of whatever else runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has errors of its own kinds
            raise unreadable(path, error) from None
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise CheckpointError(f"has {len(inputs)} inputs, not one", file=path)
        self._input = inputs[0].name

    def _logits(self, picture: Tensor) -> Tensor:
        (output, *_) = self._session.run(None, {self._input: picture.numpy()})
        return torch.from_numpy(output).float()


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
