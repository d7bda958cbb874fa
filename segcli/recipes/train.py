"""Training, top to bottom: `train` sets up, `run_stages` walks, `train_stage` takes the steps.

A run folder holds the resolved config, the environment, a JSON-lines log, TensorBoard's
events, and the checkpoints ``last`` (to go on from) and ``best`` (to use).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from segcli.config import Config
from segcli.data.watch import blame
from segcli.distributed import World
from segcli.errors import ConfigError, DataError
from segcli.metrics.confusion import Scores
from segcli.optim.precision import Precision
from segcli.recipes.training import (
    Stage,
    Training,
    stage_data,
    stage_loader,
)
from segcli.recipes.training_freeze import freeze
from segcli.recipes.training_guard import (
    BufferCopy,
    StopRequest,
    StopWaiting,
    interrupted,
    note_nonfinite,
)
from segcli.recipes.training_preflight import preflight
from segcli.recipes.training_probe import probe
from segcli.recipes.training_setup import set_up, write_run_files
from segcli.recipes.training_state import save_best, save_last
from segcli.recipes.training_step import train_step
from segcli.recipes.training_teaching import Teaching
from segcli.recipes.training_validation import StopValidation, logged_scores, validate
from segcli.reporting.events import Reporter
from segcli.resources import memory_advice


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a run ended: `seconds` of training and validation, the last and best val mIoU."""

    folder: Path
    steps: int
    seconds: float
    last_miou: float
    best_miou: float


def train(
    config: Config,
    *,
    folder: Path,
    device: torch.device,
    reporter: Reporter,
    resume: Path | None = None,
    world: World | None = None,
    teach: Callable[[Training], Teaching] | None = None,
    precision: Precision | None = None,
) -> TrainResult:
    """Train `config` in the run folder `folder`, from the start or from a checkpoint.

    Args:
        resume: a ``last`` checkpoint to go on from; None starts anew.
        world: the place of this process among those that train together.
        teach: makes what `distill` adds to the run.
        precision: the arithmetic of another run that this one is compared with; taken where
            the config leaves it open, in the place of a measurement.

    Raises:
        SegcliError: data, weights, checkpoint or disk that cannot be used, in one line;
            `Interrupted` when a signal came, after ``last`` was written.
    """
    with StopRequest(world).listening() as stop:
        run = set_up(
            config,
            folder=folder,
            device=device,
            reporter=reporter,
            resume=resume,
            world=world,
            teach=teach,
            precision=precision,
        )
        for check in (preflight, probe):
            if not stop.agree(device):
                check(run)
        if stop.agree(device):
            raise interrupted(run, stop.asked)
        write_run_files(run)
        try:
            with memory_advice("training", "a smaller batch_size, or accumulate, needs less"):
                return run_stages(run, stop)
        except RuntimeError as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise _not_compiled(error) from error
            # A worker's death is heard wherever the run stands at that moment.
            raise blame(error, run.log, run.pictures) from error


