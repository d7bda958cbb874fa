"""Polygons are painted as the official tools paint them, on every pixel."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from golden.make_cityscapes_golden import COUNT, ENCODINGS, GOLDEN, annotations, digest
from PIL import Image

from segcli import png
from segcli.data import rasterize
from segcli.data.polygons import read_polygons
from segcli.errors import DataError
from segcli.labels import load_label_space

PATH = Path("x_polygons.json")


def _ours(value: object) -> dict[str, str]:
    try:
        annotation = rasterize.parse_annotation(json.dumps(value).encode(), PATH)
    except DataError:
        return dict.fromkeys(ENCODINGS, "refused")
    ids = rasterize.paint_ids(annotation)
    found = {
        "labelIds": ids,
        "labelTrainIds": rasterize.train_id_lut()[ids],
        "color": rasterize.color_table()[ids],
        "instanceIds": rasterize.paint_instance_ids(annotation),
    }
    files = {name: png.encode(pixels) for name, pixels in found.items()}
    return {n: digest(np.asarray(Image.open(io.BytesIO(f)))) for n, f in files.items()}


def test_equals_the_official_tools() -> None:
    golden = json.loads(GOLDEN.read_text())
    differ = [name for name, value in annotations() if _ours(value) != golden.pop(name)]
    assert not differ
    assert not golden, "annotations that are no longer made"


def test_golden_covers_enough() -> None:
    values = list(annotations())
    assert len(values) >= COUNT
    objects = [o for _, v in values for o in v["objects"]]
    labels = {o["label"] for o in objects}
    assert {"license plate", "cargroup", "roadgroup", "no such label"} <= labels
    assert {1, 2} <= {len(o["polygon"]) for o in objects}
    assert any(o.get("deleted") for o in objects)
    assert any(v["imgWidth"] == 2048 for _, v in values)


def test_painting_through_a_table_equals_mapping_afterwards() -> None:
    lut = load_label_space("cityscapes-19").lut()
    for _, value in list(annotations())[20:60]:
        annotation = rasterize.parse_annotation(json.dumps(value).encode(), PATH)
        direct = rasterize.paint_ids(annotation, lut)
        np.testing.assert_array_equal(direct, lut[rasterize.paint_ids(annotation)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not a polygons file"),
        (b"[]", "not a polygons file"),
        (b"{", "not a polygons file"),
        (b"\xff\xfe", "not a polygons file"),
        (b"[" * 100_000, "not a polygons file"),
        (b'{"imgWidth": 4, "objects": []}', "imgHeight"),
        (b'{"imgWidth": 1e6, "imgHeight": 1e6, "objects": []}', "impossible image size"),
        (b'{"imgWidth": 0, "imgHeight": 4, "objects": []}', "impossible image size"),
        (b'{"imgWidth": 4, "imgHeight": 4, "objects": [3]}', "not a polygons file"),
    ],
)
def test_malformed_files_are_one_line(text: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        rasterize.parse_annotation(text, PATH)
    assert "\n" not in str(error.value)
    assert str(PATH) in str(error.value)


@pytest.mark.parametrize(
    "polygon",
    [
        "[[0, 0], [2147483648, 5], [3, 3]]",
        "[[0, 0], [99999999999999999999999, 5]]",
        "[[0, 0], [--5, 5]]",
        "[[0, 0, 5], [5]]",
        "[[0, 0], [1e999, 5]]",
        "[[NaN, 1], [2, 2]]",
        '[["a", "b"], ["c", "d"]]',
        "[[null, 1], [2, 2]]",
        "[[1], [2]]",
        "7",
    ],
)
def test_hostile_coordinates_are_refused(polygon: str) -> None:
    shape = f'{{"label": "car", "polygon": {polygon}}}'
    text = f'{{"imgWidth": 9, "imgHeight": 9, "objects": [{shape}]}}'
    with pytest.raises(DataError):
        rasterize.parse_annotation(text.encode(), PATH)


@pytest.mark.parametrize("indent", [None, 1])
def test_fast_and_plain_reader_agree(indent: int | None) -> None:
    for _, value in annotations():
        whole = json.loads(json.dumps(value), parse_float=lambda t: round(float(t)))
        text = json.dumps(whole, indent=indent, sort_keys=indent is not None)
        fast = read_polygons(text.encode(), rasterize.MAX_COORDINATE)
        if fast is None:
            assert not whole["objects"] or any(not o["polygon"] for o in whole["objects"])
            continue
        for got, o in zip(fast["objects"], whole["objects"], strict=True):
            assert got.pop("polygon").xy == [c for point in o.pop("polygon") for c in point]
        assert fast == whole
