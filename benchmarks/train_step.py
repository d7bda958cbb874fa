"""A training step of segcli's FPN beside segmentation_models_pytorch's of the same width.

A step goes from a uint8 batch to new weights: normalise, forward, loss, backward, AdamW.
Four sides take turns, each in a process of its own with what its user would have:

    smp fp32        as it comes: float32, channels first, eager
    smp bf16        autocast to bfloat16, channels-last; compiled on CUDA
    segcli          the same work, one prediction, with the settings that `segcli train` makes
    segcli levels   all that `segcli train` does: a prediction and a loss at every level as well

First it is checked that there is something to compare: the same encoder gives the same
features, the same logits the same loss, and segcli's short cuts what the plain layers give::

    pip install segmentation_models_pytorch
    python benchmarks/train_step.py
    python benchmarks/train_step.py --curves prepared/camvid-11 --encoder mobilenet_v2

'products alone' is a limit: the multiplications of segcli's network, forward and backward,
at the rate of one large matrix product, nothing else. CPU seconds stand beside the clock's: on
a machine that others use too, trust their ratio. How OpenMP's threads wait is set alike on all
sides: spinning, the default, takes ten times as long beside any other program.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

if TYPE_CHECKING:
    from train_sides import Work

SIDES = ("smp fp32", "smp bf16", "segcli", "segcli levels")
# What the ratios are to reach, against `smp fp32` and `smp bf16` on a CPU.
GOALS = {"mobilenet_v2": (3.0, 1.3), "resnext50_32x4d": (2.0, 1.15)}
GEMM = 2048
CURVE_SIZE, CURVE_BATCH = (192, 256), 4


class Seconds(NamedTuple):
    """By the clock, and of all cores together."""

    clock: float
    cpu: float


def main(
    encoder: Annotated[list[str] | None, typer.Option(help="Names; default: both.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed steps of each side.")] = 7,
    # Kernels are chosen and memory is gathered first: three steps still fault pages in.
    warm_up: Annotated[int, typer.Option(min=1, help="Steps before these.")] = 4,
    batch: Annotated[int, typer.Option(min=2, help="Images in a step.")] = 8,
    height: Annotated[int, typer.Option(min=32)] = 352,
    width: Annotated[int, typer.Option(min=32)] = 480,
    classes: Annotated[int, typer.Option(min=2)] = 11,
    cores: Annotated[int, typer.Option(min=1, help="Cores for all sides.")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    only: Annotated[list[str] | None, typer.Option(help="Sides; default: all four.")] = None,
    curves: Annotated[Path | None, typer.Option(help="Prepared data: compare losses.")] = None,
    weights: Annotated[str | None, typer.Option(help="Encoder weights, torchvision's.")] = None,
    steps: Annotated[int, typer.Option(min=10, help="Steps of each curve.")] = 40,
    seeds: Annotated[int, typer.Option(min=2, help="Curves of each side.")] = 3,
) -> None:
    """Print seconds of each side, their ratios, and the limit; or loss curves."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    from train_sides import Work, check_equal

    for name in encoder or list(GOALS):
        work = Work(name, batch, (height, width), classes, cores, device, weights)
        typer.echo(f"{name}: {check_equal(work)}")
        if curves is not None:
            compare_curves(work, curves, steps, seeds)
        else:
            compare_speed(work, runs, warm_up, tuple(only or SIDES))


# --- speed ---------------------------------------------------------------------------------


def compare_speed(work: Work, runs: int, warm_up: int, sides: tuple[str, ...]) -> None:
    """Start a process per side, let them step in turns, print medians and ratios."""
    pipes = {side: _start(side, work) for side in sides}
    for _ in range(warm_up):
        for pipe in pipes.values():
            _ask(pipe, "step")
    seconds: dict[str, list[Seconds]] = {side: [] for side in sides}
    gemm: list[Seconds] = []
    for _ in range(runs):
        for side, pipe in pipes.items():
            seconds[side].append(_ask(pipe, "step"))
        gemm.append(_ask(pipes[sides[-1]], "gemm"))
    outside = {side: _ask(pipe, "outside") for side, pipe in pipes.items()}
    products = _ask(pipes["segcli"], "products") if "segcli" in pipes else 0
    for pipe in pipes.values():
        pipe.send("end")
    for side, values in seconds.items():
        clock, cpu = _medians(values)
        each = ", ".join(f"{s.cpu:.2f}" for s in values)
        typer.echo(
            f"  {side:13s} {clock:6.2f} s {work.batch / clock:6.2f} images/s, CPU {cpu:6.2f} s "
            f"({each}); outside the network {outside[side]:.1%}"
        )
    if products:
        _print_ratios(work, seconds, products / GEMM**3, gemm)


def _print_ratios(
    work: Work, seconds: dict[str, list[Seconds]], gemms: float, gemm: list[Seconds]
) -> None:
    limit = Seconds(*(gemms * value for value in _medians(gemm)))
    rate = GEMM**3 / _medians(gemm).cpu / 1e9
    typer.echo(
        f"  products alone: CPU {limit.cpu:.2f} s at {rate:.0f} G multiply-adds a second and core"
    )
    for ours, (side, goal) in product(
        SIDES[2:], zip(SIDES[:2], GOALS.get(work.encoder, (0, 0)), strict=True)
    ):
        if side not in seconds or ours not in seconds:
            continue
        ratios = [
            [a.clock / b.clock for a, b in zip(seconds[side], seconds[ours], strict=True)],
            [a.cpu / b.cpu for a, b in zip(seconds[side], seconds[ours], strict=True)],
        ]
        clock, cpu = (f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in ratios)
        bound = _medians(seconds[side]).cpu / limit.cpu
        alike = work.device == "cpu" and ours == "segcli"
        wanted = f", wanted {goal}" if alike and goal else ""
        typer.echo(
            f"  {side} / {ours}: clock {clock}, CPU {cpu}{wanted}; "
            f"were products all there is to do: {bound:.2f}"
        )


