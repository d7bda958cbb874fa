"""What can be wrong with one sample of a data set; `set_faults` has what is wrong with all.

Each function looks and reports; none raises for a bad file, so that one pass names all faults.
Images are judged by the strict readers that training uses.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcli import findings as codes
from segcli import png
from segcli.data import images, rasterize
from segcli.data.convert import Tables, guess
from segcli.data.layouts import POLYGONS, Pair
from segcli.data.manifest import Sample
from segcli.data.pack import open_pack
from segcli.data.tasks import Task
from segcli.errors import DataError
from segcli.files import sha256_bytes
from segcli.findings import ERROR, Finding, of_error
from segcli.labels import LabelSpace
from segcli.runlength import find_runs, histogram

Size = tuple[int, int]

_LOSSY = (".jpg", ".jpeg", ".webp")
_OTHER_FORMATS = (b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_AGAIN = "run segcli prepare-labels again"


class Seen(NamedTuple):
    """What one sample showed.

    Attributes:
        digest: SHA-256 of the decoded pixels, so that the same picture in another file is
            known again; None where it could not be decoded.
        pixels: per class, and last the ignored ones (K + 1); None where that is not known.
    """

    split: str
    image: Path
    digest: bytes | None
    pixels: tuple[int, ...] | None
    findings: tuple[Finding, ...]


# --- one sample ------------------------------------------------------------------------------


def look_at_pair(pair: Pair, task: Task | None, tables: Tables | None) -> Seen:
    """Read the image and the annotation of a raw pair.

    Args:
        task, tables: what its values may be and which class each is; None where nobody knows.
    """
    found: list[Finding] = []
    size, digest = _look_at_image(pair.image, found)
    label_size, pixels = None, None
    try:
        if pair.kind == POLYGONS:
            annotation = rasterize.parse_annotation(pair.annotation.read_bytes(), pair.annotation)
            label_size = annotation.height, annotation.width
            if tables is not None:
                label = rasterize.paint_ids(annotation, tables.lut)
                pixels = _class_pixels(histogram(find_runs(label)), None, task)
        else:
            ids = images.read_label(pair.annotation)
            label_size = ids.shape[0], ids.shape[1]
            counts = histogram(find_runs(ids))
            if task is not None and tables is not None:
                pixels = _class_pixels(counts, tables.lut, task)
                values = {int(v) for v in np.flatnonzero(counts)}
                space, hint = f"'{task.label_space.name}'", guess(values, task)
                images.check_values(counts, tables.allowed, pair.annotation, space, hint)
    except OSError as error:
        what = f"cannot read ({error.strerror})"
        found.append(Finding(codes.MISSING_FILE, ERROR, what, pair.annotation))
    except DataError as error:
        found.append(_label_fault(error, pair.annotation, decoded=label_size is not None))
    if size and label_size and size != label_size:
        what = f"label is {_by(label_size)}, its image {_by(size)}"
        hint = "export both at one size"
        found.append(Finding(codes.SIZE_MISMATCH, ERROR, what, pair.annotation, hint))
    return Seen(pair.split, pair.image, digest, pixels, tuple(found))


def look_at_sample(split: str, sample: Sample, space: LabelSpace) -> Seen:
    """Read the image and the label of a prepared sample, and hold them to the manifest."""
    found: list[Finding] = []
    size, digest = _look_at_image(sample.image, found)
    if size and size != sample.size:
        what = f"image is {_by(size)}, its label was prepared for {_by(sample.size)}"
        found.append(Finding(codes.SIZE_MISMATCH, ERROR, what, sample.image, _AGAIN))
    try:
        if sha256_bytes(sample.label.read_bytes()) != sample.sha256:
            what = "label is not the one that was prepared, its SHA-256 differs"
            found.append(Finding(codes.STALE_LABEL, ERROR, what, sample.label, _AGAIN))
        label = images.read_label(sample.label)
        if label.shape != sample.size:
            what = f"label is {_by(label.shape)}, the manifest says {_by(sample.size)}"
            found.append(Finding(codes.SIZE_MISMATCH, ERROR, what, sample.label, _AGAIN))
        allowed = [*range(space.num_classes), space.ignore_index]
        counts = histogram(find_runs(label))
        images.check_values(counts, allowed, sample.label, f"'{space.name}'", _AGAIN)
    except OSError as error:
        what = f"cannot read ({error.strerror})"
        found.append(Finding(codes.MISSING_FILE, ERROR, what, sample.label, _AGAIN))
    except DataError as error:
        decoded = error.what.startswith("label value")
        found.append(_label_fault(error, sample.label, decoded=decoded))
    if sample.one_hot is not None and not sample.one_hot.is_file():
        what = "one-hot channels are gone"
        found.append(Finding(codes.MISSING_FILE, ERROR, what, sample.one_hot, _AGAIN))
    if sample.packed is not None:
        found += _look_at_copy(sample, sample.packed, digest)
    return Seen(split, sample.image, digest, sample.pixels, tuple(found))


def _look_at_copy(sample: Sample, path: Path, digest: bytes | None) -> list[Finding]:
    """Read a packed copy whole, and hold its pixels to those of the image and the label."""
    every = slice(0, sample.size[0]), slice(0, sample.size[1])
    try:
        image, label = open_pack(path, sample.image, sample.sha256)
        pixels = image[every], label[every]
        original = images.read_label(sample.label)
    except DataError as error:
        return [of_error(codes.PACKED_COPY, error)]
    if digest in (None, _digest(pixels[0])) and np.array_equal(pixels[1], original):
        return []
    what, hint = "packed copy has other pixels than its sources", f"{_AGAIN} with --pack"
    return [Finding(codes.PACKED_COPY, ERROR, what, path, hint)]


def glance(sample: Sample) -> list[Finding]:
    """As `look_at_sample`, but from the files' headers alone: there, and of the right size."""
    found: list[Finding] = []
    for path, name in ((sample.image, "image"), (sample.label, "label")):
        try:
            size = images.image_size(path)
        except DataError as error:
            found.append(_file_fault(error, path))
            continue
        if size != sample.size:
            what = f"{name} is {_by(size)}, the manifest says {_by(sample.size)}"
            found.append(Finding(codes.SIZE_MISMATCH, ERROR, what, path, _AGAIN))
    return found


