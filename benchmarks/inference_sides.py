"""The sides of `inference.py`: uint8 picture in, uint8 class map out, each in its own process."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segcli.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from segcli.exported import import_extra
from segcli.inference.predictor import Predictor
from segcli.inference.upsample import Frame, class_map
from segcli.labels import load_label_space
from segcli.models.build import build_model
from segcli.models.encoders import IMAGENET_MEAN, IMAGENET_STD
from segcli.recipes.export_graph import TARGETS, write_onnx, write_target

Picture = NDArray[np.uint8]
Predict = Callable[[Picture], Picture]
Size = tuple[int, int]
WIDTH, HEAD_WIDTH = 256, 128  # smp.FPN's own
STUDENT = {"encoder": "mobilenet_v2", "width_mult": 0.5, "width": 64, "head_width": 32}
# Ultralytics' network from its own YAML, untrained: run by an interpreter that has it, which
# leaves two ONNX files, one that ends in logits and one that ends in a class map.
YOLO = """
import sys, torch
from ultralytics.nn.tasks import SemanticSegmentationModel
folder, classes, height, width = sys.argv[1], *map(int, sys.argv[2:5])
network = SemanticSegmentationModel("yolo26n-sem.yaml", nc=classes, verbose=False).eval().fuse()
head = network.model[-1]
class Picture(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network
    def forward(self, images):
        return self.network(images.float() / 255)
example = torch.zeros((1, 3, height, width), dtype=torch.uint8)
for name in ("logits", "map"):
    head.export, head.format = name == "map", "openvino"
    torch.onnx.export(Picture(network).eval(), (example,), f"{folder}/{name}.onnx",
                      dynamo=False, opset_version=18, input_names=["images"])
print("parameters", sum(p.numel() for p in network.parameters()))
"""


@dataclass(frozen=True)
class Work:
    """What is compared: a network of `model_config`'s, pictures of `size`, on `cores`."""

    name: str
    model_config: dict[str, Any]
    size: Size
    cores: int
    folder: Path
    checkpoint: Path | None = None

    def file(self, side: str) -> Path:
        return self.folder / side / TARGETS[side].file


def prepare(work: Work, targets: Sequence[str]) -> Checkpoint:
    """Write a checkpoint with the statistics of real batches, unless given, and its exports."""
    path = work.checkpoint or _untrained(work)
    checkpoint = load_checkpoint(path)
    source = write_onnx(checkpoint, work.folder / "source.onnx", TARGETS["onnx-fp32"], None)
    for name in targets:
        pictures = [_tensor(picture(work.size, seed)) for seed in range(4)]
        write_target(
            checkpoint, source, work.folder / name, TARGETS[name], None, lambda p=pictures: p
        )
    return checkpoint


def _untrained(work: Work) -> Path:
    torch.manual_seed(0)
    space = load_label_space(
        "camvid-11" if work.model_config["num_classes"] == 11 else "cityscapes-19"
    )
    model = build_model(**work.model_config)
    settle(model)
    description = {
        "model_config": work.model_config,
        "label_space": space.to_dict(),
        "inference": {"precision": "fp32", "channels_last": True, "size": None},
        "training": {},
        "data": {},
        "scores": {},
        "step": 0,
    }
    save_checkpoint(work.folder / "checkpoint", model.state_dict(), description)
    return work.folder / "checkpoint"


def settle(model: nn.Module) -> None:
    """Give batch norm the statistics of a few pictures, so that no number is out of the way."""
    batch = torch.cat([_tensor(picture((64, 96), seed)) for seed in range(4)]).float()
    if not hasattr(model, "normalise"):
        batch = batch / 64 - 2
    with torch.no_grad():
        for _ in range(20):
            model.train()(batch)
    model.eval()


def picture(size: Size, seed: int) -> Picture:
    """uint8 (H, W, 3): blobs of all sizes with noise on them, a photograph to a network."""
    import cv2

    random = np.random.default_rng(seed)
    layers = [
        cv2.resize(random.normal(size=(n, n, 3)), size[::-1], interpolation=cv2.INTER_CUBIC) * w
        for n, w in ((4, 40), (16, 30), (64, 15), (256, 5))
    ]
    return np.clip(118 + sum(layers), 0, 255).astype(np.uint8)


def _tensor(image: Picture) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()


def build(side: str, work: Work) -> Predict:
    """A function from picture to class map; `side` as in `inference.SIDES`."""
    if side == "smp":
        return _smp(work)
    if side == "torch":
        found = work.checkpoint or work.folder / "checkpoint"
        return Predictor.from_checkpoint(found, device="cpu", precision="fp32").predict
    if side == "direct":
        return _direct(work.file("openvino-bf16"), work)
    if side == "direct-logits":
        return _direct_logits(work.file("openvino-bf16"), work)
    if side == "yolo-map":
        return _direct(work.folder / "map.onnx", work)
    if side == "yolo-logits":
        return _direct_logits(work.folder / "logits.onnx", work)
    return Predictor.from_checkpoint(work.file(side)).predict


def _smp(work: Work) -> Predict:
    """segmentation_models_pytorch, as it comes: eager, float32, channels first."""
    import segmentation_models_pytorch as smp

    model = smp.FPN(
        work.model_config["encoder"],
        encoder_weights=None,
        classes=work.model_config["num_classes"],
        decoder_pyramid_channels=work.model_config["width"],
        decoder_segmentation_channels=work.model_config["head_width"],
    )
    settle(model)
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)

    @torch.inference_mode()
    def predict(image: Picture) -> Picture:
        x = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 - mean) / std
        result: Picture = model(x).argmax(1)[0].to(torch.uint8).numpy()
        return result

    return predict


