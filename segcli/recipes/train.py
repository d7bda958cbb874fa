"""Training, top to bottom: `train_step` gives named losses, `train` walks the stages.

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
from torch import Tensor, nn

from segcli import checkpoint
from segcli.config import Config
from segcli.errors import DataError
from segcli.inference.predictor import Predictor
from segcli.metrics.confusion import Scores
from segcli.optim.optimizers import schedule_factor, set_lr
from segcli.recipes.evaluate import Loaded, evaluate_model, evenly
from segcli.recipes.training import (
    Stage,
    Training,
    describe,
    forward_losses,
    resume_state,
    set_up,
    stage_loader,
)
from segcli.reporting.events import Reporter
from segcli.reporting.render import comparison

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


def train(
    config: Config,
    *,
    folder: Path,
    device: torch.device,
    reporter: Reporter,
    resume: Path | None = None,
) -> TrainResult:
    """Train `config` in the run folder `folder`, from the start or from a checkpoint.

    Args:
        resume: a ``last`` checkpoint to go on from; None starts anew.

    Raises:
        SegcliError: data, weights, checkpoint or disk that cannot be used, in one line.
    """
    run = set_up(config, folder=folder, device=device, reporter=reporter, resume=resume)
    last = math.nan
    with reporter.progress("training", run.total_steps - run.step, unit="steps") as progress:
        for stage in run.stages:
            if run.step >= stage.end_step:
                continue
            for losses in train_stage(run, stage):
                progress.advance(loss=losses["total"])
                epoch, within = divmod(run.step - stage.first_step, stage.steps_per_epoch)
                if within == 0:
                    last = finish_epoch(run, stage.first_epoch + epoch)
    if math.isnan(last):
        reporter.message("nothing left to train: the run had reached its last step")
        last = run.best_miou
    return TrainResult(folder, run.step, run.seconds, last, run.best_miou)


def train_stage(run: Training, stage: Stage) -> Iterator[dict[str, float]]:
    """Train from where the run stands to the end of `stage`; yields each step's losses."""
    started = time.perf_counter()
    for batch in stage_loader(run, stage):
        if isinstance(batch, DataError):
            raise batch
        images, target = batch
        losses = train_step(run, images, target, stage.config.lr_scale)
        run.step += 1
        now = time.perf_counter()
        run.seconds += now - started
        _report_step(run, losses, now - started)
        yield losses
        started = time.perf_counter()


def train_step(run: Training, images: Tensor, target: Tensor, lr_scale: float) -> dict[str, float]:
    """One optimiser step on uint8 (N, 3, h, w) and its target; returns the named losses."""
    settings = run.config.train.optimizer
    factor = lr_scale * schedule_factor(
        run.step,
        run.total_steps,
        schedule=settings.schedule,
        power=settings.power,
        warmup=settings.warmup,
    )
    rates = set_lr(run.optimizer, factor)
    # Dropout draws from a stream that belongs to this step, so that a resumed run is exact.
    torch.manual_seed((run.config.train.seed * 1_000_003 + run.step) % 2**31)
    images = images.to(run.device, non_blocking=True)
    target = target.to(run.device, non_blocking=True)
    with run.precision.autocast(run.device):
        losses = forward_losses(run.model, run.loss, images, target)
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(losses["total"]).backward()  # type: ignore[no-untyped-call]
    if settings.clip_norm > 0:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.model.parameters(), settings.clip_norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.average.update(run.model)
    # One transfer for all of them: each would wait for the device by itself.
    values = torch.stack([value.detach() for value in losses.values()]).tolist()
    return {**dict(zip(losses, values, strict=True)), **{f"lr/{k}": v for k, v in rates.items()}}


def finish_epoch(run: Training, epoch: int) -> float:
    """Validate where it is due, then write ``last``, and ``best`` when it is; val mIoU or nan."""
    final = run.step >= run.total_steps
    scores = None
    if final or epoch % run.config.train.validate_every == 0:
        started = time.perf_counter()
        scores = validate(run)
        run.seconds += time.perf_counter() - started
        _report_scores(run, scores, epoch)
    miou = scores.miou if scores is not None else math.nan
    better = miou > run.best_miou
    if better:
        run.best_miou = miou
    description = describe(run, scores)
    weights = run.average.model.state_dict()
    # `best` first: a run killed between the two repeats the epoch and writes `best` again.
    if better:
        checkpoint.save_checkpoint(run.folder / "best", weights, description)
    checkpoint.save_checkpoint(run.folder / "last", weights, description, resume=resume_state(run))
    return miou


def validate(run: Training) -> Scores:
    """Score the averaged weights on the validation splits, at the labels' own resolution.

    Panels of the first pictures go to the reporter, for TensorBoard to leaf through.
    """
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
        if item.sample.label in shown:
            panel = comparison(item.image, item.truth, prediction, run.label_space)
            run.reporter.image(f"val/{item.sample.id}", panel, run.step)

    evaluation = evaluate_model(
        predictor, samples, batch_size=run.config.eval.batch_size, on_prediction=show
    )
    return evaluation.scores


def _report_step(run: Training, losses: dict[str, float], seconds: float) -> None:
    for name, value in losses.items():
        kind = name if name.startswith("lr/") else f"loss/{name}"
        run.reporter.scalar(kind, value, run.step)
    run.reporter.scalar("speed/seconds_per_step", seconds, run.step)


def _report_scores(run: Training, scores: Scores, epoch: int) -> None:
    run.reporter.scalar("val/miou", scores.miou, run.step)
    run.reporter.scalar("val/category_miou", scores.category_miou, run.step)
    run.reporter.scalar("val/pixel_accuracy", scores.pixel_accuracy, run.step)
    for name, iou in zip(scores.class_names, scores.class_iou, strict=True):
        run.reporter.scalar(f"val_iou/{name}", iou, run.step)
    run.reporter.message(
        f"epoch {epoch}: val mIoU {scores.miou:.4f}, pixel accuracy {scores.pixel_accuracy:.4f} "
        f"after {run.seconds / 60:.1f} min"
    )
