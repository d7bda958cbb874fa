"""The demo: generate a city, then run the real commands on it, as a user would type them."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from segcli import files
from segcli.data.city import generate_city
from segcli.data.city.write import DRIVE_RATE, DRIVES, drive_folder
from segcli.errors import SegcliError
from segcli.reporting.events import Reporter

CITY = "city"
COUNTS = {"train": 200, "val": 40, "train_extra": 20}
SIZE = (256, 512)
DRIVE_FRAMES = 51  # three seconds
_STAGES = "train.stages"
DRIVE = drive_folder(Path(CITY), 0)
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("prepare-labels", CITY),
    ("train", "demo_fpn.yaml"),
    ("eval",),
    ("predict", f"{CITY}/{DRIVES}"),
    ("video", DRIVE.as_posix(), "--smooth", "--fps", f"{DRIVE_RATE:g}"),
    # Of a folder of runs the newest is meant. Last, for what is above takes the newest run too.
    # A demo goes on to its end with a teacher that was cut short, too.
    ("distill", "demo_distill.yaml", "--teacher", "runs", "--control", "--insist"),
)


def demo(folder: Path, *, seed: int, overrides: Sequence[str], reporter: Reporter) -> float:
    """Make the demo city in `folder` and take it through every command; returns seconds.

    Args:
        folder: created; a city that lies in it already is drawn again.
        seed: of the city.
        overrides: passed to `segcli train` as ``--set``; of the stages, to `distill` too.

    Raises:
        SegcliError: when one of the commands fails.
    """
    started = time.perf_counter()
    files.make_folder(folder)
    _generate(folder / CITY, seed, reporter)
    for command in COMMANDS:
        wanted = {"train": overrides, "distill": [o for o in overrides if o.startswith(_STAGES)]}
        extra = [word for o in wanted.get(command[0], ()) for word in ("--set", o)]
        _run([*command, *extra], folder, reporter)
    seconds = time.perf_counter() - started
    _show_where(folder, seconds, reporter)
    return seconds


def _generate(city: Path, seed: int, reporter: Reporter) -> None:
    height, width = SIZE
    total = sum(COUNTS.values()) + DRIVE_FRAMES
    reporter.message(f"demo city: {total} street scenes of {width}×{height} in {city}")
    with reporter.progress("drawing the city", total, unit="images") as progress:
        generate_city(
            city,
            size=SIZE,
            counts=COUNTS,
            seed=seed,
            drives=1,
            drive_frames=DRIVE_FRAMES,
            progress=lambda _done, _total: progress.advance(),
        )


def _run(arguments: Sequence[str], folder: Path, reporter: Reporter) -> None:
    """Run one real command in `folder`; its output goes straight to the user."""
    typed = f"segcli {shlex.join(arguments)}"
    reporter.message(f"\n$ {typed}")
    code = subprocess.run([sys.executable, "-m", "segcli", *arguments], cwd=folder).returncode
    if code:
        raise SegcliError(f"'{typed}' ended with exit code {code}", file=folder)


def _show_where(folder: Path, seconds: float, reporter: Reporter) -> None:
    runs = sorted((folder / "runs").glob("*"), key=lambda p: p.stat().st_mtime)
    run = next((r for r in reversed(runs) if (r / "eval").is_dir()), runs[-1])
    rows = [
        ["the city", f"{folder / CITY}/leftImg8bit"],
        ["labels as pictures", f"{folder}/prepared/cityscapes-19/labels"],
        ["the report, for a browser", f"{run}/eval/val/report/index.html"],
        ["scores and error pictures", f"{run}/eval/val"],
        ["predicted drive", f"{folder}/predictions/overlays"],
        ["the drive as a video", f"{folder}/videos/{DRIVE.name}.mp4"],
        ["what a small student gained", f"{runs[-1]}/gain.json"],
        ["curves", f"tensorboard --logdir {folder / 'runs'}"],
    ]
    reporter.message("")
    reporter.table(f"the whole job took {seconds / 60:.1f} minutes", ["what", "where"], rows)
