"""Distillation, top to bottom: look at the teacher, train the student, hold it to its control.

The training itself is `train`'s, with a `Distillation` that adds to its steps. A control, where
one is asked for, comes first, in the run's folder ``control``: it is the same student without
the teacher, so that a teacher which has nothing to teach is found out before the work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from segcli import distributed, files
from segcli.checkpoint import has_checkpoint, load_checkpoint
from segcli.config import Config, DistillConfig
from segcli.data.manifest import Manifest, Sample, load_manifest
from segcli.data.mixing import Extra
from segcli.distributed import World
from segcli.errors import SegcliError
from segcli.inference.predictor import Predictor
from segcli.metrics.confusion import Scores
from segcli.recipes.distill_compare import Gain, compare_with_control
from segcli.recipes.distill_config import control_config
from segcli.recipes.distill_data import find_extra, prepare_frames
from segcli.recipes.distill_step import Distillation
from segcli.recipes.distill_teacher import Teacher, load_teacher
from segcli.recipes.evaluate import evaluate_model, evenly
from segcli.recipes.train import TrainResult, train
from segcli.recipes.training import plan
from segcli.recipes.training_guard import Interrupted
from segcli.recipes.training_validation import scores_of_all
from segcli.reporting.events import Reporter
from segcli.runs import find_checkpoint

CONTROL = "control"
# Coarse pictures on which teacher and labels are compared beforehand.
COMPARED = 50
MakeReporter = Callable[[Path], Reporter]


class WeakTeacherError(SegcliError):
    """A teacher that is no better than the student is without it."""


@dataclasses.dataclass(frozen=True)
class DistillResult:
    """How it ended: the student's run, and where there is a control what the student gained."""

    student: TrainResult
    gain: Gain | None = None


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


def distill(
    config: Config,
    *,
    folder: Path,
    device: torch.device,
    reporter: Reporter,
    reporter_for: MakeReporter,
    teacher: str | Path,
    resume: Path | None = None,
    baseline: Path | None = None,
    control: bool = False,
    insist: bool = False,
    world: World | None = None,
) -> DistillResult:
    """Train the student of `config` with `teacher`, in the run folder `folder`.

    Args:
        reporter: of the student's run.
        reporter_for: makes one for the folder of the control.
        resume: the ``last`` checkpoint of the student to go on from.
        baseline: a run or checkpoint of the same student trained alone.
        control: train that one first, with the same seed, data order and number of steps.
        insist: go on with a teacher that is no better than the student alone.

    Raises:
        WeakTeacherError: the teacher is no better than baseline or control.
        SegcliError: whatever `train` raises, and a teacher that cannot be used.
    """
    world = world or World()
    manifest = load_manifest(config.data.prepared, config.label_sources)
    job = Job(config, folder, device, world, manifest, reporter)
    if baseline is not None:
        baseline = find_checkpoint(baseline)
    taught = load_teacher(teacher, manifest.label_space, warn=reporter.warning)
    if world.is_main:
        prepare_frames(job.settings, manifest, reporter)
    distributed.wait(world)
    extra = find_extra(job.settings, manifest)
    control = control or (folder / CONTROL).is_dir()
    alone = known_control(job)
    if control and alone is None:
        alone = train_control(job, reporter_for)
    if resume is None:
        look_at(job, taught, extra, baseline or alone, insist)
    result = train(
        config,
        folder=folder,
        device=device,
        reporter=reporter,
        resume=resume,
        world=world,
        teach=lambda run: Distillation(run, taught, extra),
    )
    gain = None
    if control and alone is not None and world.is_main:
        gain = compare_with_control(folder / "last", alone, job.val, device, reporter)
        files.write_json(folder / "gain.json", gain.to_dict())
    distributed.wait(world)
    return DistillResult(result, gain)


# --- control ---------------------------------------------------------------------------------


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


def train_control(job: Job, reporter_for: MakeReporter) -> Path:
    """Train the student without its teacher, or go on with that; the last checkpoint.

    Raises:
        Interrupted: by a signal; the whole distillation goes on from there.
    """
    config, folder = control_config(job.config), job.folder / CONTROL
    if job.world.is_main:
        # From here on there is a run that --resume finds.
        text = yaml.safe_dump(job.config.to_dict(), sort_keys=False, allow_unicode=True)
        files.write_text(job.folder / "config.yaml", text)
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
        )
    except Interrupted as signal:
        signal.args = (f"{signal.what} (segcli distill --resume {job.folder} goes on there)",)
        raise
    finally:
        reporter.done()
    return folder / "last"


# --- the teacher -----------------------------------------------------------------------------


def look_at(job: Job, teacher: Teacher, extra: Extra, baseline: Path | None, insist: bool) -> None:
    """Score the teacher, hold it to the student alone, and to coarse labels where there are any.

    Raises:
        WeakTeacherError: it is no better, and nobody insists.
    """
    predictor = teacher.predictor(job.device)
    scores = _score(job, predictor, job.val, "teacher")
    line = f"teacher: val mIoU {scores.miou:.4f}"
    if baseline is None:
        job.reporter.message(
            f"{line} (no baseline is known; --control or --baseline RUN gives one)"
        )
    else:
        student = Predictor.from_checkpoint(find_checkpoint(baseline), device=str(job.device))
        alone = _score(job, student, job.val, "student alone")
        job.reporter.message(f"{line}, the student alone {alone.miou:.4f}")
        if not scores.miou > alone.miou:
            _weak(job, teacher, scores.miou, alone.miou, insist)
    if extra.coarse:
        _hold_to_coarse(job, predictor, extra)


def _weak(job: Job, teacher: Teacher, teachers: float, alone: float, insist: bool) -> None:
    what = f"the teacher's val mIoU {teachers:.4f} is no better than the student's own {alone:.4f}"
    if not insist:
        raise WeakTeacherError(what, file=teacher.path, hint="--insist goes on all the same")
    job.reporter.warning(what)


def _hold_to_coarse(job: Job, predictor: Predictor, extra: Extra) -> None:
    """Say where teacher and coarse labels agree: a class they do not share wants a look."""
    samples = evenly(extra.samples[: extra.coarse], COMPARED)
    scores = _score(job, predictor, samples, "teacher on coarse labels")
    job.reporter.message(
        f"teacher and coarse labels agree on {100 * scores.pixel_accuracy:.1f} % of the labelled "
        f"pixels of {len(samples)} pictures"
    )
    rows = [
        [name, f"{100 * share:.1f} %"]
        for name, share in zip(scores.class_names, scores.class_accuracy, strict=True)
        if share == share  # classes that occur
    ]
    title = "Of the pixels that coarse labels give to a class, the teacher gives it to"
    job.reporter.table(title, ["class", "share"], rows)


def _score(job: Job, predictor: Predictor, samples: list[Sample], title: str) -> Scores:
    """Of all processes together."""
    evaluation = evaluate_model(
        predictor,
        job.world.share(samples),
        job.manifest.label_space,
        batch_size=job.config.eval.batch_size,
        reporter=job.reporter,
        title=title,
    )
    return scores_of_all(evaluation, job.manifest.label_space, job.world, job.device)
