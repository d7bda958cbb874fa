"""Exported networks beside their peers: uint8 picture in, uint8 class map out, on a CPU.

    pip install 'segcli[export]' segmentation_models_pytorch
    python benchmarks/inference.py
    python benchmarks/inference.py --yolo-python VENV/bin/python     # one with ultralytics

    smp             segmentation_models_pytorch's FPN of the same encoder and widths: eager, fp32
    openvino-bf16   what `segcli export` wrote, through segcli's predictor
    openvino-int8   the same in 8 bits
    direct          OpenVINO called directly on the bf16 file, upsampling and largest class in
                    its graph; direct-logits has segcli's upsampling behind it instead
    yolo-map        Ultralytics' yolo26n-sem through OpenVINO in bf16, its own class map;
                    yolo-logits ends at stride 8 and has segcli's upsampling behind it

Each side is a process of its own, and they take turns, picture by picture. First it is checked
that they answer alike: the exported network as torch in fp32, and OpenVINO called directly as
through segcli. CPU seconds of all cores stand beside the clock's; on a machine that others use
too, trust their ratio. 'products alone' is a limit: the multiply-adds of the network at the
rate of one large matrix product in bfloat16.

What int8 costs in mIoU takes a trained network: `segcli export RUN --to openvino-int8` says it.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

if TYPE_CHECKING:
    from inference_sides import Work

SIZES = {"352x480": (352, 480), "1024x2048": (1024, 2048)}
FPN = ("smp", "openvino-bf16", "openvino-int8", "direct", "direct-logits")
SMALL = ("openvino-bf16", "openvino-int8", "yolo-map", "yolo-logits")
# How many times as fast the first has to be as the second, by encoder.
GOALS = {
    "mobilenet_v2": (("openvino-bf16", "smp", 4.0), ("openvino-int8", "openvino-bf16", 1.3)),
    "resnext50_32x4d": (("openvino-bf16", "smp", 3.5),),
    "student": (("openvino-bf16", "yolo-map", 1.0), ("openvino-bf16", "yolo-logits", 1.0)),
}
DIRECT = (("openvino-bf16", "direct", 0.95), ("openvino-bf16", "direct-logits", 0.95))
GEMM = 2048


def main(
    network: Annotated[list[str] | None, typer.Option(help="Of GOALS; default: all.")] = None,
    size: Annotated[list[str] | None, typer.Option(help="Of SIZES; default: all.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed pictures of each side.")] = 15,
    warm_up: Annotated[int, typer.Option(min=1)] = 3,
    cores: Annotated[int, typer.Option(min=1, help="Cores for all sides.")] = 2,
    checkpoint: Annotated[Path | None, typer.Option(help="In place of untrained weights.")] = None,
    yolo_python: Annotated[Path | None, typer.Option(help="Has ultralytics.")] = None,
) -> None:
    """Print milliseconds of each side, their ratios against the goals, and the limit."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    os.environ["OMP_NUM_THREADS"] = str(cores)
    from inference_sides import HEAD_WIDTH, STUDENT, WIDTH, Work, export_yolo, prepare

    failed = []
    for name in network or list(GOALS):
        if name == "student":
            config: dict[str, Any] = {**STUDENT, "decoder": "fpn", "num_classes": 19}
        else:
            config = {"encoder": name, "decoder": "fpn", "num_classes": 19}
            config |= {"width": WIDTH, "head_width": HEAD_WIDTH}
        for label in size or list(SIZES):
            with tempfile.TemporaryDirectory() as folder:
                work = Work(name, config, SIZES[label], cores, Path(folder), checkpoint)
                typer.echo(f"{name} at {label}, {cores} cores")
                prepare(work, ("openvino-bf16", "openvino-int8"))
                sides = SMALL if name == "student" else FPN
                if name == "student" and yolo_python is None:
                    sides = SMALL[:2]
                elif name == "student" and yolo_python is not None:
                    typer.echo(f"  yolo26n-sem: {export_yolo(yolo_python, work)}")
                failed += compare(work, sides, runs, warm_up)
    typer.echo("short of its goal: " + "; ".join(failed) if failed else "all goals reached")
    raise typer.Exit(1 if failed else 0)


