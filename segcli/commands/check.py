"""`segcli check`: every fault of a data set, a config or the installation, at once."""

from __future__ import annotations

from typing import Annotated

import typer

from segcli.commands.options import Device


def check(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A raw data set, a prepared folder, a config (file or shipped name) or a run; "
            "default: the installation.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=VALUE", help="Override a key of the config."),
    ] = None,
    label_space: Annotated[
        str | None,
        typer.Option(help="Of a raw data set, as for prepare-labels; default: what fits the tree."),
    ] = None,
    mask_values: Annotated[
        str, typer.Option(help="Of masks of a raw images/ masks/ folder: 'index' or 'raw'.")
    ] = "index",
    device: Device = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the findings as JSON on stdout, progress on stderr."),
    ] = False,
) -> None:
    """Find all faults before a training does. Nothing is changed, nothing is fetched.

    Each finding has a stable code, see docs/checks.md. The exit code is 0 where there is no
    error, 1 where there is one, 2 for a target or an option that cannot be meant.
    """
    import json

    from segcli.recipes.check import check as run_check
    from segcli.recipes.check_report import show
    from segcli.reporting.console import ConsoleReporter

    reporter = ConsoleReporter(stderr=as_json)
    try:
        report = run_check(
            target,
            reporter=reporter,
            overrides=overrides or (),
            label_space=label_space,
            mask_values=mask_values,
            device=device,
        )
        if not as_json:
            show(report, reporter)
    finally:
        reporter.done()
    if as_json:
        # In ASCII: a file name that is no valid UTF-8 comes out as an escape, not as an error.
        typer.echo(json.dumps(report.to_dict(), indent=1))
    if report.errors:
        raise typer.Exit(1)
