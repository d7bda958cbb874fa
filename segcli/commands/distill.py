"""`segcli distill`: a small student that learns from a large teacher."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segcli.commands.options import Device
from segcli.commands.train import Folders, leave_in_order, reporter_of
from segcli.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from segcli.config import Config
    from segcli.distributed import World
    from segcli.recipes.distill import DistillResult


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What the command line says beside config and folders."""

    teacher: str
    device: str | None
    control: bool
    insist: bool
    baseline: Path | None


def distill(
    config: Annotated[
        str | None,
        typer.Argument(
            help="A config file, or the name of a shipped one; default: the student of "
            "distill.yaml, trained as its teacher was."
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(metavar="RUN|CHECKPOINT", help="The teacher: a run, or a checkpoint."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|CHECKPOINT",
            help="The same student trained alone: a teacher no better than it is refused.",
        ),
    ] = None,
    control: Annotated[
        bool,
        typer.Option(
            "--control", help="Train the student alone too, first, and show what it gained."
        ),
    ] = False,
    insist: Annotated[
        bool, typer.Option("--insist", help="Take a teacher that is no better, too.")
    ] = False,
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
        Path | None,
        typer.Option("--run-dir", help="Exact run folder; the default is RUNS/CONFIG-TIME."),
    ] = None,
    device: Device = None,
) -> None:
    """Train a small student with a trained teacher, on fine, coarse and unlabelled pictures.

    The run folder is that of a training; with --control the student's own lies in it.
    """
    from segcli.distributed import world
    from segcli.runs import run_to_resume

    leave_in_order()
    if resume is not None and config is not None:
        raise UsageError("--resume takes its config from the run, leave CONFIG out")
    if resume is not None:
        resume = run_to_resume(resume)
        settings = _of_run(resume, teacher, overrides or [])
    elif teacher is None:
        raise UsageError("which teacher?", hint="--teacher RUN, one that segcli train has made")
    else:
        settings = _of_config(config, teacher, overrides or [])
    asked = settings.distill.teacher if settings.distill is not None else None
    wishes = Wishes(str(asked), device, control, insist, baseline)
    _distill(settings, Folders(resume, run, runs, Path(config or "distill").stem), wishes, world())


def _of_run(folder: Path, teacher: Path | None, overrides: list[str]) -> Config:
    from segcli.config_file import load_config

    settings = load_config(folder / "config.yaml", overrides)
    if settings.distill is None or settings.distill.teacher is None:
        hint = f"segcli train --resume {folder}"
        raise CheckpointError("this run has no teacher", file=folder, hint=hint)
    if teacher is None:
        return settings
    distill = settings.distill.model_copy(update={"teacher": str(teacher)})
    return settings.model_copy(update={"distill": distill})


def _of_config(config: str | None, teacher: Path, overrides: list[str]) -> Config:
    from segcli.distributed import world
    from segcli.recipes.distill_config import student_config
    from segcli.recipes.distill_teacher import describe_teacher

    settings, said = student_config(config, describe_teacher(teacher), overrides)
    for line in said if world().is_main else ():
        typer.echo(line)
    return settings


def _distill(settings: Config, folders: Folders, wishes: Wishes, world: World) -> None:
    """Distil; rank zero decides where, and speaks."""
    from segcli.checkpoint import has_checkpoint
    from segcli.distributed import from_main, process_group
    from segcli.environment import keep_freed_memory, resolve_device
    from segcli.recipes.distill import Asked
    from segcli.recipes.distill import distill as run_distillation

    where = resolve_device(wishes.device, world.local_rank if world.size > 1 else None)
    if where.type == "cpu":
        keep_freed_memory()
    with process_group(where):
        decided = folders.place(settings) if world.is_main else None
        folder, goes_on = from_main(world, decided) or (folders.runs, False)
        last = folder / "last" if goes_on and has_checkpoint(folder / "last") else None
        reporter = reporter_of(folder, last, world)
        try:
            result = run_distillation(
                settings,
                folder=folder,
                device=where,
                reporter=reporter,
                reporter_for=lambda place: reporter_of(place, None, world),
                teacher=wishes.teacher,
                resume=last,
                asked=Asked(wishes.control, wishes.insist, wishes.baseline),
                goes_on=goes_on,
                world=world,
            )
        except BaseException:
            # As in train: what never began leaves no folder behind.
            made = folders.run is None and not goes_on and world.is_main
            if made and not (folder / "config.yaml").exists():
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            reporter.done()
    if world.is_main:
        _show(result)


def _show(result: DistillResult) -> None:
    student = result.student
    typer.echo(
        f"distilled {student.steps} steps in {student.seconds / 60:.1f} min: val mIoU "
        f"{student.last_miou:.4f} at the end, {student.best_miou:.4f} at best"
    )
    if result.gain is not None:
        before, after = result.gain.control[0], result.gain.student[0]
        typer.echo(f"the student alone: {before:.4f}, gained {100 * (after - before):+.2f} points")
    typer.echo(f"run folder: {student.folder}")
    typer.echo(f"next: segcli eval {student.folder}")
