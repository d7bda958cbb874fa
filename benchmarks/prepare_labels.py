"""`segcli prepare-labels` beside the official `csCreateTrainIdLabelImgs`, start-up included.

Both turn the polygons of demo frames at 2048x1024 into train-id PNGs, from the same tree, in
fresh processes on the same cores, one after the other in turns; decoded pixels are compared
first. The official tool runs in an environment of its own::

    python -m venv oracle
    oracle/bin/pip install cityscapesscripts "numpy<2.4" "pillow<11.3"
    python benchmarks/prepare_labels.py --oracle-python oracle/bin/python

'paint alone' is a limit: parsing and painting by the same Pillow calls on all cores, nothing
else. CPU seconds stand beside the clock's: where they exceed what the cores had to give, other
programs were running, and the clock's ratio is worth little.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

ROOT = Path(__file__).resolve().parents[1]
SIZE = (1024, 2048)  # height, width
_PAINT = """
import sys
from multiprocessing import get_context
from pathlib import Path
from segcli.data.rasterize import paint_ids, parse_annotation

def paint(path):
    paint_ids(parse_annotation(path.read_bytes(), path))

if __name__ == "__main__":
    files = sorted(Path(sys.argv[1]).rglob("*_polygons.json"))
    with get_context("fork").Pool(int(sys.argv[2])) as pool:
        pool.map(paint, files, chunksize=8)
"""


class Seconds(NamedTuple):
    """By the clock, and of all cores together."""

    clock: float
    cpu: float


def main(
    oracle_python: Annotated[Path, typer.Option(help="Python that has cityscapesscripts.")],
    frames: Annotated[int, typer.Option(min=1, help="Annotation files to convert.")] = 500,
    distinct: Annotated[int, typer.Option(help="Frames to draw; then they repeat.")] = 50,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 3,
    cores: Annotated[int, typer.Option(min=1, help="Cores for both sides.")] = 2,
    folder: Annotated[Path, typer.Option(help="Scratch, kept.")] = Path("benchmark-prepare"),
) -> None:
    """Print seconds of each side, their ratio, and the limit."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))
    tree, out = folder.resolve() / f"tree-{frames}-{distinct}", folder.resolve() / "prepared"
    if not tree.is_dir():
        _make_tree(folder / "city", tree, frames, min(distinct, frames))
    official = [str(oracle_python), "-m", "cityscapesscripts.preparation.createTrainIdLabelImgs"]
    ours = [sys.executable, "-m", "segcli", "prepare-labels", str(tree), "--out", str(out)]
    paint = [sys.executable, "-c", _PAINT, str(tree), str(cores)]
    seconds: dict[str, list[Seconds]] = {"official": [], "segcli": [], "paint alone": []}
    for run in range(runs):
        _clean(tree, out)
        seconds["official"].append(_timed(official, {"CITYSCAPES_DATASET": str(tree)}))
        seconds["segcli"].append(_timed(ours, {}))
        if run == 0:
            typer.echo(f"{_compare(tree, out)} frames, equal on every pixel")
        seconds["paint alone"].append(_timed(paint, {}))
    middle = {n: statistics.median(s.clock for s in values) for n, values in seconds.items()}
    for name, value in middle.items():
        cpu = statistics.median(s.cpu for s in seconds[name])
        runs_text = ", ".join(f"{s.clock:.2f}" for s in seconds[name])
        per_frame = 1000 * value / frames
        typer.echo(
            f"{name:12s} {value:7.2f} s {per_frame:7.2f} ms a frame, CPU {cpu:6.2f} s ({runs_text})"
        )
    ratio, limit = middle["official"] / middle["segcli"], middle["official"] / middle["paint alone"]
    typer.echo(f"ratio {ratio:.2f}; were painting all there is to do: {limit:.2f}")


def _make_tree(city: Path, tree: Path, frames: int, distinct: int) -> None:
    """A Cityscapes tree of `frames` annotations; their images are links to a single file.

    Neither side decodes images; segcli reads their headers.
    """
    from segcli.data.city import generate_city

    if not city.is_dir():
        typer.echo(f"drawing {distinct} frames of the demo city ...")
        generate_city(city, size=SIZE, counts={"train": distinct}, drives=0)
    sources = sorted((city / "gtFine").rglob("*_polygons.json"))[:distinct]
    image = next((city / "leftImg8bit").rglob("*.png"))
    building = tree.with_name(tree.name + "-building")
    shutil.rmtree(building, ignore_errors=True)
    labels = building / "gtFine" / "train" / "benchmark"
    images = building / "leftImg8bit" / "train" / "benchmark"
    for path in (labels, images):
        path.mkdir(parents=True)
    for index in range(frames):
        key = f"benchmark_{index:06d}_000019"
        shutil.copyfile(sources[index % len(sources)], labels / f"{key}_gtFine_polygons.json")
        os.link(image, images / f"{key}_leftImg8bit.png")
    building.rename(tree)


def _clean(tree: Path, out: Path) -> None:
    for path in tree.rglob("*_labelTrainIds.png"):
        path.unlink()
    shutil.rmtree(out, ignore_errors=True)


def _timed(command: list[str], environment: dict[str, str]) -> Seconds:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Seconds(clock, cpu)


def _compare(tree: Path, out: Path) -> int:
    from segcli.data.images import read_label

    files = sorted(tree.rglob("*_gtFine_labelTrainIds.png"))
    for path in files:
        key = path.name.removesuffix("_gtFine_labelTrainIds.png")
        if (read_label(path) != read_label(out / "labels" / "train" / f"{key}.png")).any():
            raise SystemExit(f"pixels differ: {key}")
    return len(files)


if __name__ == "__main__":
    typer.run(main)
