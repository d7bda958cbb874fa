"""From coarse logits to the picture's own pixels, in strips of rows that stay in the cache.

A map of K classes at 2048×1024 is 160 MB of logits for K = 19, made only to be read once.
Here each strip of output rows is interpolated, used and forgotten.

Shape legend: coarse logits (K, h, w), a strip (K, rows, W) of the output (H, W).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segcli.inference.argmax import (
    Argmax,
    Between,
    across,
    argmax_rows,
    block_rows,
    fill_by_borders,
)
from segcli.inference.geometry import Size

Array = NDArray[np.float32]

# Of float32 logits: about what a core's cache holds, and what a GPU has in plenty.
_STRIP_CPU, _STRIP_GPU = 2**20, 2**26
# Coarse rows that are looked at together.
_CHUNK = 32
_WORTH_THREADS = 2**19


@dataclass(frozen=True)
class Frame:
    """How coarse logits lie on the output, all as (height, width).

    Attributes:
        covered: pixels that the coarse logits span: what the network saw, padding included.
        content: the part of it, from the top left, that is picture.
        output: pixels wanted; the content is resized to it where they differ.
    """

    covered: Size
    content: Size
    output: Size


def upsample(logits: Tensor, frame: Frame) -> Tensor:
    """Bilinear (N, K, h, w) -> (N, K, H, W), the padding cropped, half-pixel centres."""
    height, width = frame.content
    if tuple(logits.shape[-2:]) != frame.covered:
        logits = _bilinear(logits, frame.covered)
    logits = logits[..., :height, :width]
    return logits if frame.content == frame.output else _bilinear(logits, frame.output)


def strips(logits: Tensor, frame: Frame) -> Iterator[tuple[slice, Tensor]]:
    """What `upsample` makes of (K, h, w), strip by strip from the top.

    Yields:
        The rows' slice and float32 (K, rows, W), which the caller may overwrite.
    """
    budget = _STRIP_CPU if logits.device.type == "cpu" else _STRIP_GPU
    most = max(1, budget // (4 * logits.shape[0] * frame.output[1]))
    for rows, span, index, weight in _spans(logits, frame):
        # Columns first, while there are few rows; what is left runs over whole rows.
        wide = _columns(logits[:, span], frame)
        for start in range(0, len(index), most):
            part = slice(start, start + most)
            strip = _mixed(wide, index[part], weight[part])
            yield slice(rows.start + start, rows.start + start + strip.shape[1]), strip


def upsample_rows(logits: Tensor, frame: Frame, rows: slice) -> Tensor:
    """The rows [start, stop) alone of what `upsample` makes of (K, h, w): (K, rows, W)."""
    index, weight = (taps[rows] for taps in _taps(logits.shape[-2], frame))
    low, high = int(index.min()), int(index.max())
    return _mixed(_columns(logits[:, low : high + 1], frame), index - low, weight)


def _mixed(wide: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Rows of `wide` (K, r, W) weighted and added: (K, n, W) for taps (n, T)."""
    index, weight = index.to(wide.device), weight.to(wide.device)
    strip = wide[:, index[:, 0]].mul_(weight[:, :1])
    for tap in range(1, index.shape[1]):
        strip.addcmul_(wide[:, index[:, tap]], weight[:, tap, None])
    return strip


