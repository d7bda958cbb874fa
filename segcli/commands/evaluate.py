"""`segcli eval`: scores of a checkpoint, or of a folder of predictions, on labelled images."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segcli.commands.options import Device, Precision
from segcli.errors import UsageError

if TYPE_CHECKING:
    from segcli.inference.tta import TTA


class Ids(StrEnum):
    """What the values of prediction PNGs are."""

    auto = "auto"
    label = "label"
    train = "train"


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
    boundary: Annotated[
        bool | None,
        typer.Option(
            "--boundary/--no-boundary",
            help="Boundary IoU and F-score, error by distance; default: with a run, yes.",
        ),
    ] = None,
    calibration: Annotated[
        bool,
        typer.Option(
            "--calibration/--no-calibration", help="Reliability of the confidence, temperature."
        ),
    ] = True,
    tta: Annotated[
        bool,
        typer.Option("--tta", help="Average views for every score, and audit each view alone."),
    ] = False,
    scales: Annotated[
        str | None, typer.Option(help="Scales of --tta, such as 0.75,1,1.25 (the default).")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Flipped views in --tta.")] = True,
    stress: Annotated[
        bool, typer.Option("--stress", help="Score in rain, snow, fog, night, blur, noise, drops.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write report/index.html.")
    ] = True,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Score this folder of PNGs by the official protocol, without a model."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            envvar="CITYSCAPES_DATASET", help="Cityscapes root with gtFine, for --predictions."
        ),
    ] = None,
    ids: Annotated[
        Ids, typer.Option(help="What the PNGs hold: label ids, train ids, or find out.")
    ] = Ids.auto,
    submission: Annotated[
        Path | None,
        typer.Option(help="Write the PNGs for the Cityscapes test server to this folder."),
    ] = None,
    official_json: Annotated[
        bool,
        typer.Option("--official-json", help="Write official.json as the official tool does."),
    ] = False,
    device: Device = None,
    precision: Precision = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the scores as JSON on stdout, all else on stderr.")
    ] = False,
) -> None:
    """Evaluate a checkpoint, or a folder of predictions: scores, audits, pictures, a report.

    docs/evaluation.md says what each score means.
    """
    from segcli.reporting.console import ConsoleReporter

    common: dict[str, Any] = {"prepared": prepared, "splits": split, "out": out, "limit": limit}
    reporter = ConsoleReporter(stderr=json)
    try:
        if predictions is not None:
            if checkpoint is not None or tta or stress or submission is not None:
                raise UsageError("--predictions is scored as it is, without a model")
            from segcli.recipes.evaluate_folder import evaluate_folder

            result, _ = evaluate_folder(
                predictions,
                truth=truth,
                ids=ids.value,
                boundary=bool(boundary),
                official_json=official_json,
                reporter=reporter,
                **common,
            )
        else:
            from segcli.recipes.evaluate_run import Extras, evaluate_run

            extras = Extras(
                boundary=boundary is not False,
                calibration=calibration,
                report=report,
                tta=_views(scales, flip) if tta else None,
                stress=stress,
                submission=submission,
                official_json=official_json,
            )
            result, _ = evaluate_run(
                checkpoint,
                pictures=pictures,
                batch_size=batch_size,
                device=device,
                precision=precision,
                extras=extras,
                reporter=reporter,
                **common,
            )
    finally:
        reporter.done()
    if json:
        from json import dumps

        typer.echo(dumps(result, indent=2, ensure_ascii=False, allow_nan=False))


def _views(scales: str | None, flip: bool) -> TTA:
    from segcli.inference.tta import TTA

    if scales is None:
        return TTA(flip=flip)
    try:
        return TTA(flip=flip, scales=tuple(float(s) for s in scales.split(",")))
    except ValueError:
        raise UsageError(f"--scales takes numbers, not '{scales}'", hint="0.75,1,1.25") from None
