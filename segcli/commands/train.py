"""`segcli train`: one YAML to a trained model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segcli.commands.options import Device
from segcli.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from segcli.config import Config
    from segcli.recipes.train import TrainResult


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
) -> None:
    """Train a model from a config.

    The run folder gets the resolved config, a log, TensorBoard events and the checkpoints
    'best' and 'last'. The data must be prepared first: segcli prepare-labels ROOT.
    """
    from segcli.config_file import load_config

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
        if run is not None and run.exists() and (run.is_file() or any(run.iterdir())):
            raise UsageError("not an empty folder", file=run, hint="--resume goes on with a run")
    if print_model:
        _print_model(settings)
        return
    folder = resume or run or _new_folder(runs, Path(str(config)).stem)
    try:
        result = _train(settings, folder, device, resume)
    except BaseException:
        # A run that never began leaves no folder for `eval` and `--resume` to stumble over;
        # its config is the last thing written before the first step.
        if run is None and not (folder / "config.yaml").exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    _show(result)


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


def _train(settings: Config, folder: Path, device: str | None, resume: Path | None) -> TrainResult:
    from segcli.checkpoint import verify_or_previous
    from segcli.environment import keep_freed_memory, resolve_device
    from segcli.recipes.train import train as run_training
    from segcli.reporting.console import ConsoleReporter
    from segcli.reporting.events import Reporters
    from segcli.reporting.jsonl import JsonLinesReporter
    from segcli.reporting.tensorboard import TensorBoardReporter

    where = resolve_device(device)
    if where.type == "cpu":
        keep_freed_memory()
    last = None if resume is None else folder / "last"
    # TensorBoard forgets the steps that the resumed run takes again.
    step = None if last is None else verify_or_previous(last)[1]["step"]
    reporter = Reporters(
        ConsoleReporter(),
        JsonLinesReporter(folder / "log.jsonl"),
        TensorBoardReporter(folder / "tensorboard", purge_step=step),
    )
    try:
        return run_training(settings, folder=folder, device=where, reporter=reporter, resume=last)
    finally:
        reporter.done()


def _show(result: TrainResult) -> None:
    minutes = result.seconds / 60
    typer.echo(
        f"trained {result.steps} steps in {minutes:.1f} min: val mIoU {result.last_miou:.4f} "
        f"at the end, {result.best_miou:.4f} at best"
    )
    typer.echo(f"run folder: {result.folder}")
    typer.echo(f"next: segcli eval {result.folder}")


def _print_model(settings: Config) -> None:
    from segcli.recipes.describe_model import model_table
    from segcli.reporting.console import ConsoleReporter

    model_table(settings, ConsoleReporter())
