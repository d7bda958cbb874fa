"""`segcli demo`: the whole job on a city that is drawn on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo lives.")] = Path("segcli-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of the city: another seed, another one.")] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=VALUE", help="Override a key of demo_fpn.yaml."),
    ] = None,
) -> None:
    """Draw a city, then prepare, train, evaluate, predict, make a video and distill: offline."""
    from segcli.recipes.demo import demo as run_demo
    from segcli.reporting.console import ConsoleReporter

    reporter = ConsoleReporter()
    try:
        run_demo(folder, seed=seed, overrides=overrides or (), reporter=reporter)
    finally:
        reporter.done()
