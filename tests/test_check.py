"""`segcli check`: each planted fault has its code, all are found at once, and JSON parses."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import TINY
from prepare_tree import cityscapes, polygons, save_mask, save_polygons
from tiny_run import blocks, make_prepared, write_image
from typer.testing import CliRunner

from segcli import findings as codes
from segcli import resources
from segcli.commands.app import app
from segcli.data.manifest import FILE_NAME
from segcli.errors import UsageError
from segcli.findings import ERROR, OK, WARNING, Finding
from segcli.recipes import check_machine
from segcli.recipes.check import check
from segcli.recipes.check_report import CheckReport, show
from segcli.reporting.console import ConsoleReporter
from segcli.reporting.events import NullReporter

ROOT = Path(__file__).parent.parent
SPACE = "name: three\nclasses:\n  - {name: ground}\n  - {name: thing}\n  - {name: sky}\n"


def run(target: Path | str | None, **options: Any) -> CheckReport:
    return check(None if target is None else str(target), reporter=NullReporter(), **options)


def found(report: CheckReport, severity: str = ERROR) -> set[tuple[str, str]]:
    """(code, file name) of the findings of a severity."""
    return {
        (f.code, f.file.name if f.file else "") for f in report.findings if f.severity == severity
    }


def mask(seed: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    values = blocks(seed, *size)[:, :, 1] // 64 % 3
    values[0, :3] = (0, 1, 2)
    return values.astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A clean folder data set: 4 training and 2 validation samples of three classes."""
    root = tmp_path / "raw"
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            seed = index + (100 if split == "val" else 0)
            write_image(root / "images" / split / f"{index}.png", blocks(seed))
            save_mask(root / "masks" / split / f"{index}.png", mask(seed))
    (root / "labels.yaml").write_text(SPACE)
    return root


# --- raw data sets ---------------------------------------------------------------------------


def test_a_clean_data_set_has_no_faults(raw: Path) -> None:
    report = run(raw)
    assert (report.kind, report.errors, report.warnings) == ("raw", 0, 0)
    assert [f.what for f in report.findings] == ["folder: train 4, val 2, 3 classes of three"]


def lossy(root: Path) -> None:
    (root / "masks/train/0.png").unlink()
    write_image(root / "masks/train/0.jpg", blocks(0))


def renamed_jpeg(root: Path) -> None:
    data = bytes(cv2.imencode(".jpg", mask(0))[1])
    (root / "masks/train/0.png").write_bytes(data)


def sixteen_bits(root: Path) -> None:
    (root / "masks/train/0.png").write_bytes(png(mask(0).astype(np.uint16)))


def cut(name: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: len(data) // 2])

    return plant


def same_picture(source: str, target: str) -> Callable[[Path], None]:
    """The same pixels in a file of other bytes."""

    def plant(root: Path) -> None:
        image = cv2.imread(str(root / source))
        data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1]
        assert bytes(data) != (root / source).read_bytes()
        (root / target).write_bytes(bytes(data))

    return plant


