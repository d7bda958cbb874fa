"""`segcli predict`: masks and overlays for pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segcli.commands.options import Device, Precision, views
from segcli.errors import DataError, UsageError

if TYPE_CHECKING:
    from segcli.recipes.predict import PredictResult

_Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT", help="Image files, folders (recursive), globs, or - for a list on stdin."
    ),
]
_Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN|CHECKPOINT",
        help="A run, a checkpoint or an exported file; default: newest run's best.",
    ),
]
_Out = Annotated[Path, typer.Option(help="Folder for masks/, overlays/ and predictions.json.")]
_Opacity = Annotated[float, typer.Option(min=0.0, max=1.0, help="Of the colours over the picture.")]
_Overlay = Annotated[
    bool, typer.Option("--overlay/--no-overlay", help="Write overlays beside the masks.")
]
_Confidence = Annotated[
    bool, typer.Option("--confidence", help="Write confidence/ too: grey PNGs, 255 is certain.")
]
_RejectBelow = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="P",
        help="Pixels whose class has a probability below P are unsure: a colour of their own "
        "and, in the mask, the value that training ignores.",
    ),
]
_PseudoLabels = Annotated[
    bool,
    typer.Option(
        "--pseudo-labels",
        help="Make --out a data set to train on: implies --confidence and, unless it is given, "
        "--reject-below 0.9.",
    ),
]
_Tta = Annotated[
    bool, typer.Option("--tta", help="Average flipped and scaled views: slower, better.")
]
_Scales = Annotated[
    str | None, typer.Option(help="Scales of --tta; default: 1,1.25,1.5.", metavar="S,S")
]
_Flip = Annotated[bool, typer.Option("--flip/--no-flip", help="Flipped views in --tta.")]
_Tile = Annotated[
    str,
    typer.Option(
        metavar="auto|HxW", help="Tiles for large pictures; auto cuts them where memory is short."
    ),
]
_BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Pictures of one size at a time; default: 1, and 8 on CUDA."),
]
_Redo = Annotated[bool, typer.Option("--redo", help="Predict again what is there already.")]
_Json = Annotated[
    bool, typer.Option("--json", help="Print predictions.json on stdout, all else on stderr.")
]

# Labels below are wrong too often to learn from.
_SURE = 0.9
# The least that the tiler cuts: two steps of its grid.
_SMALLEST_TILE = 64


def predict(
    inputs: _Inputs,
    checkpoint: _Checkpoint = None,
    out: _Out = Path("predictions"),
    opacity: _Opacity = 0.55,
    overlay: _Overlay = True,
    confidence: _Confidence = False,
    reject_below: _RejectBelow = None,
    pseudo_labels: _PseudoLabels = False,
    tta: _Tta = False,
    scales: _Scales = None,
    flip: _Flip = True,
    tile: _Tile = "auto",
    batch_size: _BatchSize = None,
    redo: _Redo = False,
    device: Device = None,
    precision: Precision = None,
    as_json: _Json = False,
) -> None:
    """Predict pictures: indexed PNG masks (pixel = class index) and overlays with a legend.

    Run again, it does what is missing. Started by torchrun, every process does a share.
    """
    from segcli.distributed import world
    from segcli.recipes.predict import predict_files
    from segcli.recipes.predict_output import Wanted
    from segcli.reporting.console import ConsoleReporter
    from segcli.reporting.events import NullReporter, Reporter

    if pseudo_labels:
        confidence = True
        reject_below = _SURE if reject_below is None else reject_below
    speaks = world().is_main
    reporter: Reporter = ConsoleReporter(stderr=as_json) if speaks else NullReporter()
    try:
        result = predict_files(
            inputs,
            checkpoint=checkpoint,
            out=out,
            wanted=Wanted(overlay, opacity, confidence, reject_below),
            tta=views(tta, scales, flip),
            tile=_tile(tile),
            batch_size=batch_size,
            redo=redo,
            pseudo_labels=pseudo_labels,
            device=device,
            precision=precision,
            reporter=reporter,
        )
    finally:
        reporter.done()
    if not speaks:
        return
    if as_json:
        typer.echo(json.dumps(result.summary, indent=2, allow_nan=False))
    else:
        _tell(result, out, overlay=overlay, confidence=confidence)
    if pseudo_labels and not as_json:
        typer.echo(f"next: --set 'data.train=[train, {out}]' on the config that trains with it")
    if result.failed:
        total = result.predicted + result.skipped + len(result.failed)
        first = result.failed[0]
        what = f"{len(result.failed)} of {total} images could not be read, the first: {first.what}"
        raise DataError(what, file=first.file)


def _tell(result: PredictResult, out: Path, *, overlay: bool, confidence: bool) -> None:
    folders = ["masks"] + ["overlays"] * overlay + ["confidence"] * confidence
    where = ", ".join(str(out / folder) for folder in folders)
    if result.predicted:
        rate = result.predicted / result.seconds
        typer.echo(f"predicted {result.predicted} images, {rate:.1f} images/s: {where}")
    if result.skipped:
        hint = "" if result.predicted else f": {where}"
        typer.echo(f"{result.skipped} were there already{hint} (--redo predicts them again)")


def _tile(text: str) -> str | tuple[int, int]:
    if text == "auto":
        return text
    size = re.fullmatch(r"(\d{2,5})[x×](\d{2,5})", text)
    if size is None or min(int(size[1]), int(size[2])) < _SMALLEST_TILE:
        raise UsageError(
            f"--tile takes auto or HxW in pixels, {_SMALLEST_TILE} at least, not '{text}'",
            hint="512x1024",
        )
    return int(size[1]), int(size[2])
