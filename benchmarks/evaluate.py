"""`segcli eval --predictions` beside the official Cityscapes evaluation, start-up included.

Both score the same PNGs, written by Pillow as those of the data set are: label ids, instance
ids and predictions with planted errors of demo frames at 2048x1024. They run in fresh processes
on the same cores, in turns; all scores are compared first, to 1e-12. The official tool, which
uses one core, runs in an environment of its own::

    python -m venv oracle
    oracle/bin/pip install cityscapesscripts "numpy<2.4" "pillow<11.3"
    python benchmarks/evaluate.py --oracle-python oracle/bin/python

'decode alone' is the limit: cv2 decodes the same three PNGs of each frame on all cores, and
nothing else is done. Then the confusion matrix of one frame, on one core, beside `np.bincount`
in its fastest form and in the textbook's. CPU seconds stand beside the clock's: where they are
less than the clock's, other programs were running, and the clock's ratio is worth little.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

ROOT = Path(__file__).resolve().parents[1]
SIZE = (1024, 2048)  # height, width
_IN_A_ROW = 10  # frames, so that each side finds the memory that it has left
_DECODE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import cv2
import numpy as np

def decode(path):
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED).shape

if __name__ == "__main__":
    files = [p for folder in sys.argv[2:] for p in sorted(Path(folder).rglob("*Ids*.png"))]
    with ThreadPoolExecutor(int(sys.argv[1])) as pool:
        print(len(list(pool.map(decode, files))))
"""


class Seconds(NamedTuple):
    """By the clock, and of all cores together."""

    clock: float
    cpu: float