def without_class(split: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        for path in (root / "masks" / split).iterdir():
            save_mask(path, np.minimum(mask(1), 1))

    return plant


def empty_split(root: Path) -> None:
    for kind in ("images", "masks"):
        (root / kind / "test").mkdir()


FAULTS: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "image without label": (
        lambda r: (r / "masks/train/0.png").unlink(),
        codes.MISSING_PARTNER,
        ERROR,
        "0.png",
    ),
    "label without image": (
        lambda r: (r / "images/val/1.png").unlink(),
        codes.MISSING_PARTNER,
        ERROR,
        "1.png",
    ),
    "size": (
        lambda r: save_mask(r / "masks/train/1.png", mask(1, (40, 64))),
        codes.SIZE_MISMATCH,
        ERROR,
        "1.png",
    ),
    "value": (
        lambda r: save_mask(r / "masks/train/2.png", mask(2) + 5),
        codes.LABEL_VALUES,
        ERROR,
        "2.png",
    ),
    "lossy mask": (lossy, codes.MASK_FORMAT, ERROR, "0.jpg"),
    "jpeg called png": (renamed_jpeg, codes.MASK_FORMAT, ERROR, "0.png"),
    "rgb mask": (
        lambda r: (r / "masks/train/0.png").write_bytes(png(blocks(0))),
        codes.MASK_FORMAT,
        ERROR,
        "0.png",
    ),
    "16 bits": (sixteen_bits, codes.MASK_FORMAT, ERROR, "0.png"),
    "truncated image": (cut("images/train/3.png"), codes.CORRUPT_FILE, ERROR, "3.png"),
    "truncated label": (cut("masks/train/3.png"), codes.CORRUPT_FILE, ERROR, "3.png"),
    "empty file": (
        lambda r: (r / "images/train/3.png").write_bytes(b""),
        codes.CORRUPT_FILE,
        ERROR,
        "3.png",
    ),
    "leak": (same_picture("images/train/0.png", "images/val/0.png"), codes.SPLIT_LEAK, ERROR, ""),
    "twice": (same_picture("images/val/0.png", "images/val/1.png"), codes.DUPLICATE, WARNING, ""),
    "absent in train": (without_class("train"), codes.ABSENT_CLASS, WARNING, ""),
    "absent in val": (without_class("val"), codes.ABSENT_CLASS, WARNING, ""),
    "empty split": (empty_split, codes.EMPTY_SPLIT, ERROR, "raw"),
    "no val": (
        lambda r: [shutil.rmtree(r / k / "val") for k in ("images", "masks")],
        codes.EMPTY_SPLIT,
        WARNING,
        "raw",
    ),
    "no classes": (
        lambda r: (r / "labels.yaml").unlink(),
        codes.UNKNOWN_CLASSES,
        WARNING,
        "raw",
    ),
    "bad classes": (
        lambda r: (r / "labels.yaml").write_text("classes: []"),
        codes.LABEL_SPACE,
        ERROR,
        "labels.yaml",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_code_and_no_other_is_found(raw: Path, name: str) -> None:
    plant, code, severity, file = FAULTS[name]
    plant(raw)
    report = run(raw)
    faults = [f for f in report.findings if f.severity != OK]
    assert [(f.code, f.severity) for f in faults] == [(code, severity)], faults
    assert faults[0].hint, "every fault says what to do"
    if file:
        assert faults[0].file is not None
        assert faults[0].file.name == file
    assert "\n" not in faults[0].line()


def test_all_faults_are_found_at_once(raw: Path) -> None:
    names = ("label without image", "size", "value", "rgb mask", "truncated image", "empty split")
    for name in names:
        FAULTS[name][0](raw)
    write_image(raw / "images/val/2.png", blocks(1))
    save_mask(raw / "masks/val/2.png", mask(7))
    report = run(raw)
    assert {f.code for f in report.findings if f.severity == ERROR} == {
        *(FAULTS[name][1] for name in names),
        codes.SPLIT_LEAK,
    }


def test_both_files_of_a_sample_are_judged(raw: Path) -> None:
    cut("images/train/0.png")(raw)
    FAULTS["rgb mask"][0](raw)
    assert {code for code, _ in found(run(raw))} == {codes.CORRUPT_FILE, codes.MASK_FORMAT}


def test_what_a_folder_is_not(tmp_path: Path) -> None:
    (report,) = [run(tmp_path)]
    assert {code for code, _ in found(report)} == {codes.LAYOUT}


def test_polygons_are_read_as_prepare_labels_reads_them(tmp_path: Path) -> None:
    keys = cityscapes(tmp_path / "city", {"train": 3, "val": 1})
    for index, image in enumerate(sorted((tmp_path / "city").rglob("*_leftImg8bit.png"))):
        write_image(image, blocks(index, 24, 40))
    folder = tmp_path / "city/gtFine/train/zurich"
    unknown = polygons()
    unknown["objects"][0]["label"] = "raod"
    save_polygons(folder / f"{keys[0]}_gtFine_polygons.json", unknown)
    (folder / f"{keys[2]}_gtFine_polygons.json").write_text("{")
    report = run(tmp_path / "city")
    assert found(report) == {
        (codes.LABEL_VALUES, f"{keys[0]}_gtFine_polygons.json"),
        (codes.CORRUPT_FILE, f"{keys[2]}_gtFine_polygons.json"),
    }
    assert any("no pixel of" in f.what for f in report.findings)


def test_fine_and_coarse_labels_of_one_image_are_no_duplicates(tmp_path: Path) -> None:
    cityscapes(tmp_path / "city", {"train": 2})
    cityscapes(tmp_path / "city", {"train": 2}, "gtCoarse")
    for index, image in enumerate(sorted((tmp_path / "city").rglob("*_leftImg8bit.png"))):
        write_image(image, blocks(index, 24, 40))
    assert found(run(tmp_path / "city")) == set()


def test_rare_classes(tmp_path: Path) -> None:
    for index in range(30):
        values = np.zeros((16, 16), np.uint8)
        values[0] = 2
        values[1] = 1 if index == 7 else 0
        write_image(tmp_path / f"train/images/{index}.png", blocks(index, 16, 16))
        save_mask(tmp_path / f"train/masks/{index}.png", values)
    (tmp_path / "labels.yaml").write_text(SPACE)
    (rare,) = [f for f in run(tmp_path).findings if f.code == codes.RARE_CLASS]
    assert rare.what.startswith("'thing' is in 1 of 30 images of 'train'")


# --- prepared data sets ----------------------------------------------------------------------


@pytest.fixture
def prepared(raw: Path) -> Path:
    from segcli.recipes.prepare import prepare_labels

    out = raw.parent / "prepared"
    prepare_labels(raw, reporter=NullReporter(), out=out, workers=1, one_hot=True)
    return out


def test_a_clean_prepared_folder_has_no_faults(prepared: Path) -> None:
    report = run(prepared)
    assert (report.kind, report.errors, report.warnings) == ("prepared", 0, 0)
    assert run(prepared / FILE_NAME).findings == report.findings


def test_all_faults_of_a_prepared_folder(prepared: Path, raw: Path) -> None:
    labels = prepared / "labels/train"
    save_mask(labels / "0.png", mask(50))
    (labels / "1.png").unlink()
    cut("labels/train/2.png")(prepared)
    save_mask(prepared / "labels/val/0.png", mask(1) + 3)
    (prepared / "onehot/train/3.npz").unlink()
    write_image(raw / "images/val/1.png", blocks(9, 40, 64))
    write_image(raw / "images/train/9.png", blocks(11))
    save_mask(raw / "masks/train/9.png", mask(11))
    report = run(prepared)
    assert found(report) == {
        (codes.STALE_LABEL, "0.png"),
        (codes.MISSING_FILE, "1.png"),
        (codes.STALE_LABEL, "2.png"),
        (codes.CORRUPT_FILE, "2.png"),
        (codes.LABEL_VALUES, "0.png"),
        (codes.MISSING_FILE, "3.npz"),
        (codes.SIZE_MISMATCH, "1.png"),
    }
    assert (codes.OTHER_SAMPLES, "raw") in found(report, WARNING)


def test_packed_copies_are_held_to_their_sources(raw: Path) -> None:
    """Gone, cut off, and (what no checksum of a raw copy would show) of other pixels."""
    from segcli.recipes.prepare import prepare_labels

    out = raw.parent / "prepared"
    prepare_labels(raw, reporter=NullReporter(), out=out, workers=1, pack="raw")
    assert run(out).errors == 0
    gone, short, changed, *_ = sorted((out / "packed/train").iterdir())
    gone.unlink()
    short.write_bytes(short.read_bytes()[:-1])
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    wrong = {(codes.PACKED_COPY, path.name) for path in (gone, short, changed)}
    assert found(run(out)) == wrong


def test_an_interrupted_preparation_is_known(prepared: Path) -> None:
    (prepared / FILE_NAME).unlink()
    assert {code for code, _ in found(run(prepared))} == {codes.NOT_PREPARED}


def test_one_picture_in_two_splits(tmp_path: Path) -> None:
    make_prepared(tmp_path, count=3)
    report = run(tmp_path / "prepared")
    leaks = [f for f in report.findings if f.code == codes.SPLIT_LEAK]
    assert len(leaks) == 3
    assert (codes.EMPTY_SPLIT, FILE_NAME) in found(report)


# --- configs ---------------------------------------------------------------------------------


def settings(prepared: Path, *more: str) -> list[str]:
    return [*TINY, f"data.prepared={prepared}", "data.label_space=three", *more]


def test_a_config_that_trains_has_no_errors(prepared: Path, in_tmp: Path) -> None:
    report = run("fpn.yaml", overrides=settings(prepared), device="cpu")
    assert (report.kind, report.errors, report.warnings) == ("config", 0, 0), report.findings
    assert list(in_tmp.glob("runs")) == [], "a check leaves nothing behind"


def test_all_faults_of_a_config(prepared: Path, in_tmp: Path) -> None:
    (prepared / "labels/train/1.png").unlink()
    (in_tmp / "other.pth").write_bytes(b"no weights")
    more = [
        "data.label_space=camvid-11",
        "data.val=[test, train]",
        "train.best_by=val/miuo",
        "train.augment.extra=[{name: GausNoise}]",
        "distill.coarse=[nowhere]",
        "model.weights=other.pth",
        "train.stages=[{size: [256, 256], epochs: 1, batch_size: 8}]",
    ]
    report = run("fpn.yaml", overrides=settings(prepared, *more), device="cuda:99")
    words = " ".join(f.what for f in report.findings if f.code == codes.CONFIG)
    assert all(wrong in words for wrong in ("val/miuo", "GausNoise", "nowhere"))
    assert {code for code, _ in found(report)} == {
        codes.CONFIG,
        codes.LABEL_SPACE,
        codes.SPLITS,
        codes.WEIGHTS,
        codes.DEVICE,
        codes.MISSING_FILE,
    }
    warned = {code for code, _ in found(report, WARNING)}
    assert {codes.SHARED_SPLIT, codes.CROP_SIZE, codes.BATCH_SIZE} <= warned
    # It is one file, whether one split names it or two.
    assert sum(f.code == codes.MISSING_FILE for f in report.findings) == 1


def test_random_layers_that_a_stage_freezes_are_told(prepared: Path, in_tmp: Path) -> None:
    for frozen in (0, 4):
        stage = f"train.stages=[{{size: [32, 32], batch_size: 2, freeze_stride: {frozen}}}]"
        more = settings(prepared, "model.weights=null", stage)
        report = run("fpn.yaml", overrides=more, device="cpu")
        words = [f.what for f in report.findings if f.code == codes.WEIGHTS]
        told = ["layers up to a stride of 4 keep their random weights in stage 1"]
        assert words == (told if frozen else [])


def test_a_config_without_its_data_is_checked_all_the_same(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(in_tmp / "cache"))
    report = run("fpn.yaml", overrides=["data.prepared=nowhere"], device="cpu")
    assert found(report) == {(codes.DATA_FOLDER, "nowhere")}
    assert codes.DOWNLOAD in {code for code, _ in found(report, WARNING)}


def test_resources_of_a_config(
    prepared: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "free_disk", lambda _: 1000)
    monkeypatch.setattr(resources, "free_shared_memory", lambda: 1000)
    more = ("data.workers=2", "data.soft_targets=true")
    report = run("fpn.yaml", overrides=settings(prepared, *more), device="cpu")
    assert {code for code, _ in found(report)} == {codes.DISK, codes.SHARED_MEMORY}
    assert any("data.workers to 0" in f.hint for f in report.findings)


def test_a_config_that_does_not_load(in_tmp: Path) -> None:
    (in_tmp / "mine.yaml").write_text("train: {epocs: 3}")
    assert found(run("mine.yaml")) == {(codes.CONFIG, "mine.yaml")}
    (in_tmp / "run").mkdir()
    (in_tmp / "run/config.yaml").write_text("trian: {}")
    assert found(run("run")) == {(codes.CONFIG, "config.yaml")}
    (in_tmp / "runs" / "mine-20261130-101500" / "last").mkdir(parents=True)
    (in_tmp / "runs" / "mine-20261130-101500" / "last" / "checkpoint.json").write_text("{}")
    (in_tmp / "runs" / "mine-20261130-101500" / "config.yaml").write_text("trian: {}")
    assert found(run("runs/mine")) == {(codes.CONFIG, "config.yaml")}, "the newest of a name"


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("nowhere", {}),
        ("fnp.yaml", {}),
        ("text.txt", {}),
        (None, {"overrides": ["a.b=1"]}),
        ("fpn.yaml", {"label_space": "camvid-11"}),
    ],
)
def test_usage(in_tmp: Path, target: str | None, options: dict[str, Any]) -> None:
    (in_tmp / "text.txt").write_text("x")
    with pytest.raises(UsageError):
        run(target, **options)