def _spans(logits: Tensor, frame: Frame) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Parts of the output's rows, and what they are mixed of.

    Yields:
        The rows' slice; that of the coarse rows which they need; per row the indices (n, T)
        into those, and their weights (n, T).
    """
    height = frame.output[0]
    index, weight = _taps(logits.shape[-2], frame)
    step = max(1, _CHUNK * height // logits.shape[-2])
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        low, high = int(index[rows].min()), int(index[rows].max())
        yield rows, slice(low, high + 1), index[rows] - low, weight[rows]


def _columns(rows: Tensor, frame: Frame) -> Tensor:
    """(K, r, w) to (K, r, W): the horizontal half of the interpolation."""
    if rows.shape[2] != frame.covered[1]:
        rows = _linear(rows, frame.covered[1])
    rows = rows[..., : frame.content[1]]
    return rows if frame.content[1] == frame.output[1] else _linear(rows, frame.output[1])


def class_map(logits: Tensor, frame: Frame) -> Tensor:
    """uint8 (H, W) of (K, h, w): the class of most logit; of equal ones the lowest wins.

    On a CPU a small part of the time of `F.interpolate` and `max`: see `segcli.inference.argmax`
    for pictures with large areas, and where all is borders, rows are mixed and searched a few
    at a time, from and to the cache.
    """
    height, width = frame.output
    if tuple(logits.shape[1:]) == frame.covered and frame.content == frame.output:
        return argmax(logits[:, :height, :width])
    result = torch.empty(frame.output, dtype=torch.uint8, device=logits.device)
    if logits.device.type != "cpu":
        for rows, strip in strips(logits, frame):
            result[rows] = strip.max(0).indices
        return result
    once = frame.content == frame.output
    columns = _between(*_pair(logits.shape[2], frame.covered[1]), width)

    def fill(part: tuple[slice, slice, Tensor, Tensor]) -> None:
        rows, span, index, weight = part
        coarse, into = logits[:, span], result[rows].numpy()
        if not once:
            _fill_all(_columns(coarse, frame).numpy(), index, weight, into)
        elif not fill_by_borders(coarse.numpy(), _between(index, weight, None), columns, into):
            _fill_all(across(coarse.numpy(), columns), index, weight, into)

    # Small maps are done before another thread has begun.
    threads = torch.get_num_threads() if height * width >= _WORTH_THREADS else 1
    with ThreadPoolExecutor(threads) as pool:
        for _ in (pool.map if threads > 1 else map)(fill, _spans(logits, frame)):
            pass
    return result


def _between(index: Tensor, weight: Tensor, count: int | None) -> Between:
    low, high = index[:count, 0].numpy(), index[:count, 1].numpy()
    return Between(low, high, weight[:count, 1].numpy())


def _fill_all(wide: Array, index: Tensor, weight: Tensor, out: NDArray[np.uint8]) -> None:
    """Write the class map of rows mixed of `wide` (K, r, W) to `out` (n, W)."""
    classes, _, width = wide.shape
    find = Argmax(classes, min(len(out), block_rows(classes, width)), width)
    mixed = np.empty((classes, find.rows, width), np.float32)
    taps = list(zip(index.tolist(), weight.tolist(), strict=True))
    for start in range(0, len(taps), find.rows):
        block = taps[start : start + find.rows]
        for row, tap in enumerate(block):
            _mix(wide, *tap, mixed[:, row])
        find(mixed[:, : len(block)], out[start : start + len(block)])


def _mix(source: Array, taps: Sequence[int], shares: Sequence[float], out: Array) -> None:
    """The weighted sum of two or four rows of `source` (K, r, W) into `out` (K, W)."""
    cv2.addWeighted(source[:, taps[0]], shares[0], source[:, taps[1]], shares[1], 0, dst=out)
    for tap, share in zip(taps[2:], shares[2:], strict=True):
        cv2.scaleAdd(source[:, tap], share, out, dst=out)


def argmax(values: Tensor) -> Tensor:
    """uint8 (H, W) of (K, H, W); of equal values the lowest class wins."""
    if values.device.type != "cpu":
        return values.max(0).indices.to(torch.uint8)
    result = torch.empty(values.shape[1:], dtype=torch.uint8)
    argmax_rows(values.numpy(), result.numpy())
    return result


def _bilinear(x: Tensor, size: Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _linear(rows: Tensor, width: int) -> Tensor:
    """(K, r, w) to (K, r, width)."""
    return F.interpolate(rows, size=width, mode="linear", align_corners=False)


@lru_cache(maxsize=32)
def _taps(length: int, frame: Frame) -> tuple[Tensor, Tensor]:
    """The few coarse rows behind each row of the output.

    Returns:
        Indices int64 (n, T) into `length` coarse rows and their weights float32 (n, T),
        which sum to 1. T is 2, or 4 where the content is resized once more.
    """
    covered, content, output = frame.covered[0], frame.content[0], frame.output[0]
    index, weight = _pair(length, covered)
    index, weight = index[:content], weight[:content]
    if content != output:
        outer, share = _pair(content, output)
        index = torch.cat([index[outer[:, 0]], index[outer[:, 1]]], 1)
        weight = torch.cat(
            [weight[outer[:, 0]] * share[:, :1], weight[outer[:, 1]] * share[:, 1:]], 1
        )
    return index, weight


def _pair(length: int, size: int) -> tuple[Tensor, Tensor]:
    """Indices and weights (size, 2) of `F.interpolate`, rounded as it rounds."""
    scale = torch.tensor(length / size, dtype=torch.float32)
    at = (scale * (torch.arange(size, dtype=torch.float32) + 0.5) - 0.5).clamp_(min=0)
    low = at.long().clamp_(max=length - 1)
    share = at - low
    high = (low + 1).clamp_(max=length - 1)
    return torch.stack([low, high], 1), torch.stack([1 - share, share], 1)
