"""One sample of a raw data set -> its prepared files. This is what each worker process runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcli import png
from segcli.data import images, rasterize
from segcli.data.layouts import POLYGONS, Fault, Pair
from segcli.data.onehot import encode_one_hot
from segcli.data.pack import encode_pack
from segcli.data.tasks import INDEX, RAW, Done, Task, label_path, one_hot_path, pack_path
from segcli.errors import DataError
from segcli.files import sha256_bytes, write_bytes
from segcli.labels import CAMVID_VOID, CITYSCAPES_LABELS
from segcli.runlength import find_runs, histogram

_TRAIN_IDS = 19
_LABEL_IDS = tuple(label.id for label in CITYSCAPES_LABELS if label.id >= 0)


class Tables(NamedTuple):
    """The lookup tables of a task, made once per process."""

    lut: NDArray[np.uint8]
    palette: NDArray[np.uint8]
    allowed: tuple[int, ...]
    train_ids: NDArray[np.uint8]
    colors: NDArray[np.uint8]


def make_tables(task: Task) -> Tables:
    """Which mask values may occur, and which class index each becomes."""
    space = task.label_space
    lut, allowed = space.lut(), tuple(range(256))
    identity = np.full(256, space.ignore_index, np.uint8)
    identity[: space.num_classes] = np.arange(space.num_classes)
    if task.layout == "cityscapes":
        allowed = _LABEL_IDS
    elif task.layout == "camvid":
        allowed = tuple(range(CAMVID_VOID + 1))
    elif task.mask_values == RAW:
        # What no class takes is ignored, as the label space says; ids that the data set
        # itself does not know are still an error.
        known = {"cityscapes": _LABEL_IDS, "camvid": tuple(range(CAMVID_VOID + 1))}
        allowed = (*known.get(space.source, allowed), space.ignore_index)
    else:
        indices = tuple(i for c in space.classes for i in c.raw_ids)
        if space.source != "indices":
            lut, indices = identity, tuple(range(space.num_classes))
        allowed = (*indices, space.ignore_index)
    return Tables(lut, space.palette(), allowed, rasterize.train_id_lut(), rasterize.color_table())


def convert(pair: Pair, task: Task, tables: Tables) -> Done | Fault:
    """Write the label of one sample, and what else the task asks for.

    A bad input comes back as a `Fault`, so that a run can name all of them.

    Raises:
        OutputError: when a file cannot be written.
    """
    try:
        ids, label, instances = _read(pair, task, tables)
        runs = find_runs(label)
        files = {label_path(pair.split, pair.id): png.encode_indices(label, tables.palette, runs)}
        if pair.split in task.pack_splits:
            digest = sha256_bytes(files[label_path(pair.split, pair.id)])
            packed = encode_pack(pair.image, label, digest, task.pack)
            files[pack_path(pair.split, pair.id)] = packed
    except DataError as error:
        return Fault(Path(error.file or pair.annotation), error.what, error.hint)
    classes = task.label_space.num_classes
    counts = histogram(runs)
    # No class has the ignore index, and nothing else is left: the rest is ignored.
    pixels = tuple(int(n) for n in counts[:classes])
    if task.one_hot:
        files[one_hot_path(pair.split, pair.id)] = encode_one_hot(label, classes)
    for name in task.also:
        pixels_of = _official(name, ids, instances, tables)
        files[_official_path(pair, task, name)] = png.encode(pixels_of)
    for path, data in files.items():
        write_bytes(task.out / path, data, durable=False)
    outputs = {path: sha256_bytes(data) for path, data in files.items()}
    height, width = label.shape
    ignored = label.size - sum(pixels)
    return Done(pair.split, pair.id, (height, width), (*pixels, ignored), outputs)


Read = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint16] | None]


def _read(pair: Pair, task: Task, tables: Tables) -> Read:
    """Raw ids, class indices and, where asked for, instance ids of a sample."""
    size = images.image_size(pair.image)
    instances = None
    if pair.kind == POLYGONS:
        annotation = rasterize.parse_annotation(_bytes(pair.annotation), pair.annotation)
        _check_size((annotation.height, annotation.width), size, pair)
        if "instanceIds" in task.also:
            instances = rasterize.paint_instance_ids(annotation)
        if not task.also:
            label = rasterize.paint_ids(annotation, tables.lut)
            return label, label, None
        ids = rasterize.paint_ids(annotation)
    else:
        if "instanceIds" in task.also:
            raise DataError("no polygons, so no instanceIds", file=pair.annotation)
        ids = images.read_label(pair.annotation)
        _check_size((ids.shape[0], ids.shape[1]), size, pair)
        _check_values(ids, pair, task, tables)
    return ids, _look_up(ids, tables.lut), instances


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror})", file=path) from None


def _check_size(label: tuple[int, int], image: tuple[int, int], pair: Pair) -> None:
    if label != image:
        raise DataError(
            f"label is {label[1]}x{label[0]}, its image {image[1]}x{image[0]}",
            file=pair.annotation,
        )


def _check_values(ids: NDArray[np.uint8], pair: Pair, task: Task, tables: Tables) -> None:
    counts = histogram(find_runs(ids))
    values = {int(v) for v in np.flatnonzero(counts)}
    space = f"'{task.label_space.name}'"
    images.check_values(counts, tables.allowed, pair.annotation, space, guess(values, task))


def guess(values: set[int], task: Task) -> str:
    """What a mask with these values may hold, when it does not hold what it should."""
    rest = values - {task.label_space.ignore_index}
    top = max(rest, default=0)
    if task.layout == "cityscapes":
        looks_trained = 255 in values and top < _TRAIN_IDS
        return "these look like train ids, label ids are expected" if looks_trained else ""
    if task.layout == "camvid":
        return "255 stands for void in other sets, here it is 11" if 255 in values else ""
    if len(rest) == 1 and top > task.label_space.num_classes:
        return "a mask of one grey value is no index: store 0, 1, 2, ..."
    if task.label_space.source == "cityscapes" and top <= max(_LABEL_IDS):
        return (
            "these look like label ids, the config expects train ids; "
            "--mask-values raw maps label ids"
        )
    if task.mask_values == INDEX and task.label_space.source != "indices":
        return "--mask-values raw maps raw ids to classes"
    if task.mask_values == INDEX:
        return (
            "add the value to a class of the label space, or use 255 for ignored pixels; "
            "--mask-values raw ignores what no class takes"
        )
    return "add the value to a class of the label space, or use 255 for ignored pixels"


def _official(name: str, ids: Any, instances: Any, tables: Tables) -> NDArray[Any]:
    found: dict[str, NDArray[Any]] = {"labelIds": ids, "instanceIds": instances}
    if name == "labelTrainIds":
        return _look_up(ids, tables.train_ids)
    return tables.colors[ids] if name == "color" else found[name]


def _official_path(pair: Pair, task: Task, name: str) -> str:
    relative = pair.annotation.relative_to(task.root)
    stem = relative.name.rsplit("_", 1)[0]
    return f"official/{relative.parent.as_posix()}/{stem}_{name}.png"


def _look_up(ids: NDArray[np.uint8], lut: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    return cv2.LUT(ids, lut).astype(np.uint8, copy=False)