def _look_at_image(path: Path, found: list[Finding]) -> tuple[Size | None, bytes | None]:
    try:
        image = images.read_image(path)
    except DataError as error:
        found.append(_file_fault(error, path))
    else:
        return (image.shape[0], image.shape[1]), _digest(image)
    try:
        # A cut-off picture still tells its size, which the label may not have.
        return images.image_size(path), None
    except DataError:
        return None, None


def _digest(image: NDArray[np.uint8]) -> bytes:
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def _class_pixels(
    counts: NDArray[np.int64], lut: NDArray[np.uint8] | None, task: Task | None
) -> tuple[int, ...]:
    classes = task.label_space.num_classes if task is not None else 0
    if lut is not None:
        counts = np.bincount(lut, counts, 256).astype(np.int64)
    pixels = [int(n) for n in counts[:classes]]
    return (*pixels, int(counts.sum()) - sum(pixels))


def _file_fault(error: DataError, path: Path) -> Finding:
    if not path.is_file() or not os.access(path, os.R_OK):
        return of_error(codes.MISSING_FILE, error, "put it back, or prepare the data again")
    return of_error(codes.CORRUPT_FILE, error, "fetch the file again, or leave the sample out")


def _label_fault(error: DataError, path: Path, *, decoded: bool) -> Finding:
    """Give an error of the strict label reader its code, by looking at the file once more."""
    # A polygons file that names a class nobody knows is whole, and says something wrong.
    if decoded or error.what.startswith("unknown label"):
        return of_error(codes.LABEL_VALUES, error, "correct the value, or choose a label space")
    if path.suffix.lower() != ".json" and _other_format(path):
        hint = "save masks as PNG of one channel, 8 bits, pixel = class"
        return of_error(codes.MASK_FORMAT, error, hint)
    return _file_fault(error, path)


def _other_format(path: Path) -> bool:
    """Whether a file is a picture, but none that can hold class indices."""
    try:
        with open(path, "rb") as handle:
            start = handle.read(32)
    except OSError:
        return False
    if path.suffix.lower() in _LOSSY or start.startswith(_OTHER_FORMATS):
        return bool(start)
    try:
        header = png.read_header(start, path)
    except DataError:
        return False
    plain = header.color_type in (png.GREY, png.PALETTE) and header.depth <= 8
    return not plain or (header.interlaced and header.depth < 8)


def _by(size: Iterable[int]) -> str:
    """Width × height, as people say it."""
    height, width = size
    return f"{width}×{height}"
