"""The truth of the official protocol: label ids and instance ids of a Cityscapes tree.

The PNGs of the data set are read where they are there; where they are not, the polygons are
painted, which gives the same pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcli import png
from segcli.data.images import MAX_PIXELS, read_label
from segcli.data.rasterize import paint_ids, paint_instance_ids, parse_annotation
from segcli.errors import DataError

# Our split -> annotation folder and its split.
_FOLDERS = {
    "train": ("gtFine", "train"),
    "val": ("gtFine", "val"),
    "test": ("gtFine", "test"),
    "train_extra": ("gtCoarse", "train_extra"),
    "train_coarse": ("gtCoarse", "train"),
    "val_coarse": ("gtCoarse", "val"),
}


class Truth(NamedTuple):
    """Where the truth of one image lies; each file is a PNG or `*_polygons.json`.

    Attributes:
        id: city_sequence_frame.
        labels: of label ids.
        instances: of instance ids, None where there is neither PNG nor polygons.
    """

    id: str
    split: str
    labels: Path
    instances: Path | None


def find_truths(root: Path, split: str) -> list[Truth]:
    """The annotated images of a split, sorted by id.

    Args:
        root: of a Cityscapes tree, or its ``gtFine``.
        split: one of ours; ``train_extra``, ``train_coarse``, ``val_coarse`` are coarse.

    Raises:
        DataError: no such folder, or nothing annotated in it.
    """
    if split not in _FOLDERS:
        raise DataError(f"no split '{split}' in Cityscapes", hint=f"one of {', '.join(_FOLDERS)}")
    kind, name = _FOLDERS[split]
    base = root.parent if root.name == kind else root
    folder = base / kind / name
    if not folder.is_dir():
        raise DataError(
            "no Cityscapes annotations here", file=folder, hint="give the folder above gtFine"
        )
    found: dict[str, dict[str, Path]] = {}
    for ending in ("labelIds.png", "instanceIds.png", "polygons.json"):
        suffix = f"_{kind}_{ending}"
        for path in folder.glob(f"*/*{suffix}"):
            found.setdefault(path.name.removesuffix(suffix), {})[ending] = path
    truths = []
    for key, files in sorted(found.items()):
        polygons = files.get("polygons.json")
        labels = files.get("labelIds.png", polygons)
        if labels is not None:
            truths.append(Truth(key, split, labels, files.get("instanceIds.png", polygons)))
    if not truths:
        raise DataError("neither *_labelIds.png nor *_polygons.json", file=folder)
    return truths


def read_truth(truth: Truth) -> tuple[NDArray[np.uint8], NDArray[np.uint16] | None]:
    """Label ids uint8 (H, W) and instance ids uint16 (H, W), or None without.

    Raises:
        DataError: a file that is missing, damaged or of another kind.
    """
    labels, instances = truth.labels, truth.instances
    if labels.suffix != ".json":
        ids = read_label(labels)
        return ids, None if instances is None else read_instances(instances)
    annotation = parse_annotation(_bytes(labels), labels)
    if instances is not None and instances.suffix != ".json":
        return paint_ids(annotation), read_instances(instances)
    return paint_ids(annotation), None if instances is None else paint_instance_ids(annotation)


def read_instances(path: Path) -> NDArray[np.uint16]:
    """Instance ids uint16 (H, W) of a 16-bit PNG, or painted from a polygons file.

    Raises:
        DataError: as `read_truth`.
    """
    data = _bytes(path)
    if path.suffix == ".json":
        return paint_instance_ids(parse_annotation(data, path))
    import cv2

    header = png.read_header(data, path)
    if (header.depth, header.color_type) != (16, png.GREY):
        raise DataError("not an instance image, which is a grey PNG of 16 bits", file=path)
    if header.width * header.height > MAX_PIXELS:
        raise DataError(f"{header.width}x{header.height} is larger than possible", file=path)
    png.read_chunks(data, path)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape != (header.height, header.width):
        raise DataError("cannot decode PNG", file=path)
    return np.asarray(pixels, np.uint16)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror})", file=path) from None
