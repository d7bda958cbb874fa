"""`segcli eval`: a checkpoint's scores on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segcli.commands.options import Device, Precision


def evaluate(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN|CHECKPOINT]", help="A run or a checkpoint; default: newest run's best."
        ),
    ] = None,
    prepared: Annotated[
        Path | None,
        typer.Option(help="Prepared data set; default: the one the run was validated on."),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="Split to evaluate, can be repeated; default: the run's own."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; default: RUN/eval/SPLIT.")
    ] = None,
    pictures: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Panels of image, truth, prediction and errors to write; default: as in the "
            "config.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Evaluate this many images, evenly spaced.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images at a time; default: as in the config."),
    ] = None,
    device: Device = None,
    precision: Precision = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the scores as JSON on stdout, all else on stderr.")
    ] = False,
) -> None:
    """Evaluate a checkpoint: mIoU, IoU per class and category, accuracy, pictures."""
    from segcli.recipes.evaluate import evaluate_run
    from segcli.reporting.console import ConsoleReporter

    reporter = ConsoleReporter(stderr=json)
    try:
        result, _ = evaluate_run(
            checkpoint,
            prepared=prepared,
            splits=split,
            out=out,
            pictures=pictures,
            limit=limit,
            batch_size=batch_size,
            device=device,
            precision=precision,
            reporter=reporter,
        )
    finally:
        reporter.done()
    if json:
        from json import dumps

        typer.echo(dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
