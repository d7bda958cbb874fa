"""Golden scores of the official Cityscapes evaluation on 104 pairs of demo frames.

`official_frames.json.xz` holds the polygons of 26 small frames of the demo city. Each gives
four pairs of truth and prediction: `pairs` plants errors (shifts, blocks, noise, swapped
classes, ignored labels that are predicted), and takes classes or all instances out of some
truths. The official tool scores every pair alone, all of them together, and those without
instances together; `official.json.xz` keeps what it said. To make it again::

    python -m venv oracle
    oracle/bin/pip install cityscapesscripts "numpy<2.4" "pillow<11.3"
    oracle/bin/python tests/golden/make_official_golden.py

With segcli installed, `python tests/golden/make_official_golden.py frames CITY` takes the
frames from a generated tree. The tests import `frames` and `planted` from here; all that is
random is arithmetic on whole numbers, which no version of a library changes.
"""

from __future__ import annotations

import json
import lzma
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
FRAMES, GOLDEN = HERE / "official_frames.json.xz", HERE / "official.json.xz"
# With instances of their own; in the official order of label ids.
INSTANCES = (
    "person", "rider", "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle",
    "bicycle",
)  # fmt: skip
PARTS = ("classScores", "classInstScores", "categoryScores", "categoryInstScores")
MEANS = (
    "averageScoreClasses", "averageScoreInstClasses", "averageScoreCategories",
    "averageScoreInstCategories",
)  # fmt: skip


class Case(NamedTuple):
    """A truth to paint and what to do to it; `index` seeds the planted errors."""

    name: str
    annotation: dict[str, Any]
    index: int


def frames() -> Iterator[Case]:
    """The 104 cases: every frame whole, twice, then without some classes or any instance."""
    stored = json.loads(lzma.decompress(FRAMES.read_bytes()))
    for number, (name, annotation) in enumerate(stored.items()):
        for turn in range(4):
            objects = annotation["objects"]
            if turn == 2:
                gone = {INSTANCES[number % 10], "road" if number % 3 else "building", "sky"}
                objects = [o for o in objects if o["label"].removesuffix("group") not in gone]
            elif turn == 3 and number % 2:
                kinds = {*INSTANCES, *(f"{label}group" for label in INSTANCES)}
                objects = [o for o in objects if o["label"] not in kinds]
            yield Case(f"{name}_{turn}", {**annotation, "objects": objects}, 4 * number + turn)


def _noise(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Whole numbers 0..65535, uint32 (H, W): a hash of position and seed."""
    rows, columns = np.indices(shape, dtype=np.uint32)
    mixed = rows * np.uint32(2654435761) ^ columns * np.uint32(2246822519)
    mixed ^= np.uint32((seed * 3266489917) % 2**32)
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(2246822519)
    mixed = (mixed ^ (mixed >> np.uint32(13))) * np.uint32(3266489917)
    return (mixed ^ (mixed >> np.uint32(16))) >> np.uint32(16)


def planted(truth: np.ndarray, index: int) -> np.ndarray:
    """A prediction, uint8 (H, W): `truth` (label ids) with errors; case 0 has none.

    Every label id may be predicted, those that the evaluation ignores as well.
    """
    if index == 0:
        return truth.copy()
    height, width = truth.shape
    if index == 1:
        return np.full_like(truth, 26)
    said = np.roll(truth, (index % 5 - 2, index % 7 - 3), (0, 1))
    if index % 2:
        noise = _noise(truth.shape, index)
        said = np.where(noise % 23 == 0, (noise // 23 % 34).astype(np.uint8), said)
    for block in range(index % 6):
        at = int(_noise((1, 4), 1000 * index + block)[0, 0]) % (height - 20)
        left = int(_noise((1, 4), 1000 * index + block)[0, 1]) % (width - 60)
        value = int(_noise((1, 4), 1000 * index + block)[0, 2]) % 34
        said[at : at + 20, left : left + 60] = value
    if index % 3 == 0:
        swaps = {24: 25, 26: 29, 33: 32, 27: 30, 7: 8, 8: 9}
        table = np.array([swaps.get(i, i) for i in range(256)], np.uint8)
        said = table[said]
    return said


def plain(result: dict[str, Any]) -> dict[str, Any]:
    """The scores of an official result, NaN as null."""

    def value(score: float) -> float | None:
        return None if math.isnan(score) else score

    parts = {part: {k: value(v) for k, v in result[part].items()} for part in PARTS}
    return {**parts, **{name: value(result[name]) for name in MEANS}}


def _official(predictions: list[Path], truths: list[Path]) -> dict[str, Any]:
    import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as tool  # noqa: N813

    tool.args.quiet, tool.args.JSONOutput = True, False
    pair = [str(p) for p in predictions], [str(p) for p in truths]
    return plain(tool.evaluateImgLists(*pair, tool.args))


def make() -> None:
    """Write `official.json.xz`; runs where the official tools are installed."""
    from cityscapesscripts.preparation.json2instanceImg import json2instanceImg
    from cityscapesscripts.preparation.json2labelImg import json2labelImg
    from PIL import Image

    results, files, bare = {}, [], []
    with tempfile.TemporaryDirectory() as folder:
        for case in frames():
            polygons = Path(folder, f"{case.name}_polygons.json")
            polygons.write_text(json.dumps(case.annotation))
            truth = Path(folder, f"{case.name}_labelIds.png")
            instances = Path(folder, f"{case.name}_instanceIds.png")
            json2labelImg(str(polygons), str(truth), "ids")
            json2instanceImg(str(polygons), str(instances), "ids")
            said = Path(folder, f"{case.name}_prediction.png")
            Image.fromarray(planted(np.asarray(Image.open(truth)), case.index)).save(said)
            results[case.name] = _official([said], [truth])
            files.append((said, truth))
            if np.asarray(Image.open(instances)).max() < 1000:
                bare.append(case.name)
        results["all"] = _official(*map(list, zip(*files, strict=True)))
        few = [pair for pair in files if pair[0].name.removesuffix("_prediction.png") in bare]
        results["without instances"] = _official(*map(list, zip(*few, strict=True)))
    value = {"without instances": bare, "results": results}
    GOLDEN.write_bytes(lzma.compress(json.dumps(value).encode(), preset=9))


def keep_frames(city: Path) -> None:
    """Copy labels and rounded polygons of the val frames of a generated Cityscapes tree."""
    kept = {}
    for path in sorted((city / "gtFine" / "val").glob("*/*_polygons.json")):
        value = json.loads(path.read_bytes())
        objects = [
            {"label": o["label"], "polygon": [[round(x), round(y)] for x, y in o["polygon"]]}
            for o in value["objects"]
        ]
        name = "_".join(path.name.split("_")[:3])
        kept[name] = {k: value[k] for k in ("imgHeight", "imgWidth")} | {"objects": objects}
    text = json.dumps(kept, separators=(",", ":"))
    FRAMES.write_bytes(lzma.compress(text.encode(), preset=9))


if __name__ == "__main__":
    if sys.argv[1:2] == ["frames"]:
        keep_frames(Path(sys.argv[2]))
    else:
        make()
