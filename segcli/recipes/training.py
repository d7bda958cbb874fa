"""What a training run is made of, shared by `train` and `distill`.

The plan of stages, the state that moves, and the batches of a stage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segcli.config import AugmentConfig, Config, StageConfig
from segcli.data.dataset import StageBatches, TrainDataset, batches_per_epoch, train_loader
from segcli.data.manifest import Manifest, Sample
from segcli.data.transforms import TrainTransform
from segcli.data.watch import WorkerLog
from segcli.distributed import World
from segcli.environment import usable_cores
from segcli.inference.predictor import Predictor
from segcli.labels import LabelSpace
from segcli.losses.supervised import SegmentationLoss
from segcli.models.build import build_model
from segcli.models.segmenter import Segmenter, TrainingOutput
from segcli.optim.average import WeightAverage
from segcli.optim.precision import Precision
from segcli.reporting.events import Reporter

if TYPE_CHECKING:
    from segcli.recipes.training_teaching import Teaching


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the plan with its place in the run, in optimiser steps and epochs."""

    config: StageConfig
    first_step: int
    first_epoch: int
    steps_per_epoch: int

    @property
    def end_step(self) -> int:
        return self.first_step + self.steps_per_epoch * self.config.epochs


@dataclasses.dataclass
class Training:
    """All that moves while training, and what it moves with.

    Attributes:
        network: `model` as it is called: compiled, in DistributedDataParallel; see
            `training_freeze`.
        frozen: the stride up to which the encoder does not learn as `network` was built.
        step: optimiser steps taken, skipped ones included.
        epochs_done: epochs that have been validated (where due) and saved.
        best_score, best_miou: of the best validation by `train.best_by`, and ever.
        last_miou: of the last validation.
        stale: validations since the best one.
        nonfinite: steps in a row whose loss was not finite.
        seconds: of training and validation, over all resumed parts.
        teaching: what `distill` adds.
    """

    config: Config
    folder: Path
    manifest: Manifest
    samples: tuple[Sample, ...]
    stages: list[Stage]
    model: Segmenter
    average: WeightAverage
    loss: SegmentationLoss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: Precision
    device: torch.device
    reporter: Reporter
    world: World
    log: WorkerLog = dataclasses.field(default_factory=WorkerLog)
    network: nn.Module | None = None
    frozen: int = 0
    step: int = 0
    epochs_done: int = 0
    best_score: float | None = None
    best_miou: float = -1.0
    last_miou: float = -1.0
    stale: int = 0
    nonfinite: int = 0
    seconds: float = 0.0
    teaching: Teaching | None = None

    @property
    def total_steps(self) -> int:
        return self.stages[-1].end_step

    @property
    def label_space(self) -> LabelSpace:
        return self.manifest.label_space

    @property
    def pictures(self) -> tuple[Sample, ...]:
        """Every picture that the loader may read, by its index."""
        return self.samples if self.teaching is None else (*self.samples, *self.teaching.extra)

    def out_of_patience(self) -> bool:
        """Whether `train.patience` validations have gone by without a better score."""
        return 0 < self.config.train.patience <= self.stale


def validation_samples(run: Training) -> list[Sample]:
    """The samples of all validation splits, in their order."""
    return [s for name in run.config.data.val for s in run.manifest.split(name)]


def validation_predictor(run: Training) -> Predictor:
    """Predicts with the averaged weights, as the run's checkpoints will."""
    return Predictor(
        run.average.model,
        run.label_space,
        device=run.device,
        precision=run.precision.name,
        channels_last=run.precision.channels_last,
        size=run.config.eval.size,
    )


def build_from_config(config: Config, num_classes: int, *, pretrained: bool) -> Segmenter:
    """The model that the config describes; `pretrained` False leaves the weights random."""
    weights = config.model.weights if pretrained else None
    return build_model(**model_arguments(config, num_classes), encoder_weights=weights)


def model_arguments(config: Config, num_classes: int) -> dict[str, Any]:
    """Keyword arguments of `build_model` without weights: what a checkpoint remembers."""
    m = config.model
    return {
        "encoder": m.encoder,
        "decoder": m.decoder,
        "num_classes": num_classes,
        "width": m.width,
        "head_width": m.head_width,
        "decoder_block": m.decoder_block,
        "width_mult": m.width_mult,
        "dropout": m.dropout,
        # Heads whose loss weighs nothing would be computed for nothing.
        "auxiliary": config.train.loss.auxiliary > 0,
    }


