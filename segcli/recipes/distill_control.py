"""The student alone: what a student with a teacher is held to, and how it is known again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from segcli import distributed, files
from segcli.checkpoint import has_checkpoint, load_checkpoint
from segcli.config import Config, DistillConfig
from segcli.data.manifest import Manifest, Sample
from segcli.distributed import World
from segcli.errors import SegcliError
from segcli.optim.precision import Precision
from segcli.recipes.distill_config import control_config
from segcli.recipes.distill_data import find_extra
from segcli.recipes.distill_step import Distillation
from segcli.recipes.train import train
from segcli.recipes.training import plan
from segcli.recipes.training_guard import Interrupted
from segcli.recipes.training_setup import begin_run
from segcli.reporting.events import Reporter

CONTROL = "control"
# What was asked for, for a run that goes on.
ASKED = "asked.json"
MakeReporter = Callable[[Path], Reporter]


@dataclasses.dataclass(frozen=True)
class Job:
    """What all parts of a distillation share."""

    config: Config
    folder: Path
    device: torch.device
    world: World
    manifest: Manifest
    reporter: Reporter

    @property
    def settings(self) -> DistillConfig:
        return self.config.distill or DistillConfig()

    @property
    def val(self) -> list[Sample]:
        return [s for name in self.config.data.val for s in self.manifest.split(name)]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the command line wants of a distillation beside its config.

    Attributes:
        control: train the student alone, and compare.
        insist: go on with a teacher that is no better.
        baseline: a checkpoint of the student alone.
    """

    control: bool = False
    insist: bool = False
    baseline: Path | None = None

    def kept(self, job: Job, *, goes_on: bool) -> Asked:
        """With what was asked for when the run began; from here on the run remembers it."""
        before: dict[str, Any] = {}
        stored = (job.folder / ASKED).is_file()
        if goes_on and stored:
            before = files.read_json(job.folder / ASKED)
        baseline = self.baseline or (Path(before["baseline"]) if before.get("baseline") else None)
        merged = Asked(
            self.control or bool(before.get("control")),
            self.insist or bool(before.get("insist")),
            baseline,
        )
        if job.world.is_main and (stored or merged != Asked()):
            value = dataclasses.asdict(merged)
            value["baseline"] = None if baseline is None else str(baseline.resolve())
            files.write_json(job.folder / ASKED, value)
        return merged


def known_control(job: Job) -> Path | None:
    """The last checkpoint of a finished control of this very student, here or in a run beside.

    It has the same config, and the same data to the last label.
    """
    wanted = control_config(job.config)
    samples = sum(len(job.manifest.split(name)) for name in wanted.data.train)
    steps = plan(wanted.train.stages, samples)[-1].end_step
    found = None
    if job.world.is_main:
        beside = sorted(job.folder.parent.glob(f"*/{CONTROL}"), reverse=True)
        for folder in dict.fromkeys([job.folder / CONTROL, *beside]):
            if found is None and _is_control(folder / "last", wanted, steps, job.manifest):
                found = folder / "last"
    found = distributed.from_main(job.world, found)
    if found is not None:
        job.reporter.message(f"the student alone is known: {found}")
    return found


def _is_control(last: Path, wanted: Config, steps: int, manifest: Manifest) -> bool:
    if not has_checkpoint(last):
        return False
    try:
        checkpoint = load_checkpoint(last)
    except SegcliError:
        return False
    same_data = checkpoint.data.get("fingerprint") == manifest.fingerprint()
    return checkpoint.training == wanted.to_dict() and checkpoint.step == steps and same_data


def train_control(job: Job, reporter_for: MakeReporter, precision: Precision | None = None) -> Path:
    """Train the student without its teacher, or go on with that; the last checkpoint.

    Args:
        precision: the student's, where it has begun; None chooses.

    Raises:
        Interrupted: by a signal; the whole distillation goes on from there.
    """
    config, folder = control_config(job.config), job.folder / CONTROL
    if job.world.is_main:
        begin_run(job.folder, job.config, job.device, job.world)
    job.reporter.message(f"control: the student alone, in {folder}")
    settings = config.distill
    extra = None if settings is None else find_extra(settings, job.manifest, coarse_only=True)
    reporter = reporter_for(folder)
    try:
        train(
            config,
            folder=folder,
            device=job.device,
            reporter=reporter,
            resume=folder / "last" if has_checkpoint(folder / "last") else None,
            world=job.world,
            teach=None if extra is None else lambda run: Distillation(run, None, extra),
            precision=precision,
        )
    except Interrupted as signal:
        signal.args = (f"{signal.what} (segcli distill --resume {job.folder} goes on there)",)
        raise
    finally:
        reporter.done()
    return folder / "last"


def precision_of(control: Path | None) -> Precision | None:
    """The arithmetic that a control was trained in, for the student to be trained in it too."""
    if control is None:
        return None
    stored = load_checkpoint(control).inference
    return Precision(str(stored.get("precision", "fp32")), bool(stored.get("channels_last")))
