"""The packed copy: the same views as from the files it was made of, or one clear line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from prepare_tree import bytes_below, cityscapes

from segcli.data.dataset import StageBatches, TrainDataset, train_loader
from segcli.data.manifest import load_manifest
from segcli.data.pack import Level, PackedImage, encode_pack, open_pack
from segcli.data.transforms import TrainTransform
from segcli.errors import DataError, UsageError
from segcli.recipes.prepare import prepare_labels
from segcli.recipes.prepare_report import Prepared
from segcli.reporting.events import NullReporter

ROOT = Path(__file__).resolve().parents[1]
CODECS = ("raw", "png")
DIGEST = "f" * 64


def picture(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return image, rng.integers(0, 19, (height, width), np.uint8)


def packed(folder: Path, image: np.ndarray, label: np.ndarray, codec: str) -> tuple[Path, Path]:
    """(image file, pack)."""
    source, pack = folder / "image.png", folder / f"{codec}.pack"
    Image.fromarray(image).save(source)
    pack.write_bytes(encode_pack(source, label, DIGEST, codec))
    return source, pack


def prepare(city: Path, out: Path, **options: object) -> Prepared:
    return prepare_labels(city, reporter=NullReporter(), out=out, workers=1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [(64, 96), (301, 517), (1, 9)])
def test_every_pixel_comes_back(tmp_path: Path, codec: str, size: tuple[int, int]) -> None:
    image, label = picture(*size)
    source, pack = packed(tmp_path, image, label, codec)
    opened, target = open_pack(pack, source, DIGEST)
    everything = (slice(0, size[0]), slice(0, size[1]))
    assert opened.shape == image.shape
    assert target.ndim == 2
    assert np.array_equal(opened[everything], image)
    assert np.array_equal(target[everything], label)
    height, width = size[0] // 2, size[1] // 2
    if not height:
        assert opened.half is None
        return
    assert opened.half is not None
    blocks = image[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).astype(int)
    means = (blocks.sum(axis=(1, 3)) + 2) // 4
    assert np.array_equal(opened.half[0:height, 0:width], means)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[PackedImage, Level]]:
    folder = tmp_path_factory.mktemp("packs")
    image, label = picture(300, 540)
    return {c: open_pack(*packed(folder, image, label, c)[::-1], DIGEST) for c in CODECS}


@settings(max_examples=60, deadline=None)
@given(
    codec=st.sampled_from(CODECS),
    height=st.integers(16, 320),
    width=st.integers(16, 560),
    low=st.floats(0.51, 1.0),
    high=st.floats(1.0, 2.0),
    seed=st.integers(0, 2**31),
)
def test_views_are_those_of_the_decoded_files(
    world: dict[str, tuple[PackedImage, Level]],
    codec: str,
    height: int,
    width: int,
    low: float,
    high: float,
    seed: int,
) -> None:
    transform = TrainTransform((height, width), scale=(low, high))
    views = [
        transform(*pair, np.random.default_rng(seed)) for pair in (picture(300, 540), world[codec])
    ]
    for expected, found in zip(*views, strict=True):
        assert np.array_equal(expected, found)


@pytest.mark.parametrize("codec", CODECS)
def test_exactly_half_is_exact_too(world: dict[str, tuple[PackedImage, Level]], codec: str) -> None:
    transform = TrainTransform((40, 64), scale=(0.5, 0.5), color=0)
    for seed in range(20):
        expected = transform(*picture(300, 540), np.random.default_rng(seed))
        found = transform(*world[codec], np.random.default_rng(seed))
        assert np.array_equal(expected[0], found[0])
        assert np.array_equal(expected[1], found[1])


@pytest.mark.parametrize("codec", CODECS)
def test_smaller_than_half_reads_a_quarter_of_the_pixels(tmp_path: Path, codec: str) -> None:
    image, label = picture(300, 540)
    image = cv2.GaussianBlur(image, (0, 0), 6)
    source, pack = packed(tmp_path, image, label, codec)
    found_image, found_label = open_pack(pack, source, DIGEST)
    part = found_image.window((slice(31, 130), slice(100, 301)), (40, 80))
    assert part.shape == (50, 101, 3)
    transform = TrainTransform((40, 64), scale=(0.3, 0.45), color=0)
    for seed in range(20):
        expected = transform(image, label, np.random.default_rng(seed))
        found = transform(found_image, found_label, np.random.default_rng(seed))
        assert np.array_equal(expected[1], found[1])
        assert np.abs(expected[0].astype(int) - found[0]).mean() < 2


def test_pixels_that_are_not_resized_can_be_written_to(
    world: dict[str, tuple[PackedImage, Level]],
) -> None:
    transform = TrainTransform((300, 540), scale=(1, 1), color=0, flip=0)
    view, target = transform(*world["raw"], np.random.default_rng(0))
    assert view.flags.writeable and target.flags.writeable
    view[:] = 0
    assert np.array_equal(world["raw"][0][0:300, 0:540], picture(300, 540)[0])


# --- what can be wrong -----------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_a_pack_cut_off_anywhere_is_one_line(tmp_path: Path, codec: str) -> None:
    image, label = picture(20, 30)
    source, pack = packed(tmp_path, image, label, codec)
    whole = pack.read_bytes()
    for length in (0, 5, 14, 40, 200, len(whole) // 2, len(whole) - 1):
        pack.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"truncated packed copy: .*pack again"):
            open_pack(pack, source, DIGEST)
    pack.write_bytes(b"x" * 4000)
    with pytest.raises(DataError, match="not a packed copy"):
        open_pack(pack, source, DIGEST)
    pack.write_bytes(whole[:30] + b"#" + whole[31:])
    with pytest.raises(DataError, match="damaged packed copy"):
        open_pack(pack, source, DIGEST)
    pack.unlink()
    with pytest.raises(DataError, match="no packed copy"):
        open_pack(pack, source, DIGEST)


def test_a_damaged_tile_is_named(tmp_path: Path) -> None:
    source, pack = packed(tmp_path, *picture(300, 300), "png")
    data = bytearray(pack.read_bytes())
    data[-200] ^= 1
    pack.write_bytes(data)
    _, label = open_pack(pack, source, DIGEST)
    with pytest.raises(DataError, match=r"damaged packed copy: .*png\.pack"):
        label[0:300, 0:300]


def test_a_changed_image_is_noticed_and_a_touched_one_is_not(tmp_path: Path) -> None:
    image, label = picture(20, 30)
    source, pack = packed(tmp_path, image, label, "raw")
    os.utime(source, (1, 1))
    open_pack(pack, source, DIGEST)
    data = bytearray(source.read_bytes())
    data[-20] ^= 1
    source.write_bytes(data)
    with pytest.raises(DataError, match=r"changed since it was packed: .*image\.png .*--pack"):
        open_pack(pack, source, DIGEST)
    source.write_bytes(data + b"more")
    with pytest.raises(DataError, match="changed since"):
        open_pack(pack, source, DIGEST)
    with pytest.raises(DataError, match="another label"):
        open_pack(pack, source, "0" * 64)
    source.unlink()
    open_pack(pack, source, DIGEST)


# --- the data set ----------------------------------------------------------------------------


def test_any_number_of_workers_gives_the_views_of_the_files(
    tiny_city: Path, tmp_path: Path
) -> None:
    manifest = prepare(tiny_city, tmp_path / "out", pack="raw").manifest
    assert load_manifest(tmp_path / "out") == manifest
    assert all(s.packed is None for s in manifest.split("val"))
    transform = TrainTransform((32, 48), scale=(0.6, 2.0))
    streams = []
    for use, workers in ((False, 0), (True, 0), (True, 1), (True, 2)):
        data = TrainDataset(manifest.split("train"), transform, seed=5, num_classes=19, packed=use)
        batches = StageBatches(12, 4, epochs=1, first_epoch=0, seed=5, start=0)
        streams.append(list(train_loader(data, batches, workers=workers, pin_memory=False)))
    for other in streams[1:]:
        for (images, targets), (images2, targets2) in zip(streams[0], other, strict=True):
            assert torch.equal(images, images2)
            assert torch.equal(targets, targets2)


def test_one_hot_targets_go_with_a_packed_image(tiny_city: Path, tmp_path: Path) -> None:
    manifest = prepare(tiny_city, tmp_path / "out", pack="png", one_hot=True).manifest
    transform = TrainTransform((32, 48), scale=(0.6, 2.0))
    views = [
        TrainDataset(
            manifest.split("train"), transform, seed=5, num_classes=19, soft_targets=True, packed=p
        ).view((0, 3))
        for p in (False, True)
    ]
    assert torch.equal(views[0][0], views[1][0])
    assert torch.equal(views[0][1], views[1][1])


def test_preparing_again_redoes_what_is_damaged_or_changed(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    cityscapes(raw, {"train": 4, "val": 1})
    assert prepare(raw, out, pack="raw").redone == 5
    quiet = bytes_below(out)
    assert prepare(raw, out, pack="raw").redone == 0
    packs = sorted((out / "packed").rglob("*.pack"))
    assert len(packs) == 4
    packs[0].write_bytes(packs[0].read_bytes()[:-1])
    packs[1].unlink()
    assert prepare(raw, out, pack="raw").redone == 2
    assert bytes_below(out) == quiet
    image = next((raw / "leftImg8bit/train").rglob("*.png"))
    Image.fromarray(picture(24, 40)[0]).save(image)
    sample = next(s for s in load_manifest(out).split("train") if s.image == image)
    data = TrainDataset([sample], TrainTransform((16, 16)), seed=0, num_classes=19)
    with pytest.raises(DataError, match="changed since it was packed"):
        data.view((0, 0))
    assert prepare(raw, out, pack="raw").redone == 1
    data.view((0, 0))
    assert prepare(raw, out, pack="png").redone == 4
    assert prepare(raw, out).redone == 4
    assert not list(out.rglob("*.pack"))
    with pytest.raises(UsageError, match=r"--pack-splits test: .*has train, val"):
        prepare(raw, out, pack="raw", pack_splits=["test"])
    with pytest.raises(UsageError, match="--pack-codec zip"):
        prepare(raw, out, pack="zip")


def test_an_image_that_cannot_be_decoded_is_a_fault(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    cityscapes(raw, {"train": 2, "val": 1})
    image = next((raw / "leftImg8bit/train").rglob("*.png"))
    image.write_bytes(image.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"truncated PNG: .*leftImg8bit\.png"):
        prepare(raw, tmp_path / "out", pack="raw")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_while_packing(tmp_path: Path) -> None:
    cityscapes(tmp_path / "raw", {"train": 24, "val": 2}, size=(192, 384))

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "segcli", "prepare-labels", "raw", "--out", "out"]
        command += ["--pack", "--workers", "2"]
        environment, quiet = {**os.environ, "PYTHONPATH": str(ROOT)}, subprocess.DEVNULL
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=quiet, stderr=quiet)

    assert start().wait() == 0
    expected = bytes_below(tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.*"):
        path.unlink()
    process = start()
    while len(list((tmp_path / "out").rglob("*.pack"))) < 5 and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (tmp_path / "out/manifest.json").exists(), "it was too late to kill it"
    assert start().wait() == 0
    assert bytes_below(tmp_path / "out") == expected
