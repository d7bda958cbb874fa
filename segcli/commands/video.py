"""`segcli video`: a film with the classes painted over it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from segcli.commands.options import Device, Precision, views
from segcli.errors import UsageError


class View(StrEnum):
    """What a frame of the video shows."""

    OVERLAY = "overlay"
    SIDE = "side-by-side"
    SPLIT = "split"
    MASK = "mask"


class Preset(StrEnum):
    """Presets of x264, the fastest first."""

    ULTRAFAST = "ultrafast"
    SUPERFAST = "superfast"
    VERYFAST = "veryfast"
    FASTER = "faster"
    FAST = "fast"
    MEDIUM = "medium"
    SLOW = "slow"


def video(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Video files, folders of frames, or a webcam: 0."),
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|CHECKPOINT", help="A run or a checkpoint; default: newest run's best."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the videos.")] = Path("videos"),
    tta: Annotated[
        bool, typer.Option("--tta", help="Average flipped and scaled views: slower, better.")
    ] = False,
    scales: Annotated[
        str | None, typer.Option(help="Scales of --tta; default: 1,1.25,1.5.", metavar="S,S")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Flipped views in --tta.")] = True,
    every: Annotated[
        int,
        typer.Option(min=1, help="Predict every Nth frame; between, move the last result along."),
    ] = 1,
    smooth: Annotated[
        bool, typer.Option("--smooth", help="Smooth over time, along the motion of the picture.")
    ] = False,
    smooth_strength: Annotated[
        float | None,
        typer.Option(min=0.0, max=0.98, help="How much of the past --smooth keeps; default: 0.65."),
    ] = None,
    view: Annotated[View, typer.Option(help="What a frame shows.")] = View.OVERLAY,
    opacity: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Of the colours over the picture.")
    ] = 0.5,
    contours: Annotated[
        bool, typer.Option("--contours/--no-contours", help="Outline the regions.")
    ] = True,
    legend: Annotated[
        bool, typer.Option("--legend/--no-legend", help="Name the classes at the foot.")
    ] = True,
    shares: Annotated[
        bool, typer.Option("--shares", help="Show how much of the picture each class takes.")
    ] = False,
    show_fps: Annotated[
        bool, typer.Option("--show-fps", help="Show frames per second in the corner.")
    ] = False,
    masks: Annotated[
        Path | None, typer.Option(help="Folder for an indexed PNG of every frame.")
    ] = None,
    audio: Annotated[bool, typer.Option("--audio/--no-audio", help="Keep the sound.")] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    fps: Annotated[
        float | None,
        typer.Option(min=0.1, max=240, help="Frames per second of a folder; default 25."),
    ] = None,
    crf: Annotated[
        int, typer.Option(min=0, max=51, help="x264 quality: lower is better and larger.")
    ] = 20,
    preset: Annotated[
        Preset, typer.Option(help="x264 preset: slower ones make smaller files.")
    ] = Preset.SUPERFAST,
    device: Device = None,
    precision: Precision = None,
) -> None:
    """Make videos one can show: H.264 that plays in a browser, with the sound of the input."""
    from segcli.environment import keep_freed_memory
    from segcli.inference.video_smooth import DEFAULT_STRENGTH
    from segcli.recipes.video import make_videos
    from segcli.recipes.video_make import VideoOptions
    from segcli.reporting.console import ConsoleReporter
    from segcli.reporting.video import Look

    if smooth_strength is not None and not smooth:
        raise UsageError("--smooth-strength says how strong --smooth is", hint="add --smooth")
    # What is neither there nor a camera's number is named by what looks for it.
    if fps is not None and any(
        name.isdecimal() if not Path(name).exists() else not Path(name).is_dir() for name in inputs
    ):
        raise UsageError("--fps is of folders of frames", hint="a video keeps its own rate")
    strength = DEFAULT_STRENGTH if smooth_strength is None else smooth_strength
    look = Look(view.value, opacity, contours, legend, shares, show_fps)
    options = VideoOptions(
        look=look,
        every=every,
        smooth=strength if smooth else None,
        masks=masks,
        audio=audio,
        limit=limit,
        rate=fps,
        crf=crf,
        preset=preset.value,
    )
    reporter = ConsoleReporter()
    # Frames of one size come and go: giving their pages back took 3 % of the time.
    keep_freed_memory()
    try:
        results = make_videos(
            inputs,
            checkpoint=checkpoint,
            out=out,
            tta=views(tta, scales, flip),
            options=options,
            device=device,
            precision=precision,
            reporter=reporter,
        )
    finally:
        reporter.done()
    faults = [result.fault for result in results if result.fault is not None]
    for fault in faults[1:]:
        typer.secho(f"error: {fault}", fg="red", err=True)
    if faults:
        raise faults[0]