def _medians(values: list[Seconds]) -> Seconds:
    return Seconds(*(statistics.median(column) for column in zip(*values, strict=True)))


def _start(side: str, work: Work) -> Connection:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=_serve, args=(side, work, there), daemon=True).start()
    there.close()  # so that a side that dies ends the wait for its answer
    return here


def _ask(pipe: Connection, question: str) -> Any:
    pipe.send(question)
    return pipe.recv()


def _serve(side: str, work: Work, pipe: Connection) -> None:
    """One side's process: answers questions until the end."""
    from segcli.environment import keep_freed_memory, prepare_process

    if side.startswith("segcli"):
        prepare_process()
        keep_freed_memory()
    import torch
    from train_sides import build_step, random_batch

    torch.set_num_threads(work.cores)
    step, (images, target) = build_step(side, work), random_batch(work)
    matrix = torch.ones(GEMM, GEMM, dtype=torch.bfloat16, device=work.device)
    while (question := pipe.recv()) != "end":
        if question == "step":
            pipe.send(_timed(work, lambda: step(images, target)))
        elif question == "gemm":
            pipe.send(_timed(work, lambda: matrix @ matrix))
        elif question == "outside":
            pipe.send(_outside(work, step, images, target))
        else:
            pipe.send(_products(step, images))


def _timed(work: Work, call: Any) -> Seconds:
    _wait(work.device)
    start, cpu = time.perf_counter(), time.process_time()
    call()
    _wait(work.device)
    return Seconds(time.perf_counter() - start, time.process_time() - cpu)


def _wait(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _outside(work: Work, step: Any, images: Any, target: Any) -> float:
    """The share of a step that is neither forward nor backward: transfer, loss, optimiser."""
    spent = {"network": 0.0, "outside": 0.0}

    @contextmanager
    def lap(name: str) -> Iterator[None]:
        _wait(work.device)
        start = time.perf_counter()
        yield
        _wait(work.device)
        spent[name] += time.perf_counter() - start

    for _ in range(3):
        step(images, target, lap)
    return spent["outside"] / sum(spent.values())


def _products(step: Any, images: Any) -> int:
    """Multiply-adds of a step: forward, and twice as many on the way back."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step.network(images[:1].repeat(2, 1, 1, 1).to(step.device))
    return 3 * counter.get_total_flops() // 2 * len(images) // 2


# --- loss curves ---------------------------------------------------------------------------


def compare_curves(work: Work, prepared: Path, steps: int, seeds: int) -> None:
    """Train both in bf16 on the same crops from the same encoder; print tenths of the curves."""
    import torch
    from train_sides import Work, build_step

    torch.set_num_threads(work.cores)
    curves: dict[str, list[list[float]]] = {side: [] for side in SIDES[1:3]}
    for seed in range(seeds):
        task = Work(**{**vars(work), "seed": seed, "size": CURVE_SIZE, "batch": CURVE_BATCH})
        for side, found in curves.items():
            step = build_step(side, task)
            found.append([float(step(*views)) for views in _crops(task, prepared, steps)])
    typer.echo(f"  loss at {CURVE_SIZE}, batch {CURVE_BATCH}: mean (lowest to highest seed)")
    part = steps // 5
    for first in range(0, part * 5, part):
        row = f"  steps {first + 1:3d} to {first + part:3d}:"
        means = {}
        for side, found in curves.items():
            values = [statistics.fmean(curve[first : first + part]) for curve in found]
            means[side] = values
            row += f"  {side} {statistics.fmean(values):.3f} ({min(values):.3f} to "
            row += f"{max(values):.3f})"
        typer.echo(row)
    theirs, ours = means.values()
    noise = max(statistics.stdev(theirs), statistics.stdev(ours))
    gap = statistics.fmean(ours) - statistics.fmean(theirs)
    typer.echo(f"  at the end segcli - smp = {gap:+.3f}; deviation between seeds {noise:.3f}")


def _crops(work: Work, prepared: Path, steps: int) -> Iterator[tuple[Any, Any]]:
    """Augmented crops as `segcli train` makes them: a pure function of the seed."""
    from segcli.data.dataset import StageBatches, TrainDataset, collate
    from segcli.data.manifest import load_manifest
    from segcli.data.transforms import TrainTransform

    samples = load_manifest(prepared).split("train")
    dataset = TrainDataset(
        samples, TrainTransform(work.size), seed=work.seed, num_classes=work.classes
    )
    epochs = -(-steps * work.batch // len(samples)) + 1
    order = StageBatches(
        len(samples), work.batch, epochs=epochs, first_epoch=0, seed=work.seed, start=0
    )
    for _, tickets in zip(range(steps), order, strict=False):
        yield collate([dataset[ticket] for ticket in tickets])  # type: ignore[misc]


if __name__ == "__main__":
    typer.run(main)
