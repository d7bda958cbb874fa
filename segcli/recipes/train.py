"""Training, top to bottom: `train` sets up, `run_stages` walks, `train_stage` takes the steps.

A run folder holds the resolved config, the environment, a JSON-lines log, TensorBoard's
events, and the checkpoints ``last`` (to go on from) and ``best`` (to use).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segcli import distributed
from segcli.config import Config
from segcli.data.watch import blame
from segcli.distributed import World
from segcli.errors import DataError
from segcli.inference.predictor import Predictor
from segcli.metrics.confusion import ConfusionMatrix, Scores
from segcli.metrics.confusion import scores as scores_of
from segcli.recipes.evaluate import Loaded, evaluate_model, evenly
from segcli.recipes.training import (
    Stage,
    Training,
    freeze,
    stage_data,
    stage_loader,
)
from segcli.recipes.training_guard import (
    BufferCopy,
    StopRequest,
    interrupted,
    note_nonfinite,
)
from segcli.recipes.training_preflight import preflight
from segcli.recipes.training_probe import probe
from segcli.recipes.training_setup import set_up
from segcli.recipes.training_state import save_best, save_last
from segcli.recipes.training_step import train_step
from segcli.reporting.events import Reporter
from segcli.reporting.render import comparison
from segcli.resources import memory_advice

# Validation panels that TensorBoard keeps.
PICTURES = 3


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a run ended: `seconds` of training and validation, the last and best val mIoU."""

    folder: Path
    steps: int
    seconds: float
    last_miou: float
    best_miou: float


class _StopValidation(Exception):  # noqa: N818 (a way out, not an error)
    """A signal came while validating."""


def train(
    config: Config,
    *,
    folder: Path,
    device: torch.device,
    reporter: Reporter,
    resume: Path | None = None,
    world: World | None = None,
) -> TrainResult:
    """Train `config` in the run folder `folder`, from the start or from a checkpoint.

    Args:
        resume: a ``last`` checkpoint to go on from; None starts anew.
        world: the place of this process among those that train together.

    Raises:
        SegcliError: data, weights, checkpoint or disk that cannot be used, in one line;
            `Interrupted` when a signal came, after ``last`` was written.
    """
    with StopRequest().listening() as stop:
        run = set_up(
            config, folder=folder, device=device, reporter=reporter, resume=resume, world=world
        )
        if not stop.number:
            preflight(run)
        if not stop.number:
            probe(run)
        if stop.number:
            raise interrupted(run, stop.number)
        with memory_advice("training", "a smaller batch_size or size, or accumulate, needs less"):
            return run_stages(run, stop)


def run_stages(run: Training, stop: StopRequest) -> TrainResult:
    """Walk the stages from where the run stands, saving as it goes."""
    last = math.nan
    saved, due_after = time.monotonic(), run.config.train.checkpoint_minutes
    with run.reporter.progress("training", run.total_steps - run.step, unit="steps") as progress:
        if run.step and run.epochs_done < (epoch := _epochs_at(run)):
            last = finish_epoch(run, epoch, stop)
        for stage in run.stages:
            if run.step >= stage.end_step or run.out_of_patience():
                continue
            for losses in train_stage(run, stage, stop):
                progress.advance(loss=losses["total"])
                epoch, within = divmod(run.step - stage.first_step, stage.steps_per_epoch)
                minutes = (time.monotonic() - saved) / 60
                if within == 0:
                    last = finish_epoch(run, stage.first_epoch + epoch, stop)
                    saved = time.monotonic()
                elif stop.number or (minutes >= due_after and not run.nonfinite):
                    save_last(run)
                    saved = time.monotonic()
                if stop.number:
                    raise interrupted(run, stop.number)
                if run.out_of_patience():
                    break
    return _result(run, last)


def _result(run: Training, last: float) -> TrainResult:
    if run.out_of_patience():
        settings = run.config.train
        run.reporter.message(
            f"stopped early: {settings.best_by} has not risen for {run.stale} validations"
        )
    elif math.isnan(last):
        run.reporter.message("nothing left to train: the run had reached its last step")
    last = run.best_miou if math.isnan(last) else last
    return TrainResult(run.folder, run.step, run.seconds, last, run.best_miou)


