"""Where each data set keeps things: a folder of raw data -> images paired with annotations.

Pairs are joined by their key, never by position in two sorted lists. Nothing is decoded here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from segcli.data.folders import is_text, walk
from segcli.errors import DataError

# Cityscapes' own drives, a folder of frames each, without labels.
DEMO_VIDEO = "demoVideo"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
POLYGONS, MASK = "polygons", "mask"
_LEFT = "_leftImg8bit"
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_SPLIT_ORDER = ("train", "val", "test", "train_extra", "train_coarse", "val_coarse")
# Cityscapes: (annotation folder, its split) -> our split; fine and coarse train both exist.
_CITYSCAPES_SPLITS = {
    ("gtFine", "train"): "train",
    ("gtFine", "val"): "val",
    ("gtFine", "test"): "test",
    ("gtCoarse", "train_extra"): "train_extra",
    ("gtCoarse", "train"): "train_coarse",
    ("gtCoarse", "val"): "val_coarse",
}


class Pair(NamedTuple):
    """An image and what says where its classes are: a polygons file or a mask."""

    split: str
    id: str
    image: Path
    annotation: Path
    kind: str


class Fault(NamedTuple):
    """A file that cannot be used, and why."""

    file: Path
    what: str
    hint: str = ""


class Layout(NamedTuple):
    """What was found under `root`: splits (empty ones too), odd files, remarks."""

    kind: str
    root: Path
    splits: tuple[str, ...]
    pairs: list[Pair]
    faults: list[Fault]
    notes: list[str]


def find_layout(root: str | Path) -> Layout:
    """Recognise a Cityscapes tree, a CamVid tree or a plain `images/ masks/` folder.

    Raises:
        DataError: no such folder, no layout recognised, or one key given to two files.
    """
    root = Path(root)
    if not root.is_dir():
        what = "this is a file, not a folder" if root.exists() else "no such folder"
        raise DataError(what, file=root)
    root = root.resolve()
    for scan in (_scan_cityscapes, _scan_camvid, _scan_folder):
        layout = scan(root)
        if layout is not None:
            break
    else:
        raise _not_recognised(root)
    ordered = tuple(s for s in _SPLIT_ORDER if s in layout.splits)
    pairs = sorted(layout.pairs, key=lambda p: (_SPLIT_ORDER.index(p.split), p.id))
    return layout._replace(splits=ordered, pairs=pairs, faults=sorted(layout.faults))


def _not_recognised(root: Path) -> DataError:
    looked = "leftImg8bit + gtFine/gtCoarse, train + trainannot, or images + masks"
    if root.name in ("gtFine", "gtCoarse", "leftImg8bit", "images", "masks"):
        return DataError(
            "no data set recognised", file=root, hint=f"give the folder above it, {root.parent}"
        )
    for child in sorted(p for p in root.iterdir() if p.is_dir()):
        if (child / "leftImg8bit").is_dir() or (child / "images").is_dir():
            return DataError("no data set recognised", file=root, hint=f"did you mean {child}?")
    return DataError("no data set recognised", file=root, hint=f"looked for {looked}")


# --- Cityscapes ------------------------------------------------------------------------------


def _scan_cityscapes(root: Path) -> Layout | None:
    if not any((root / name).is_dir() for name in ("gtFine", "gtCoarse")):
        return None
    layout = Layout("cityscapes", root, (), [], [], [])
    for (kind, folder), split in _CITYSCAPES_SPLITS.items():
        labels, images = root / kind / folder, root / "leftImg8bit" / folder
        if not labels.is_dir():
            continue
        if not images.is_dir():
            # The coarse archive holds annotations for three splits, its images are separate.
            layout.notes.append(f"{kind}/{folder} left out: there is no leftImg8bit/{folder}")
            continue
        layout = layout._replace(splits=(*layout.splits, split))
        pictures = _by_key(walk(images), _image_key)
        files = walk(labels)
        polygons = _by_key(files, _ends_with(f"_{kind}_polygons.json"))
        masks = _by_key(files, _ends_with(f"_{kind}_labelIds.png"))
        if files and not polygons and not masks:
            raise DataError(
                "neither *_polygons.json nor *_labelIds.png",
                file=labels,
                hint="train-id PNGs alone can be used as a folder images/ masks/",
            )
        _pair(layout, split, pictures, {**masks, **polygons})
    if not layout.splits:
        raise DataError("annotations without images", file=root, hint="leftImg8bit is missing")
    for folder in sorted(p.name for p in (root / "leftImg8bit").iterdir() if p.is_dir()):
        if not any((root / kind / folder).is_dir() for kind in ("gtFine", "gtCoarse")):
            layout.notes.append(
                f"leftImg8bit/{folder} left out: it has no annotations "
                f"(distill.unlabelled: [{folder}] takes its pictures)"
            )
    return layout


def unlabelled_folder(root: Path, name: str) -> Path | None:
    """The pictures of Cityscapes that a name such as `demoVideo` means; they have no labels.

    Args:
        root: of the raw data set, of any layout.
    """
    folder = root / "leftImg8bit" / name
    return folder if name and Path(name).name == name and folder.is_dir() else None


def _image_key(path: Path, _: Path) -> str | None:
    if path.suffix.lower() in IMAGE_SUFFIXES and path.stem.endswith(_LEFT):
        return path.stem.removesuffix(_LEFT)
    return None


def _ends_with(suffix: str) -> Callable[[Path, Path], str | None]:
    def key(path: Path, _: Path) -> str | None:
        return path.name.removesuffix(suffix) if path.name.endswith(suffix) else None

    return key


# --- CamVid ----------------------------------------------------------------------------------


def _scan_camvid(root: Path) -> Layout | None:
    names = [s for s in ("train", "val", "test") if (root / f"{s}annot").is_dir()]
    if not names:
        return None
    layout = Layout("camvid", root, tuple(names), [], [], [])
    for split in names:
        _pair_folders(layout, split, root / split, root / f"{split}annot")
    return layout


# --- images/ masks/ --------------------------------------------------------------------------


def _scan_folder(root: Path) -> Layout | None:
    layout = Layout("folder", root, (), [], [], [])
    if (root / "images").is_dir() and (root / "masks").is_dir():
        folders = [
            (_SPLIT_NAMES[p.name.lower()], root / "images" / p.name, p)
            for p in sorted((root / "masks").iterdir())
            if p.is_dir() and p.name.lower() in _SPLIT_NAMES
        ]
    else:
        folders = [
            (_SPLIT_NAMES[p.name.lower()], p / "images", p / "masks")
            for p in sorted(root.iterdir())
            if p.name.lower() in _SPLIT_NAMES and (p / "images").is_dir() and (p / "masks").is_dir()
        ]
        if not folders:
            return None
    if not folders:
        _pair_folders(layout, "train", root / "images", root / "masks")
        return _divide(layout)
    layout.notes.extend(_left_out(root, {p for _, *pair in folders for p in pair}))
    for split, images, masks in folders:
        if split in layout.splits:
            raise DataError(f"two folders for split '{split}'", file=masks.parent)
        layout = layout._replace(splits=(*layout.splits, split))
        _pair_folders(layout, split, images, masks)
    return layout


def _left_out(root: Path, taken: set[Path]) -> list[str]:
    """A line for whatever lies beside the folders of splits and holds pictures."""
    lines = []
    for name in ("images", "masks"):
        inside = sorted((root / name).iterdir()) if (root / name).is_dir() else []
        beside = [p / name for p in sorted(root.iterdir()) if p.is_dir() and p.name != name]
        for place in (*inside, *(p for p in beside if p.is_dir())):
            pictures = walk(place) if place.is_dir() else [place]
            count = sum(p.suffix.lower() in IMAGE_SUFFIXES for p in pictures)
            if place not in taken and count and not place.name.startswith("."):
                of = f" ({count} pictures)" if place.is_dir() else ""
                known = ", ".join(sorted(_SPLIT_NAMES))
                lines.append(
                    f"{place.relative_to(root)}{of} left out: no folder of both images and masks "
                    f"that is named as a split ({known})"
                )
    return lines


def _divide(layout: Layout) -> Layout:
    """A tenth of the samples, chosen by a hash of their key, becomes split val.

    The choice does not depend on the other samples, so that a growing data set does not
    move images from val to train.
    """

    def rank(pair: Pair) -> int:
        return int.from_bytes(hashlib.sha256(pair.id.encode()).digest()[:4], "big")

    ranked = sorted(layout.pairs, key=rank)
    count = sum(rank(p) % 10 == 0 for p in ranked)
    chosen = {p.id for p in ranked if rank(p) % 10 == 0} if count else {p.id for p in ranked[:1]}
    if len(ranked) < 2:
        chosen = set()
    pairs = [p._replace(split="val") if p.id in chosen else p for p in layout.pairs]
    note = f"no splits in {layout.root.name}: a hash of the name put {len(chosen)} samples in val"
    splits = ("train", "val") if chosen else ("train",)
    return layout._replace(splits=splits, pairs=pairs, notes=[*layout.notes, note])


# --- joining ---------------------------------------------------------------------------------


def _pair_folders(layout: Layout, split: str, images: Path, masks: Path) -> None:
    if not images.is_dir():
        raise DataError("masks without a folder of images", file=images)
    pictures = _by_key(walk(images), _relative_key, images)
    _pair(layout, split, pictures, _by_key(walk(masks), _relative_key, masks))


def _relative_key(path: Path, base: Path) -> str | None:
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return None
    return path.relative_to(base).with_suffix("").as_posix()


def _pair(
    layout: Layout, split: str, images: dict[str, Path], annotations: dict[str, Path]
) -> None:
    for key, annotation in annotations.items():
        if not is_text(key):
            what = "its name is not valid UTF-8"
            layout.faults.append(Fault(annotation, what, "rename it and its picture"))
        elif key in images:
            kind = POLYGONS if annotation.suffix == ".json" else MASK
            layout.pairs.append(Pair(split, key, images[key], annotation, kind))
        else:
            layout.faults.append(Fault(annotation, f"label without an image in '{split}'"))
    for key in images.keys() - annotations.keys():
        what = f"image without a label in '{split}'"
        layout.faults.append(Fault(images[key], what))


def _by_key(
    paths: Iterable[Path], key_of: Callable[[Path, Path], str | None], base: Path = Path()
) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        key = key_of(path, base)
        if key is None:
            continue
        if key in found:
            raise DataError(f"key '{key}' stands for two files, {found[key]} and", file=path)
        found[key] = path
    return found
