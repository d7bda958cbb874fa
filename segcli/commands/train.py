"""`segcli train`: one YAML to a trained model."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segcli.commands.options import Device
from segcli.errors import SegcliError, UsageError

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
    # torchrun takes any word that begins like an option of its own, --run among them.
    run: Annotated[
        Path | None,
        typer.Option("--run-dir", help="Exact run folder; the default is RUNS/CONFIG-TIME."),
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
    from segcli.runs import run_to_resume

    leave_in_order()
    if resume is not None:
        if config is not None:
            raise UsageError("--resume takes its config from the run, leave CONFIG out")
        resume = run_to_resume(resume)
        settings = load_config(resume / "config.yaml", overrides or ())
    elif config is None:
        raise UsageError(
            "which config?", hint="segcli train fpn.yaml, or --resume RUN; --help lists more"
        )
    else:
        settings = load_config(config, overrides or ())
    if print_model:
        _print_model(settings)
    elif preview:
        _preview(settings, run or runs / "preview")
    else:
        if settings.distill is not None and resume is None:
            typer.echo("without its teacher: segcli distill takes what 'distill' says")
        _train(settings, Folders(resume, run, runs, Path(str(config)).stem), device, world())


def leave_in_order() -> None:
    """Until training listens by itself, a signal ends the program with the usual exit code."""
    import signal
    import sys

    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is signal.SIG_IGN:
            continue  # a job in the background is not meant to hear its terminal's Ctrl-C
        with contextlib.suppress(ValueError):
            signal.signal(number, lambda number, _: sys.exit(128 + number))


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the command line says of the run folder; `place` decides, on rank zero."""

    resume: Path | None
    run: Path | None
    runs: Path
    name: str

    def place(self, settings: Config) -> tuple[Path, bool]:
        """(the run folder, whether its run goes on)."""
        if self.resume is not None:
            return self.resume, True
        before = self._before_restart(settings)
        if before is not None:
            return before, True
        run = self.run
        if run is None:
            return _new_folder(self.runs, self.name), False
        if run.exists() and not _may_begin_in(run):
            raise UsageError("not an empty folder", file=run, hint="--resume goes on with a run")
        return run, False

    def _before_restart(self, settings: Config) -> Path | None:
        """The run of this very job, which torchrun has started again, if it can go on."""
        from segcli.checkpoint import has_checkpoint
        from segcli.config_file import load_config
        from segcli.distributed import launcher
        from segcli.files import read_json

        if not (job := launcher()):
            return None
        candidates = [self.run] if self.run else sorted(self.runs.glob("*"), reverse=True)
        for folder in candidates:
            with contextlib.suppress(SegcliError, AttributeError):  # some other, broken run
                same = read_json(folder / "environment.json").get("launcher") == job
                same = same and load_config(folder / "config.yaml") == settings
                if same and any(has_checkpoint(p) for p in begun(folder)):
                    return folder
        return None


def _may_begin_in(folder: Path) -> bool:
    """Whether a folder is empty, or holds a run that never came to its first checkpoint."""
    from segcli.checkpoint import has_checkpoint

    if not folder.is_dir():
        return False
    usual = {"config.yaml", "environment.json", "log.jsonl", "tensorboard", "nonfinite"}
    usual |= {"asked.json", "control"}  # of a distillation
    names = {item.name for item in folder.iterdir() if not item.name.startswith(".")}
    return names <= usual and not any(has_checkpoint(p) for p in begun(folder))


def begun(folder: Path) -> tuple[Path, Path]:
    """Where the first checkpoint of a run lies; that of a distillation may be its control's."""
    return folder / "last", folder / "control" / "last"


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


def _train(settings: Config, folders: Folders, device: str | None, world: World) -> None:
    """Train; rank zero decides where, and speaks."""
    from segcli.distributed import from_main, process_group
    from segcli.environment import keep_freed_memory, resolve_device
    from segcli.recipes.train import train as run_training

    # Every process of a machine has a CUDA device of its own.
    where = resolve_device(device, world.local_rank if world.size > 1 else None)
    if where.type == "cpu":
        keep_freed_memory()
    with process_group(where):
        decided = folders.place(settings) if world.is_main else None
        folder, goes_on = from_main(world, decided) or (folders.runs, False)
        last = folder / "last" if goes_on else None
        reporter = reporter_of(folder, last, world)
        try:
            result = run_training(
                settings, folder=folder, device=where, reporter=reporter, resume=last, world=world
            )
        except BaseException:
            # A run that never began leaves no folder for `eval` and `--resume` to stumble
            # over; its config is the last thing written before the first step.
            made = folders.run is None and not goes_on and world.is_main
            if made and not (folder / "config.yaml").exists():
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            reporter.done()
    if world.is_main:
        _show(result)


def reporter_of(folder: Path, last: Path | None, world: World) -> Reporter:
    from segcli.checkpoint import verify_or_previous
    from segcli.reporting.console import ConsoleReporter
    from segcli.reporting.events import NullReporter, Reporters
    from segcli.reporting.jsonl import JsonLinesReporter
    from segcli.reporting.tensorboard import TensorBoardReporter

    if not world.is_main:
        return NullReporter()
    # TensorBoard forgets the steps that the resumed run takes again, those behind the checkpoint.
    step = None if last is None else verify_or_previous(last)[1]["step"] + 1
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