def _direct(path: Path, work: Work) -> Predict:
    """OpenVINO without segcli's back end: its Python API, bf16, one fixed shape.

    A graph that ends in logits gets bilinear upsampling and the largest class appended, which
    is what a user of OpenVINO would do: everything runs in one graph.
    """
    openvino = import_extra("openvino")
    ops = import_extra("openvino.opset13")
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([1, 3, *work.size])
    logits = model.get_results()[0].input_value(0)
    if len(logits.shape) == 4:
        target = ops.constant(np.array(work.size, np.int64))
        axes = ops.constant(np.array([2, 3], np.int64))
        full = ops.interpolate(
            logits, target, "linear_onnx", "sizes", [0], [0], "half_pixel", axes=axes
        )
        best = ops.topk(full, ops.constant(np.int64(1)), 1, "max", "none", "i32").output(1)
        result = ops.convert(ops.squeeze(best, ops.constant(np.array([1]))), "u8")
        model = openvino.Model([result], model.get_parameters(), "direct")
    config = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": work.cores,
    }
    compiled = core.compile_model(model, "CPU", config)

    def predict(image: Picture) -> Picture:
        batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
        return np.asarray(compiled([batch])[0][0], np.uint8)

    return predict


def _direct_logits(path: Path, work: Work) -> Predict:
    """As `_direct`, but the graph ends where it ends, and segcli's upsampling follows."""
    openvino = import_extra("openvino")
    model = openvino.Core().read_model(path)
    model.reshape([1, 3, *work.size])
    config = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": work.cores}
    compiled = openvino.Core().compile_model(model, "CPU", config)

    @torch.inference_mode()
    def predict(image: Picture) -> Picture:
        batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
        logits = torch.from_numpy(compiled([batch])[0][0])
        covered = tuple(-(-side // 32) * 32 for side in work.size)
        frame = Frame((covered[0], covered[1]), work.size, work.size)
        return class_map(logits, frame).numpy()

    return predict


def export_yolo(python: Path, work: Work) -> str:
    """Leave logits.onnx and map.onnx of yolo26n-sem in the work's folder; say how large it is."""
    arguments = [str(work.folder), str(work.model_config["num_classes"]), *map(str, work.size)]
    result = subprocess.run(
        [str(python), "-c", YOLO, *arguments], capture_output=True, text=True, check=True
    )
    return result.stdout.strip().splitlines()[-1]
