"""The Typer application: the commands, and how errors leave the program.

Command modules import Typer and the standard library alone, so that `--help` and shell
completion answer without torch; what a command needs is imported in its body.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from segcli import __version__
from segcli.commands import (
    check,
    compare,
    demo,
    distill,
    evaluate,
    export,
    predict,
    prepare_labels,
    train,
    video,
)
from segcli.environment import prepare_process
from segcli.errors import SegcliError

app = typer.Typer(
    name="segcli",
    help="Semantic segmentation of street scenes: prepare labels, train, evaluate, predict.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("prepare-labels")(prepare_labels.prepare_labels)
app.command("check")(check.check)
app.command("train")(train.train)
app.command("distill")(distill.distill)
app.command("eval")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("predict")(predict.predict)
app.command("video")(video.video)
app.command("export")(export.export)
app.command("demo")(demo.demo)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"segcli {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Semantic segmentation of street scenes: prepare labels, train, evaluate, predict."""


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a user's mistake ends in one line on stderr and its exit code."""
    # albumentations would ask the network for its newest version at import.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # cv2 reads this at import; a picture that says it has 10^9 pixels is refused early.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**28))
    prepare_process()
    try:
        return app(arguments)
    except SegcliError as error:
        typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        # torch is not imported here; what it raises on a full device is known by its name.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
        typer.echo("the device has too little memory (smaller batches or crops help)", err=True)
        sys.exit(1)
