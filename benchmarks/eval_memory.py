"""Peak memory of `segcli eval`: with and without TTA on six scales, over few and many images.

    python benchmarks/eval_memory.py

An untrained MobileNetV2 FPN of 19 classes is evaluated in fresh processes, one image at a time,
on frames of the demo city: at 2048x1024 plainly and with twelve views (six scales, flipped or
not), where the second may take 1.25 times the first; and at 512x256 on 50 images and on 500,
which may make no difference. Images repeat; what is measured does not depend on what they show.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from segcli.checkpoint import save_checkpoint
from segcli.data.city import generate_city
from segcli.data.manifest import Manifest, load_manifest, write_manifest
from segcli.labels import load_label_space
from segcli.models.build import build_model
from segcli.recipes.prepare import prepare_labels
from segcli.reporting.events import NullReporter

SCALES = "0.5,0.75,1,1.25,1.5,1.75"
CONFIG = {"encoder": "mobilenet_v2", "decoder": "fpn", "num_classes": 19}


def main(
    large: Annotated[int, typer.Option(help="Images at 2048x1024.")] = 2,
    few: Annotated[int, typer.Option(help="Images at 512x256...")] = 50,
    many: Annotated[int, typer.Option(help="...and so many.")] = 500,
    precision: Annotated[str, typer.Option(help="Of the network.")] = "bf16",
    options: Annotated[str, typer.Option(help="More options for all runs of eval.")] = "",
) -> None:
    """Print MiB of each run and the ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = make_checkpoint(folder / "run" / "best")
        common = [str(checkpoint), "--batch-size", "1", "--pictures", "0", "--no-report"]
        common += ["--precision", precision, "--device", "cpu", *options.split()]
        frames = make_prepared(folder / "large", (1024, 2048), large)
        plain = peak([*common, "--prepared", str(frames), "--out", str(folder / "a")])
        typer.echo(f"2048x1024, {large} images: plain {plain:.0f} MiB")
        tta = ["--tta", "--scales", SCALES]
        views = peak([*common, *tta, "--prepared", str(frames), "--out", str(folder / "b")])
        typer.echo(
            f"2048x1024, {large} images: TTA on {SCALES} {views:.0f} MiB, "
            f"{views / plain:.2f} times as much (wanted: 1.25 or less)"
        )
        sizes = []
        for count in (few, many):
            small = make_prepared(folder / f"small-{count}", (256, 512), count)
            sizes.append(peak([*common, "--prepared", str(small), "--out", str(folder / "c")]))
            typer.echo(f"512x256, {count} images: {sizes[-1]:.0f} MiB")
        typer.echo(f"{sizes[1] / sizes[0]:.2f} times as much for {many} images as for {few}")


def make_checkpoint(folder: Path) -> Path:
    """An untrained network, as `segcli train` would save it."""
    torch.manual_seed(0)
    description = {
        "model_config": CONFIG,
        "label_space": load_label_space("cityscapes-19").to_dict(),
        "inference": {"precision": "fp32", "channels_last": True, "size": None},
        "training": {},
        "data": {"prepared": "", "train": ["train"], "val": ["val"]},
        "scores": {},
        "step": 0,
    }
    save_checkpoint(folder, build_model(**CONFIG).state_dict(), description)
    return folder


def make_prepared(folder: Path, size: tuple[int, int], count: int) -> Path:
    """Two frames of the demo city, prepared, then listed again and again under other names."""
    city = folder / "city"
    generate_city(city, size=size, counts={"train": 0, "val": 2}, drives=0)
    prepare_labels(city, reporter=NullReporter(), out=folder / "prepared")
    manifest = load_manifest(folder / "prepared")
    frames = manifest.split("val")
    samples = tuple(
        replace(frames[i % len(frames)], id=f"{frames[i % len(frames)].id}-{i}")
        for i in range(count)
    )
    write_manifest(
        Manifest(
            manifest.folder,
            manifest.source,
            manifest.layout,
            manifest.label_space,
            {**manifest.splits, "val": samples},
        )
    )
    return folder / "prepared"


def peak(arguments: list[str]) -> float:
    """MiB that `segcli eval` with `arguments` took at most."""
    command = [sys.executable, "-m", "segcli", "eval", *arguments]
    pid = os.spawnvpe(os.P_NOWAIT, command[0], command, {**os.environ, "COLUMNS": "100"})
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    # In KiB on Linux, in bytes on macOS.
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    typer.run(main)
