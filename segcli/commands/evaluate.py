"""`segcli eval`: scores of a checkpoint, or of a folder of predictions, on labelled images."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from segcli.commands.options import Device, Precision, views
from segcli.errors import UsageError


class Ids(StrEnum):
    """What the values of prediction PNGs are."""

    auto = "auto"
    label = "label"
    train = "train"


_Checkpoint = Annotated[
    Path | None,
    typer.Argument(
        metavar="[RUN|CHECKPOINT]", help="A run or a checkpoint; default: newest run's best."
    ),
]
_Prepared = Annotated[
    Path | None,
    typer.Option(help="Prepared data set; default: the one the run was validated on."),
]
_Splits = Annotated[
    list[str] | None,
    typer.Option("--split", help="Split to evaluate, can be repeated; default: the run's own."),
]
_Out = Annotated[Path | None, typer.Option(help="Folder for the results; default: RUN/eval/SPLIT.")]
_Pictures = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Panels of image, truth, prediction and errors to write; default: as in the config.",
    ),
]
_Limit = Annotated[
    int | None, typer.Option(min=1, help="Evaluate this many images, evenly spaced.")
]
_BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images at a time; default: as in the config.")
]
_Boundary = Annotated[
    bool | None,
    typer.Option(
        "--boundary/--no-boundary",
        help="Boundary IoU and F-score, error by distance; default: yes, but not of a folder.",
    ),
]
_Calibration = Annotated[
    bool,
    typer.Option("--calibration/--no-calibration", help="Is the confidence right? Temperature."),
]
_Report = Annotated[bool, typer.Option("--report/--no-report", help="Write report/index.html.")]
_Tta = Annotated[
    bool, typer.Option("--tta", help="Average views for every score, and audit each view.")
]
_Scales = Annotated[
    str | None, typer.Option(help="Scales of --tta; default: 1,1.25,1.5.", metavar="S,S")
]
_Flip = Annotated[bool, typer.Option("--flip/--no-flip", help="Flipped views in --tta.")]
_Stress = Annotated[
    bool, typer.Option("--stress", help="Score in rain, snow, fog, night, blur, noise, drops too.")
]
_Predictions = Annotated[
    Path | None,
    typer.Option(help="Score this folder of PNGs, by the official protocol, without a model."),
]
_Truth = Annotated[
    Path | None,
    typer.Option(
        envvar="CITYSCAPES_DATASET", help="Cityscapes tree with gtFine, for --predictions."
    ),
]
_Ids = Annotated[Ids, typer.Option(help="What those PNGs hold; auto looks at them.")]
_Submission = Annotated[
    Path | None, typer.Option(help="Write the PNGs for the Cityscapes server to this folder.")
]
_Official = Annotated[
    bool, typer.Option("--official-json", help="Write official.json as the official tool does.")
]
_Json = Annotated[
    bool, typer.Option("--json", help="Print the scores as JSON on stdout, all else on stderr.")
]


def evaluate(
    checkpoint: _Checkpoint = None,
    prepared: _Prepared = None,
    split: _Splits = None,
    out: _Out = None,
    pictures: _Pictures = None,
    limit: _Limit = None,
    batch_size: _BatchSize = None,
    boundary: _Boundary = None,
    calibration: _Calibration = True,
    report: _Report = True,
    tta: _Tta = False,
    scales: _Scales = None,
    flip: _Flip = True,
    stress: _Stress = False,
    predictions: _Predictions = None,
    truth: _Truth = None,
    ids: _Ids = Ids.auto,
    submission: _Submission = None,
    official_json: _Official = False,
    device: Device = None,
    precision: Precision = None,
    json: _Json = False,
) -> None:
    """Evaluate a checkpoint, or a folder of predictions: scores, audits, pictures, a report.

    docs/evaluation.md says what each score means.
    """
    from segcli.reporting.console import ConsoleReporter

    common: dict[str, Any] = {"prepared": prepared, "splits": split, "out": out, "limit": limit}
    common["reporter"] = reporter = ConsoleReporter(stderr=json)
    try:
        if predictions is not None:
            asks = tta or stress or submission is not None or scales is not None or not flip
            if checkpoint is not None or asks or pictures is not None or batch_size is not None:
                raise UsageError("--predictions is scored as it is, without a model")
            from segcli.environment import keep_freed_memory
            from segcli.recipes.evaluate_folder import evaluate_folder

            # Maps of one size come and go: giving their pages back took a fifth of the time.
            keep_freed_memory()
            also: dict[str, Any] = {"boundary": bool(boundary), "official_json": official_json}
            result, _ = evaluate_folder(predictions, truth=truth, ids=ids.value, **common, **also)
        else:
            from segcli.recipes.evaluate_run import evaluate_run
            from segcli.recipes.evaluate_setup import Extras

            averaged = views(tta, scales, flip)
            extras = Extras(
                boundary is not False,
                calibration,
                report,
                averaged,
                stress,
                submission,
                official_json,
            )
            common |= {"device": device, "precision": precision, "batch_size": batch_size}
            result, _ = evaluate_run(checkpoint, pictures=pictures, extras=extras, **common)
    finally:
        reporter.done()
    if json:
        from json import dumps

        typer.echo(dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