def compare(work: Work, sides: tuple[str, ...], runs: int, warm_up: int) -> list[str]:
    """Let the sides take turns; returns the goals that were missed."""
    from inference_sides import picture

    pipes = {side: _start(side, work) for side in (*sides, "torch")}
    images = [picture(work.size, 100 + seed) for seed in range(3)]
    check_equal({s: [_ask(p, "map", i) for i in images] for s, p in pipes.items()})
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for turn in range(warm_up + runs):
        for side in sides:
            lap = _ask(pipes[side], "time", images[turn % len(images)])
            if turn >= warm_up:
                seconds[side].append(lap)
    limit = _ask(pipes["torch"], "limit", images[0])
    for pipe in pipes.values():
        pipe.send(("end", None))
    medians = {
        side: tuple(1000 * statistics.median(column) for column in zip(*laps, strict=True))
        for side, laps in seconds.items()
    }
    for side, (clock, cpu) in medians.items():
        typer.echo(f"  {side:14s} {clock:8.1f} ms   CPU {cpu:8.1f} ms")
    typer.echo(f"  {'products alone':14s} {1000 * limit:8.1f} ms")
    return list(_judge(work.name, medians))


def _judge(name: str, medians: dict[str, tuple[float, ...]]) -> list[str]:
    failed = []
    for fast, slow, goal in (*GOALS[name], *DIRECT):
        if fast in medians and slow in medians:
            clock, cpu = (b / a for a, b in zip(medians[fast], medians[slow], strict=True))
            line = f"{fast} {clock:.2f} times as fast as {slow} (CPU {cpu:.2f}), goal {goal:g}"
            typer.echo(f"  {line}")
            if clock < goal:
                failed.append(f"{name}: {line}")
    return failed


def check_equal(maps: dict[str, list[Any]]) -> None:
    """The sides that run one network have to give one answer; bf16 has ties to lose."""
    import numpy as np

    def agreement(one: str, other: str) -> float:
        pairs = zip(maps[one], maps[other], strict=True)
        return float(np.mean([(a == b).mean() for a, b in pairs]))

    shapes = {m[0].shape for m in maps.values()}
    if len(shapes) != 1 or any(m[0].dtype != np.uint8 for m in maps.values()):
        raise SystemExit(f"the sides give maps of {shapes}")
    # Untrained networks are unsure of every pixel; trained ones are held to 99.5 % by `export`.
    for one, other, least in (
        ("openvino-bf16", "torch", 0.9),
        ("openvino-bf16", "direct-logits", 0.9999),
        ("openvino-bf16", "direct", 0.95),
    ):
        if one in maps and other in maps:
            share = agreement(one, other)
            typer.echo(f"  {one} and {other} agree on {share:.3%} of pixels")
            if share < least:
                raise SystemExit(f"they should on {least:.2%}")


# --- the processes -------------------------------------------------------------------------


def _start(side: str, work: Work) -> Connection:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=_serve, args=(there, side, work), daemon=True).start()
    return here


def _ask(pipe: Connection, what: str, value: Any) -> Any:
    pipe.send((what, value))
    answer = pipe.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _serve(pipe: Connection, side: str, work: Work) -> None:
    import torch
    from inference_sides import build

    torch.set_num_threads(work.cores)
    try:
        predict = build(side, work)
        while True:
            what, value = pipe.recv()
            if what == "end":
                return
            if what == "map":
                pipe.send(predict(value))
            elif what == "limit":
                pipe.send(products_alone(work))
            else:
                clock, cpu = time.perf_counter(), time.process_time()
                predict(value)
                pipe.send((time.perf_counter() - clock, time.process_time() - cpu))
    except Exception as error:
        pipe.send(RuntimeError(f"{side}: {type(error).__name__}: {error}"))


def products_alone(work: Work) -> float:
    """Seconds of the network's multiply-adds at the rate of one large product in bfloat16."""
    import torch
    from inference_sides import picture

    from segcli.checkpoint import build_from_checkpoint, load_checkpoint

    found = work.checkpoint or work.folder / "checkpoint"
    model = build_from_checkpoint(load_checkpoint(found))
    total = 0

    def count(module: Any, _: Any, result: Any) -> None:
        nonlocal total
        total += result[0].numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        model(torch.from_numpy(picture(work.size, 0)).permute(2, 0, 1)[None])
        a = torch.randn(GEMM, GEMM).bfloat16()
        laps = []
        for _ in range(5):
            start = time.perf_counter()
            a @ a
            laps.append(time.perf_counter() - start)
    return min(laps) * total / GEMM**3


if __name__ == "__main__":
    typer.run(main)
