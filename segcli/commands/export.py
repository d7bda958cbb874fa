"""`segcli export`: a checkpoint as ONNX and OpenVINO files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segcli.errors import SegcliError, UsageError


def export(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN|CHECKPOINT]", help="A run or a checkpoint; default: newest run's best."
        ),
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            help="onnx-fp32, onnx-fp16, onnx-int8, openvino-fp32, openvino-bf16, openvino-fp16, "
            "openvino-int8 or all; can be repeated. Default: onnx-fp32, openvino-bf16 and "
            "openvino-int8.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Fix the graph to pictures of this size; default: any."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for a folder per export; default: RUN/export.")
    ] = None,
    prepared: Annotated[
        Path | None,
        typer.Option(help="Prepared data set; default: the one the run was validated on."),
    ] = None,
    calibration: Annotated[
        int, typer.Option(min=1, help="Training images that int8 is calibrated on.")
    ] = 100,
    limit: Annotated[
        int, typer.Option(min=1, help="Validation images that exports are checked on.")
    ] = 100,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=100.0,
            help="Per cent of pixels that have to keep their class; default: 99.9 in fp32, 99.5 "
            "in bf16 and fp16, 95 in int8.",
        ),
    ] = None,
    max_loss: Annotated[
        float, typer.Option(min=0.0, help="Points of mIoU that may be lost.")
    ] = 0.5,
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Measure ms per image, torch's beside them.")
    ] = False,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the outcome as JSON on stdout, all else on stderr."),
    ] = False,
) -> None:
    """Export for ONNX Runtime and OpenVINO; every file is checked against the checkpoint."""
    from segcli.recipes.export import export_run
    from segcli.recipes.export_graph import DEFAULTS, TARGETS
    from segcli.recipes.export_parity import Limits
    from segcli.recipes.export_report import report_exports
    from segcli.reporting.console import ConsoleReporter

    reporter = ConsoleReporter(stderr=json)
    try:
        result = export_run(
            checkpoint,
            targets=tuple(TARGETS) if to and "all" in to else to or DEFAULTS,
            size=_size(size),
            out=out,
            prepared=prepared,
            calibration=calibration,
            limit=limit,
            limits=Limits(
                None if min_agreement is None else min_agreement / 100, loss=max_loss / 100
            ),
            measure=benchmark,
            reporter=reporter,
        )
        report_exports(result, reporter)
    finally:
        reporter.done()
    if json:
        from json import dumps

        typer.echo(dumps(result.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
    for done in result.exports:
        if done.path is not None and not json:
            typer.echo(f"{done.target}: {done.path}")
    failed = [e for e in result.exports if e.path is None]
    if failed:
        first = failed[0]
        raise SegcliError(
            f"{first.target} {first.parity.failure}; {len(failed)} of {len(result.exports)} "
            "exports failed the check and were not kept"
        )


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isascii() and width.isascii() and height.isdigit() and width.isdigit()):
        raise UsageError(f"not a size: '{text}'", hint="height x width in pixels, such as 352x480")
    size = int(height), int(width)
    if not all(1 <= side <= 16384 for side in size):
        raise UsageError(f"size {text} is out of range", hint="1 to 16384 pixels each way")
    return size
