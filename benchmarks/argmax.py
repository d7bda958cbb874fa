"""Upsampling and argmax in one step beside `F.interpolate` and `max`.

    python benchmarks/argmax.py [--run RUN_OR_CHECKPOINT --image PICTURE] [--cores 2]

Coarse logits of 19 classes at 256x512 become a class map at 1024x2048: of a picture's usual
mixture of large areas and borders, of one crowded with small things, and of noise, in which
every cell is a border and nothing can be left out. With --run, also the logits of a trained
network for a picture. Both sides run in turns in one process, after their maps were compared.
The limit is what no way round can save: reading the coarse logits once and writing the map.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from segcli.inference.upsample import Frame, class_map

COARSE, FULL, CLASSES = (256, 512), (1024, 2048), 19


def main(
    run: Annotated[Path | None, typer.Option(help="Run or checkpoint.")] = None,
    image: Annotated[Path | None, typer.Option(help="Picture for --run.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 15,
    cores: Annotated[int, typer.Option(min=1, help="Cores for both sides.")] = 2,
) -> None:
    """Print milliseconds of each side by the clock and of the CPU, their ratios, and the limit."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))
    torch.set_num_threads(cores)
    data = {
        "areas and borders": (scene(24, 0.0), Frame(FULL, FULL, FULL)),
        "crowded": (scene(12, 0.2), Frame(FULL, FULL, FULL)),
        "noise": (scene(0, 1.0), Frame(FULL, FULL, FULL)),
    }
    if run is not None and image is not None:
        data[f"{run} on {image.name}"] = network(run, image)
    for name, (logits, frame) in data.items():
        compare(name, logits, frame, runs)


def scene(sigma: float, noise: float) -> Tensor:
    """float32 (19, 256, 512): every class likely in patches `sigma` wide, and noise on top."""
    generator = np.random.default_rng(0)
    planes = generator.standard_normal((CLASSES, *COARSE)).astype(np.float32)
    if sigma:
        planes = np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in planes])
    planes *= 3 / planes.std()
    grain = generator.standard_normal(planes.shape).astype(np.float32)
    return torch.from_numpy(planes + noise * grain)


def network(run: Path, image: Path) -> tuple[Tensor, Frame]:
    """Coarse logits of a trained network for a picture, seen at 1024x2048."""
    from segcli.data.images import read_image
    from segcli.inference.predictor import Predictor
    from segcli.runs import find_checkpoint

    predictor = Predictor.from_checkpoint(find_checkpoint(run), device="cpu")
    picture = cv2.resize(read_image(image), FULL[::-1])
    coarse, frame = predictor.coarse([picture])
    return coarse[0].clone(), frame


def plain(logits: Tensor, frame: Frame) -> Tensor:
    """The usual two lines."""
    up = F.interpolate(logits[None], size=frame.output, mode="bilinear", align_corners=False)
    return up.max(1).indices[0]


def limit(logits: Tensor, frame: Frame) -> Tensor:
    """Read all, write the map, and nothing else."""
    top = logits.amax(0).to(torch.uint8)
    rows, columns = (o // c for o, c in zip(frame.output, top.shape, strict=True))
    return top.repeat_interleave(columns, 1).repeat_interleave(rows, 0)


def compare(name: str, logits: Tensor, frame: Frame, runs: int) -> None:
    """Time both sides in turns."""
    equal = (plain(logits, frame) == class_map(logits, frame)).double().mean().item()
    highest = logits.max(0).indices
    across, down = highest[:, 1:] == highest[:, :-1], highest[1:] == highest[:-1]
    borders = 1 - (across[1:] & across[:-1] & down[:, 1:]).double().mean().item()
    sides: dict[str, Callable[[Tensor, Frame], Tensor]] = {
        "interpolate + max": plain,
        "segcli": class_map,
        "limit": limit,
    }
    clock: dict[str, list[float]] = {side: [] for side in sides}
    cpu: dict[str, list[float]] = {side: [] for side in sides}
    with torch.inference_mode():
        for _ in range(runs):
            for side, function in sides.items():
                start = time.perf_counter(), time.process_time()
                function(logits, frame)
                clock[side].append(1000 * (time.perf_counter() - start[0]))
                cpu[side].append(1000 * (time.process_time() - start[1]))
    typer.echo(f"{name}: {borders:.1%} of the cells have borders, {equal:.5%} of pixels equal")
    if equal < 0.99999:
        sys.exit("the maps differ")
    for side in sides:
        typer.echo(
            f"  {side:18s} {statistics.median(clock[side]):7.1f} ms, "
            f"CPU {statistics.median(cpu[side]):7.1f} ms"
        )
    ratios = [
        statistics.median(a / b for a, b in zip(t["interpolate + max"], t["segcli"], strict=True))
        for t in (clock, cpu)
    ]
    typer.echo(f"  {ratios[0]:.1f} times as fast by the clock, {ratios[1]:.1f} in CPU seconds")


if __name__ == "__main__":
    typer.run(main)
