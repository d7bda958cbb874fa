"""PNG as bytes: check that a file is whole, read class indices as stored, write them fast.

Image libraries turn palettes into colours, stretch 4-bit grey and scale 16 bits down; each of
these changes class indices. So the stored samples are read as they are: palette and grey
labels of 1, 2, 4 and 8 bits are re-headed as 8-bit grey rows of bytes before decoding.

Format: W3C, Portable Network Graphics (third edition), chapters 5, 7 and 11.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcli.errors import DataError
from segcli.runlength import Runs, compress, find_runs

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
_LONGEST_TEXT = 1 << 16
_DENSE = 8  # pixels per run, below which a label is noise
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}


class PngHeader(NamedTuple):
    """What the first chunk says; `depth` is bits per channel."""

    width: int
    height: int
    depth: int
    color_type: int
    interlaced: bool


def read_header(data: bytes, path: Path) -> PngHeader:
    """Parse the IHDR chunk, from the first 29 bytes of a file or more.

    Raises:
        DataError: when `data` does not start as a PNG does.
    """
    if data[:8] != SIGNATURE or len(data) < 29 or data[12:16] != b"IHDR":
        raise DataError("not a PNG file, or cut off at its start", file=path)
    width, height, depth, color_type, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    if not width or not height or color_type not in _CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise DataError("damaged PNG header", file=path)
    return PngHeader(width, height, depth, color_type, bool(interlace))


def read_chunks(data: bytes, path: Path) -> list[tuple[bytes, memoryview]]:
    """Every chunk as (type, body), with its checksum verified, up to and with IEND.

    Raises:
        DataError: truncated file, or a chunk whose CRC does not match.
    """
    view, at = memoryview(data), len(SIGNATURE)
    chunks: list[tuple[bytes, memoryview]] = []
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise DataError("damaged PNG, a checksum does not match", file=path)
        kind = data[at + 4 : at + 8]
        chunks.append((kind, view[at + 8 : end - 4]))
        if kind == b"IEND":
            return chunks
        at = end
    raise DataError("truncated PNG", file=path)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk with its length and CRC."""
    return b"".join(
        (struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(kind + body)))
    )


def with_text(data: bytes, keyword: str, text: str) -> bytes:
    """The PNG `data` with a tEXt chunk right after its header; both strings are ASCII."""
    end = len(SIGNATURE) + 25
    body = keyword.encode("ascii") + b"\0" + text.encode("ascii")
    return data[:end] + chunk(b"tEXt", body) + data[end:]


def read_text(path: Path, keyword: str) -> str | None:
    """What `with_text` put into the file at `path`; None where it is not there, or not whole.

    The pixels are not read: the file has to begin with that text and to end as a PNG ends.
    """
    name = keyword.encode("ascii") + b"\0"
    start = len(SIGNATURE) + 25
    try:
        with open(path, "rb") as file:
            head = file.read(start + 8)
            length, kind = struct.unpack_from(">I4s", head, start)
            if head[:8] != SIGNATURE or kind != b"tEXt" or length > _LONGEST_TEXT:
                return None
            body = file.read(length + 4)
            file.seek(-12, 2)
            whole = file.read() == chunk(b"IEND", b"")
    except (OSError, struct.error):
        return None
    text, checksum = body[:-4], body[-4:]
    sound = whole and checksum == struct.pack(">I", zlib.crc32(kind + text))
    if not sound or not text.startswith(name):
        return None
    return text[len(name) :].decode("ascii", "replace")