def _not_compiled(error: RuntimeError) -> ConfigError:
    """Where `compile: on` insists; `auto` goes on without."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    return ConfigError(
        f"the network could not be compiled ({text[0][:160]})",
        hint="train.compile=auto or off, or install a C++ compiler such as g++",
    )


def run_stages(run: Training, stop: StopRequest) -> TrainResult:
    """Walk the stages from where the run stands, saving as it goes."""
    begun = run.step
    saved, due_after = time.monotonic(), run.config.train.checkpoint_minutes
    with run.reporter.progress("training", run.total_steps - run.step, unit="steps") as progress:
        if run.step and run.epochs_done < (epoch := _epochs_at(run)):
            finish_epoch(run, epoch, stop)
        for stage in run.stages:
            if run.step >= stage.end_step or run.out_of_patience():
                continue
            for losses in train_stage(run, stage, stop):
                progress.advance(loss=losses["total"])
                epoch, within = divmod(run.step - stage.first_step, stage.steps_per_epoch)
                minutes = (time.monotonic() - saved) / 60
                if within == 0:
                    finish_epoch(run, stage.first_epoch + epoch, stop)
                    saved = time.monotonic()
                elif stop.asked or (minutes >= due_after and not run.nonfinite):
                    save_last(run)
                    saved = time.monotonic()
                if stop.asked:
                    raise interrupted(run, stop.asked)
                if run.out_of_patience():
                    break
            if stop.asked:
                save_last(run)  # the signal came while it waited for data
                raise interrupted(run, stop.asked)
    return _result(run, begun)


def _result(run: Training, begun: int) -> TrainResult:
    if run.out_of_patience():
        settings = run.config.train
        run.reporter.message(
            f"stopped early: {settings.best_by} has not risen for {run.stale} validations"
        )
    elif run.step == begun:
        run.reporter.message("nothing left to train: the run had reached its last step")
    return TrainResult(run.folder, run.step, run.seconds, run.last_miou, run.best_miou)


def _epochs_at(run: Training) -> int:
    """Whole epochs behind the run's step."""
    return sum(
        min(s.config.epochs, max(0, run.step - s.first_step) // s.steps_per_epoch)
        for s in run.stages
    )


def train_stage(run: Training, stage: Stage, stop: StopRequest) -> Iterator[dict[str, float]]:
    """Train from where the run stands to the end of `stage`; yields each step's losses.

    Raises:
        DataError: naming the sample that cannot be read.
    """
    dataset, batches = stage_data(run, stage)
    loader = stage_loader(run, stage)
    buffers = BufferCopy(run)
    epoch = -1
    try:
        started = time.perf_counter()
        for batch in _called_away(loader, stop):
            waited = time.perf_counter() - started
            if isinstance(batch, DataError):
                raise batch
            number = run.step - stage.first_step
            if (now := stage.first_epoch + number // stage.steps_per_epoch) != epoch:
                epoch = now
                freeze(run, stage, epoch)
            images, target = batch
            buffers.take()
            losses, finite = train_step(run, images, target, stage, stop)
            run.step += 1
            if finite:
                run.nonfinite = 0
            else:
                buffers.restore()
                names = [dataset.samples[index].id for _, index in batches.batch(number)]
                note_nonfinite(run, images, target, names)
            seconds = time.perf_counter() - started
            run.seconds += seconds
            _report_step(run, losses, seconds, waited)
            yield losses
            started = time.perf_counter()
    except StopWaiting:
        return


def _called_away(batches: Any, stop: StopRequest) -> Iterator[Any]:
    """`batches`, whose consumer a signal may call away while it waits for the next one.

    Raises:
        StopWaiting: a signal came meanwhile.
    """
    iterator = iter(batches)
    try:
        while True:
            stop.waiting = True
            batch = next(iterator, None)
            stop.waiting = False
            if batch is None:
                return
            yield batch
    finally:
        stop.waiting = False
        # Workers end with the stage, also where a traceback holds on to them.
        close = getattr(iterator, "close", None) or getattr(iterator, "_shutdown_workers", None)
        if close is not None:
            close()


def finish_epoch(run: Training, epoch: int, stop: StopRequest) -> None:
    """Validate where it is due, then write ``last``, and ``best`` when it is.

    Raises:
        Interrupted: a signal came meanwhile; the epoch is finished when the run goes on.
    """
    final = run.step >= run.total_steps
    scores = None
    if final or epoch % run.config.train.validate_every == 0:
        started = time.perf_counter()
        # First, for whatever a validation may die of: the resumed run makes up for it.
        save_last(run)
        try:
            scores = validate(run, stop)
        except StopValidation:
            raise interrupted(run, stop.asked) from None
        run.seconds += time.perf_counter() - started
        _report_scores(run, scores, epoch)
        if run.teaching is not None:
            run.teaching.epoch_done(run)
        _judge(run, scores)
    run.epochs_done = epoch
    stop.agree(run.device)
    save_last(run, scores)


def _judge(run: Training, scores: Scores) -> None:
    """Write ``best`` if these scores are, and count the validations that were not."""
    value = logged_scores(scores)[run.config.train.best_by]
    run.best_miou, run.last_miou = max(run.best_miou, scores.miou), scores.miou
    if run.best_score is None or value > run.best_score:
        run.best_score = value if math.isfinite(value) else -math.inf
        run.stale = 0
        # `best` first: a run killed before `last` repeats the epoch and writes `best` again.
        save_best(run, scores)
    else:
        run.stale += 1


def _report_step(run: Training, losses: dict[str, float], seconds: float, waited: float) -> None:
    for name, value in losses.items():
        kind = name if "/" in name else f"loss/{name}"
        run.reporter.scalar(kind, value, run.step)
    run.reporter.scalar("speed/seconds_per_step", seconds, run.step)
    run.reporter.scalar("speed/data_wait", waited / seconds, run.step)


def _report_scores(run: Training, scores: Scores, epoch: int) -> None:
    for name, value in logged_scores(scores).items():
        run.reporter.scalar(name, value, run.step)
    run.reporter.message(
        f"epoch {epoch}: val mIoU {scores.miou:.4f}, pixel accuracy {scores.pixel_accuracy:.4f} "
        f"after {run.seconds / 60:.1f} min"
    )
