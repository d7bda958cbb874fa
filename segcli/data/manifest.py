"""The prepared data set on disk: `manifest.json` and the files it names."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segcli.data.layouts import unlabelled_folder
from segcli.errors import DataError
from segcli.files import read_json, write_bytes
from segcli.labels import LabelSpace

FORMAT = 1
FILE_NAME = "manifest.json"
# The layout of what a network has labelled: there is no raw data set behind it.
PSEUDO_LABELS = "pseudo-labels"


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image with its label.

    Attributes:
        id: the key that joins image and label, unique in its split.
        image: the photograph, absolute.
        label: indexed PNG (pixel = class index, 255 = ignored), absolute.
        one_hot: packed channels, see `segcli.data.onehot`; None unless asked for.
        size: (height, width) of image and label in pixels.
        sha256: hex digest of the label file.
        pixels: pixels per class, and last the ignored ones: K + 1 counts.
        packed: copy to cut crops from, see `segcli.data.pack`; None unless asked for.
    """

    id: str
    image: Path
    label: Path
    one_hot: Path | None
    size: tuple[int, int]
    sha256: str
    pixels: tuple[int, ...]
    packed: Path | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A prepared data set; samples of a split are sorted by id."""

    folder: Path
    source: Path
    layout: str
    label_space: LabelSpace
    splits: Mapping[str, tuple[Sample, ...]]

    def split(self, name: str) -> tuple[Sample, ...]:
        """The samples of a split.

        Raises:
            DataError: when there is no such split, or it is empty.
        """
        samples = self.splits.get(name, ())
        if not samples:
            there = ", ".join(k for k, v in self.splits.items() if v) or "none"
            raise DataError(f"no samples in split '{name}'", file=self.folder, hint=f"has {there}")
        return samples

    def has_pictures(self, name: str) -> bool:
        """Whether `name` is a split, pictures without labels of the source, or a path."""
        known = name in self.splits or unlabelled_folder(self.source, name) is not None
        return known or Path(name).exists()

    def class_pixels(self, name: str) -> tuple[int, ...]:
        """Pixels per class over a split, and last the ignored ones: K + 1 counts."""
        return tuple(
            sum(column) for column in zip(*(s.pixels for s in self.split(name)), strict=True)
        )

    def fingerprint(self) -> str:
        """Hex digest of label space, ids and label bytes: equal data, equal fingerprint."""
        digest = hashlib.sha256(self.label_space.fingerprint().encode())
        for name, samples in sorted(self.splits.items()):
            for s in samples:
                digest.update(f"{name}\0{s.id}\0{s.sha256}\n".encode())
        return digest.hexdigest()[:16]


def write_manifest(manifest: Manifest) -> Path:
    """Write `manifest.json`, durable, one line a sample, the same bytes for the same data."""
    samples = [s for split in manifest.splits.values() for s in split]
    head: dict[str, Any] = {
        "format": FORMAT,
        "label_space": manifest.label_space.to_dict(),
        "layout": manifest.layout,
        "source": Path(os.path.relpath(manifest.source, manifest.folder)).as_posix(),
        "source_absolute": str(manifest.source),
        "one_hot": bool(samples) and all(s.one_hot is not None for s in samples),
    }
    lines = ["{"]
    lines += [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}," for k, v in head.items()]
    lines.append('"splits": {')
    for i, (name, split) in enumerate(manifest.splits.items()):
        lines.append(f"{json.dumps(name)}: [")
        rows = [json.dumps(_to_dict(s, manifest), ensure_ascii=False) for s in split]
        lines.append(",\n".join(rows))
        lines.append("]," if i + 1 < len(manifest.splits) else "]")
    lines.append("}}\n")
    path = manifest.folder / FILE_NAME
    write_bytes(path, "\n".join(lines).encode("utf-8"))
    return path


def load_manifest(folder: str | Path, also: Mapping[str, str] | None = None) -> Manifest:
    """Read the manifest of a prepared folder (or the manifest file itself).

    The raw images are looked for at the relative path first, so that both folders can move
    together, then where they lay when the labels were prepared.

    Args:
        also: names of splits, and the folder that each may be. One that this data set does not
            have and that is another prepared folder, with the same classes, becomes a split of
            that name: the `train` of that folder.

    Raises:
        DataError: not prepared yet, another format, malformed, the raw images are gone, or
            `also` has other classes.
    """
    path = Path(folder)
    path = path if path.name == FILE_NAME else path / FILE_NAME
    if not path.is_file():
        raise DataError(
            "no prepared data set", file=path.parent, hint="run segcli prepare-labels first"
        )
    value = read_json(path, kind=DataError)
    version = value.get("format") if isinstance(value, dict) else None
    if version != FORMAT:
        raise DataError(
            f"manifest format {version}, this segcli reads {FORMAT}",
            file=path,
            hint="run segcli prepare-labels again",
        )
    try:
        base, source = path.parent.resolve(), _find_source(value, path)
        splits = {
            str(name): tuple(_from_dict(s, base, source) for s in samples)
            for name, samples in value["splits"].items()
        }
        space = LabelSpace.from_dict(value["label_space"], file=path)
        manifest = Manifest(base, source, str(value["layout"]), space, splits)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"malformed manifest ({error!r})", file=path) from None
    _check(manifest, path)
    return _joined(manifest, also or {})


def _joined(manifest: Manifest, also: Mapping[str, str]) -> Manifest:
    splits = dict(manifest.splits)
    for name, folder in also.items():
        if name in splits or not (Path(folder) / FILE_NAME).is_file():
            continue
        other = load_manifest(folder)
        if other.label_space.fingerprint() != manifest.label_space.fingerprint():
            raise DataError(
                f"prepared as {other.label_space.name}, other classes than "
                f"{manifest.label_space.name}",
                file=other.folder,
                hint=f"of {manifest.folder}; both need the same",
            )
        splits[name] = other.split("train")
    return dataclasses.replace(manifest, splits=splits)


def _find_source(value: dict[str, Any], path: Path) -> Path:
    near = (path.parent / str(value["source"])).resolve()
    far = Path(str(value["source_absolute"]))
    there = [candidate for candidate in (near, far) if candidate.is_dir()]
    # A folder above may exist everywhere: the pictures tell which one it is.
    samples = [s for split in value["splits"].values() for s in split[:1]]
    for candidate in there:
        if samples and _inside(candidate, samples[0]["image"]).exists():
            return candidate
    if there:
        return there[0]
    raise DataError(
        "the raw data set is no longer there", file=far, hint="prepare it again where it is now"
    )


def _to_dict(sample: Sample, manifest: Manifest) -> dict[str, Any]:
    def relative(path: Path, base: Path) -> str:
        return path.relative_to(base).as_posix()

    value: dict[str, Any] = {
        "id": sample.id,
        "image": relative(sample.image, manifest.source),
        "label": relative(sample.label, manifest.folder),
    }
    if sample.one_hot is not None:
        value["one_hot"] = relative(sample.one_hot, manifest.folder)
    value["size"] = list(sample.size)
    value["sha256"] = sample.sha256
    value["pixels"] = list(sample.pixels)
    if sample.packed is not None:
        value["packed"] = relative(sample.packed, manifest.folder)
    return value


def _from_dict(value: dict[str, Any], folder: Path, source: Path) -> Sample:
    height, width = value["size"]
    one_hot, packed = value.get("one_hot"), value.get("packed")
    return Sample(
        id=str(value["id"]),
        image=_inside(source, value["image"]),
        label=_inside(folder, value["label"]),
        one_hot=None if one_hot is None else _inside(folder, one_hot),
        size=(int(height), int(width)),
        sha256=str(value["sha256"]),
        pixels=tuple(int(p) for p in value["pixels"]),
        packed=None if packed is None else _inside(folder, packed),
    )


def _inside(base: Path, relative: str) -> Path:
    """`base / relative`; a manifest from a stranger does not point at other folders."""
    parts = Path(relative).parts
    if Path(relative).is_absolute() or ".." in parts:
        raise ValueError(f"path leaves its folder: {relative}")
    return base.joinpath(*parts)


def _check(manifest: Manifest, path: Path) -> None:
    length = manifest.label_space.num_classes + 1
    for name, samples in manifest.splits.items():
        ids: Sequence[str] = [s.id for s in samples]
        if len(set(ids)) != len(ids):
            raise DataError(f"an id stands twice in split '{name}'", file=path)
        if any(len(s.pixels) != length for s in samples):
            raise DataError(f"histograms of split '{name}' do not fit its classes", file=path)
