"""Label images as runs of equal pixels: their histogram, and their PNG stream.

A label of two million pixels has some 20,000 runs. Once these are found, in one pass, counting
and compressing them are a few vector operations, where a general compressor looks at every
pixel: 1 ms and not 4 for 2048x1024.

Symbols: R runs, T tokens. Formats: RFC 1950 (zlib) and RFC 1951 (deflate), fixed Huffman codes.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LONGEST = 258  # pixels that one deflate match copies
_END_BITS = 7
_ADLER = 65521

Ints = NDArray[np.int64]


class Runs(NamedTuple):
    """Runs in reading order; none crosses from one row into the next. All int64 (R,)."""

    values: Ints
    starts: Ints
    lengths: Ints


class _Codes(NamedTuple):
    """Codes, lowest bit first, and their bits: of a pixel (256,), of n copies of it (259,)."""

    pixel: Ints
    pixel_bits: Ints
    copy: Ints
    copy_bits: Ints


def find_runs(label: NDArray[np.uint8]) -> Runs:
    """The runs of a label, uint8 (H, W)."""
    flat = label.ravel()
    change = np.empty(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=change[1:])
    change[:: label.shape[1]] = True
    starts = np.flatnonzero(change)
    return Runs(flat[starts].astype(np.int64), starts, np.diff(starts, append=flat.size))


def histogram(runs: Runs) -> Ints:
    """Pixels per value, int64 (256,)."""
    return np.bincount(runs.values, runs.lengths, 256).astype(np.int64)


def compress(runs: Runs, width: int) -> bytes:
    """The zlib stream of a PNG's rows: each the filter byte 0 and `width` pixels."""
    first_in_row = np.flatnonzero(runs.starts % width == 0)
    values = np.insert(runs.values, first_in_row, 0)
    lengths = np.insert(runs.lengths, first_in_row, 1)
    body = _pack(*_tokens(values, lengths))
    return b"\x78\x01" + body + struct.pack(">I", _adler32(runs, width, first_in_row.size))


def _tokens(values: Ints, lengths: Ints) -> tuple[Ints, Ints]:
    """Codes and bits (T,): per run its pixel, full-length copies of it, and the rest."""
    c = _codes()
    full, rest = np.divmod(lengths - 1, _LONGEST)
    last = np.cumsum(full + 2) - 1
    first = last - full - 1
    codes = np.full(last[-1] + 1, c.copy[_LONGEST])
    bits = np.full(last[-1] + 1, c.copy_bits[_LONGEST])
    codes[first], bits[first] = c.pixel[values], c.pixel_bits[values]
    # Matches copy three pixels or more; one or two more are written out.
    once, once_bits = c.pixel[values], c.pixel_bits[values]
    twice = once | once << once_bits
    short = [rest == 1, rest == 2]
    codes[last] = np.select(short, [once, twice], c.copy[rest])
    bits[last] = np.select(short, [once_bits, 2 * once_bits], c.copy_bits[rest])
    return codes, bits


def _pack(codes: Ints, bits: Ints) -> bytes:
    """One final deflate block; a token has at most 18 bits and so touches two 32-bit words."""
    header, header_bits = 0b011, 3
    at = np.cumsum(bits) - bits + header_bits
    total = int(at[-1] + bits[-1]) + _END_BITS  # the end symbol is seven zero bits
    shifted, word = codes << (at & 31), at >> 5
    count = (total >> 5) + 2
    # No two tokens share a bit: sums of floats below 2^53 are the bits joined, exactly.
    low = np.bincount(word, shifted & 0xFFFFFFFF, count)
    high = np.bincount(word + 1, shifted >> 32, count)
    low[0] += header
    return (low + high).astype("<u4").tobytes()[: (total + 7) // 8]


def _adler32(runs: Runs, width: int, height: int) -> int:
    """The checksum of filter bytes and pixels, from the runs; filter bytes are 0."""
    size = height * (width + 1)
    position = runs.starts + runs.starts // width + 1
    a = 1 + int((runs.values * runs.lengths).sum())
    weight = runs.lengths * (size - position) - runs.lengths * (runs.lengths - 1) // 2
    b = size + int((runs.values * weight % _ADLER).sum())
    return b % _ADLER << 16 | a % _ADLER


def _reverse(value: int, bits: int) -> int:
    return int(f"{value:0{bits}b}"[::-1], 2)


@cache
def _codes() -> _Codes:
    pixels = [(0x30 + v, 8) if v < 144 else (0x190 + v - 144, 9) for v in range(256)]
    copies = [(0, 0)] * 3
    for n in range(3, _LONGEST + 1):
        symbol, extra, extra_bits = _length_symbol(n)
        code, bits = (symbol - 256, 7) if symbol < 280 else (0xC0 + symbol - 280, 8)
        # Then the distance: symbol 0, one pixel back, five zero bits.
        copies.append((_reverse(code, bits) | extra << bits, bits + extra_bits + 5))
    return _Codes(
        np.array([_reverse(code, bits) for code, bits in pixels]),
        np.array([bits for _, bits in pixels]),
        np.array([code for code, _ in copies]),
        np.array([bits for _, bits in copies]),
    )


def _length_symbol(n: int) -> tuple[int, int, int]:
    """Symbol, extra bits' value and count for a match of `n` (RFC 1951, 3.2.5)."""
    if n == _LONGEST:
        return 285, 0, 0
    if n < 11:
        return 254 + n, 0, 0
    extra_bits = (n - 3).bit_length() - 3
    step = (n - 3) >> extra_bits
    return 257 + 4 * extra_bits + step, (n - 3) & ((1 << extra_bits) - 1), extra_bits