def decode_indices(data: bytes, path: Path) -> NDArray[np.uint8]:
    """The stored samples of a one-channel PNG, uint8 (H, W), unscaled.

    Raises:
        DataError: RGB or alpha, 16 bits, truncated or damaged, or interlaced below 8 bits.
    """
    import cv2

    header = read_header(data, path)
    if _CHANNELS[header.color_type] != 1:
        kind = "RGB" if header.color_type in (RGB, RGB_ALPHA) else "grey with alpha"
        raise DataError(
            f"label is {kind}, not class indices", file=path, hint="one channel of 8 bits is needed"
        )
    if header.depth == 16:
        raise DataError("label has 16 bits", file=path, hint="one channel of 8 bits is needed")
    if header.depth < 8 and header.interlaced:
        raise DataError("interlaced label", file=path, hint="save it without interlacing")
    row_bytes = (header.width * header.depth + 7) // 8
    body = struct.pack(">IIBBBBB", row_bytes, header.height, 8, GREY, 0, 0, header.interlaced)
    pixels = b"".join(body for kind, body in read_chunks(data, path) if kind == b"IDAT")
    grey = b"".join((SIGNATURE, chunk(b"IHDR", body), chunk(b"IDAT", pixels), chunk(b"IEND", b"")))
    decoded = cv2.imdecode(np.frombuffer(grey, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.shape != (header.height, row_bytes):
        raise DataError("cannot decode PNG", file=path)
    rows = decoded.astype(np.uint8, copy=False)
    return rows if header.depth == 8 else _unpack(rows, header)


def encode(pixels: NDArray[Any]) -> bytes:
    """A PNG of grey uint8 or uint16 (H, W), or RGBA uint8 (H, W, 4)."""
    import cv2

    if pixels.ndim == 3:
        pixels = np.ascontiguousarray(pixels[:, :, [2, 1, 0, 3]])
    # Label images are long runs: unfiltered rows with cv2's default strategy, run lengths,
    # took 4.1 ms for 2048x1024 where its adaptive filters took 14 to 20.
    options = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    ok, data = cv2.imencode(".png", pixels, options)
    if not ok:
        raise ValueError(f"cannot encode {pixels.shape} {pixels.dtype}")
    return data.tobytes()


def encode_indices(
    label: NDArray[np.uint8], palette: NDArray[np.uint8], runs: Runs | None = None
) -> bytes:
    """An indexed PNG; equal labels give equal bytes.

    Args:
        label: uint8 (H, W), H and W at least 1.
        palette: uint8 (256, 3) RGB.
        runs: of the label, where they are known already.

    Raises:
        ValueError: another shape or type.
    """
    if label.dtype != np.uint8 or label.ndim != 2 or label.size == 0:
        raise ValueError(f"a class map is uint8 (H, W), not {label.dtype} {label.shape}")
    if palette.dtype != np.uint8 or palette.shape != (256, 3):
        raise ValueError(f"a palette is uint8 (256, 3), not {palette.dtype} {palette.shape}")
    height, width = label.shape
    runs = runs if runs is not None else find_runs(label)
    if runs.starts.size * _DENSE > label.size:
        # A noisy label has no runs to speak of; cv2 compresses it, under a header of its own.
        pixels = b"".join(
            body for kind, body in read_chunks(encode(label), Path()) if kind == b"IDAT"
        )
    else:
        pixels = compress(runs, width)
    header = struct.pack(">IIBBBBB", width, height, 8, PALETTE, 0, 0, 0)
    parts = ((b"IHDR", header), (b"PLTE", palette.tobytes()), (b"IDAT", pixels), (b"IEND", b""))
    return SIGNATURE + b"".join(chunk(kind, body) for kind, body in parts)


def _unpack(rows: NDArray[np.uint8], header: PngHeader) -> NDArray[np.uint8]:
    """Split bytes into samples of 1, 2 or 4 bits; the leftmost pixel is in the high bits."""
    per_byte = 8 // header.depth
    shifts = np.arange(per_byte - 1, -1, -1, dtype=np.uint8) * np.uint8(header.depth)
    samples = (rows[:, :, None] >> shifts) & np.uint8((1 << header.depth) - 1)
    return np.ascontiguousarray(samples.reshape(rows.shape[0], -1)[:, : header.width])
