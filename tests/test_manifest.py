"""The manifest comes back as written, in the same bytes, and refuses what does not fit."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from segcli.data.manifest import FILE_NAME, Manifest, Sample, load_manifest, write_manifest
from segcli.errors import DataError
from segcli.labels import load_label_space

SPACE = load_label_space("camvid-11")


def _manifest(base: Path) -> Manifest:
    (base / "raw").mkdir(parents=True, exist_ok=True)
    out = base / "prepared" / "x"
    samples = tuple(
        Sample(
            id=f"{name}ü",
            image=base / "raw" / "train" / f"{name}.png",
            label=out / "labels" / "train" / f"{name}.png",
            one_hot=out / "onehot" / "train" / f"{name}.npz",
            size=(3, 4),
            sha256="0" * 64,
            pixels=(*range(11), 7),
        )
        for name in "ab"
    )
    return Manifest(out, base / "raw", "camvid", SPACE, {"train": samples, "val": ()})


def test_round_trip_and_same_bytes(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path)
    first = write_manifest(manifest).read_bytes()
    assert load_manifest(manifest.folder) == manifest
    assert load_manifest(manifest.folder / FILE_NAME) == manifest
    assert write_manifest(load_manifest(manifest.folder)).read_bytes() == first
    assert first.count(b"\n") < 20


def test_moves_together_with_the_source(tmp_path: Path) -> None:
    write_manifest(_manifest(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    moved = load_manifest(tmp_path / "b" / "prepared" / "x")
    assert moved.source == tmp_path / "b" / "raw"
    shutil.rmtree(tmp_path / "b" / "raw")
    with pytest.raises(DataError, match="no longer there"):
        load_manifest(tmp_path / "b" / "prepared" / "x")


def test_splits_and_sums(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path)
    assert manifest.class_pixels("train") == (*range(0, 22, 2), 14)
    with pytest.raises(DataError, match=r"no samples in split 'val'.*has train"):
        manifest.split("val")


def test_fingerprint_follows_the_labels(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path)
    a, b = manifest.splits["train"]
    other = dataclasses.replace(b, sha256="1" * 64)
    changed = dataclasses.replace(manifest, splits={"train": (a, other), "val": ()})
    assert changed.fingerprint() != manifest.fingerprint() == _manifest(tmp_path).fingerprint()


def _edit(path: Path, key: str, value: Any, sample: bool = False) -> None:
    data = json.loads(path.read_text())
    (data["splits"]["train"][0] if sample else data)[key] = value
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("key", "value", "sample", "message"),
    [
        ("format", 99, False, "format 99.*prepare-labels again"),
        ("label_space", {"name": "x"}, False, "not a label space"),
        ("splits", [1], False, "malformed"),
        ("splits", {"train": [{}]}, False, "malformed"),
        ("label", "../../../etc/passwd", True, "leaves its folder"),
        ("image", "/etc/passwd", True, "leaves its folder"),
        ("size", [1], True, "malformed"),
        ("pixels", [1, 2], True, "histograms"),
        ("id", "bü", True, "stands twice"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, key: str, value: Any, sample: bool, message: str
) -> None:
    path = write_manifest(_manifest(tmp_path))
    _edit(path, key, value, sample)
    with pytest.raises(DataError, match=message) as error:
        load_manifest(path.parent)
    assert "\n" not in str(error.value)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run segcli prepare-labels first"):
        load_manifest(tmp_path)
    (tmp_path / FILE_NAME).write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        load_manifest(tmp_path)
    (tmp_path / FILE_NAME).write_text("[]")
    with pytest.raises(DataError, match="format None"):
        load_manifest(tmp_path)
