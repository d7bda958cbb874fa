"""Distillation, top to bottom: look at the teacher, train the student, hold it to its control.

The training itself is `train`'s, with a `Distillation` that adds to its steps. A control, where
one is asked for, comes first, in the run's folder ``control``: it is the same student without
the teacher, so that a teacher which has nothing to teach is found out before the work.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from segcli import distributed, files
from segcli.config import Config
from segcli.data.manifest import load_manifest
from segcli.data.mixing import Extra
from segcli.distributed import World
from segcli.errors import ConfigError
from segcli.recipes.distill_compare import Gain, compare_with_control
from segcli.recipes.distill_control import (
    CONTROL,
    Asked,
    Job,
    MakeReporter,
    known_control,
    precision_of,
    train_control,
)
from segcli.recipes.distill_data import find_extra, prepare_frames
from segcli.recipes.distill_look import WeakTeacherError, look_at, warn_of_shared
from segcli.recipes.distill_step import Distillation, check_distillation
from segcli.recipes.distill_teacher import Teacher, check_sizes, load_teacher
from segcli.recipes.train import TrainResult, train
from segcli.recipes.training_setup import check_config
from segcli.reporting.events import Reporter
from segcli.runs import find_checkpoint

__all__ = ["CONTROL", "Asked", "DistillResult", "WeakTeacherError", "distill"]


@dataclasses.dataclass(frozen=True)
class DistillResult:
    """How it ended: the student's run, and where there is a control what the student gained."""

    student: TrainResult
    gain: Gain | None = None


def distill(
    config: Config,
    *,
    folder: Path,
    device: torch.device,
    reporter: Reporter,
    reporter_for: MakeReporter,
    teacher: str | Path,
    resume: Path | None = None,
    asked: Asked | None = None,
    goes_on: bool = False,
    world: World | None = None,
) -> DistillResult:
    """Train the student of `config` with `teacher`, in the run folder `folder`.

    Args:
        reporter: of the student's run.
        reporter_for: makes one for the folder of the control.
        resume: the ``last`` checkpoint of the student to go on from.
        asked: whether there is a control or another baseline, and what follows from it.
        goes_on: a run that was stopped, perhaps before its own first checkpoint; what was
            asked for when it began is asked for still.

    Raises:
        WeakTeacherError: the teacher is no better than baseline or control.
        SegcliError: whatever `train` raises, and a teacher that cannot be used.
    """
    world = world or World()
    manifest = load_manifest(config.data.prepared, config.label_sources)
    job = Job(config, folder, device, world, manifest, reporter)
    asked = asked or Asked()
    # One that is given is a question, also of a run that goes on; one remembered is answered.
    look = resume is None or asked.baseline is not None
    if asked.baseline is not None:
        asked = dataclasses.replace(asked, baseline=find_checkpoint(asked.baseline))
    taught = load_teacher(teacher, manifest.label_space, warn=reporter.warning)
    extra = _extra_pictures(job, taught)
    asked = asked.kept(job, goes_on=goes_on)
    if asked.control and config.train.patience:
        raise ConfigError(
            "train.patience would stop student and control at different steps",
            hint="--set train.patience=0, or leave --control out",
        )
    alone = known_control(job)
    if asked.control and alone is None:
        alone = train_control(job, reporter_for, precision_of(resume))
    if look:
        look_at(job, taught, extra, asked.baseline or alone, asked.insist)
    result = train(
        config,
        folder=folder,
        device=device,
        reporter=reporter,
        resume=resume,
        world=world,
        teach=lambda run: Distillation(run, taught, extra),
        precision=precision_of(alone),
    )
    return DistillResult(result, _gain(job, alone if asked.control else None))


def _extra_pictures(job: Job, teacher: Teacher) -> Extra:
    """The pictures that join the fine ones; what does not go together is said here.

    That is before a control is trained for an hour.
    """
    if job.world.is_main:
        prepare_frames(job.settings, job.manifest, job.reporter)
    distributed.wait(job.world)
    extra = find_extra(job.settings, job.manifest)
    check_config(job.config, job.manifest)
    check_distillation(job.config, job.manifest.label_space, extra, job.world)
    check_sizes(job.config, teacher)
    warn_of_shared(job, teacher, extra)
    return extra


def _gain(job: Job, control: Path | None) -> Gain | None:
    """Hold the student to its control, on rank zero, and write ``gain.json``."""
    gain = None
    if control is not None and job.world.is_main:
        size = job.config.eval.batch_size
        student = job.folder / "last"
        gain = compare_with_control(
            student, control, job.val, job.device, job.reporter, batch_size=size
        )
        files.write_json(job.folder / "gain.json", gain.to_dict())
    distributed.wait(job.world)
    return gain
