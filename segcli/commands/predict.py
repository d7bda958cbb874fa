"""`segcli predict`: masks and overlays for pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segcli.commands.options import Device, Precision
from segcli.errors import DataError


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Image files, folders (recursive) or globs."),
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|CHECKPOINT", help="A run or a checkpoint; default: newest run's best."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for masks/ and overlays/.")] = Path(
        "predictions"
    ),
    opacity: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Of the colours over the picture.")
    ] = 0.55,
    overlay: Annotated[
        bool, typer.Option("--overlay/--no-overlay", help="Write overlays beside the masks.")
    ] = True,
    device: Device = None,
    precision: Precision = None,
) -> None:
    """Predict pictures: indexed PNG masks (pixel = class index) and overlays with a legend."""
    from segcli.recipes.predict import predict_files
    from segcli.reporting.console import ConsoleReporter

    reporter = ConsoleReporter()
    try:
        result = predict_files(
            inputs,
            checkpoint=checkpoint,
            out=out,
            opacity=opacity,
            overlays=overlay,
            device=device,
            precision=precision,
            reporter=reporter,
        )
    finally:
        reporter.done()
    if result.predicted:
        rate = result.predicted / result.seconds
        folders = f"{out / 'masks'}" + (f" and {out / 'overlays'}" if overlay else "")
        typer.echo(f"predicted {result.predicted} images, {rate:.1f} images/s: {folders}")
    if result.failed:
        total = result.predicted + len(result.failed)
        first = result.failed[0]
        what = f"{len(result.failed)} of {total} images could not be read, the first: {first.what}"
        raise DataError(what, file=first.file)
