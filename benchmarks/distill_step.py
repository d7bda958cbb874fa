"""What a teacher costs: a distillation step against the teacher's forward plus a plain step.

    python benchmarks/distill_step.py --rounds 5

Student and teacher are the same network, so that none of the three hides behind another. Each round
takes one plain step of the training engine, one forward pass of the teacher, one distillation step,
and one that measures gradients besides, in turns, on the same batch; the first round is not
counted. A run measures at every 100th step (`distill.measure_every`), and so much of it is in the
ratio. Prints clock and CPU seconds, and the ratio, of which at most 1.1 is allowed; then the peak
memory of the pair-wise loss on features of a 512×1024 picture.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segcli.checkpoint import save_checkpoint
from segcli.config_file import load_config
from segcli.data.city import generate_city
from segcli.data.mixing import Extra
from segcli.environment import keep_freed_memory
from segcli.losses.distillation_features import PairwiseSimilarity
from segcli.recipes.distill_step import Distillation
from segcli.recipes.distill_teacher import load_teacher
from segcli.recipes.prepare import prepare_labels
from segcli.recipes.training import Training
from segcli.recipes.training_freeze import freeze
from segcli.recipes.training_guard import StopRequest
from segcli.recipes.training_setup import set_up
from segcli.recipes.training_state import describe
from segcli.recipes.training_step import train_step
from segcli.reporting.events import NullReporter
from segcli.resources import peak_resident_bytes, resident_bytes

ALLOWED = 1.1


def runs(folder: Path, args: argparse.Namespace) -> tuple[Training, Training, Any]:
    """(a plain run, one with a teacher, the teacher), all of one network."""
    counts = {"train": 4, "val": 1}
    generate_city(folder / "city", size=(64, 128), counts=counts, seed=1, drives=0, workers=1)
    prepare_labels(folder / "city", reporter=NullReporter(), out=folder / "data", workers=1)
    height, width = args.size
    settings = [
        f"data.prepared={folder / 'data'}",
        f"model.encoder={args.encoder}",
        "model.weights=null",
        f"train.stages=[{{size: [{height}, {width}], epochs: 100, batch_size: {args.batch}}}]",
        f"train.precision={args.precision}",
        "train.channels_last=true",
        f"distill.losses={args.losses}",
        f"distill.measure_every={args.measure_every}",
    ]
    config = load_config("fpn.yaml", settings)
    where: dict[str, Any] = {"device": torch.device(args.device), "resume": None}
    where |= {"folder": folder / "run", "reporter": NullReporter()}
    plain = set_up(config, **where)
    save_checkpoint(folder / "teacher", plain.model.state_dict(), describe(plain, None))
    teacher = load_teacher(folder / "teacher")
    taught = set_up(config, **where, teach=lambda run: Distillation(run, teacher, Extra()))
    return plain, taught, taught.teaching.lessons.teacher


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """(clock, CPU seconds) of `work`."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - clock, time.process_time() - cpu


def measure(args: argparse.Namespace) -> float:
    """Print the table; the ratio of CPU seconds, or of clock seconds on CUDA."""
    with tempfile.TemporaryDirectory() as name:
        plain, taught, teacher = runs(Path(name), args)
    generator = np.random.default_rng(0)
    shape = (args.batch, *args.size)
    images = torch.from_numpy(generator.integers(0, 256, (*shape, 3), np.uint8)).permute(0, 3, 1, 2)
    target = torch.from_numpy(generator.integers(0, 19, shape, np.uint8))
    for run in (plain, taught):
        freeze(run, run.stages[0], 0)

    def step(run: Training, number: int = 1) -> None:
        run.step = number
        train_step(run, images, target, run.stages[0], StopRequest())

    device = torch.device(args.device)
    kinds = {
        "student's step": lambda: step(plain),
        "teacher's forward": lambda: teacher(images.to(device)),
        "distillation step": lambda: step(taught),
        "with measurement": lambda: step(taught, args.measure_every),
    }
    share = 1 / args.measure_every
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for _ in range(args.rounds + 1):
        for kind, work in kinds.items():
            seconds[kind].append(timed(work, device))
    ratios = []
    print(f"{args.encoder}, {args.batch} × {args.size[0]}×{args.size[1]}, {args.precision}")
    for column, unit in enumerate(("clock", "CPU")):
        one = {k: statistics.median(row[column] for row in v[1:]) for k, v in seconds.items()}
        usual = (1 - share) * one["distillation step"] + share * one["with measurement"]
        ratios.append(usual / (one["student's step"] + one["teacher's forward"]))
        text = ", ".join(f"{k} {v:.3f}" for k, v in one.items())
        print(f"{unit} seconds: {text}; ratio {ratios[-1]:.3f}")
    return ratios[0] if device.type == "cuda" else ratios[1]


def pairwise_memory(batch: int = 8) -> None:
    """Print the memory that the pair-wise loss takes beside the features it is given."""
    student = torch.randn(batch, 128, 64, 128, requires_grad=True)
    teacher = torch.randn(batch, 256, 64, 128)
    valid = torch.ones(batch, 128, 256, dtype=torch.bool)
    before = resident_bytes() or 0
    peak_resident_bytes(reset=True)
    PairwiseSimilarity()(student, teacher, valid).backward()
    peak = peak_resident_bytes()
    if peak is not None:
        own = student.numel() * 4  # the gradient, which any loss of features has
        print(
            f"pair-wise loss, {batch} × 512×1024 (features 64×128): peak "
            f"{(peak - before) / 2**20:.0f} MiB, {own / 2**20:.0f} MiB of them the gradient"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="What a teacher adds to a training step.")
    parser.add_argument("--encoder", default="mobilenet_v2")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 512))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--losses", default="{pixel: 1, channel: 3}")
    parser.add_argument("--measure-every", type=int, default=100)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    pairwise_memory()
    keep_freed_memory()  # as `segcli distill` does
    return int(measure(args) > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
