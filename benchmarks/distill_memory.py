"""Peak memory and cost of each distillation loss, forward and backward, at 512×1024.

Beside every loss stands its plain definition in PyTorch, on the same tensors; values and
gradients are compared first. Peaks are of resident memory, in a process of its own that hands
freed memory back; times are taken in another that keeps it, as training does::

    python benchmarks/distill_memory.py
    python benchmarks/distill_memory.py --term pairwise --grid 2 --batch 1   # 8192 nodes

Features and logits are at a quarter of the picture, bfloat16 and channels-last, as a network
under autocast returns them. 'limit' is one read of what comes in and one write of the
gradient that goes out, by the CPU seconds of copies on this machine. 'holds' is the peak
beyond the inputs; its bound for the pair-wise term is printed beside it.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from torch import Tensor

STRIDE = 4
MIB = 1 << 20
TERMS = ("pixel", "channel", "pairwise", "feature")


class Work(NamedTuple):
    """What is measured: a term, ours or plain, on tensors of these sizes."""

    term: str
    plain: bool
    batch: int
    height: int
    width: int
    classes: int
    student: int
    teacher: int
    grid: int
    runs: int
    timed: bool = False


class Found(NamedTuple):
    """Peak bytes beyond the inputs and their bound, seconds by the clock and of the CPU."""

    peak: int
    bound: int
    clock: float
    cpu: float
    value: float
    slope: float
    limit: float


def main(
    batch: Annotated[int, typer.Option(min=1, help="Images.")] = 4,
    height: Annotated[int, typer.Option(min=32)] = 512,
    width: Annotated[int, typer.Option(min=32)] = 1024,
    classes: Annotated[int, typer.Option(min=2)] = 19,
    student: Annotated[int, typer.Option(min=1, help="Channels of the student.")] = 128,
    teacher: Annotated[int, typer.Option(min=1, help="Channels of the teacher.")] = 256,
    grid: Annotated[int, typer.Option(min=1, help="Side of a node, in logits.")] = 8,
    runs: Annotated[int, typer.Option(min=1, help="Timed steps; the median counts.")] = 5,
    term: Annotated[list[str] | None, typer.Option(help="Terms; default: all.")] = None,
) -> None:
    """Print peak, seconds and ratios of each term."""
    for name in term or TERMS:
        sizes = (batch, height, width, classes, student, teacher, grid, runs)
        ours = _found(Work(name, False, *sizes))
        theirs = _found(Work(name, True, *sizes))
        typer.echo(
            f"{name:9s} value {ours.value:.6f} ({theirs.value:.6f} plain), "
            f"|slope| {ours.slope:.6f} ({theirs.slope:.6f})"
        )
        pairs = ((ours.value, theirs.value), (ours.slope, theirs.slope))
        if any(abs(a - b) > 5e-3 * abs(b) for a, b in pairs):
            raise SystemExit(f"{name}: the two do not agree")
        bound = ""
        if name == "pairwise":
            bound = f", bound {ours.bound / MIB:.0f}"
        typer.echo(
            f"          holds {ours.peak / MIB:.0f} MiB{bound}; plain {theirs.peak / MIB:.0f} MiB\n"
            f"          {ours.clock * 1e3:.0f} ms, CPU {ours.cpu * 1e3:.0f}; plain / ours: clock "
            f"{theirs.clock / ours.clock:.2f}, CPU {theirs.cpu / ours.cpu:.2f}; "
            f"limit {ours.limit * 1e3:.1f} ms"
        )


def pairwise_bound(work: Work) -> int:
    """Bytes that the pair-wise term can hold at most, whatever the number of nodes.

    The gradient, in the type of the features; a row of nodes in float32, and as much again;
    the nodes of both sides as sums, vectors, slopes and what lies between; two blocks of
    similarities and the square of one.
    """
    from segcli.losses.distillation_features import BLOCK

    h, w = work.height // STRIDE, work.width // STRIDE
    rows, columns = -(-h // work.grid), -(-w // work.grid)
    gradient = 2 * work.batch * work.student * h * w
    strip = 4 * work.batch * max(work.student, work.teacher) * w * work.grid
    nodes = 4 * work.batch * (work.student + work.teacher) * rows * columns
    square = (rows * columns) ** 2
    return gradient + 2 * strip + 6 * nodes + 3 * 4 * min(BLOCK, square)


def _found(work: Work) -> Found:
    """Peak from one process, times from another."""
    times = _alone(work._replace(timed=True))
    return times._replace(peak=_alone(work).peak)


def _alone(work: Work) -> Found:
    """`measure` in a process of its own."""
    if work.timed:
        os.environ.pop("MALLOC_MMAP_THRESHOLD_", None)
    else:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(there, work))
    process.start()
    there.close()
    try:
        found: Found = here.recv()
    except EOFError:
        raise SystemExit(f"{work.term}: out of memory, {work.plain=}") from None
    process.join()
    return found


def _send(pipe: multiprocessing.connection.Connection, work: Work) -> None:
    pipe.send(measure(work))


def measure(work: Work) -> Found:
    """Build the inputs, run the loss forward and backward, read peak and times."""
    import torch

    from segcli.environment import keep_freed_memory

    if work.timed:
        keep_freed_memory()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    h, w = work.height // STRIDE, work.width // STRIDE
    on_features = work.term in ("pairwise", "feature")
    widths = (work.student, work.teacher) if on_features else (work.classes, work.classes)
    if work.term == "feature":
        widths = (work.student, work.student)  # without a convolution between
    s, t = (_features(work.batch, channels, h, w) for channels in widths)
    s.requires_grad_()
    valid = torch.ones(work.batch, h, w, dtype=torch.bool)
    valid[0, :, -w // 8 :] = False
    loss = plain(work) if work.plain else segcli_loss(work)
    # Of a corner alone, so that libraries are loaded and nothing large was ever held.
    corner = (x.detach()[:, :, :32, :32].clone() for x in (s, t))
    loss(*(x.requires_grad_() for x in corner), valid[:, :32, :32]).backward()
    before = _peak()
    value = loss(s, t, valid)
    value.backward()
    assert s.grad is not None
    peak = _peak() - before
    slope = float(s.grad.float().abs().sum())
    times = []
    for _ in range(work.runs if work.timed else 1):
        s.grad = None
        start = time.perf_counter(), time.process_time()
        loss(s, t, valid).backward()
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    clock, cpu = (statistics.median(column) for column in zip(*times, strict=True))
    return Found(peak, pairwise_bound(work), clock, cpu, float(value.detach()), slope, _copy(s, t))


def _features(n: int, c: int, h: int, w: int) -> Tensor:
    """Smooth features, so that nodes differ: (n, c, h, w) bfloat16, channels-last."""
    import torch
    from torch.nn import functional as F

    out = torch.empty((n, c, h, w), dtype=torch.bfloat16, memory_format=torch.channels_last)
    for channel in (x for image in out for x in image):  # little is held meanwhile
        channel.copy_(F.interpolate(torch.randn(1, 1, 9, 17), (h, w), mode="bilinear")[0, 0])
    return out


def _copy(s: Tensor, t: Tensor) -> float:
    """Seconds to read both sides and write the gradient of one."""
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        s.detach().clone()
        t.clone()
        best = min(best, time.process_time() - start)
    return best


def _peak() -> int:
    """Highest resident memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def segcli_loss(work: Work) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The term as `segcli distill` computes it."""
    from segcli.losses.distillation import DistillationLoss

    loss = DistillationLoss({work.term: 1.0}, grid=work.grid)
    if work.term in ("pixel", "channel"):
        return lambda s, t, valid: loss(s, t, valid)[work.term]
    # As features, beside logits of one class.
    return lambda s, t, valid: loss(s[:, :1], t[:, :1], valid, s, t)[work.term]


def plain(work: Work) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The same by its definition, with automatic differentiation throughout."""
    import torch
    from torch.nn import functional as F

    def pixel(s: Tensor, t: Tensor, valid: Tensor) -> Tensor:
        log_s, log_t = (F.log_softmax(x.float() / 4, dim=1) for x in (s, t))
        each = F.kl_div(log_s, log_t, log_target=True, reduction="none").sum(1)
        return 16 * (each * valid).sum() / valid.sum()

    def channel(s: Tensor, t: Tensor, valid: Tensor) -> Tensor:
        out = ~valid[:, None]
        rows = ((x.float() / 4).masked_fill(out, -1e30).flatten(2) for x in (s, t))
        log_s, log_t = (F.log_softmax(x, dim=2) for x in rows)
        total = F.kl_div(log_s, log_t, log_target=True, reduction="sum")
        return 16 * total / (len(s) * s.shape[1])

    def nodes(x: Tensor, keep: Tensor) -> Tensor:
        mean = F.avg_pool2d(x.float() * keep, work.grid, ceil_mode=True)
        share = F.avg_pool2d(keep, work.grid, ceil_mode=True)
        vectors = (mean / share.clamp(min=1e-9)).flatten(2).transpose(1, 2)
        return F.normalize(vectors, dim=2) * (share > 0).flatten(2).transpose(1, 2)

    def pairwise(s: Tensor, t: Tensor, valid: Tensor) -> Tensor:
        keep = valid[:, None].float()
        count = (F.avg_pool2d(keep, work.grid, ceil_mode=True) > 0).flatten(1).sum(1)
        a, b = nodes(s, keep), nodes(t, keep)
        gap = (a @ a.transpose(1, 2) - b @ b.transpose(1, 2)).square().sum((1, 2))
        return (gap / count**2).mean()

    def standard(x: Tensor, keep: Tensor) -> Tensor:
        mean = (x.float() * keep).sum((0, 2, 3), keepdim=True) / keep.sum()
        centred = (x.float() - mean) * keep
        return centred / (centred.square().sum((0, 2, 3), keepdim=True) / keep.sum()).sqrt()

    def feature(s: Tensor, t: Tensor, valid: Tensor) -> Tensor:
        keep = valid[:, None].float()
        gap = (standard(s, keep) - standard(t, keep)).square().sum()
        return gap / (2 * s.shape[1] * valid.sum())

    torch.set_num_threads(1)
    return {"pixel": pixel, "channel": channel, "pairwise": pairwise, "feature": feature}[work.term]


if __name__ == "__main__":
    typer.run(main)
