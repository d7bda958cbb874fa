"""A label as one binary channel per class: a bit a pixel on disk, (K, H, W) in memory."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segcli.data.images import MAX_PIXELS
from segcli.errors import DataError


def encode_one_hot(label: NDArray[np.uint8], num_classes: int) -> bytes:
    """An .npz of packed channels; label uint8 (H, W), ignored pixels are in no channel."""
    channels = label == np.arange(num_classes, dtype=np.uint8)[:, None, None]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        bits=np.packbits(channels, axis=-1),
        shape=np.array(channels.shape, np.int32),
    )
    return buffer.getvalue()


def load_one_hot(path: str | Path) -> NDArray[np.uint8]:
    """Read channels back: uint8 (K, H, W) of 0 and 1; ignored pixels are 0 everywhere.

    Raises:
        DataError: missing, damaged, or not written by `encode_one_hot`.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            classes, height, width = (int(n) for n in archive["shape"])
            bits = archive["bits"]
    except FileNotFoundError:
        raise DataError("no such file", file=path) from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        raise DataError(
            "damaged one-hot file", file=path, hint="prepare the labels again"
        ) from None
    if height * width > MAX_PIXELS or bits.shape != (classes, height, (width + 7) // 8):
        raise DataError("one-hot file whose parts do not fit", file=path)
    return np.unpackbits(bits, axis=-1, count=width)
