"""Golden hashes of what the official Cityscapes tools make of ~250 annotations.

The official tools need older libraries than segcli, so they run in an environment of their own
and leave `cityscapes.json` here: for each annotation and encoding a digest of the decoded
pixels, or "refused" where the tools raise. To make it again::

    python -m venv oracle
    oracle/bin/pip install cityscapesscripts "numpy<2.4" "pillow<11.3"
    oracle/bin/python tests/golden/make_cityscapes_golden.py

`frames/` holds polygons of full 2048x1024 frames of the demo city, fine and coarse; with
segcli installed, `python tests/golden/make_cityscapes_golden.py frames CITY` copies them from
a generated tree. The tests import `annotations` and `digest` from here.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
GOLDEN = HERE / "cityscapes.json"
COUNT = 240
ENCODINGS = ("labelIds", "labelTrainIds", "color", "instanceIds")
# fmt: off
LABELS = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic",
    "ground", "road", "sidewalk", "parking", "rail track", "building", "wall", "fence",
    "guard rail", "bridge", "tunnel", "pole", "polegroup", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "caravan",
    "trailer", "train", "motorcycle", "bicycle", "license plate",
)
# fmt: on
GROUPS = ("cargroup", "persongroup", "ridergroup", "bicyclegroup", "roadgroup", "polegroupgroup")
Annotation = dict[str, Any]


class _Random(random.Random):
    """Draws from `random()` alone, whose sequence no version of Python changes."""

    def below(self, n: int) -> int:
        return int(self.random() * n)

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def one_of(self, options: Any) -> Any:
        return options[self.below(len(options))]


def _polygon(rng: _Random, width: int, height: int) -> list[list[float]]:
    kind = rng.random()
    count = 2 if kind < 0.1 else rng.between(3, 14)
    reach = rng.one_of((0, 0, 20, 300, 100_000 if kind > 0.9 else 5))
    points: list[list[float]] = []
    for _ in range(count):
        x, y = rng.between(-reach, width + reach), rng.between(-reach, height + reach)
        points.append([x, y])
    if 0.1 < kind < 0.2:
        points = [[x + rng.random(), y - rng.random()] for x, y in points]
    elif 0.2 < kind < 0.25:
        points = [[x, points[0][1]] for x, _ in points]
    elif 0.25 < kind < 0.3:
        points = [[points[0][0], y] for _, y in points]
    elif 0.3 < kind < 0.4:
        points += points[:2]
    return points


def _object(rng: _Random, width: int, height: int) -> dict[str, Any]:
    label = rng.one_of(GROUPS) if rng.random() < 0.15 else rng.one_of(LABELS)
    if rng.random() < 0.2:
        label = rng.one_of(("car", "person", "bicycle"))
    value: dict[str, Any] = {"label": label, "polygon": _polygon(rng, width, height)}
    chance = rng.random()
    if chance < 0.1:
        value["deleted"] = rng.one_of((1, 1, True, 2))
        if chance < 0.03:
            value["polygon"] = value["polygon"][:1]
        elif chance < 0.06:
            value["label"] = "no such label"
    elif chance < 0.3:
        value |= {"deleted": 0, "verified": 1, "id": rng.below(99), "user": "u", "date": "d"}
    if label == "license plate" and chance > 0.8:
        value["polygon"] = value["polygon"][:1]
    return value


def _special() -> Iterator[tuple[str, Annotation]]:
    square = [[2, 2], [30, 2], [30, 20], [2, 20]]

    def made(*objects: dict[str, Any]) -> Annotation:
        return {"imgWidth": 40, "imgHeight": 24, "objects": list(objects)}

    yield "empty", made()
    yield "one_point", made({"label": "car", "polygon": [[5, 5]]})
    yield "no_point", made({"label": "road", "polygon": []})
    yield "one_point_group", made({"label": "cargroup", "polygon": [[5, 5]]})
    yield "one_point_plate", made({"label": "license plate", "polygon": [[5, 5]]})
    yield "two_points", made({"label": "person", "polygon": [[5, 5], [35, 19]]})
    yield "same_points", made({"label": "person", "polygon": [[5, 5], [5, 5]]})
    yield "unknown", made({"label": "dragon", "polygon": square})
    yield "unknown_group", made({"label": "dragongroup", "polygon": square})
    yield "group", made({"label": "group", "polygon": square})
    yield "plate_group", made({"label": "license plategroup", "polygon": square})
    plate = {"label": "license plate", "polygon": [[8, 8], [20, 8], [20, 14]]}
    yield "plate", made({"label": "car", "polygon": square}, plate)
    cars = [
        {"label": "car", "polygon": [[i % 40, i // 40], [i % 40 + 1, i // 40]]} for i in range(900)
    ]
    yield "many", made(*cars)
    outside = [[-100_000, -50], [90_000, -3], [70, 200_000], [-20, 12]]
    yield "outside", made({"label": "sky", "polygon": outside})


def annotations() -> Iterator[tuple[str, Annotation]]:
    """Names and polygons files: special cases, random ones, full frames of the demo city."""
    yield from _special()
    rng = _Random(20_160_420)
    for index in range(COUNT):
        width, height = rng.between(1, 160), rng.between(1, 96)
        objects = [_object(rng, width, height) for _ in range(rng.between(1, 25))]
        value = {"imgWidth": width, "imgHeight": height, "objects": objects}
        yield f"random_{index:03d}", value
    for path in sorted((HERE / "frames").glob("*.json.gz")):
        yield path.name.removesuffix(".json.gz"), json.loads(gzip.decompress(path.read_bytes()))


def digest(pixels: np.ndarray) -> str:
    """Digest of shape and values of a decoded image, uint8 or uint16."""
    if pixels.dtype != np.uint8:
        pixels = pixels.astype("<u2")
    text = f"{pixels.shape} {pixels.dtype.itemsize}".encode()
    return hashlib.sha256(text + np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]


def _official(polygons: Path, encoding: str) -> str:
    """Run the official converter on a file and digest the image it writes."""
    from cityscapesscripts.preparation.json2instanceImg import json2instanceImg
    from cityscapesscripts.preparation.json2labelImg import json2labelImg
    from PIL import Image

    image = polygons.with_suffix(".png")
    try:
        if encoding == "instanceIds":
            json2instanceImg(str(polygons), str(image), "ids")
        else:
            names = {"labelIds": "ids", "labelTrainIds": "trainIds", "color": "color"}
            json2labelImg(str(polygons), str(image), names[encoding])
    except (Exception, SystemExit):
        return "refused"
    with Image.open(image) as picture:
        return digest(np.asarray(picture))


def make() -> None:
    """Write `cityscapes.json`; runs where the official tools are installed."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name, value in annotations():
            polygons = Path(folder, f"{name}_polygons.json")
            polygons.write_text(json.dumps(value))
            found = {encoding: _official(polygons, encoding) for encoding in ENCODINGS}
            lines.append(f"{json.dumps(name)}: {json.dumps(found)}")
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def keep_frames(city: Path, count: int = 3) -> None:
    """Copy the polygons of the first frames, fine and coarse, of a generated Cityscapes tree."""
    for kind in ("gtFine", "gtCoarse"):
        for path in sorted((city / kind).glob("*/*/*_polygons.json"))[:count]:
            text = json.dumps(json.loads(path.read_bytes()), separators=(",", ":"))
            target = HERE / "frames" / f"{path.stem.removesuffix('_polygons')}.json.gz"
            target.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    if sys.argv[1:2] == ["frames"]:
        keep_frames(Path(sys.argv[2]))
    else:
        make()
