"""Large pictures on small machines: whole where memory allows, else in overlapping tiles.

Tiles are cut from the picture and joined again as coarse logits, before any upsampling. They
start at multiples of the network's stride, so that its grid is that of the whole picture.
Where they overlap, each fades out linearly towards its border, behind which it saw nothing.

Shape legend: batch uint8 (N, 3, H, W), coarse logits (N, K, h, w).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from segcli.inference.geometry import Size
from segcli.inference.network import Backend
from segcli.resources import (
    MemoryShortageError,
    free_memory,
    is_out_of_memory,
    leave_no_holes,
)

# Tiles start at multiples of this, of which every usual stride is a divisor.
_GRID = 32
# Nothing smaller is cut; pictures of up to `_SMALL` pixels are taken to fit anywhere.
_SMALLEST, _SMALL = 256 * 256, 2**20
# Share of the free memory that may be planned with: an estimate is not a promise.
_SHARE = 0.6
# Share of a tile's side that it has in common with the next one.
_OVERLAP = 8


@dataclass(frozen=True)
class Tile:
    """Pixels [top, bottom) × [left, right) of a picture."""

    top: int
    bottom: int
    left: int
    right: int


class Tiler:
    """Calls a back end with whole pictures or with tiles, by the memory that there is.

    Args:
        backend: the network.
        tile: `auto`, or (h, w) of all tiles, cut to multiples of 32.
    """

    def __init__(self, backend: Backend, tile: str | Size = "auto") -> None:
        if isinstance(tile, str) and tile != "auto":
            raise ValueError(f"tile is 'auto' or (height, width), not {tile!r}")
        self.backend, self.tile = backend, tile
        self._known: int | None = None

    def __call__(self, batch: Tensor, most: int | None = None) -> Tensor:
        """Coarse logits of `batch`, as the back end's own where it is shown whole.

        Args:
            most: pixels that the network may see at a time, whatever memory there is.

        Raises:
            MemoryShortageError: not even small tiles fit.
        """
        pixels = batch.shape[-2] * batch.shape[-1]
        if most is not None and pixels > _SMALL and self.backend.device.type == "cpu":
            leave_no_holes()
        if not isinstance(self.tile, str):
            return self._tiled(batch, self.tile)
        allowed = self._allowed(batch)
        if most is not None:
            allowed = min(allowed, max(most, _SMALL))
        while True:
            try:
                if batch.shape[0] * pixels <= allowed:
                    return self.backend(batch)
                if batch.shape[0] > 1:
                    return torch.cat([self(image[None], most) for image in batch])
                return self._tiled(batch, tile_size(_size(batch), allowed))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if allowed <= _SMALLEST:
                    raise MemoryShortageError(
                        f"not even a tile of {_SMALLEST} pixels fits in memory",
                        hint="use a smaller model, or another device",
                    ) from None
            # Out of the handler, so that the traceback no longer holds what did not fit.
            allowed = self._known = max(_SMALLEST, min(allowed, batch.shape[0] * pixels) // 2)
            if self.backend.device.type == "cuda":
                torch.cuda.empty_cache()

    def _allowed(self, batch: Tensor) -> int:
        """Pixels that fit at a time, for all that is known."""
        if self._known is not None:
            return self._known
        pixels = batch.shape[0] * batch.shape[-2] * batch.shape[-1]
        if pixels <= _SMALL:
            return pixels
        per_pixel, free = self.backend.pixel_bytes(), free_bytes(self.backend.device)
        if per_pixel is None or free is None:
            return pixels
        return max(_SMALLEST, int(_SHARE * free / per_pixel))

    def _tiled(self, batch: Tensor, tile: Size) -> Tensor:
        height, width = _size(batch)
        multiple = self.backend.multiple
        grid = math.lcm(_GRID, multiple)
        if getattr(self.backend, "size", None) is None:
            # A tile within the picture must not end in padding, of which the network thinks too.
            tile = (_whole(tile[0], height, grid), _whole(tile[1], width, grid))
        total: Tensor | None = None
        for part in tiles((height, width), tile, grid):
            view = batch[..., part.top : part.bottom, part.left : part.right]
            logits = self.backend(view)
            rows, columns = _strides(view, logits, multiple)
            if total is None:
                size = (_ceil(height, multiple) // rows, _ceil(width, multiple) // columns)
                total = logits.new_zeros((*logits.shape[:2], *size))
                weights = logits.new_zeros(size)
            y, x = part.top // rows, part.left // columns
            fade = _fade(logits, tile, (rows, columns), part, (height, width))
            place = (slice(y, y + logits.shape[2]), slice(x, x + logits.shape[3]))
            total[:, :, *place] += logits.mul_(fade)
            weights[place] += fade
        if total is None:
            raise ValueError("no tiles")
        return total.div_(weights)


def tiles(size: Size, tile: Size, grid: int = _GRID) -> Iterator[Tile]:
    """Tiles that cover `size`, rows first, evenly spread, their starts multiples of `grid`."""
    vertical, horizontal = (_starts(s, t, grid) for s, t in zip(size, tile, strict=True))
    for top, left in product(vertical, horizontal):
        yield Tile(top, min(top + tile[0], size[0]), left, min(left + tile[1], size[1]))


def _starts(size: int, tile: int, grid: int) -> list[int]:
    if tile >= size:
        return [0]
    step = (tile - _overlap(tile)) // grid * grid
    if step < grid:
        raise ValueError(f"a tile of {tile} pixels is too small, {2 * grid} are needed")
    last = _ceil(size - tile, grid)
    count = 1 + -(-last // step)
    return [last * i // (count - 1) // grid * grid for i in range(count)]


def tile_size(size: Size, most: int) -> Size:
    """(h, w) of equal tiles of at most `most` pixels (or the smallest) that cost least."""
    best: tuple[float, Size] | None = None
    for rows, columns in product(range(1, 65), repeat=2):
        tile = (_side(size[0], rows), _side(size[1], columns))
        area = tile[0] * tile[1]
        if area <= max(most, _SMALLEST):
            # Narrow tiles overlap less but see less around each pixel.
            cost = rows * columns * area * (max(tile) / min(tile)) ** 0.3
            if best is None or cost < best[0]:
                best = (cost, tile)
    return best[1] if best is not None else (256, 256)


def _side(size: int, count: int) -> int:
    """Side of `count` tiles over `size`, with their overlaps."""
    if count == 1:
        return size
    # count tiles with count - 1 overlaps of an eighth, in whole steps of the grid.
    return max(256, _ceil(-(-size * _OVERLAP // (count * _OVERLAP - count + 1)), _GRID) + _GRID)


def _whole(tile: int, size: int, grid: int) -> int:
    """The side of tiles over `size`: whole steps of the grid, unless one covers it all."""
    return tile if tile >= size else max(2 * grid, tile // grid * grid)


def _size(batch: Tensor) -> Size:
    return batch.shape[-2], batch.shape[-1]


def _overlap(tile: int) -> int:
    return tile // _OVERLAP


def _ceil(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _strides(view: Tensor, logits: Tensor, multiple: int) -> Size:
    """Pixels between neighbours of the coarse grid, vertically and horizontally."""
    covered = [_ceil(side, multiple) for side in view.shape[-2:]]
    if any(c % s or _GRID % (c // s) for c, s in zip(covered, logits.shape[-2:], strict=True)):
        raise ValueError(f"logits {tuple(logits.shape)} of a tile {tuple(view.shape)}: odd stride")
    return covered[0] // logits.shape[-2], covered[1] // logits.shape[-1]


def _fade(logits: Tensor, tile: Size, stride: Size, part: Tile, size: Size) -> Tensor:
    """Weights (h, w) of a tile: 1 within, falling towards the borders that others overlap."""
    ends = ((part.top > 0, part.bottom < size[0]), (part.left > 0, part.right < size[1]))
    axes = []
    for length, side, step, (before, after) in zip(
        logits.shape[-2:], tile, stride, ends, strict=True
    ):
        overlap = max(1, _overlap(side) // step)
        ramp = ((torch.arange(length, device=logits.device) + 0.5) / overlap).clamp_(max=1)
        axis = torch.ones(length, device=logits.device)
        if before:
            axis = axis * ramp
        axes.append(axis * ramp.flip(0) if after else axis)
    return axes[0][:, None] * axes[1]


def free_bytes(device: torch.device) -> int | None:
    """Memory that can be had on `device`; None where nobody can say."""
    if device.type == "cpu":
        return free_memory()
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return None
