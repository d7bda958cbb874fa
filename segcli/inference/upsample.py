"""From coarse logits to the picture's own pixels, in strips of rows that stay in the cache.

A map of K classes at 2048×1024 is 160 MB of logits for K = 19, made only to be read once.
Here each strip of output rows is interpolated, used and forgotten.

Shape legend: coarse logits (K, h, w), a strip (K, rows, W) of the output (H, W).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segcli.inference.geometry import Size

# Of float32 logits: about what a core's cache holds, and what a GPU has in plenty.
_STRIP_CPU, _STRIP_GPU = 2**20, 2**26


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
    index, weight = _taps(logits.shape[-2], frame, axis=0, device=logits.device)
    budget = _STRIP_CPU if logits.device.type == "cpu" else _STRIP_GPU
    step = max(4, budget // (4 * logits.shape[0] * frame.output[1]))
    for start in range(0, frame.output[0], step):
        rows = slice(start, min(start + step, frame.output[0]))
        mixed = logits.new_zeros((logits.shape[0], rows.stop - start, logits.shape[2]))
        for tap in range(index.shape[1]):
            mixed += logits[:, index[rows, tap]] * weight[rows, tap, None]
        yield rows, _columns(mixed, frame)


def _columns(mixed: Tensor, frame: Frame) -> Tensor:
    """(K, rows, w) to (K, rows, W): the horizontal half of the interpolation."""
    rows, width = mixed.shape[1], frame.content[1]
    if mixed.shape[2] != frame.covered[1]:
        mixed = _bilinear(mixed[None], (rows, frame.covered[1]))[0]
    mixed = mixed[..., :width]
    if width != frame.output[1]:
        mixed = _bilinear(mixed[None], (rows, frame.output[1]))[0]
    return mixed


def class_map(logits: Tensor, frame: Frame) -> Tensor:
    """uint8 (H, W): the class of most logit per pixel; of equal ones the lowest wins."""
    result = torch.empty(frame.output, dtype=torch.uint8, device=logits.device)
    for rows, strip in strips(logits, frame):
        result[rows] = argmax(strip)
    return result


def argmax(values: Tensor) -> Tensor:
    """uint8 (H, W) of (K, H, W); of equal values the lowest class wins."""
    # Half the time of argmax on a CPU, and the same answer.
    return values.max(0).indices.to(torch.uint8)


def _bilinear(x: Tensor, size: Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _taps(length: int, frame: Frame, *, axis: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The few coarse samples behind each output sample of an axis.

    Returns:
        Indices int64 (n, T) into `length` coarse samples and their weights float32 (n, T),
        which sum to 1. T is 2, or 4 where the content is resized once more.
    """
    covered, content, output = frame.covered[axis], frame.content[axis], frame.output[axis]
    index, weight = _pair(length, covered)
    index, weight = index[:content], weight[:content]
    if content != output:
        outer, share = _pair(content, output)
        index = torch.cat([index[outer[:, 0]], index[outer[:, 1]]], 1)
        weight = torch.cat(
            [weight[outer[:, 0]] * share[:, :1], weight[outer[:, 1]] * share[:, 1:]], 1
        )
    return index.to(device), weight.to(device)


def _pair(length: int, size: int) -> tuple[Tensor, Tensor]:
    """Indices and weights (size, 2) of `F.interpolate`, rounded as it rounds."""
    scale = torch.tensor(length / size, dtype=torch.float32)
    at = (scale * (torch.arange(size, dtype=torch.float32) + 0.5) - 0.5).clamp_(min=0)
    low = at.long().clamp_(max=length - 1)
    share = at - low
    high = (low + 1).clamp_(max=length - 1)
    return torch.stack([low, high], 1), torch.stack([1 - share, share], 1)
