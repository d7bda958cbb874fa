"""Indexed PNGs: a class map whose pixels are indices and which viewers show in colour.

Format: W3C, Portable Network Graphics (third edition), chapters 5, 9 and 11.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PALETTE_COLOR = 3
_FILTER_UP = 2


def encode_indexed_png(label: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """A PNG of colour type 3, 8 bits; equal maps give equal bytes.

    Rows are stored as differences to the row above and only runs are looked for: class maps
    are nearly all runs of zeros then, smaller than at zlib's usual level and in half the time.

    Args:
        label: uint8 (H, W), H and W at least 1.
        palette: uint8 (256, 3) RGB.

    Raises:
        ValueError: another shape or type.
    """
    import numpy as np

    if label.dtype != np.uint8 or label.ndim != 2 or label.size == 0:
        raise ValueError(f"a class map is uint8 (H, W), not {label.dtype} {label.shape}")
    if palette.dtype != np.uint8 or palette.shape != (256, 3):
        raise ValueError(f"a palette is uint8 (256, 3), not {palette.dtype} {palette.shape}")
    height, width = label.shape
    rows = np.empty((height, width + 1), np.uint8)
    rows[:, 0] = _FILTER_UP
    rows[0, 1:] = label[0]
    np.subtract(label[1:], label[:-1], out=rows[1:, 1:])
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    body = deflate.compress(rows.data) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, _PALETTE_COLOR, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", palette.tobytes()), (b"IDAT", body), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)))
