"""Data sets are recognised, and images joined to annotations by their key."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from prepare_tree import cityscapes, folder, polygons, save_image, save_mask, save_polygons

from segcli.data.layouts import MASK, POLYGONS, find_layout
from segcli.errors import DataError

MASK_VALUES = np.zeros((6, 8), np.uint8)


def test_cityscapes_fine_and_coarse_become_splits(tmp_path: Path) -> None:
    fine = cityscapes(tmp_path, {"train": 4, "val": 2, "test": 1})
    cityscapes(tmp_path, {"train": 4, "val": 2, "train_extra": 3}, kind="gtCoarse")
    layout = find_layout(tmp_path)
    assert layout.kind == "cityscapes"
    assert layout.splits == ("train", "val", "test", "train_extra", "train_coarse", "val_coarse")
    assert not layout.faults and not layout.notes
    assert sorted(p.id for p in layout.pairs if p.split == "train") == sorted(fine[:4])
    for pair in layout.pairs:
        assert pair.kind == POLYGONS
        assert pair.image.name == f"{pair.id}_leftImg8bit.png"
        assert pair.annotation.name.startswith(pair.id + "_gt")
        assert pair.image.parent.name == pair.annotation.parent.name
    assert {p.annotation.parts[-4] for p in layout.pairs if p.split == "train_coarse"} == {
        "gtCoarse"
    }


def test_label_ids_stand_in_where_there_are_no_polygons(tmp_path: Path) -> None:
    keys = cityscapes(tmp_path, {"train": 3})
    for key in keys:
        city = tmp_path / "gtFine" / "train" / key.split("_")[0]
        save_mask(city / f"{key}_gtFine_labelIds.png", MASK_VALUES)
        save_mask(city / f"{key}_gtFine_instanceIds.png", MASK_VALUES)
    first = next((tmp_path / "gtFine").rglob(f"{keys[0]}*_polygons.json"))
    first.unlink()
    kinds = {p.id: p.kind for p in find_layout(tmp_path).pairs}
    assert kinds == {keys[0]: MASK, keys[1]: POLYGONS, keys[2]: POLYGONS}


def test_train_ids_alone_say_what_to_do(tmp_path: Path) -> None:
    save_image(tmp_path / "leftImg8bit/train/ulm/ulm_0_1_leftImg8bit.png")
    save_mask(tmp_path / "gtFine/train/ulm/ulm_0_1_gtFine_labelTrainIds.png", MASK_VALUES)
    with pytest.raises(DataError, match=r"neither .*images/ masks/"):
        find_layout(tmp_path)


def test_missing_partners_are_named_not_shifted(tmp_path: Path) -> None:
    keys = cityscapes(tmp_path, {"train": 5})
    image = next((tmp_path / "leftImg8bit").rglob(f"{keys[1]}_*"))
    annotation = next((tmp_path / "gtFine").rglob(f"{keys[3]}_*"))
    image.unlink()
    annotation.unlink()
    layout = find_layout(tmp_path)
    assert sorted(p.id for p in layout.pairs) == sorted(k for k in keys if k not in keys[1:4:2])
    assert all(p.id in p.image.name and p.id in p.annotation.name for p in layout.pairs)
    assert {f.what for f in layout.faults} == {
        "label without an image in 'train'",
        "image without a label in 'train'",
    }


def test_coarse_archive_without_its_images_is_left_out(tmp_path: Path) -> None:
    cityscapes(tmp_path, {"train": 2})
    save_polygons(tmp_path / "gtCoarse/train_extra/ulm/ulm_0_1_gtCoarse_polygons.json", polygons())
    save_image(tmp_path / "leftImg8bit/demoVideo/ulm/ulm_0_1_leftImg8bit.png")
    layout = find_layout(tmp_path)
    assert layout.splits == ("train",)
    assert [n.split(" left out")[0] for n in layout.notes] == [
        "gtCoarse/train_extra",
        "leftImg8bit/demoVideo",
    ]


def test_camvid(tmp_path: Path) -> None:
    for split, count in {"train": 3, "val": 2}.items():
        for index in range(count):
            save_image(tmp_path / split / f"{index}.png", (6, 8))
            save_mask(tmp_path / f"{split}annot" / f"{index}.png", MASK_VALUES)
    layout = find_layout(tmp_path)
    assert (layout.kind, layout.splits, len(layout.pairs)) == ("camvid", ("train", "val"), 5)


@pytest.mark.parametrize("order", ["images/{}", "{}/images"])
def test_folder_with_splits(tmp_path: Path, order: str) -> None:
    for name in ("training", "validation"):
        images = tmp_path / order.format(name)
        masks = tmp_path / order.replace("images", "masks").format(name)
        save_image(images / "sub" / "a.jpg", (6, 8))
        save_mask(masks / "sub" / "a.png", MASK_VALUES)
        (masks / ".DS_Store").write_bytes(b"x")
    layout = find_layout(tmp_path)
    assert (layout.kind, layout.splits) == ("folder", ("train", "val"))
    assert [(p.split, p.id) for p in layout.pairs] == [("train", "sub/a"), ("val", "sub/a")]
    assert not layout.faults


def test_folder_without_splits_is_divided_by_name(tmp_path: Path) -> None:
    folder(tmp_path, 60, MASK_VALUES)
    before = {p.id: p.split for p in find_layout(tmp_path).pairs}
    assert 1 <= list(before.values()).count("val") <= 15
    save_image(tmp_path / "images" / "new.png", (6, 8))
    save_mask(tmp_path / "masks" / "new.png", MASK_VALUES)
    after = {p.id: p.split for p in find_layout(tmp_path).pairs}
    assert after.items() >= before.items()
    for count in (1, 2, 3):
        small = tmp_path / f"small{count}"
        folder(small, count, MASK_VALUES)
        splits = [p.split for p in find_layout(small).pairs]
        assert splits.count("val") == min(1, count - 1)


def test_one_key_for_two_files_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, 2, MASK_VALUES)
    shutil.copy(tmp_path / "images/000.png", tmp_path / "images/000.jpg")
    with pytest.raises(DataError, match="stands for two files"):
        find_layout(tmp_path)


def test_unrecognised_folders_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_layout(tmp_path / "no")
    (tmp_path / "file.png").touch()
    with pytest.raises(DataError, match="this is a file, not a folder"):
        find_layout(tmp_path / "file.png")
    (tmp_path / "file.png").unlink()
    with pytest.raises(DataError, match="looked for leftImg8bit"):
        find_layout(tmp_path)
    cityscapes(tmp_path / "data", {"train": 1})
    with pytest.raises(DataError, match=r"did you mean .*data"):
        find_layout(tmp_path)
    with pytest.raises(DataError, match="folder above"):
        find_layout(tmp_path / "data" / "gtFine")
    shutil.rmtree(tmp_path / "data" / "leftImg8bit")
    with pytest.raises(DataError, match="leftImg8bit is missing"):
        find_layout(tmp_path / "data")


def test_what_no_split_takes_is_named(tmp_path: Path) -> None:
    for place in ("train/a", "val/c", "night/d", "e"):
        save_image(tmp_path / "images" / f"{place}.png")
        save_mask(tmp_path / "masks" / f"{place}.png", MASK_VALUES)
    save_image(tmp_path / "images" / "test" / "f.png")
    layout = find_layout(tmp_path)
    assert [p.id for p in layout.pairs] == ["a", "c"]
    for left in ("images/night (1 pictures)", "masks/night", "images/e.png", "images/test"):
        assert any(note.startswith(left) and "left out" in note for note in layout.notes), left


def test_links_in_circles_hidden_folders_and_names_that_are_no_text(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        folder = tmp_path / name / "train"
        save_image(folder / "a.png")
        save_image(folder / ".ipynb_checkpoints" / "b.png")
        (folder / "self").symlink_to(".")
        (folder / "far").symlink_to(tmp_path / f"far-{name}")
        save_image(tmp_path / f"far-{name}" / "c.png")
        (tmp_path / f"far-{name}" / "back").symlink_to(folder)
    layout = find_layout(tmp_path)
    assert sorted(p.id for p in layout.pairs) == ["a", "far/c"] and not layout.faults
    try:
        for name in ("images", "masks"):
            save_image(tmp_path / name / "train" / "caf\udce9.png")
    except (OSError, UnicodeError):
        pytest.skip("the file system does not take this name")
    (fault,) = find_layout(tmp_path).faults
    assert "not valid UTF-8" in fault.what


def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("images", "masks"):
        save_image(tmp_path / name / "train" / "sub" / "a.png")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match="Permission denied"):
        find_layout(tmp_path)