def stage_at(run: Training) -> Stage:
    """The stage that the run's next step belongs to."""
    return next((s for s in run.stages if run.step < s.end_step), run.stages[-1])


def score_names(space: LabelSpace) -> list[str]:
    """The names under which validation logs its scores."""
    totals = ["val/miou", "val/category_miou", "val/pixel_accuracy"]
    return totals + [f"val_iou/{name}" for name in space.class_names]


def plan(stages: Sequence[StageConfig], count: int) -> list[Stage]:
    """Lay the stages out over optimiser steps for `count` training samples."""
    planned: list[Stage] = []
    step = epoch = 0
    for config in stages:
        stage = Stage(config, step, epoch, batches_per_epoch(count, config.batch_size))
        planned.append(stage)
        step, epoch = stage.end_step, epoch + config.epochs
    return planned


def step_losses(
    run: Training, network: nn.Module, images: Tensor, target: Tensor
) -> dict[str, Tensor]:
    """Named losses of a part of a batch, the teacher's among them where there is one."""
    with run.precision.autocast(run.device):
        if run.teaching is not None:
            return run.teaching.losses(run, network, images, target)
        return forward_losses(network, run.loss, images, target)


def parts_of(
    run: Training, images: Tensor, target: Tensor, parts: int
) -> list[tuple[Tensor, Tensor]]:
    """A batch, cut into `parts` that go through the network one after the other."""
    if run.teaching is not None:
        return run.teaching.cut(run, images, target)
    return list(zip(images.chunk(parts), target.chunk(parts), strict=True))


def forward_losses(
    model: nn.Module, loss: SegmentationLoss, images: Tensor, target: Tensor
) -> dict[str, Tensor]:
    """Named losses of a batch; the model is in train mode."""
    output: TrainingOutput = model(images)
    losses: dict[str, Tensor] = loss(output.logits, output.auxiliary, target, output.padded)
    return losses


def stage_scale(augment: AugmentConfig, stage: StageConfig) -> tuple[float, float]:
    """The range of the random resize in a stage, narrower where its augmentation is weaker."""
    smallest, largest = augment.scale
    return smallest**stage.augment, largest**stage.augment


def stage_transform(config: Config, stage: StageConfig, ignore_index: int) -> TrainTransform:
    """The training pipeline of a stage, as strong as the stage says.

    Small pictures learn best under weak augmentation, large ones under strong (EfficientNetV2,
    arXiv 2104.00298, section 4).
    """
    augment = config.train.augment
    return TrainTransform(
        stage.size,
        scale=stage_scale(augment, stage),
        resize=stage.resize,
        flip=augment.flip,
        color=augment.color * stage.augment,
        weather=augment.weather * stage.augment,
        weather_share=augment.weather_share,
        extra=augment.extra,
        loss_at=config.train.loss_at,
        ignore_index=ignore_index,
    )


def stage_data(run: Training, stage: Stage) -> tuple[TrainDataset, StageBatches]:
    """The views of a stage, and their order from where the run stands to the stage's end."""
    if run.teaching is not None:
        return run.teaching.stage_data(run, stage)
    dataset = TrainDataset(
        run.samples,
        stage_transform(run.config, stage.config, run.label_space.ignore_index),
        seed=run.config.train.seed,
        num_classes=run.label_space.num_classes,
        soft_targets=run.config.data.soft_targets,
        packed=run.config.data.packed,
        log=run.log,
    )
    batches = StageBatches(
        len(dataset),
        stage.config.batch_size,
        epochs=stage.config.epochs,
        first_epoch=stage.first_epoch,
        seed=run.config.train.seed,
        start=max(0, run.step - stage.first_step),
        rank=run.world.rank,
        world=run.world.size,
    )
    return dataset, batches


def stage_loader(run: Training, stage: Stage) -> Any:
    """Batches from where the run stands to the end of `stage`, at that stage's size."""
    dataset, batches = stage_data(run, stage)
    return train_loader(
        dataset,
        batches,
        workers=loader_workers(run.config, run.world),
        pin_memory=run.device.type == "cuda",
        timeout=run.config.data.worker_timeout,
    )


def loader_workers(config: Config, world: World) -> int:
    """Loader processes of each training process."""
    if config.data.workers is not None:
        return config.data.workers
    return min(8, max(1, usable_cores() // world.local_size - 1))
