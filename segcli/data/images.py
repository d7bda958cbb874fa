"""Strict reading of photographs and label images: whole, as stored, or one clear error.

Shapes: image uint8 (H, W, 3) RGB, label uint8 (H, W).
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segcli import png
from segcli.errors import DataError
from segcli.labels import IGNORE_INDEX, LabelSpace
from segcli.runlength import find_runs, histogram

# A file of a few hundred KB can claim gigapixels; 8192 x 8192 is far above any camera here.
MAX_PIXELS = 2**26
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
_FORMATS = ("JPEG", "WEBP", "BMP", "TIFF", "PPM")
_EXIF_ORIENTATION = 0x0112


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Decode a picture, upright: uint8 RGB (H, W, 3); grey becomes RGB, alpha is dropped.

    Raises:
        DataError: missing, unreadable, truncated, or larger than `MAX_PIXELS`.
    """
    path = Path(path)
    data = _read_bytes(path)
    if data[:8] == png.SIGNATURE:
        return _decode_png(data, path)
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            _check_size(*picture.size, path)
            if picture.mode.startswith(("I", "F")):
                raise DataError(f"image has mode {picture.mode}, not 8 bits", file=path)
            upright = ImageOps.exif_transpose(picture)
            return np.array(upright.convert("RGB"))
    except DataError:
        raise
    # A damaged file fails in whichever parser meets the damage: struct, EXIF, codecs...
    except Exception as error:
        raise _unreadable(path, error) from None


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the upright picture, from the file's header alone.

    Raises:
        DataError: missing, no picture, or larger than `MAX_PIXELS`.
    """
    path = Path(path)
    start = _read_bytes(path, 32)
    if start[:8] == png.SIGNATURE:
        header = png.read_header(start, path)
        _check_size(header.width, header.height, path)
        # Cameras write JPEG; a PNG that asks to be turned is not worth reading every file.
        return header.height, header.width
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as picture:
            width, height = picture.size
            _check_size(width, height, path)
            # Of a TIFF Pillow says the size of what comes out.
            lying = picture.format != "TIFF"
            turned = lying and picture.getexif().get(_EXIF_ORIENTATION, 1) >= 5
            return (width, height) if turned else (height, width)
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from None


def read_label(
    path: str | Path,
    *,
    num_classes: int | None = None,
    label_space: LabelSpace | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> NDArray[np.uint8]:
    """Decode a label PNG, uint8 (H, W): the stored samples, palette or not.

    With `num_classes` or `label_space` every value has to be a class index or the ignore
    index; without, values are not looked at.

    Raises:
        DataError: missing, unreadable, truncated, 16-bit, RGB or lossy (JPEG) file, or a
            value outside the label space.
    """
    path = Path(path)
    if path.suffix.lower() in (".jpg", ".jpeg", ".webp"):
        raise DataError("lossy format for a label", file=path, hint="save labels as PNG")
    data = _read_bytes(path)
    header = png.read_header(data, path)
    _check_size(header.width, header.height, path)
    label = png.decode_indices(data, path)
    if label_space is not None:
        num_classes, ignore_index = label_space.num_classes, label_space.ignore_index
    if num_classes is not None:
        allowed = [*range(num_classes), ignore_index]
        name = f"'{label_space.name}'" if label_space else f"{num_classes} classes"
        check_values(histogram(find_runs(label)), allowed, path, name)
    return label


def check_values(
    counts: NDArray[np.int64], allowed: Iterable[int], path: Path, space: str, guess: str = ""
) -> None:
    """Refuse a label whose values (as `histogram` counts them) are not all in `allowed`.

    Raises:
        DataError: naming the file, the commonest wrong value and its pixel count.
    """
    wrong = counts.copy()
    wrong[list(allowed)] = 0
    if not wrong.any():
        return
    value = int(wrong.argmax())
    others = int((wrong > 0).sum()) - 1
    more = f" and {others} more values" if others else ""
    raise DataError(
        f"label value {value} ({int(wrong[value])} pixels){more} outside {space}",
        file=path,
        hint=guess,
    )


def _read_bytes(path: Path, limit: int = -1) -> bytes:
    try:
        with open(path, "rb") as handle:
            data = handle.read(limit)
    except FileNotFoundError:
        raise DataError("no such file", file=path) from None
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror})", file=path) from None
    if not data:
        raise DataError("empty file", file=path)
    return data


def _check_size(width: int, height: int, path: Path) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"{width}x{height} is larger than {MAX_PIXELS} pixels", file=path)


def _decode_png(data: bytes, path: Path) -> NDArray[np.uint8]:
    """PNG by cv2, which is faster than Pillow but shows damaged files without a word."""
    import cv2

    header = png.read_header(data, path)
    _check_size(header.width, header.height, path)
    png.read_chunks(data, path)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None or image.shape != (header.height, header.width, 3):
        raise DataError("cannot decode PNG", file=path)
    return image.astype(np.uint8, copy=False)


def _unreadable(path: Path, error: Exception) -> DataError:
    text = str(error)
    if "truncated" in text or "Truncated" in text:
        return DataError("truncated image", file=path)
    if "cannot identify" in text:
        return DataError("not an image", file=path)
    return DataError(f"cannot decode image, {text}", file=path)
