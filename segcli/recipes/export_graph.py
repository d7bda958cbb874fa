"""From a checkpoint's network to ONNX and OpenVINO files that describe themselves.

Shape legend: images uint8 (N, 3, H, W) RGB, coarse logits float32 (N, K, H'/s, W'/s), where
H', W' are the next multiples of 32 and s is the decoder's stride.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli import exported, files
from segcli.checkpoint import Checkpoint, build_from_checkpoint
from segcli.environment import library_versions
from segcli.errors import SegcliError
from segcli.models.segmenter import SIZE_MULTIPLE, Segmenter
from segcli.recipes.export_rounding import round_spatial_weights
from segcli.temperature import stored_temperature

Size = tuple[int, int]
INPUT, OUTPUT = "images", "logits"
OPSET = 18


class Target(NamedTuple):
    """What to export to.

    Attributes:
        format: `onnx` or `openvino`.
        precision: `fp32`, `bf16`, `fp16` or `int8`.
    """

    format: str
    precision: str

    @property
    def name(self) -> str:
        return f"{self.format}-{self.precision}"

    @property
    def file(self) -> str:
        return exported.NAME + (exported.ONNX if self.format == "onnx" else exported.OPENVINO)


# No bfloat16 in ONNX: ONNX Runtime has no convolutions for it on a CPU.
TARGETS = {
    target.name: target
    for target in (
        *(Target("onnx", precision) for precision in ("fp32", "fp16", "int8")),
        *(Target("openvino", precision) for precision in ("fp32", "bf16", "fp16", "int8")),
    )
}
DEFAULTS = ("onnx-fp32", "openvino-bf16", "openvino-int8")


class ExportError(SegcliError):
    """A network that a library cannot convert, or that no longer predicts the same."""


class ExportedNetwork(nn.Module):
    """What is exported: normalise, pad, encode, decode; the last upsampling is left out.

    A file that ends here is faster than one that ends in a class map: interpolating K planes
    to the picture's size and taking their maximum row by row, outside, needs neither K times
    the picture's memory nor 16-bit logits. It also leaves softmax, views and tiles possible.
    """

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) to float32 (N, K, H'/s, W'/s)."""
        x = self.model.normalise(images)
        height, width = x.shape[-2:]
        # Without the model's question whether there is anything to pad: for a graph of any
        # size there is no answer yet.
        x = F.pad(x, (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE))
        logits: Tensor = self.model.decoder(self.model.encoder(x)).logits
        # A cast of float32 to float32 would be recorded, and NNCF stumbles over one.
        return logits if logits.dtype == torch.float32 else logits.float()


def describe(checkpoint: Checkpoint, target: Target, size: Size | None) -> dict[str, Any]:
    """What the file says of itself: JSON types, see docs/export.md.

    Args:
        size: (h, w) that the graph is fixed to; None is any.
    """
    space = checkpoint.label_space
    model = build_from_checkpoint(checkpoint)
    return {
        "format": exported.FORMAT,
        "target": target.name,
        "precision": target.precision,
        "size": size,
        "multiple": SIZE_MULTIPLE,
        "stride": model.decoder.stride,
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "input": f"{INPUT}: uint8 (N, 3, H, W), RGB, 0..255; normalised inside",
        "output": f"{OUTPUT}: float32 (N, {space.num_classes}, H'/stride, W'/stride); H', W' are "
        "H, W rounded up to multiples; resize bilinearly (half-pixel centres) to H', W', crop "
        "to H, W, take the largest of axis 1",
        "classes": list(space.class_names),
        "palette": space.palette()[: space.num_classes].tolist(),
        "label_space": space.to_dict(),
        "inference": {
            "size": size or checkpoint.inference.get("size"),
            "temperature": stored_temperature(checkpoint.path),
        },
        "model_config": checkpoint.model_config,
        "training": {k: v for k, v in checkpoint.training.items() if k == "eval"},
        "data": checkpoint.data,
        "scores": checkpoint.scores,
        "step": checkpoint.step,
        "versions": library_versions(),
    }


def write_onnx(checkpoint: Checkpoint, path: Path, target: Target, size: Size | None) -> Path:
    """Export the network in `target.precision` (`fp32` or `fp16`) to the ONNX file `path`.

    Raises:
        ExportError: torch cannot export it.
    """
    model = build_from_checkpoint(checkpoint)
    network = ExportedNetwork(model.half() if target.precision == "fp16" else model).eval()
    example = torch.zeros((1 if size else 2, 3, *(size or (64, 96))), dtype=torch.uint8)
    axes = None if size else {name: {0: "N", 2: "H", 3: "W"} for name in (INPUT, OUTPUT)}
    traced = files.make_folder(path.parent) / f".{path.name}.traced"
    with quiet():
        try:
            torch.onnx.export(
                network,
                (example,),
                str(traced),
                # By tracing: a second, where capturing by torch.export takes half a minute
                # for the same graph.
                dynamo=False,
                dynamic_axes=axes,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
            )
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            raise ExportError(f"torch cannot export this network ({text})") from error
    proto = exported.import_extra("onnx").load(traced)
    traced.unlink()
    exported.write_metadata(proto, describe(checkpoint, target, size))
    files.write_bytes(path, proto.SerializeToString())
    return path


def write_target(
    checkpoint: Checkpoint,
    source: Path,
    folder: Path,
    target: Target,
    size: Size | None,
    pictures: Callable[[], Sequence[Tensor]],
) -> Path:
    """Make the file of `target` in `folder` from the fp32 ONNX file `source`.

    Args:
        pictures: uint8 (1, 3, H, W) each, to calibrate int8 with; called for int8 alone.

    Returns:
        The .onnx, or the .xml with its .bin beside it.

    Raises:
        ExportError: a library cannot convert the network.
    """
    path = files.make_folder(folder) / target.file
    if target.format == "onnx" and target.precision != "int8":
        return write_onnx(checkpoint, path, target, size)
    try:
        with quiet():
            if target.format == "onnx":
                model = _quantised(exported.import_extra("onnx").load(source), pictures())
                exported.write_metadata(model, describe(checkpoint, target, size))
                files.write_bytes(path, model.SerializeToString())
                return path
            model = exported.read_openvino(source)
            if target.precision == "int8":
                model = _quantised(model, pictures())
            elif target.precision == "bf16":
                round_spatial_weights(model)
            exported.write_metadata(model, describe(checkpoint, target, size))
            half = target.precision == "fp16"
            exported.import_extra("openvino").save_model(model, str(path), compress_to_fp16=half)
    except SegcliError:
        raise
    except Exception as error:  # each library has errors of its own kinds
        text = " ".join(str(error).split())[:200]
        raise ExportError(f"cannot make {target.name} ({text})", file=path) from error
    return path


def _quantised(model: Any, pictures: Sequence[Tensor]) -> Any:
    """`model` in int8, with ranges of activations measured on `pictures`.

    Post-training quantisation of NNCF: weights symmetric per channel, activations asymmetric
    per tensor where they are signed (``MIXED``), biases corrected for the mean error.
    """
    nncf = exported.import_extra("nncf")
    is_onnx = hasattr(model, "metadata_props")
    items: list[Any] = [p.numpy() for p in pictures]
    if is_onnx:
        items = [{INPUT: item} for item in items]
    return nncf.quantize(
        model,
        nncf.Dataset(items),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(items),
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what converters say of their progress, and of each other, off the console."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