def test_an_unknown_label_space_is_a_mistake_in_typing(raw: Path) -> None:
    with pytest.raises(UsageError, match="camvid-11"):
        run(raw, label_space="camvid11")
    with pytest.raises(UsageError, match="mask-values"):
        run(raw, mask_values="colour")


# --- the installation ------------------------------------------------------------------------


def test_the_installation_has_a_line_for_each_part() -> None:
    report = run(None)
    assert report.kind == "installation"
    listed = [getattr(codes, name) for name in vars(codes) if name.isupper()]
    assert {f.code for f in report.findings} == {c for c in listed if str(c).startswith("M")}
    assert report.errors == 0, report.findings


def test_wrong_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "safetensors":
            raise metadata.PackageNotFoundError(name)
        wrong = {"albumentations": "2.1.0", "tensorboard": "2.20.0rc1", "opencv-python": "4.12.0"}
        return wrong.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    report = run(None)
    words = {f.what for f in report.findings if f.code == codes.LIBRARY and f.severity == ERROR}
    assert words == {
        "albumentations 2.1.0 is too new",
        "tensorboard 2.20.0rc1 is too old",
        "safetensors is not installed",
    }
    (opencv,) = [f for f in report.findings if f.code == codes.OPENCV]
    assert opencv.severity == WARNING
    assert "opencv-python 4.12.0" in opencv.what


