"""`segcli train`: one YAML to a trained model."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segcli.commands.options import Device
from segcli.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from segcli.config import Config
    from segcli.distributed import World
    from segcli.recipes.train import TrainResult
    from segcli.reporting.events import Reporter


def train(
    config: Annotated[
        str | None,
        typer.Argument(help="A config file, or the name of a shipped one such as fpn.yaml."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=VALUE", help="Override a key of the config."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with a run folder, with the config that lies in it."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder in which run folders are made.")] = Path(
        "runs"
    ),
    run: Annotated[
        Path | None, typer.Option(help="Exact run folder; the default is RUNS/CONFIG-TIME.")
    ] = None,
    device: Device = None,
    print_model: Annotated[
        bool,
        typer.Option("--print-model", help="Show layers, parameters and FLOPs, and stop."),
    ] = False,
    preview: Annotated[
        bool,
        typer.Option("--preview", help="Draw what the network will see at every stage, and stop."),
    ] = False,
) -> None:
    """Train a model from a config.

    The run folder gets the resolved config, a log, TensorBoard events and the checkpoints
    'best' and 'last'. The data must be prepared first: segcli prepare-labels ROOT.
    """
    from segcli.config_file import load_config
    from segcli.distributed import world

    place = world()
    _leave_in_order()
    if resume is not None:
        if config is not None:
            raise UsageError("--resume takes its config from the run, leave CONFIG out")
        resume = resume.parent if resume.name in ("last", "best") else resume
        if not (resume / "config.yaml").is_file():
            raise CheckpointError("no run in this folder, it has no config.yaml", file=resume)
        settings = load_config(resume / "config.yaml", overrides or ())
    elif config is None:
        raise UsageError(
            "which config?", hint="segcli train fpn.yaml, or --resume RUN; --help lists more"
        )
    else:
        settings = load_config(config, overrides or ())
        if place.restarts:
            resume = _run_before_restart(run, runs)
        elif run is not None and run.exists() and (run.is_file() or any(run.iterdir())):
            raise UsageError("not an empty folder", file=run, hint="--resume goes on with a run")
    if print_model:
        _print_model(settings)
    elif preview:
        _preview(settings, run or runs / "preview")
    else:
        name = Path(str(config)).stem
        _train(settings, resume or run, (runs, name), device, resume, place)


def _leave_in_order() -> None:
    """Until training listens by itself, a signal ends the program with the usual exit code."""
    import signal
    import sys

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError):
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def _run_before_restart(run: Path | None, runs: Path) -> Path | None:
    """The run that torchrun has just started again, if it had come to its first checkpoint."""
    import json

    from segcli.checkpoint import has_checkpoint
    from segcli.distributed import launcher

    for folder in [run] if run is not None else sorted(runs.glob("*"), reverse=True):
        record = folder / "environment.json"
        if not record.is_file() or not has_checkpoint(folder / "last"):
            continue
        if run is not None or json.loads(record.read_text()).get("launcher") == launcher():
            return folder
    return None


def _new_folder(runs: Path, name: str) -> Path:
    """RUNS/CONFIG-TIME, with a number behind it when two runs start in one second."""
    import time

    from segcli.files import make_folder

    make_folder(runs)
    base = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1000):
        folder = runs / (base if number == 0 else f"{base}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
        except OSError:
            return make_folder(folder)
    raise UsageError("no free name for a run folder", file=runs)


def _train(
    settings: Config,
    folder: Path | None,
    named: tuple[Path, str],
    device: str | None,
    resume: Path | None,
    place: World,
) -> None:
    """Train in `folder`, or in a new one of (runs, name); rank zero makes it and speaks."""
    from segcli.distributed import from_main, process_group
    from segcli.environment import keep_freed_memory, resolve_device
    from segcli.recipes.train import train as run_training

    # Every process of a machine has a CUDA device of its own.
    several = place.size > 1 and device is None
    where = resolve_device(device, place.local_rank if several else None)
    if where.type == "cpu":
        keep_freed_memory()
    with process_group(where):
        made = folder is None
        if folder is None and place.is_main:
            folder = _new_folder(*named)
        folder = from_main(place, folder)
        if folder is None:
            raise UsageError("rank zero has named no run folder")
        reporter = _reporter(folder, resume, place)
        last = None if resume is None else folder / "last"
        try:
            result = run_training(
                settings, folder=folder, device=where, reporter=reporter, resume=last, world=place
            )
        except BaseException:
            # A run that never began leaves no folder for `eval` and `--resume` to stumble
            # over; its config is the last thing written before the first step.
            if made and place.is_main and not (folder / "config.yaml").exists():
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            reporter.done()
    if place.is_main:
        _show(result)


def _reporter(folder: Path, resume: Path | None, place: World) -> Reporter:
    from segcli.checkpoint import verify_or_previous
    from segcli.reporting.console import ConsoleReporter
    from segcli.reporting.events import NullReporter, Reporters
    from segcli.reporting.jsonl import JsonLinesReporter
    from segcli.reporting.tensorboard import TensorBoardReporter

    if not place.is_main:
        return NullReporter()
    # TensorBoard forgets the steps that the resumed run takes again.
    step = None if resume is None else verify_or_previous(folder / "last")[1]["step"]
    return Reporters(
        ConsoleReporter(),
        JsonLinesReporter(folder / "log.jsonl"),
        TensorBoardReporter(folder / "tensorboard", purge_step=step),
    )


def _show(result: TrainResult) -> None:
    minutes = result.seconds / 60
    typer.echo(
        f"trained {result.steps} steps in {minutes:.1f} min: val mIoU {result.last_miou:.4f} "
        f"at the end, {result.best_miou:.4f} at best"
    )
    typer.echo(f"run folder: {result.folder}")
    typer.echo(f"next: segcli eval {result.folder}")


def _preview(settings: Config, folder: Path) -> None:
    from segcli.recipes.preview import preview
    from segcli.reporting.console import ConsoleReporter

    path = preview(settings, out=folder, reporter=ConsoleReporter())
    typer.echo(f"what the network sees: {path}")


def _print_model(settings: Config) -> None:
    from segcli.recipes.describe_model import model_table
    from segcli.reporting.console import ConsoleReporter

    model_table(settings, ConsoleReporter())
