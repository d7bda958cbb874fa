"""The demo city: deterministic, in Cityscapes' layout, and worth learning from."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from segcli.data.city import (
    drive_scene,
    generate_city,
    optical_flow,
    render_drive_frame,
    render_frame,
)
from segcli.data.city.write import DRIVES
from segcli.errors import UsageError
from segcli.files import is_temporary

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
# labels of the official list that the generator also uses: void, rare, or painted elsewhere
OTHERS = {
    "license plate", "ego vehicle", "out of roi", "static", "dynamic", "parking", "rail track",
    "bridge", "guard rail", "persongroup", "bicyclegroup", "cargroup",
}  # fmt: skip
COUNTS = {"train": 3, "val": 2, "train_extra": 2, "test": 1}


def paint(objects: list[dict[str, Any]], size: tuple[int, int]) -> np.ndarray:
    """Object number + 1 under each pixel, painted as the official tools do; 0 is bare."""
    image = Image.new("I", (size[1], size[0]), 0)
    draw = ImageDraw.Draw(image)
    for number, item in enumerate(objects, 1):
        if item["label"] != "license plate":
            draw.polygon([tuple(p) for p in item["polygon"]], fill=number)
    return np.asarray(image)


def digest(root: Path) -> dict[str, str]:
    files = [p for p in root.rglob("*") if p.is_file()]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("city")
    generate_city(root, size=(64, 128), counts=COUNTS, drives=1, drive_frames=3, workers=1)
    return root


def test_the_same_bytes_with_one_and_two_workers(city: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    summary = generate_city(
        tmp_path, size=(64, 128), counts=COUNTS, drives=1, drive_frames=3, workers=2,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert digest(tmp_path) == digest(city)
    assert calls == [(i + 1, 11) for i in range(11)]
    assert summary.frames == COUNTS
    assert [p.relative_to(tmp_path).as_posix() for p in summary.drives] == [
        f"{DRIVES}/sternfurt_00"
    ]
    assert not [p for p in tmp_path.rglob("*") if is_temporary(p)]


def test_another_seed_another_city() -> None:
    first, again = render_frame(0, 0, (64, 128)), render_frame(0, 0, (64, 128))
    assert np.array_equal(first.image, again.image)
    assert first.objects == again.objects
    for other in (
        render_frame(1, 0, (64, 128)),
        render_frame(0, 1, (64, 128)),
        render_frame(0, 0, (64, 128), split=1),
    ):
        assert other.objects != first.objects
        assert not np.array_equal(other.image, first.image)


def test_files_are_named_as_in_cityscapes(city: Path) -> None:
    pattern = re.compile(
        r"(leftImg8bit|gtFine|gtCoarse)/(train|val|test|train_extra)/([a-z]+)/"
        r"\3_\d{6}_\d{6}_(leftImg8bit\.png|\1_polygons\.json)"
    )
    names = [n for n in digest(city) if not n.startswith(DRIVES)]
    assert all(pattern.fullmatch(n) for n in names)

    def number(kind: str, split: str) -> int:
        return len([n for n in names if n.startswith(f"{kind}/{split}/")])

    assert {s: number("leftImg8bit", s) for s in COUNTS} == COUNTS
    assert {s: number("gtFine", s) for s in COUNTS} == {**COUNTS, "test": 0, "train_extra": 0}
    assert {s: number("gtCoarse", s) for s in COUNTS} == {**COUNTS, "test": 0, "val": 0}
    cities = {s: {p.name for p in (city / "leftImg8bit" / s).iterdir()} for s in COUNTS}
    assert not cities["train"] & cities["val"]


def test_polygons_are_well_formed(city: Path) -> None:
    for path in city.rglob("*_polygons.json"):
        content = json.loads(path.read_text())
        assert (content["imgHeight"], content["imgWidth"]) == (64, 128)
        assert content["objects"]
        for item in content["objects"]:
            assert item["label"] in {*CLASSES, *OTHERS}
            assert len(item["polygon"]) >= 3
            for x, y in item["polygon"]:
                assert isinstance(x, int) and isinstance(y, int)
                assert -128 <= x <= 256 and -64 <= y <= 128


def test_every_class_occurs_often_and_large_enough() -> None:
    size, seen, quirks = (128, 256), dict.fromkeys(CLASSES, 0), set()
    for index in range(12):
        objects = render_frame(0, index, size).objects
        painted = np.bincount(paint(objects, size).ravel(), minlength=len(objects) + 1)
        area = dict.fromkeys(CLASSES, 0)
        for item, pixels in zip(objects, painted[1:], strict=True):
            label = item["label"].removesuffix("group")
            quirks.add(item["label"])
            if label in area:
                area[label] += int(pixels)
        for label in CLASSES:
            seen[label] += area[label] > 0.001 * size[0] * size[1]
    assert min(seen.values()) >= 3, seen
    assert {"license plate", "persongroup", "static", "dynamic"} <= quirks


@pytest.mark.parametrize("size", [(32, 64), (241, 321), (96, 64)])
def test_polygons_agree_with_the_picture_at_any_size(size: tuple[int, int]) -> None:
    frame = render_frame(3, 1, size)
    assert frame.image.shape == (*size, 3) and frame.image.dtype == np.uint8
    painted = paint(frame.objects, size)
    assert (painted > 0).mean() > 0.99
    # `items` is what was drawn, pixel for pixel; outlines may round a corner here and there
    labels = np.array([o["label"] for o in frame.objects])
    covered = painted > 0
    same = labels[painted[covered] - 1] == labels[frame.items[covered]]
    assert same.mean() > 0.96


def test_coarse_outlines_stay_inside_their_objects() -> None:
    size = (128, 256)
    frame = render_frame(0, 2, size)
    coarse = frame.coarse_polygons()["objects"]
    painted = paint(coarse, size)
    covered = painted > 0
    assert 0.4 < covered.mean() < 0.95
    truth = np.array([o["label"] for o in frame.objects])[frame.items[covered]]
    drawn = np.array([o["label"] for o in coarse])[painted[covered] - 1]
    assert (truth == drawn).mean() > 0.97


def test_drives_move_forward_and_the_flow_follows(city: Path) -> None:
    folder = city / DRIVES / "sternfurt_00"
    motion = json.loads((folder / "motion.json").read_text())
    assert [f["frame"] for f in motion["frames"]] == sorted(p.name for p in folder.glob("*.png"))
    z = [f["position"][2] for f in motion["frames"]]
    assert np.allclose(np.diff(z), motion["metres_per_frame"]) and motion["metres_per_frame"] > 0

    size = (192, 384)
    before, after = (render_drive_frame(0, 2, step, 60, size) for step in (10, 11))
    assert drive_scene(0, 2, 60).speed == motion["metres_per_frame"]
    flow = optical_flow(before, after.camera)
    u, v = np.meshgrid(np.arange(size[1]), np.arange(size[0]))
    at = np.stack((u, v), axis=-1).astype(np.float32) + flow
    warped = cv2.remap(after.image, at[..., 0], at[..., 1], cv2.INTER_LINEAR)
    inside = (at >= 0).all(axis=-1) & (at[..., 0] < size[1] - 1) & (at[..., 1] < size[0] - 1)
    still = np.abs(before.image.astype(int) - after.image)[inside].mean()
    followed = np.abs(before.image.astype(int) - warped)[inside].mean()
    assert followed < 0.7 * still


@pytest.mark.parametrize(
    ("size", "counts"),
    [((8, 8), {"train": 1}), ((64, 128), {"training": 1}), ((64, 128), {"train": -1})],
)
def test_what_cannot_be_meant_is_refused(
    size: tuple[int, int], counts: dict[str, int], tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        generate_city(tmp_path / "city", size=size, counts=counts)
    assert not (tmp_path / "city").exists()