def main(
    oracle_python: Annotated[
        Path, typer.Option(help="Python that has cityscapesscripts.", envvar="ORACLE_PYTHON")
    ],
    frames: Annotated[int, typer.Option(min=1, help="Frames to score.")] = 500,
    distinct: Annotated[int, typer.Option(help="Frames to draw; then they repeat.")] = 20,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 3,
    cores: Annotated[int, typer.Option(min=1, help="Cores for both sides.")] = 2,
    folder: Annotated[Path, typer.Option(help="Scratch, kept.")] = Path("benchmark-evaluate"),
) -> None:
    """Print seconds of each side, their ratios, and the limit."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))
    folder = folder.resolve()
    tree, said = _make_tree(folder, frames, min(distinct, frames))
    out, exported = folder / "out", folder / "exported"
    exported.mkdir(exist_ok=True)
    tool = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"
    official = [str(oracle_python), "-m", tool]
    where = {"CITYSCAPES_DATASET": tree, "CITYSCAPES_RESULTS": said}
    where["CITYSCAPES_EXPORT_DIR"] = exported
    ours = [sys.executable, "-m", "segcli", "eval", "--predictions", str(said), "--truth"]
    ours += [str(tree), "--out", str(out), "--official-json", "--ids", "label"]
    decode = [sys.executable, "-c", _DECODE, str(cores), str(tree), str(said)]
    seconds: dict[str, list[Seconds]] = {"official": [], "segcli": [], "decode alone": []}
    for run in range(runs):
        seconds["official"].append(_timed(official, {k: str(v) for k, v in where.items()}))
        seconds["segcli"].append(_timed(ours, {}))
        if run == 0:
            count = _compare(exported / "resultPixelLevelSemanticLabeling.json", out)
            typer.echo(f"{frames} frames; {count} scores equal to 1e-12")
        seconds["decode alone"].append(_timed(decode, {}))
    for name, values in seconds.items():
        clock, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        each = ", ".join(f"{s.clock:.2f}" for s in values)
        per_frame = 1000 * clock / frames
        typer.echo(
            f"{name:13s} {clock:7.2f} s {per_frame:6.1f} ms a frame, CPU {cpu:6.2f} ({each})"
        )
    _ratios(seconds)
    _confusion(next(tree.rglob("*labelIds.png")), next(said.rglob("*.png")))


def _ratios(seconds: dict[str, list[Seconds]]) -> None:
    """Each run is compared with its neighbours in time; the median of the ratios counts."""
    pairs = list(zip(seconds["official"], seconds["segcli"], seconds["decode alone"], strict=True))
    for what, a, b, need in (
        ("times as fast as the official tool", 0, 1, "3.5 or more"),
        ("times the time of decoding alone", 1, 2, "1.4 or less"),
    ):
        clock = statistics.median(run[a].clock / run[b].clock for run in pairs)
        cpu = statistics.median(run[a].cpu / run[b].cpu for run in pairs)
        typer.echo(
            f"{clock:.2f} {what} by the clock, {cpu:.2f} in CPU seconds (clock wanted: {need})"
        )


def _make_tree(folder: Path, frames: int, distinct: int) -> tuple[Path, Path]:
    """A Cityscapes tree of label and instance ids, and a folder of predictions."""
    from segcli.data.city import generate_city

    tree, said = folder / f"tree-{frames}-{distinct}", folder / f"said-{frames}-{distinct}"
    if tree.is_dir() and said.is_dir():
        return tree, said
    city = folder / f"city-{distinct}"
    if not city.is_dir():
        typer.echo(f"drawing {distinct} frames of the demo city ...")
        generate_city(city, size=SIZE, counts={"val": distinct}, drives=0)
    shutil.rmtree(tree, ignore_errors=True)
    shutil.rmtree(said, ignore_errors=True)
    labels = tree / "gtFine" / "val" / "benchmark"
    for path in (labels, said):
        path.mkdir(parents=True)
    sources = sorted((city / "gtFine").rglob("*_polygons.json"))[:distinct]
    for index in range(frames):
        names = [labels / _name(index, kind) for kind in ("labelIds", "instanceIds")]
        names.append(said / f"benchmark_{index:06d}_000019_predIds.png")
        if index < distinct:
            _write_frame(sources[index], names, index)
        else:
            for path in names:
                first = path.name.replace(f"{index:06d}", f"{index % distinct:06d}", 1)
                shutil.copyfile(path.with_name(first), path)
    return tree, said


def _name(index: int, kind: str) -> str:
    return f"benchmark_{index:06d}_000019_gtFine_{kind}.png"


def _write_frame(polygons: Path, names: list[Path], index: int) -> None:
    """Label ids, instance ids and a prediction: the truth shifted, with blocks and noise."""
    from PIL import Image

    from segcli.data.rasterize import paint_ids, paint_instance_ids, parse_annotation

    annotation = parse_annotation(polygons.read_bytes(), polygons)
    ids, generator = paint_ids(annotation), np.random.default_rng(index)
    said = np.roll(ids, (3, -5), (0, 1))
    for _ in range(12):
        y, x = generator.integers(0, SIZE[0] - 100), generator.integers(0, SIZE[1] - 200)
        said[y : y + 100, x : x + 200] = generator.integers(7, 34)
    said[generator.random(said.shape) < 0.0005] = 26
    for pixels, path in zip((ids, paint_instance_ids(annotation), said), names, strict=True):
        Image.fromarray(pixels).save(path)


def _timed(command: list[str], environment: dict[str, str]) -> Seconds:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Seconds(clock, cpu)


def _compare(official: Path, out: Path) -> int:
    """How many scores are numbers on both sides, and equal."""
    theirs = json.loads(official.read_text())
    mine: dict[str, Any] = json.loads((out / "official.json").read_text())
    count = 0
    for part in ("classScores", "classInstScores", "categoryScores", "categoryInstScores"):
        for name, score in theirs[part].items():
            absent = score is None or math.isnan(score)
            if absent != (mine[part][name] is None):
                raise SystemExit(f"{part} {name}: {score} and {mine[part][name]}")
            if not absent and abs(mine[part][name] - score) > 1e-12:
                raise SystemExit(f"{part} {name}: {score} and {mine[part][name]}")
            count += not absent
    return count


def _confusion(truth_file: Path, prediction_file: Path, rounds: int = 9) -> None:
    """The confusion matrix of one frame by train ids, on one core."""
    import cv2

    from segcli.data.images import read_label
    from segcli.labels import load_label_space
    from segcli.metrics.confusion import ConfusionMatrix

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    table = load_label_space("cityscapes-19").lut()
    truth, said = table[read_label(truth_file)], table[read_label(prediction_file)]
    said[said == 255] = 0
    matrix = ConfusionMatrix(19)

    def ours() -> Any:
        matrix.reset()
        matrix.update(truth, said)
        return matrix.matrix

    def fastest() -> Any:
        pairs = truth.astype(np.uint16) * np.uint16(256) + said
        return np.bincount(pairs.ravel(), minlength=2**16).reshape(256, 256)[:19, :19]

    def usual() -> Any:
        pairs = 19 * truth.astype(np.int64) + np.minimum(said, 18)
        return np.bincount(pairs.ravel(), minlength=361)[:361].reshape(19, 19)

    def textbook() -> Any:
        known = truth < 19
        pairs = 19 * truth[known].astype(np.int64) + said[known]
        return np.bincount(pairs, minlength=361).reshape(19, 19)

    sides: dict[str, Callable[[], Any]] = {
        "segcli": ours,
        "bincount": fastest,
        "usual": usual,
        "book": textbook,
    }
    if not all(np.array_equal(side(), ours()) for side in sides.values()):
        raise SystemExit("confusion matrices differ")
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.process_time()
            for _ in range(_IN_A_ROW):
                side()
            times[name].append(1000 * (time.process_time() - start) / _IN_A_ROW)
    ms = {name: statistics.median(values) for name, values in times.items()}
    typer.echo(f"confusion matrix of {SIZE[1]}x{SIZE[0]} on one core: {ms['segcli']:.2f} ms")
    for name, what in (
        ("bincount", "np.bincount in 16 bits"),
        ("usual", "np.bincount in 64 bits"),
        ("book", "the textbook's mask and np.bincount"),
    ):
        typer.echo(
            f"  {what}: {ms[name]:.2f} ms, {ms[name] / ms['segcli']:.2f} times (wanted: 2.5)"
        )


if __name__ == "__main__":
    typer.run(main)