def _epochs_at(run: Training) -> int:
    """Whole epochs behind the run's step."""
    return sum(
        min(s.config.epochs, max(0, run.step - s.first_step) // s.steps_per_epoch)
        for s in run.stages
    )


def train_stage(run: Training, stage: Stage, stop: StopRequest) -> Iterator[dict[str, float]]:
    """Train from where the run stands to the end of `stage`; yields each step's losses.

    Raises:
        DataError: naming the sample that cannot be read, or at which a worker died or hung.
    """
    dataset, batches = stage_data(run, stage)
    loader = stage_loader(run, stage)
    buffers = BufferCopy(run)
    epoch = -1
    try:
        started = time.perf_counter()
        for batch in loader:
            waited = time.perf_counter() - started
            if isinstance(batch, DataError):
                raise batch
            number = run.step - stage.first_step
            if (now := stage.first_epoch + number // stage.steps_per_epoch) != epoch:
                epoch = now
                freeze(run, epoch)
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
    except RuntimeError as error:
        raise blame(error, loader.dataset.log, run.samples) from error


def finish_epoch(run: Training, epoch: int, stop: StopRequest) -> float:
    """Validate where it is due, then write ``last``, and ``best`` when it is; val mIoU or nan.

    Raises:
        Interrupted: a signal came meanwhile; the epoch is finished when the run goes on.
    """
    final = run.step >= run.total_steps
    scores = None
    if final or epoch % run.config.train.validate_every == 0:
        started = time.perf_counter()
        if stop.number or run.world.size > 1:
            # Processes that validate together cannot leave one by one, so this comes first.
            save_last(run)
        try:
            scores = validate(run, stop)
        except _StopValidation:
            save_last(run)
            raise interrupted(run, stop.number) from None
        run.seconds += time.perf_counter() - started
        _report_scores(run, scores, epoch)
        _judge(run, scores)
    run.epochs_done = epoch
    save_last(run, scores)
    return scores.miou if scores is not None else math.nan


def _judge(run: Training, scores: Scores) -> None:
    """Write ``best`` if these scores are, and count the validations that were not."""
    value = logged_scores(scores)[run.config.train.best_by]
    run.best_miou = max(run.best_miou, scores.miou)
    if run.best_score is None or value > run.best_score:
        run.best_score = value if math.isfinite(value) else -math.inf
        run.stale = 0
        # `best` first: a run killed before `last` repeats the epoch and writes `best` again.
        save_best(run, scores)
    else:
        run.stale += 1


def validate(run: Training, stop: StopRequest | None = None) -> Scores:
    """Score the averaged weights on the validation splits, at the labels' own resolution.

    Every process takes its share of the images; the scores are those of all of them.

    Panels of the first pictures go to the reporter, for TensorBoard to leaf through.
    """
    distributed.buffers_from_main(run.world, run.average.model)
    predictor = Predictor(
        run.average.model,
        run.label_space,
        device=run.device,
        precision=run.precision.name,
        channels_last=run.precision.channels_last,
        size=run.config.eval.size,
    )
    samples = [s for name in run.config.data.val for s in run.manifest.split(name)]
    shown = {s.label for s in evenly(samples, PICTURES)}

    def show(item: Loaded, prediction: NDArray[np.uint8]) -> None:
        if stop is not None and stop.number and run.world.size == 1:
            raise _StopValidation
        if item.sample.label in shown:
            panel = comparison(item.image, item.truth, prediction, run.label_space)
            run.reporter.image(f"val/{item.sample.id}", panel, run.step)

    evaluation = evaluate_model(
        predictor,
        run.world.share(samples),
        batch_size=run.config.eval.batch_size,
        on_prediction=show,
    )
    matrix = torch.from_numpy(evaluation.matrix.copy()).to(run.device)
    distributed.add_up(run.world, matrix)
    whole = ConfusionMatrix(run.label_space.num_classes, run.label_space.ignore_index)
    whole.matrix += matrix.cpu().numpy()
    return scores_of(whole, run.label_space)


def logged_scores(scores: Scores) -> dict[str, float]:
    """Scores by the names under which they are logged; nan for a class that does not occur."""
    return {
        "val/miou": scores.miou,
        "val/category_miou": scores.category_miou,
        "val/pixel_accuracy": scores.pixel_accuracy,
        **{
            f"val_iou/{name}": iou
            for name, iou in zip(scores.class_names, scores.class_iou, strict=True)
        },
    }


def _report_step(run: Training, losses: dict[str, float], seconds: float, waited: float) -> None:
    for name, value in losses.items():
        kind = name if name.startswith("lr/") else f"loss/{name}"
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
