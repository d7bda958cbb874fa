"""Distillation on features: pair-wise similarity of nodes, and standardised mean square error.

Shapes: N images, C channels of a feature map of h' × w' cells, h × w pixels of the logits,
M nodes. `valid` is bool (N, h, w). A cell counts where all the pixels that it covers do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from segcli.losses.attached import attach
from segcli.losses.distillation_logits import CACHED, wide_type
from segcli.losses.targets import CountOver, mean_over

# Entries of a similarity matrix held at once: 8 MiB of float32.
BLOCK = 1 << 21


class PairwiseSimilarity(nn.Module):
    """Mean square difference of the cosine similarities between nodes of an image.

    Structured knowledge distillation, arXiv 1903.04197, section 3.2, equation 3, with every
    node connected to every other. A node is the average of the valid cells of a square of
    the image, so that padding moves no node; nodes without cells are left out. Features may
    differ in width and stride, for only nodes of the same place are compared. Mean over the
    pairs of nodes of an image, then over the images that have any.

    Memory beyond the pooled features is bounded whatever M is: the M × M similarities are
    never held, only `BLOCK` of either at a time, and the gradient is summed on the way.

    Args:
        grid: side of a node in pixels of `valid`, >= 1.
        count_over: where several processes share a batch, see `targets.mean_over`.
    """

    def __init__(self, grid: int = 8, count_over: CountOver | None = None) -> None:
        super().__init__()
        self.grid = grid
        self.count_over = count_over

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
        """Compare `student` (N, C, h', w') with `teacher` (N, D, h'', w''), any C and D.

        Returns:
            Scalar float32 in 0..4; 0 with zero gradient where no pixel is valid.
        """
        with torch.autocast(student.device.type, enabled=False):
            s, s_share = pool_nodes(student, valid, self.grid)
            with torch.no_grad():
                t, t_share = pool_nodes(teacher, valid, self.grid)
            both = ((s_share > 0) & (t_share > 0)).flatten(1)
            s, t = _unit(s, both), _unit(t, both)
            nodes = both.sum(1)
            images = (nodes > 0).sum()
            pairs = nodes.clamp(min=1).to(s.dtype).square()
            scale = mean_over(1 / pairs, images, self.count_over)
            return _similarity_distance(s, t, scale)


class FeatureMSE(nn.Module):
    """Half the mean square difference of standardised channels, per valid cell and channel.

    Each channel is brought to mean 0 and variance 1 over the valid cells of the batch, so
    that it is 1 - r, with r Pearson's correlation (PKD, arXiv 2207.02039, equations 3 to 5).
    Maps of different size meet at the smaller of both; where the widths differ a 1×1
    convolution, which trains with the student, brings the student's to the teacher's.

    Args:
        student_channels, teacher_channels: C and D; equal ones need no convolution.
        count_over: where several processes share a batch, see `targets.mean_over`. Mean and
            variance are those of the process's own part.
    """

    def __init__(
        self,
        student_channels: int | None = None,
        teacher_channels: int | None = None,
        count_over: CountOver | None = None,
    ) -> None:
        super().__init__()
        self.count_over = count_over
        self.adapter: nn.Module = nn.Identity()
        if student_channels and teacher_channels and student_channels != teacher_channels:
            self.adapter = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
        """Compare `student` (N, C, h', w') with `teacher` (N, D, h'', w'').

        Returns:
            Scalar float32 in 0..2; 0 with zero gradient where no pixel is valid.
        """
        with torch.autocast(student.device.type, enabled=False):
            size = _smaller(student.shape[-2:], teacher.shape[-2:])
            # Pooling and the convolution commute; the smaller map costs less.
            s, t = _by_area(student, size), _by_area(teacher, size)
            if not isinstance(self.adapter, nn.Identity):
                s = self.adapter(s.to(wide_type(s)))
            keep = valid_cells(valid, size)
            half = torch.full((), 0.5 / s.shape[1], dtype=wide_type(s), device=s.device)
            return _standard_distance(s, t, keep, mean_over(half, keep.sum(), self.count_over))


def valid_cells(valid: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """`valid` (N, h, w) at another size: bool (N, h', w'), true where all of a cell's is."""
    if tuple(valid.shape[-2:]) == tuple(size):
        return valid
    share = F.adaptive_avg_pool2d(valid.float()[:, None], (int(size[0]), int(size[1])))
    return share[:, 0] > 1 - 1e-6


