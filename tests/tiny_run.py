"""A run folder and a prepared data set of a few tiny pictures, for the tests of several files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segcli.checkpoint import save_checkpoint
from segcli.data.manifest import Manifest, Sample, write_manifest
from segcli.labels import LabelClass, LabelSpace
from segcli.models.build import build_model
from segcli.png import encode_indices

SPACE = LabelSpace(
    "tiny",
    "indices",
    (
        LabelClass("ground", (128, 64, 128), (0,), "flat"),
        LabelClass("kerb", (244, 35, 232), (1,), "flat"),
        LabelClass("house", (70, 70, 70), (2,), "built"),
        LabelClass("sky", (70, 130, 180), (3,), "sky"),
    ),
)
MODEL = {"encoder": "mobilenet_v2", "decoder": "fpn", "width": 8, "head_width": 8}


class RedDecides(nn.Module):
    """The class is red // 64: a model whose answers are known."""

    def forward(self, images: Tensor) -> Tensor:
        centres = torch.tensor([32.0, 96.0, 160.0, 224.0], device=images.device)
        red = images[:, :1].float()
        return -((red - centres.view(1, -1, 1, 1)) ** 2) / 100


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine torch's threads wait for each other; tiny pictures need but one.

    Test files import this name to have it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def blocks(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 (H, W, 3) of random flat blocks of 8 pixels."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 4, (-(-height // 8), -(-width // 8), 3)) * 64 + 32
    return np.kron(coarse, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)


def write_image(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image[:, :, ::-1])[1].tobytes())
    return path


def make_run(
    run: Path,
    prepared: Path,
    *,
    space: LabelSpace = SPACE,
    name: str = "best",
    step: int = 7,
    data: dict[str, Any] | None = None,
) -> Path:
    """``run/best`` of a small untrained network; returns the checkpoint folder."""
    torch.manual_seed(0)
    config: dict[str, Any] = {**MODEL, "num_classes": space.num_classes, "width_mult": 0.25}
    model = build_model(**config)
    description = {
        "model_config": config,
        "label_space": space.to_dict(),
        "inference": {"precision": "fp32", "channels_last": False, "size": None},
        "training": {},
        "data": {"prepared": str(prepared), "train": ["train"], "val": ["val"], **(data or {})},
        "scores": {},
        "step": step,
    }
    save_checkpoint(run / name, model.state_dict(), description)
    return run / name


def make_prepared(folder: Path, count: int = 5, *, space: LabelSpace = SPACE) -> Manifest:
    """Pictures of two sizes whose truth is `RedDecides`, with an ignored border in each."""
    samples = []
    for index in range(count):
        image = blocks(index, *((48, 64) if index % 3 else (40, 56)))
        truth = image[:, :, 0] // 64
        truth[:2] = 255
        data = encode_indices(truth, space.palette())
        label = folder / "prepared" / "labels" / f"{index}.png"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_bytes(data)
        counts = np.bincount(truth.ravel(), minlength=256)
        samples.append(
            Sample(
                id=f"s{index}",
                image=write_image(folder / "raw" / f"{index}.png", image),
                label=label,
                one_hot=None,
                size=truth.shape,
                sha256=hashlib.sha256(data).hexdigest(),
                pixels=(*counts[: space.num_classes].tolist(), int(counts[255])),
            )
        )
    splits = {"train": tuple(samples), "val": tuple(samples), "test": ()}
    manifest = Manifest(folder / "prepared", folder / "raw", "folder", space, splits)
    write_manifest(manifest)
    return manifest