@pytest.mark.parametrize(
    ("module", "code", "severity"),
    [
        ("torchvision", codes.TORCH, ERROR),
        ("cv2", codes.OPENCV, ERROR),
        ("tensorboard.version", codes.TENSORBOARD, ERROR),
        ("imageio_ffmpeg", codes.FFMPEG, WARNING),
    ],
)
def test_a_library_that_does_not_load_is_one_line_of_all(
    monkeypatch: pytest.MonkeyPatch, module: str, code: str, severity: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    report = run(None)
    assert (code, severity) in {(f.code, f.severity) for f in report.findings}
    assert len(report.findings) >= 10


def test_small_containers_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "free_shared_memory", lambda: 2**26)
    monkeypatch.setattr(resources, "free_disk", lambda _: 2**20)
    monkeypatch.setattr(check_machine, "_quota", lambda: 0.25)
    report = run(None)
    assert {code for code, _ in found(report, WARNING)} >= {
        codes.MACHINE_SHARED_MEMORY,
        codes.MACHINE_DISK,
        codes.THREADS,
    }


def test_needed_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {}
    for text in project["dependencies"]:
        name, rest = re.match(r"([\w-]+)(.*)", text).groups()  # type: ignore[union-attr]
        limit = re.search(r"<([\d.]+)", rest)
        lowest = re.search(r">=([\d.]+)", rest)
        assert lowest
        asked[name] = tuple(
            None if m is None else tuple(int(n) for n in m.group(1).split("."))
            for m in (lowest, limit)
        )
    assert asked == check_machine.NEEDED


