"""A copy of an image and its label from which a training crop reads only its own pixels.

One file a sample: a header, then the image, its half-size level, and the label. Codec `raw`
stores rows of pixels, and the file is mapped into memory; `png` stores square tiles that are
PNGs themselves, and decodes those that a crop touches. Both are lossless. A file is written
whole or not at all, knows its own length, and knows the bytes of the image and of the label
that it was made from.

Shapes: image uint8 (H, W, 3) RGB; half-size level uint8 (H // 2, W // 2, 3), the means of 2×2
pixels; label uint8 (H, W).

File: ``SEGPACK1``, length and CRC-32 of the header (uint32, little endian), the header as JSON,
parts at multiples of 64 bytes. Offsets in the header count from the end of the header, those of
tiles from the start of their part.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import struct
import zlib
from operator import sub
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segcli.data.images import read_image
from segcli.errors import DataError
from segcli.files import sha256_file

U8 = NDArray[np.uint8]
Window = tuple[slice, slice]

MAGIC = b"SEGPACK1"
_TILE = 256
_ALIGN = 64
_PREFIX = len(MAGIC) + 8
_AGAIN = "run segcli prepare-labels --pack again, or set data.packed=false"
# Sources whose time has changed but whose bytes have not: looked at once in a process.
_unchanged: set[tuple[str, int, int]] = set()


# --- writing ---------------------------------------------------------------------------------


def encode_pack(image: Path, label: U8, label_sha256: str, codec: str) -> bytes:
    """The bytes of a pack of `image`, decoded here, and of `label` (H, W).

    Args:
        label_sha256: hex digest of the label's own file.
        codec: `raw` or `png`.

    Raises:
        DataError: an image that cannot be read, or of another size than its label.
    """
    source = _identity(image)
    pixels = read_image(image)
    if pixels.shape[:2] != label.shape:
        raise DataError(f"label is {label.shape}, its image {pixels.shape[:2]}", file=image)
    height, width = label.shape
    levels = {"image": pixels, "half": _half(pixels), "label": label}
    parts: dict[str, Any] = {}
    body: list[bytes] = []
    at = 0
    for name, level in levels.items():
        if level.size == 0:
            continue
        data, tiles = _encode(level, codec)
        parts[name] = {"at": at, "bytes": len(data), "shape": list(level.shape), "tiles": tiles}
        padding = -len(data) % _ALIGN
        body += [data, bytes(padding)]
        at += len(data) + padding
    header = {
        "codec": codec,
        "size": [height, width],
        "source": source,
        "label": label_sha256,
        "parts": parts,
        "bytes": at,
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + _PREFIX) % _ALIGN)
    return b"".join((MAGIC, struct.pack("<II", len(text), zlib.crc32(text)), text, *body))


def _identity(image: Path) -> dict[str, Any]:
    try:
        status = image.stat()
        digest = sha256_file(image)
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror})", file=image) from None
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": digest}


def _half(image: U8) -> U8:
    height, width = image.shape[0] // 2, image.shape[1] // 2
    if not height or not width:
        return np.empty((0, 0, 3), np.uint8)
    even = image[: 2 * height, : 2 * width]
    return np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _encode(level: U8, codec: str) -> tuple[bytes, list[list[int]]]:
    """A part, and for tiles, in reading order, where each lies: [offset, bytes, CRC-32]."""
    if codec == "raw":
        return level.tobytes(), []
    # Run lengths of one fixed filter: the bytes of cv2's own choice, in the time of reading that
    # WebP, deflated deltas and LZW in TIFF took more of.
    flags = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    flags += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    body, tiles, at = [], [], 0
    for y in range(0, level.shape[0], _TILE):
        for x in range(0, level.shape[1], _TILE):
            tile = level[y : y + _TILE, x : x + _TILE]
            if tile.ndim == 3:
                tile = np.asarray(cv2.cvtColor(tile, cv2.COLOR_RGB2BGR), np.uint8)
            data = cv2.imencode(".png", tile, flags)[1].tobytes()
            body.append(data)
            tiles.append([at, len(data), zlib.crc32(data)])
            at += len(data)
    return b"".join(body), tiles


# --- reading ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Level:
    """A part of a pack that looks like an array: `shape`, `ndim`, and windows of it."""

    path: Path
    data: mmap.mmap
    start: int
    shape: tuple[int, ...]
    tiles: tuple[tuple[int, int, int], ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, window: Window) -> U8:
        """The pixels of `window`, two slices with a start and a stop: (h, w) or (h, w, 3).

        Of codec `raw` it is a view into the file, which cannot be written to.

        Raises:
            DataError: a tile that is damaged.
        """
        if not self.tiles:
            flat = np.frombuffer(self.data, np.uint8, int(np.prod(self.shape)), self.start)
            return flat.reshape(self.shape)[window]
        rows, cols = (range(*s.indices(n)) for s, n in zip(window, self.shape, strict=False))
        out = np.empty((len(rows), len(cols), *self.shape[2:]), np.uint8)
        for y in range(rows.start // _TILE * _TILE, rows.stop, _TILE):
            for x in range(cols.start // _TILE * _TILE, cols.stop, _TILE):
                tile = self._tile(y, x)
                top, left = max(rows.start, y), max(cols.start, x)
                bottom, right = min(rows.stop, y + _TILE), min(cols.stop, x + _TILE)
                out[
                    top - rows.start : bottom - rows.start, left - cols.start : right - cols.start
                ] = tile[top - y : bottom - y, left - x : right - x]
        return out

    def _tile(self, y: int, x: int) -> U8:
        at, size, crc = self.tiles[y // _TILE * -(-self.shape[1] // _TILE) + x // _TILE]
        data = self.data[self.start + at : self.start + at + size]
        if zlib.crc32(data) != crc:
            raise DataError("damaged packed copy", file=self.path, hint=_AGAIN)
        flags = cv2.IMREAD_COLOR_RGB if self.ndim == 3 else cv2.IMREAD_UNCHANGED
        return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flags), np.uint8)


@dataclasses.dataclass(frozen=True)
class PackedImage:
    """An image in a pack: `shape` (H, W, 3), and windows for a given size."""

    full: Level
    half: Level | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.full.shape

    def __getitem__(self, window: Window) -> U8:
        return self.full[window]

    def window(self, window: Window, size: tuple[int, int]) -> U8:
        """The pixels of `window`, to be resized to `size`: they may be half as many each way.

        The half-size level serves where a window shrinks to less than half both ways, and only
        there: its edges move to even places, by less than a pixel of the image, and values
        differ a little from those that averaging all pixels gives. All other windows, a half
        exactly among them, are cut from the image itself.
        """
        rows, cols = window
        lengths = (rows.stop - rows.start, cols.stop - cols.start)
        twice = (2 * size[0], 2 * size[1])
        if self.half is not None and lengths != twice and min(map(sub, lengths, twice)) >= 0:
            height, width = self.half.shape[:2]
            y, x = rows.start // 2, cols.start // 2
            bottom, right = min(-(-rows.stop // 2), height), min(-(-cols.stop // 2), width)
            pixels, lengths = self.half[y:bottom, x:right], (bottom - y, right - x)
        else:
            pixels = self.full[window]
        # What is not resized would be the file itself.
        return pixels.copy() if lengths == size else pixels


def open_pack(path: Path, image: Path, label_sha256: str) -> tuple[PackedImage, Level]:
    """Image and label of a pack, checked against the files that they were made from.

    An image that is gone is no reason to refuse its copy; one that has changed is. Pixels are
    checked where a check is cheap: the length of the file, the CRC of its header and of tiles.

    Raises:
        DataError: missing, cut off or damaged; or made from another image or label.
    """
    data, header, start = _open(path)
    try:
        parts = {
            name: Level(
                path,
                data,
                start + part["at"],
                tuple(part["shape"]),
                tuple((at, size, crc) for at, size, crc in part["tiles"]),
            )
            for name, part in header["parts"].items()
        }
        source, label = header["source"], header["label"]
        packed = PackedImage(parts["image"], parts.get("half")), parts["label"]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError("damaged packed copy", file=path, hint=_AGAIN) from None
    if label != label_sha256:
        raise DataError("packed with another label", file=path, hint=_AGAIN)
    if not _same_source(image, source):
        raise DataError("changed since it was packed", file=image, hint=_AGAIN)
    return packed


def _open(path: Path) -> tuple[mmap.mmap, Any, int]:
    """The mapped file, its header, and where its parts start."""
    try:
        with open(path, "rb") as handle:
            data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise DataError("no packed copy", file=path, hint=_AGAIN) from None
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror})", file=path) from None
    except ValueError:  # an empty file cannot be mapped
        raise DataError("truncated packed copy", file=path, hint=_AGAIN) from None
    if len(data) >= _PREFIX and data[: len(MAGIC)] != MAGIC:
        raise DataError("not a packed copy that this segcli reads", file=path, hint=_AGAIN)
    if len(data) >= _PREFIX:
        length, crc = struct.unpack("<II", data[len(MAGIC) : _PREFIX])
        text = data[_PREFIX : _PREFIX + length]
        if len(text) == length:
            if zlib.crc32(text) != crc:
                raise DataError("damaged packed copy", file=path, hint=_AGAIN)
            header, start = json.loads(text), _PREFIX + length
            if len(data) == start + header["bytes"]:
                return data, header, start
    raise DataError("truncated packed copy", file=path, hint=_AGAIN)


def _same_source(image: Path, source: dict[str, Any]) -> bool:
    try:
        status = image.stat()
        if status.st_size != source["bytes"]:
            return False
        # Copied or touched, a file gets a new time: then its bytes decide.
        key = (str(image), status.st_size, status.st_mtime_ns)
        if status.st_mtime_ns == source["mtime_ns"] or key in _unchanged:
            return True
        if sha256_file(image) != source["sha256"]:
            return False
        _unchanged.add(key)
        return True
    except FileNotFoundError:
        return True
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror})", file=image) from None
