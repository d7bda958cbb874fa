"""Labels are read as stored; files that are not whole are refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcli import png
from segcli.data import images
from segcli.data.onehot import encode_one_hot, load_one_hot
from segcli.errors import DataError
from segcli.labels import load_label_space
from segcli.runlength import find_runs

RNG = np.random.default_rng(5)
LABEL = RNG.integers(0, 19, (23, 37), dtype=np.uint8)


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _png(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("width", [1, 7, 8, 9, 37])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_of_any_depth_gives_indices(tmp_path: Path, bits: int, width: int) -> None:
    values = RNG.integers(0, 2**bits, (5, width), dtype=np.uint8)
    picture = Image.fromarray(values, "L").convert("P")
    picture = Image.new("P", (width, 5))
    picture.putdata(values.ravel().tolist())
    picture.putpalette(RNG.integers(0, 256, 768, dtype=np.uint8).tobytes())
    picture.save(tmp_path / "a.png", bits=bits)
    np.testing.assert_array_equal(images.read_label(tmp_path / "a.png"), values)


def test_own_indexed_png_shows_the_palette(tmp_path: Path) -> None:
    palette = load_label_space("cityscapes-19").palette()
    path = _write(tmp_path / "a.png", png.encode_indices(LABEL, palette, find_runs(LABEL)))
    np.testing.assert_array_equal(images.read_label(path, num_classes=19), LABEL)
    with Image.open(path) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), LABEL)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), palette[LABEL])


@pytest.mark.parametrize("cut", [0, 5, 20, 30, 60, -20, -12, -1])
def test_truncated_files_are_refused(tmp_path: Path, cut: int) -> None:
    data = _png(LABEL)
    path = _write(tmp_path / "a.png", data[:cut])
    for read in (images.read_label, images.read_image):
        with pytest.raises(DataError) as error:
            read(path)
        assert str(path) in str(error.value)


def test_flipped_bits_are_noticed(tmp_path: Path) -> None:
    data = _png(LABEL)
    for at in range(8, len(data) - 12, 7):
        broken = bytearray(data)
        broken[at] ^= 16
        path = _write(tmp_path / "a.png", bytes(broken))
        with pytest.raises(DataError):
            images.read_label(path)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (LABEL.astype(np.uint16), "16 bits"),
        (np.dstack([LABEL] * 3), "RGB"),
        (np.dstack([LABEL] * 4), "RGB"),
        (np.dstack([LABEL] * 2), "alpha"),
    ],
)
def test_other_kinds_of_label_are_refused(tmp_path: Path, pixels: np.ndarray, message: str) -> None:
    path = _write(tmp_path / "a.png", _png(pixels))
    with pytest.raises(DataError, match=message):
        images.read_label(path)


def test_lossy_missing_and_foreign_labels(tmp_path: Path) -> None:
    Image.fromarray(LABEL).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="lossy"):
        images.read_label(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="no such file"):
        images.read_label(tmp_path / "b.png")
    with pytest.raises(DataError, match="not a PNG"):
        images.read_label(_write(tmp_path / "c.png", b"GIF89a" * 20))
    with pytest.raises(DataError, match="cannot read"):
        images.read_label(tmp_path)


def test_values_outside_the_space_name_value_and_count(tmp_path: Path) -> None:
    label = LABEL.copy()
    label[0, :3], label[1, 0], label[2, :5] = 77, 40, 255
    path = _write(tmp_path / "a.png", _png(label))
    with pytest.raises(DataError, match=r"value 77 \(3 pixels\) and 1 more values"):
        images.read_label(path, num_classes=19)
    with pytest.raises(DataError, match="'cityscapes-19'"):
        images.read_label(path, label_space=load_label_space("cityscapes-19"))
    np.testing.assert_array_equal(images.read_label(path), label)


def test_images_of_every_kind_become_rgb(tmp_path: Path) -> None:
    rgb = RNG.integers(0, 256, (9, 14, 3), dtype=np.uint8)
    alpha = np.dstack([rgb, np.full((9, 14), 7, np.uint8)])
    np.testing.assert_array_equal(images.read_image(_write(tmp_path / "a", _png(rgb))), rgb)
    np.testing.assert_array_equal(images.read_image(_write(tmp_path / "b", _png(alpha))), rgb)
    grey = images.read_image(_write(tmp_path / "c", _png(rgb[..., 0])))
    np.testing.assert_array_equal(grey, np.dstack([rgb[..., 0]] * 3))
    Image.fromarray(rgb).save(tmp_path / "d.bmp")
    np.testing.assert_array_equal(images.read_image(tmp_path / "d.bmp"), rgb)
    assert images.image_size(tmp_path / "d.bmp") == images.image_size(tmp_path / "a") == (9, 14)


def test_jpeg_is_turned_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (32, 16), (250, 0, 0))
    picture.paste((0, 0, 250), (16, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise: the left, red half comes to the top
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = images.read_image(tmp_path / "a.jpg")
    assert images.image_size(tmp_path / "a.jpg") == image.shape[:2] == (32, 16)
    assert image[4, 8, 0] > 200 and image[28, 8, 2] > 200


def test_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    noise = RNG.integers(0, 256, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    path = _write(tmp_path / "a.jpg", buffer.getvalue()[:-900])
    with pytest.raises(DataError, match="truncated"):
        images.read_image(path)


def test_a_picture_that_claims_gigapixels_is_refused_early(tmp_path: Path) -> None:
    data = bytearray(_png(LABEL))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    path = _write(tmp_path / "a.png", bytes(data))
    for read in (images.read_image, images.read_label, images.image_size):
        with pytest.raises(DataError, match="60000x60000"):
            read(path)


def test_one_hot_comes_back(tmp_path: Path) -> None:
    label = LABEL.copy()
    label[3:6] = 255
    data = encode_one_hot(label, 19)
    assert data == encode_one_hot(label, 19)
    channels = load_one_hot(_write(tmp_path / "a.npz", data))
    assert channels.shape == (19, 23, 37)
    assert channels.dtype == np.uint8
    np.testing.assert_array_equal(channels, label == np.arange(19)[:, None, None])
    for broken in (b"", data[:-30], b"PK" + data[5:], LABEL.tobytes()):
        with pytest.raises(DataError):
            load_one_hot(_write(tmp_path / "b.npz", broken))
