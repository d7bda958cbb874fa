"""The class of most logit, fast on a CPU: without branches, and mostly without interpolating.

Bilinear interpolation weights the four neighbours of a pixel with shares that sum to one. If
the same class is the highest at all four, it is so in between: there the map is known without
a single interpolated logit. Only cells with a border in them are left, a small part of most
pictures, and of those only four corners are ever read.

Shape legend: coarse logits (K, h, w), maps uint8 (H, W), M cells of one row pair and a column.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Map = NDArray[np.uint8]
# Bytes of logits at a time, about what a core's cache holds.
_BLOCK = 640 * 2**10
# Share of cells with a border above which interpolating everything is faster.
_MOST = 0.4


def block_rows(classes: int, width: int) -> int:
    """Rows of K logits a pixel that stay in the cache."""
    return max(1, _BLOCK // (4 * classes * width))


class Argmax:
    """argmax over K of a few rows (K, rows, W), a tenth of the time of torch's.

    No step has a branch: every class that equals the maximum bids K - 1 - its number, and the
    highest bid is the lowest class. Where nothing equals it, for it is NaN, the last class
    stands.
    """

    def __init__(self, classes: int, rows: int, width: int) -> None:
        self.rows = rows
        self._top = np.empty((rows, width), np.float32)
        self._equal = np.empty((classes, rows, width), np.bool_)
        self._bids = np.empty((classes, rows, width), np.uint8)
        self._bid = np.arange(classes - 1, -1, -1, dtype=np.uint8)[:, None, None]
        self._last = np.uint8(classes - 1)

    def __call__(self, values: Logits, out: Map) -> None:
        """Write the classes of `values` (K, r, w) to `out` (r, w), r and w not above its own."""
        _, r, w = values.shape
        top, equal, bids = self._top[:r, :w], self._equal[:, :r, :w], self._bids[:, :r, :w]
        np.maximum.reduce(values, axis=0, out=top)
        np.equal(values, top, out=equal)
        np.multiply(equal.view(np.uint8), self._bid, out=bids)
        np.maximum.reduce(bids, axis=0, out=out)
        np.subtract(self._last, out, out=out)


def argmax_rows(values: Logits, out: Map) -> None:
    """Write the classes of `values` (K, H, W) to `out` (H, W), a few rows at a time."""
    classes, height, width = values.shape
    find = Argmax(classes, min(height, block_rows(classes, width)), width)
    for start in range(0, height, find.rows):
        rows = slice(start, start + find.rows)
        find(values[:, rows], out[rows])


class Between(NamedTuple):
    """For each of n samples of an axis the two coarse ones around it, and the second's share.

    Attributes:
        low, high: int64 (n,), `low` ascending and `high` following from it.
        share: float32 (n,), 0..1, of `high`.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    share: NDArray[np.float32]


def fill_by_borders(logits: Logits, rows: Between, columns: Between, out: Map) -> bool:
    """Write the class map of `logits`, interpolated as `rows` and `columns` say, to `out`.

    Args:
        logits: (K, h, w), any strides.
        out: (H, W), for H `rows` and W `columns`.

    Returns:
        False, and nothing is written, where so many cells have borders that it does not pay.
    """
    classes, height, width = logits.shape
    coarse = np.empty((height, width), np.uint8)
    argmax_rows(logits, coarse)
    left, right = coarse[:, columns.low], coarse[:, columns.high]
    even = left == right
    first = np.flatnonzero(np.diff(rows.low, prepend=-1))
    top, bottom = rows.low[first], rows.high[first]
    border = ~(even[top] & even[bottom] & (left[top] == left[bottom]))
    if np.count_nonzero(border) > _MOST * border.size:
        return False
    pair, column = np.nonzero(border)
    np.take(left, rows.low, axis=0, out=out)
    last = np.append(first[1:], len(rows.low)) - 1
    cells = max(1, _BLOCK // (8 * classes))
    find = Argmax(classes, 1, min(cells, max(1, pair.size)))
    flat = np.ascontiguousarray(logits).reshape(classes, -1)
    for start in range(0, pair.size, cells):
        p, c = pair[start : start + cells], column[start : start + cells]
        above = _across(flat, top[p] * width, columns, c)
        below = _across(flat, bottom[p] * width, columns, c)
        _fill_cells(above, below, rows, (first[p], last[p]), c, find, out)
    return True


def across(logits: Logits, columns: Between) -> Logits:
    """(K, r, w) to (K, r, W), as `columns` say."""
    result: Logits = logits.take(columns.low, axis=2)
    result *= 1 - columns.share
    right = logits.take(columns.high, axis=2)
    right *= columns.share
    result += right
    return result


def _across(
    flat: Logits, start: NDArray[np.int64], columns: Between, c: NDArray[np.int64]
) -> Logits:
    """Logits (K, M) between two neighbours in a row that starts at `start` of `flat` (K, h·w)."""
    share = columns.share[c]
    result: Logits = flat.take(start + columns.low[c], axis=1)
    result *= 1 - share
    right = flat.take(start + columns.high[c], axis=1)
    right *= share
    result += right
    return result


def _fill_cells(
    above: Logits,
    below: Logits,
    rows: Between,
    ends: tuple[NDArray[np.int64], NDArray[np.int64]],
    column: NDArray[np.int64],
    find: Argmax,
    out: Map,
) -> None:
    """Write the rows that lie between `above` and `below` (K, M), cell by cell.

    Args:
        ends: first and last row (M,) of `out` in each cell.
        column: (M,) of `out`.
    """
    first, last = ends
    mixed, part = np.empty_like(above), np.empty_like(above)
    classes = np.empty(len(column), np.uint8)
    for step in range(int((last - first).max()) + 1):
        # Cells with fewer rows do their last one again.
        row = np.minimum(first + step, last)
        share = rows.share[row]
        np.multiply(above, 1 - share, out=mixed)
        np.multiply(below, share, out=part)
        np.add(mixed, part, out=mixed)
        find(mixed[:, None], classes[None])
        out[row, column] = classes
