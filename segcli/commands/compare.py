"""`segcli compare`: is one run better than another, by how much, and how sure is that?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from segcli.commands.options import Device
from segcli.errors import UsageError

_Runs = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="RUN...",
        help="Evaluated runs, or folders that segcli eval wrote; the first is the baseline. "
        "Runs that differ by their seed alone are taken together.",
    ),
]
_Arm = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=RUN,RUN", help="Seeds of one recipe under a name, can be repeated."),
]
_Eval = Annotated[
    str | None,
    typer.Option("--eval", metavar="NAME", help="Which of RUN/eval; default: what all have."),
]
_Common = Annotated[
    bool, typer.Option("--common", help="Where the images differ, compare on those in common.")
]
_Group = Annotated[
    bool, typer.Option("--group/--no-group", help="Take seeds of one recipe together.")
]
_Level = Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")]
_Draws = Annotated[int, typer.Option(min=100, max=1_000_000, help="Draws of the bootstrap.")]
_Seed = Annotated[int, typer.Option(min=0, help="Of the draws.")]
_Speed = Annotated[bool, typer.Option("--speed/--no-speed", help="Measure seconds per image here.")]
_Out = Annotated[Path, typer.Option(help="Folder for compare.json and index.html.")]
_AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on stdout, all else on stderr.")
]


def compare(
    runs: _Runs = None,
    arm: _Arm = None,
    evaluation: _Eval = None,
    common: _Common = False,
    group: _Group = True,
    level: _Level = 0.95,
    draws: _Draws = 10_000,
    seed: _Seed = 0,
    speed: _Speed = True,
    out: _Out = Path("comparison"),
    device: Device = None,
    as_json: _AsJson = False,
) -> None:
    """Compare evaluated runs: the difference of mIoU with its interval, curves and cost.

    Intervals come from a paired bootstrap over images, and with several seeds on both sides
    from the seeds as well. docs/compare.md says what they mean.
    """
    from segcli.recipes.compare import compare as run_comparison
    from segcli.reporting.console import ConsoleReporter

    reporter = ConsoleReporter(stderr=as_json)
    try:
        result = run_comparison(
            runs or (),
            arms=[_named(text) for text in arm or ()],
            evaluation=evaluation,
            common=common,
            group=group,
            level=level,
            draws=draws,
            seed=seed,
            speed=speed,
            device=device,
            out=out,
            reporter=reporter,
        )
    finally:
        reporter.done()
    if as_json:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))


def _named(text: str) -> tuple[str, list[Path]]:
    """NAME=RUN,RUN; a run whose own name has a comma is given by an --arm of its own."""
    name, equals, paths = text.partition("=")
    if not (name and equals and paths):
        raise UsageError(f"--arm takes NAME=RUN,RUN, not '{text}'")
    whole = Path(paths)
    return name, [whole] if whole.exists() else [Path(p) for p in paths.split(",") if p]
