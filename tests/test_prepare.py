"""prepare-labels from end to end: right pixels, resumable, and one line for every bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prepare_tree import (
    SIZE,
    bytes_below,
    cityscapes,
    folder,
    polygons,
    save_image,
    save_mask,
    save_polygons,
)

from segcli.data import rasterize
from segcli.data.images import read_label
from segcli.data.manifest import load_manifest
from segcli.data.onehot import load_one_hot
from segcli.errors import DataError, LabelSpaceError, OutputError, SegcliError, UsageError
from segcli.labels import load_label_space
from segcli.recipes.prepare import _in_yaml, prepare_labels
from segcli.recipes.prepare_report import Prepared, show
from segcli.reporting.events import NullReporter


def _prepare(root: Path, out: Path, **options: Any) -> Prepared:
    return prepare_labels(root, reporter=NullReporter(), out=out, workers=1, **options)


def _ids(index: int) -> np.ndarray:
    data = json.dumps(polygons(index)).encode()
    return rasterize.paint_ids(rasterize.parse_annotation(data, Path("x")))


# --- what is written -------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["cityscapes-19", "cityscapes-categories", "cityscapes-ids"])
def test_labels_are_the_mapped_ids(tmp_path: Path, space: str) -> None:
    keys = cityscapes(tmp_path / "raw", {"train": 3, "val": 1})
    before = bytes_below(tmp_path / "raw")
    _prepare(tmp_path / "raw", tmp_path / "out", label_space=space)
    manifest = load_manifest(tmp_path / "out")
    lut = load_label_space(space).lut()
    assert [s.id for s in manifest.split("train")] == sorted(keys[:3])
    for sample in manifest.split("train"):
        label = read_label(sample.label, label_space=manifest.label_space)
        expected = lut[_ids(keys.index(sample.id))]
        np.testing.assert_array_equal(label, expected)
        counts = np.bincount(expected.ravel(), minlength=256)
        classes = manifest.label_space.num_classes
        assert sample.pixels == (*counts[:classes], counts[255])
        assert sample.size == SIZE and sample.image.is_file()
    assert bytes_below(tmp_path / "raw") == before, "the source was written to"


def test_also_writes_the_official_files_and_one_hot(tmp_path: Path) -> None:
    keys = cityscapes(tmp_path / "raw", {"train": 2})
    also = ("color", "labelIds", "instanceIds", "labelTrainIds")
    _prepare(tmp_path / "raw", tmp_path / "out", also=also, one_hot=True)
    ids = _ids(0)
    base = tmp_path / "out/official/gtFine/train/zurich" / f"{keys[0]}_gtFine_"
    with Image.open(f"{base}color.png") as picture:
        assert picture.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(picture), rasterize.color_table()[ids])
    np.testing.assert_array_equal(read_label(f"{base}labelIds.png"), ids)
    np.testing.assert_array_equal(
        read_label(f"{base}labelTrainIds.png"), rasterize.train_id_lut()[ids]
    )
    with Image.open(f"{base}instanceIds.png") as picture:
        instances = np.asarray(picture)
    assert set(np.unique(instances)) == {0, 7, 24, 26000}
    sample = next(s for s in load_manifest(tmp_path / "out").split("train") if s.id == keys[0])
    assert sample.one_hot is not None
    label = read_label(sample.label)
    channels = load_one_hot(sample.one_hot)
    np.testing.assert_array_equal(channels, label == np.arange(19)[:, None, None])


def test_label_ids_give_the_same_as_their_polygons(tmp_path: Path) -> None:
    keys = cityscapes(tmp_path / "a", {"train": 2})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for path in (tmp_path / "b" / "gtFine").rglob("*_polygons.json"):
        index = next(i for i, k in enumerate(keys) if path.name.startswith(k))
        save_mask(Path(str(path).replace("polygons.json", "labelIds.png")), _ids(index))
        path.unlink()
    for name in "ab":
        _prepare(tmp_path / name, tmp_path / f"out-{name}")
    labels = [bytes_below(tmp_path / f"out-{n}" / "labels") for n in "ab"]
    assert labels[0] == labels[1]
    with pytest.raises(DataError, match="no polygons, so no instanceIds"):
        _prepare(tmp_path / "b", tmp_path / "out-c", also=["instanceIds"])


def test_camvid_maps_void_to_ignore(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for split in ("train", "val"):
        save_image(tmp_path / "raw" / split / "a.png", (3, 4))
        save_mask(tmp_path / "raw" / f"{split}annot" / "a.png", values)
    prepared = _prepare(tmp_path / "raw", tmp_path / "out")
    assert prepared.next_command.startswith("segcli train camvid_fpn_mobilenet.yaml")
    label = read_label(load_manifest(tmp_path / "out").split("val")[0].label)
    np.testing.assert_array_equal(label, np.where(values == 11, 255, values))


def _own_space(path: Path) -> None:
    path.write_text("classes:\n  - {name: ground, ids: [0, 1]}\n  - {name: thing, ids: [4]}\n")


def test_plain_folder_with_its_own_label_space(tmp_path: Path) -> None:
    values = np.array([[0, 1, 4, 255]], np.uint8)
    folder(tmp_path / "raw", 12, values)
    _own_space(tmp_path / "raw" / "labels.yaml")
    prepared = _prepare(tmp_path / "raw", tmp_path / "out")
    assert set(prepared.manifest.splits) == {"train", "val"}
    assert "hash of the name" in prepared.notes[0]
    label = read_label(load_manifest(tmp_path / "out").split("train")[0].label)
    np.testing.assert_array_equal(label, [[0, 0, 1, 255]])
    (values[0, 0],) = (3,)
    folder(tmp_path / "raw", 12, values)
    with pytest.raises(DataError, match=r"value 3 \(1 pixels\).*class.*--mask-values raw ignores"):
        _prepare(tmp_path / "raw", tmp_path / "out")
    _prepare(tmp_path / "raw", tmp_path / "out", mask_values="raw")
    label = read_label(load_manifest(tmp_path / "out").split("train")[0].label)
    np.testing.assert_array_equal(label, [[255, 0, 1, 255]])


def test_raw_mask_values_go_through_the_label_space(tmp_path: Path) -> None:
    values = np.array([[7, 8, 33, 0, 255]], np.uint8)
    folder(tmp_path / "raw", 2, values)
    options = {"label_space": "cityscapes-19"}
    with pytest.raises(DataError, match=r"look like label ids, .*--mask-values raw"):
        _prepare(tmp_path / "raw", tmp_path / "out", **options)
    _prepare(tmp_path / "raw", tmp_path / "out", mask_values="raw", **options)
    label = read_label(load_manifest(tmp_path / "out").split("train")[0].label)
    np.testing.assert_array_equal(label, [[0, 1, 18, 255, 255]])


# --- running again ---------------------------------------------------------------------------


def test_second_run_redoes_nothing_and_changes_no_byte(tmp_path: Path) -> None:
    cityscapes(tmp_path / "raw", {"train": 4, "val": 2})
    assert _prepare(tmp_path / "raw", tmp_path / "out").redone == 6
    first = bytes_below(tmp_path / "out")
    assert _prepare(tmp_path / "raw", tmp_path / "out").redone == 0
    assert bytes_below(tmp_path / "out") == first


def test_only_what_changed_is_redone(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    keys = cityscapes(raw, {"train": 5, "val": 1})
    _prepare(raw, out)
    changed = next((raw / "gtFine").rglob(f"{keys[1]}*"))
    save_polygons(changed, polygons(19))
    os.utime(changed, ns=(1, 1))
    (out / f"labels/train/{keys[2]}.png").write_bytes(b"damaged")
    (out / f"labels/train/{keys[3]}.png").unlink()
    for path in raw.rglob(f"{keys[4]}*"):
        path.unlink()
    (out / "labels" / "train" / f".{keys[0]}.png.tmp-99").write_bytes(b"left by a killed run")
    (out / "mine.txt").write_text("not ours, not touched")
    prepared = _prepare(raw, out)
    assert prepared.redone == 3
    (out / "mine.txt").unlink()
    _prepare(raw, tmp_path / "fresh")
    assert bytes_below(out / "labels") == bytes_below(tmp_path / "fresh" / "labels")
    assert [s.id for s in load_manifest(out).split("train")] == sorted(keys[:4])


def test_other_options_redo_and_leave_no_orphans(tmp_path: Path) -> None:
    cityscapes(tmp_path / "raw", {"train": 2})
    out = tmp_path / "out"
    _prepare(tmp_path / "raw", out, one_hot=True, also=["color"])
    assert _prepare(tmp_path / "raw", out, label_space="cityscapes-ids").redone == 2
    assert not [p for p in out.rglob("*") if p.suffix == ".npz" or "color" in p.name]
    assert load_manifest(out).label_space.name == "cityscapes-ids"


def test_a_torn_journal_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    cityscapes(tmp_path / "raw", {"train": 4})
    out = tmp_path / "out"
    _prepare(tmp_path / "raw", out)
    first = bytes_below(out)
    journal = out / ".journal.jsonl"
    data = journal.read_bytes()
    journal.write_bytes(data[: len(data) // 2])
    assert 1 <= _prepare(tmp_path / "raw", out).redone <= 3
    assert bytes_below(out) == first
    journal.write_bytes(b"\xff[]\n{}\n" + data)
    assert _prepare(tmp_path / "raw", out).redone == 0


# --- bad input -------------------------------------------------------------------------------


def _label(raw: Path) -> Path:
    return raw / "trainannot" / "1.png"


def _make_camvid(raw: Path) -> None:
    for split in ("train", "val"):
        for index in range(3):
            save_image(raw / split / f"{index}.png", (12, 16))
            save_mask(raw / f"{split}annot" / f"{index}.png", np.full((12, 16), index))


def _cut(raw: Path) -> None:
    _label(raw).write_bytes(_label(raw).read_bytes()[:-20])


def _empty_split(raw: Path) -> None:
    for name in ("val", "valannot"):
        shutil.rmtree(raw / name)
        (raw / name).mkdir()


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unreadable": (lambda r: _label(r).write_bytes(b"no picture at all" * 9), "not a PNG"),
    "empty": (lambda r: _label(r).write_bytes(b""), "empty file"),
    "truncated": (_cut, "truncated"),
    "16-bit": (lambda r: Image.new("I;16", (16, 12)).save(_label(r)), "16 bits"),
    "rgb": (lambda r: Image.new("RGB", (16, 12)).save(_label(r)), "RGB"),
    "size": (lambda r: save_mask(_label(r), np.zeros((6, 16))), "16x6, its image 16x12"),
    "value": (lambda r: save_mask(_label(r), np.full((12, 16), 77)), r"77 \(192 pixels\)"),
    "void": (lambda r: save_mask(_label(r), np.full((12, 16), 255)), "here it is 11"),
    "no label": (lambda r: _label(r).unlink(), "image without a label in 'train'"),
    "no image": (lambda r: (r / "val/2.png").unlink(), "label without an image in 'val'"),
    "bad image": (lambda r: (r / "val/2.png").write_bytes(b"x" * 40), "not an image"),
    "empty split": (_empty_split, "split 'val' is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_no_manifest(tmp_path: Path, name: str) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    _make_camvid(raw)
    _prepare(raw, out)
    spoil, message = BAD[name]
    spoil(raw)
    with pytest.raises(DataError, match=message) as error:
        _prepare(raw, out)
    line = str(error.value)
    assert "\n" not in line and str(raw) in line and error.value.exit_code != 0
    assert not (out / "manifest.json").exists()


def test_many_faults_are_listed_and_can_be_skipped(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    _make_camvid(raw)
    _cut(raw)
    (raw / "train/2.png").unlink()
    with pytest.raises(DataError, match=r"1 more such file in .*--skip-bad"):
        _prepare(raw, out)
    report = json.loads((out / "prepare-report.json").read_text())
    assert [Path(f["file"]).name for f in report["faults"]] == ["1.png", "2.png"]
    prepared = _prepare(raw, out, skip_bad=True)
    assert [s.id for s in load_manifest(out).split("train")] == ["0"]
    tables: list[str] = []

    class Listener(NullReporter):
        def table(self, title: str, columns: Any, rows: Any) -> None:
            tables.append(title)

    show(prepared, Listener())
    assert tables[-1] == "Left out: 1 missing partners, 1 odd files"


def test_train_ids_in_the_place_of_label_ids_are_guessed(tmp_path: Path) -> None:
    save_image(tmp_path / "leftImg8bit/train/ulm/ulm_0_1_leftImg8bit.png", (2, 3))
    path = tmp_path / "gtFine/train/ulm/ulm_0_1_gtFine_labelIds.png"
    save_mask(path, np.array([[0, 1, 255], [18, 3, 4]]))
    with pytest.raises(DataError, match="look like train ids, label ids are expected"):
        _prepare(tmp_path, tmp_path / "out")


def test_known_corrupt_file_gets_a_hint(tmp_path: Path) -> None:
    key = "troisdorf_000000_000073"
    cityscapes(tmp_path, {"train_extra": 2}, kind="gtCoarse")
    (tmp_path / f"leftImg8bit/train_extra/zurich/{key}_leftImg8bit.png").write_bytes(b"x" * 99)
    save_polygons(
        tmp_path / f"gtCoarse/train_extra/zurich/{key}_gtCoarse_polygons.json", polygons()
    )
    with pytest.raises(DataError, match="corrupt in the official archive"):
        _prepare(tmp_path, tmp_path / "out")


def test_label_spaces_and_flags_that_do_not_fit(tmp_path: Path) -> None:
    cityscapes(tmp_path / "c", {"train": 1})
    folder(tmp_path / "f", 2, np.zeros((2, 3), np.uint8))
    out = tmp_path / "out"
    with pytest.raises(LabelSpaceError, match="camvid ids, this is a cityscapes tree"):
        _prepare(tmp_path / "c", out, label_space="camvid-11")
    with pytest.raises(LabelSpaceError, match="--label-space NAME or FILE"):
        _prepare(tmp_path / "f", out)
    with pytest.raises(LabelSpaceError, match="did you mean"):
        _prepare(tmp_path / "c", out, label_space="cityscapes19")
    with pytest.raises(UsageError, match="labelIds, labelTrainIds"):
        _prepare(tmp_path / "c", out, also=["colour"])
    with pytest.raises(UsageError, match="Cityscapes trees"):
        _prepare(tmp_path / "f", out, also=["color"], label_space="camvid-11")
    with pytest.raises(UsageError, match="mask-values"):
        _prepare(tmp_path / "f", out, mask_values="x", label_space="camvid-11")
    with pytest.raises(UsageError, match="holds the source"):
        _prepare(tmp_path / "c", tmp_path)
    (tmp_path / "blocked").write_text("a file")
    with pytest.raises(SegcliError):
        _prepare(tmp_path / "c", tmp_path / "blocked" / "out")
    assert not out.exists()


# --- the command -----------------------------------------------------------------------------


def _run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "segcli", "prepare-labels", *arguments]
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_command_with_processes_equals_one_process(tmp_path: Path) -> None:
    cityscapes(tmp_path / "raw", {"train": 30, "val": 3})
    done = _run("raw", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "next: segcli train fpn.yaml\n" in done.stdout
    _prepare(tmp_path / "raw", tmp_path / "one" / "cityscapes-19")
    two = bytes_below(tmp_path / "prepared" / "cityscapes-19")
    assert two == bytes_below(tmp_path / "one" / "cityscapes-19")
    again = _run("raw", "--json", cwd=tmp_path)
    value = json.loads(again.stdout)
    assert value["images"] == {"train": 30, "val": 3} and value["faults"] == []


def test_command_ends_in_one_line_on_bad_input(tmp_path: Path) -> None:
    _make_camvid(tmp_path / "raw")
    _cut(tmp_path / "raw")
    done = _run("raw", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: truncated PNG: ")


def test_another_data_set_does_not_replace_the_labels_of_the_first(tmp_path: Path) -> None:
    cityscapes(tmp_path / "first", {"train": 2, "val": 1})
    cityscapes(tmp_path / "second", {"train": 3, "val": 1})
    _prepare(tmp_path / "first", tmp_path / "out")
    before = bytes_below(tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds the labels of .*first already: .*--out"):
        _prepare(tmp_path / "second", tmp_path / "out")
    assert bytes_below(tmp_path / "out") == before
    # Moved, it is the same data set still.
    (tmp_path / "first").rename(tmp_path / "moved")
    _prepare(tmp_path / "moved", tmp_path / "out")
    assert len(load_manifest(tmp_path / "out").split("train")) == 2


def test_a_failed_run_keeps_other_data_sets_away(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder(tmp_path / name, 12, np.array([[0, 1, 4, 255]], np.uint8))
    out = tmp_path / "out"
    _own_space(tmp_path / "own.yaml")
    space = str(tmp_path / "own.yaml")
    _prepare(tmp_path / "one", out, label_space=space)
    save_image(tmp_path / "one" / "images" / "odd.png")
    with pytest.raises(DataError, match="image without a label"):
        _prepare(tmp_path / "one", out, label_space=space)
    with pytest.raises(UsageError, match="holds the labels of"):
        _prepare(tmp_path / "two", out, label_space=space)


def test_words_that_yaml_reads_otherwise_are_quoted_in_the_next_command() -> None:
    assert [_in_yaml(w) for w in ("prepared/x", "2025", "on", "a: b")] == [
        "prepared/x",
        '"2025"',
        '"on"',
        '"a: b"',
    ]


def test_what_cannot_be_removed_is_one_line(tmp_path: Path) -> None:
    folder(tmp_path / "one", 12, np.array([[0, 1, 4, 255]], np.uint8))
    _own_space(tmp_path / "own.yaml")
    (tmp_path / "out" / "manifest.json").mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot remove"):
        _prepare(tmp_path / "one", tmp_path / "out", label_space=str(tmp_path / "own.yaml"))