def pool_nodes(features: Tensor, valid: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Average the valid cells of each node of `grid` × `grid` pixels of `valid`.

    Returns:
        float32 (N, C, R, S), with R = ceil(h / grid) and S = ceil(w / grid), 0 where a node
        has no cell; and the number of its valid cells, float32 (N, R, S).
    """
    cells = valid_cells(valid, features.shape[-2:]).to(wide_type(features))
    rows = _runs(features.shape[-2], valid.shape[-2], grid)
    columns = _runs(features.shape[-1], valid.shape[-1], grid)
    count = _sum_runs(torch.stack([x.sum(1) for x in _strips(cells, rows)], 1), columns, 2)
    nodes: Tensor = _Pool.apply(features, cells, rows, columns, 1 / count.clamp(min=1))
    return nodes, count


class _Pool(torch.autograd.Function):
    """Means of cells, a row of nodes at a time: no copy of the features is made or kept."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        cells: Tensor,
        rows: list[int],
        columns: list[int],
        share: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(cells, share)
        ctx.rows, ctx.columns, ctx.dtype = rows, columns, features.dtype
        # Work in the memory order at hand, the channels first or last.
        ctx.last = _is_channels_last(features)
        sums = []
        for strip, keep in zip(_strips(features, rows, 2), _strips(cells, rows), strict=True):
            if ctx.last:
                wide = strip.permute(0, 2, 3, 1).to(share.dtype, copy=True).mul_(keep[..., None])
                sums.append(_sum_runs(wide.sum(1), columns, 1).transpose(1, 2))
            else:
                wide = strip.to(share.dtype, copy=True).mul_(keep[:, None])
                sums.append(_sum_runs(wide.sum(2), columns, 2))
        nodes = torch.stack(sums, 2)
        return nodes.mul_(share[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cells, share = ctx.saved_tensors
        form = torch.channels_last if ctx.last else torch.contiguous_format
        size = (*grad.shape[:2], *cells.shape[1:])
        back = torch.empty(size, dtype=ctx.dtype, device=grad.device, memory_format=form)
        grad = (grad * share[:, None]).to(ctx.dtype, memory_format=form)
        columns = torch.tensor(ctx.columns, device=grad.device)
        columns = torch.repeat_interleave(columns, output_size=cells.shape[2])
        mask = cells.to(ctx.dtype)[:, None]
        strips = zip(_strips(back, ctx.rows, 2), _strips(mask, ctx.rows, 2), strict=True)
        for row, (strip, keep) in enumerate(strips):
            strip.copy_(grad[:, :, row, None].index_select(3, columns)).mul_(keep)
        return back, None, None, None, None


def _strips(x: Tensor, runs: list[int], dim: int = 1) -> Iterator[Tensor]:
    """Views of runs of neighbours along `dim`, one after another."""
    first = 0
    for length in runs:
        yield x.narrow(dim, first, length)
        first += length


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _runs(cells: int, pixels: int, grid: int) -> list[int]:
    """How many rows (or columns) of cells have their centre in each node, from the first on."""
    runs = [0] * -(-pixels // grid)
    for i in range(cells):
        runs[int((i + 0.5) * pixels / cells / grid)] += 1
    return runs


def _sum_runs(x: Tensor, runs: list[int], dim: int) -> Tensor:
    """Sums of runs of neighbours along `dim`; always in the same order, on any device."""
    if len(set(runs)) == 1:
        return x.reshape(*x.shape[:dim], len(runs), runs[0], *x.shape[dim + 1 :]).sum(dim + 1)
    return torch.stack([strip.sum(dim) for strip in _strips(x, runs, dim)], dim)


def _unit(nodes: Tensor, keep: Tensor) -> Tensor:
    """Nodes (N, C, R, S) as vectors of length 1, (N, M, C); 0 where left out or of no length.

    The gradient goes through the length. That of a vector of no length is 0.
    """
    vectors = nodes.flatten(2).transpose(1, 2)
    square = vectors.square().sum(2, keepdim=True)
    alive = keep[:, :, None] & (square > 1e-24)
    return vectors * torch.where(alive, square, 1).rsqrt() * alive


def _similarity_distance(s: Tensor, t: Tensor, scale: Tensor) -> Tensor:
    """Sum over images of `scale` (N,) times |s sᵀ - t tᵀ|², of s (N, M, C) and t (N, M, D)."""
    with torch.no_grad():
        nodes = s.shape[1]
        slope = torch.zeros_like(s)
        value = s.new_zeros(())
        step = max(1, BLOCK // max(nodes, 1))
        for i in range(len(s)):
            for first in range(0, nodes, step):
                rows = slice(first, first + step)
                # Two products, not one that adds: equal sides then give exactly 0.
                difference = (s[i, rows] @ s[i].T).sub_(t[i, rows] @ t[i].T)
                value += difference.square().sum() * scale[i]
                slope[i, rows] = (difference @ s[i]) * (4 * scale[i])
    return attach(s, value, slope)


def _smaller(a: torch.Size, b: torch.Size) -> tuple[int, int]:
    return min(a[0], b[0]), min(a[1], b[1])


def _by_area(features: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(features.shape[-2:]) == size:
        return features
    return F.adaptive_avg_pool2d(features.to(wide_type(features)), size)


def _standard_distance(s: Tensor, t: Tensor, keep: Tensor, scale: Tensor) -> Tensor:
    """`scale` times the square of the difference of standardised s and t, (N, C, h', w') both.

    In three rounds: means, second moments, slopes. With a, b and r the variances and the
    covariance after standardising it is n (a + b - 2 r) per channel.
    """
    with torch.no_grad():
        count, kind, mask = keep.sum().clamp(min=1), wide_type(s), keep[:, None]
        slope = torch.empty_like(s)
        mean_s, mean_t, ss, st, tt = torch.zeros(5, s.shape[1], 1, 1, dtype=kind, device=s.device)
        for u, v, m in _portions(s, t, mask):
            for total, x in ((mean_s, u), (mean_t, v)):
                total += (x.to(kind, copy=True).mul_(m)).sum((1, 2), keepdim=True)
        mean_s /= count
        mean_t /= count
        for u, v, m in _portions(s, t, mask):
            u, v = _centred(u, mean_s, m), _centred(v, mean_t, m)
            for total, x, y in ((ss, u, u), (st, u, v), (tt, v, v)):
                total += (x * y).sum((1, 2), keepdim=True)
        by_s, by_t = ((x / count + 1e-8).rsqrt() for x in (ss, tt))
        a, r, b = (x / count for x in (ss * by_s * by_s, st * by_s * by_t, tt * by_t * by_t))
        pull = by_s * (1 - (a - r))
        for u, v, m, out in _portions(s, t, mask, slope):
            u, v = _centred(u, mean_s, m), _centred(v, mean_t, m)
            out.copy_(u.mul_(pull).sub_(v.mul_(by_t)).mul_(2 * scale * by_s))
    return attach(s, (a + b - 2 * r).sum() * (scale * count), slope)


def _portions(*maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """An image's rows (C, n, w'), as many as a CPU's cache holds, then the next ones."""
    _, channels, h, w = maps[0].shape
    step = max(1, CACHED // (channels * w)) if maps[0].device.type == "cpu" else h
    for image in zip(*maps, strict=True):
        for first in range(0, h, step):
            yield tuple(x.narrow(1, first, min(step, h - first)) for x in image)


def _centred(part: Tensor, mean: Tensor, keep: Tensor) -> Tensor:
    """(C, n, w') minus the mean in the type of the mean; 0 where not kept."""
    # Cast by itself: mixed types take ten times as long on a CPU.
    return (part.to(mean.dtype) - mean).mul_(keep)