# --- output ----------------------------------------------------------------------------------


def test_json_is_all_there_is_on_stdout(raw: Path) -> None:
    FAULTS["value"][0](raw)
    result = CliRunner().invoke(app, ["check", str(raw), "--json"])
    assert result.exit_code == 1
    value = json.loads(result.stdout)
    assert (value["kind"], value["errors"], value["warnings"]) == ("raw", 1, 0)
    first = value["findings"][0]
    assert set(first) == {"code", "severity", "file", "what", "hint"}
    assert first["code"] == codes.LABEL_VALUES
    assert "check 6/6" in result.stderr


def test_exit_codes(raw: Path) -> None:
    result = CliRunner().invoke(app, ["check", str(raw)])
    assert result.exit_code == 0
    assert result.stdout.rstrip().endswith("no errors, no warnings")
    result = CliRunner().invoke(app, ["check", str(raw / "nothing")])
    assert isinstance(result.exception, UsageError)


@pytest.mark.parametrize(
    "name", ["a\nb", "a\x1b[31mb", "[red]a[bold]", "a\u202eb", "ä ö", "a\udcff"]
)
def test_hostile_file_names_do_not_break_the_output(raw: Path, name: str) -> None:
    try:
        (raw / "images/train" / f"{name}.png").write_bytes(png(blocks(77)))
    except (OSError, UnicodeError):
        pytest.skip("the file system does not take this name")
    result = CliRunner().invoke(app, ["check", str(raw)])
    assert result.exit_code == 1, result.exception
    (line,) = [row for row in result.stdout.splitlines() if codes.MISSING_PARTNER in row]
    assert line.endswith("or take this file out)")
    assert all(c.isprintable() for c in line)
    if name.startswith("["):
        assert name in line
    result = CliRunner().invoke(app, ["check", str(raw), "--json"])
    (fault,) = [f for f in json.loads(result.stdout)["findings"] if f["severity"] == ERROR]
    assert os.fsencode(fault["file"]) == os.fsencode(raw / "images/train" / f"{name}.png")


def test_many_equal_faults_are_one_paragraph(capsys: pytest.CaptureFixture[str]) -> None:
    many = [
        Finding(codes.CORRUPT_FILE, ERROR, "bad", Path(f"{i:02}.png"), "fix") for i in range(25)
    ]
    one = Finding(codes.ABSENT_CLASS, WARNING, "no pixel of x in 'val'", None, "add some")
    show(CheckReport("raw", "here", (*many, one)), ConsoleReporter())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("error    D005-corrupt-file")
    assert lines[0].endswith("25 times (fix)")
    assert lines[11].strip() == "... 15 more, --json lists them all"
    assert lines[-1] == "here: 25 errors, 1 warning"
    assert len(lines) == 14


def test_every_code_is_documented() -> None:
    text = (ROOT / "docs/checks.md").read_text()
    listed = {v for k, v in vars(codes).items() if k.isupper() and re.match(r"[DCM]\d", str(v))}
    assert set(re.findall(r"`([DCM]\d{3}-[\w-]+)`", text)) == listed
    assert len(listed) == 18 + 14 + 10
