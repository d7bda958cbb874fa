"""What a training run is made of, shared by `train` and, later, `distill`.

The plan of stages, the state that moves, and how it is described, saved and restored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from segcli import checkpoint, files
from segcli.config import Config, StageConfig
from segcli.data.dataset import StageBatches, TrainDataset, batches_per_epoch, train_loader
from segcli.data.manifest import Manifest, Sample, load_manifest
from segcli.data.transforms import TrainTransform
from segcli.environment import describe_environment, usable_cores
from segcli.errors import CheckpointError, LabelSpaceError
from segcli.labels import LabelSpace
from segcli.losses.supervised import SegmentationLoss, class_weights_from_counts
from segcli.metrics.confusion import Scores
from segcli.models.build import build_model, parameter_groups
from segcli.models.segmenter import Segmenter, TrainingOutput
from segcli.optim.average import WeightAverage
from segcli.optim.optimizers import build_optimizer, load_optimizer
from segcli.optim.precision import Precision, candidates, choose_precision
from segcli.reporting.events import Reporter


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
    """All that moves while training, and what it moves with."""

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
    step: int = 0
    best_miou: float = -1.0
    seconds: float = 0.0

    @property
    def total_steps(self) -> int:
        return self.stages[-1].end_step

    @property
    def label_space(self) -> LabelSpace:
        return self.manifest.label_space


def set_up(
    config: Config, *, folder: Path, device: torch.device, reporter: Reporter, resume: Path | None
) -> Training:
    """Everything before the first step: data, model, arithmetic, the state to go on from."""
    torch.manual_seed(config.train.seed)
    manifest = load_manifest(config.data.prepared)
    _check_label_space(config, manifest)
    samples = tuple(s for name in config.data.train for s in manifest.split(name))
    for name in config.data.val:
        manifest.split(name)
    model = build_from_config(config, manifest.label_space.num_classes, pretrained=resume is None)
    loss = SegmentationLoss(
        ignore_index=manifest.label_space.ignore_index,
        class_weights=_class_weights(config, manifest),
        auxiliary=config.train.loss.auxiliary,
        label_smoothing=config.train.loss.label_smoothing,
    )
    model.to(device).train()
    loss.to(device)
    state = checkpoint.load_resume(resume, warn=reporter.warning) if resume else None
    precision = _precision(config, model, loss, device, reporter, state)
    model.to(memory_format=precision.memory_format)
    settings = config.train.optimizer
    optimizer = build_optimizer(
        parameter_groups(model),
        name=settings.name,
        lr=settings.lr,
        encoder_lr_factor=settings.encoder_lr_factor,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
    )
    run = Training(
        config=config,
        folder=folder,
        manifest=manifest,
        samples=samples,
        stages=plan(config.train.stages, len(samples)),
        model=model,
        average=WeightAverage(model, config.train.ema),
        loss=loss,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=precision.name == "fp16"),
        precision=precision,
        device=device,
        reporter=reporter,
    )
    if state is not None:
        _restore(run, state, Path(str(resume)))
    _write_run_files(run)
    return run


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
    }


def plan(stages: Sequence[StageConfig], count: int) -> list[Stage]:
    """Lay the stages out over optimiser steps for `count` training samples."""
    planned: list[Stage] = []
    step = epoch = 0
    for config in stages:
        stage = Stage(config, step, epoch, batches_per_epoch(count, config.batch_size))
        planned.append(stage)
        step, epoch = stage.end_step, epoch + config.epochs
    return planned


def forward_losses(
    model: nn.Module, loss: SegmentationLoss, images: Tensor, target: Tensor
) -> dict[str, Tensor]:
    """Named losses of a batch; the model is in train mode."""
    output: TrainingOutput = model(images)
    losses: dict[str, Tensor] = loss(output.logits, output.auxiliary, target)
    return losses


def stage_loader(run: Training, stage: Stage) -> Any:
    """Batches from where the run stands to the end of `stage`, at that stage's size."""
    augment, data, seed = run.config.train.augment, run.config.data, run.config.train.seed
    transform = TrainTransform(
        stage.config.size,
        scale=augment.scale,
        resize=stage.config.resize,
        flip=augment.flip,
        color=augment.color,
        ignore_index=run.label_space.ignore_index,
    )
    dataset = TrainDataset(
        run.samples,
        transform,
        seed=seed,
        num_classes=run.label_space.num_classes,
        soft_targets=data.soft_targets,
    )
    batches = StageBatches(
        len(dataset),
        stage.config.batch_size,
        epochs=stage.config.epochs,
        first_epoch=stage.first_epoch,
        seed=seed,
        start=run.step - stage.first_step,
    )
    workers = data.workers if data.workers is not None else min(8, max(1, usable_cores() - 1))
    return train_loader(dataset, batches, workers=workers, pin_memory=run.device.type == "cuda")


def describe(run: Training, scores: Scores | None) -> dict[str, Any]:
    """What `checkpoint.json` says beside the weights; JSON types."""
    size = run.config.eval.size
    return {
        "model_config": model_arguments(run.config, run.label_space.num_classes),
        "label_space": run.label_space.to_dict(),
        "inference": {
            "precision": run.precision.name,
            "channels_last": run.precision.channels_last,
            "size": None if size is None else list(size),
        },
        "training": run.config.to_dict(),
        "data": {
            "prepared": str(run.manifest.folder.resolve()),
            "train": list(run.config.data.train),
            "val": list(run.config.data.val),
            "fingerprint": run.manifest.fingerprint(),
        },
        "scores": {} if scores is None else scores.to_dict(),
        "step": run.step,
    }


def resume_state(run: Training) -> dict[str, Any]:
    """What `resume.pt` holds: tensors, numbers and plain containers only."""
    return {
        "model": run.model.state_dict(),
        "average": run.average.model.state_dict(),
        "average_updates": run.average.updates,
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "precision": [run.precision.name, run.precision.channels_last],
        "step": run.step,
        "best_miou": run.best_miou,
        "seconds": run.seconds,
        "fingerprint": run.manifest.fingerprint(),
        "stages": _milestones(run),
    }


def _milestones(run: Training) -> list[list[int]]:
    return [[*s.config.size, s.config.epochs, s.end_step] for s in run.stages]


def _restore(run: Training, state: dict[str, Any], path: Path) -> None:
    if state["fingerprint"] != run.manifest.fingerprint():
        raise CheckpointError(
            "was trained on other data than the prepared folder holds now",
            file=path,
            hint=f"prepare {run.manifest.folder} as it was, or start anew",
        )
    if state["stages"] != _milestones(run):
        raise CheckpointError("was trained with other stages", file=path, hint="start anew")
    try:
        run.model.load_state_dict(state["model"])
        run.average.model.load_state_dict(state["average"])
        load_optimizer(run.optimizer, state["optimizer"])
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())[:160]
        raise CheckpointError(f"does not fit the config ({text})", file=path) from None
    run.scaler.load_state_dict(state["scaler"])
    run.average.updates = state["average_updates"]
    run.step, run.best_miou, run.seconds = state["step"], state["best_miou"], state["seconds"]


def _check_label_space(config: Config, manifest: Manifest) -> None:
    wanted = config.data.label_space
    if wanted is not None and wanted != manifest.label_space.name:
        raise LabelSpaceError(
            f"the config expects label space '{wanted}', the data is '{manifest.label_space.name}'",
            file=manifest.folder,
            hint="prepare again with that label space, or point data.prepared elsewhere",
        )


def _class_weights(config: Config, manifest: Manifest) -> Tensor | None:
    counts = sum(torch.tensor(manifest.class_pixels(n)[:-1]) for n in config.data.train)
    return class_weights_from_counts(torch.as_tensor(counts), config.train.loss.class_weights)


def _precision(
    config: Config,
    model: Segmenter,
    loss: SegmentationLoss,
    device: torch.device,
    reporter: Reporter,
    state: dict[str, Any] | None,
) -> Precision:
    """The arithmetic of a resumed run is that of its first part; else a measurement decides."""
    open_to = candidates(config.train.precision, config.train.channels_last)
    if state is not None and (stored := Precision(*state["precision"])) in open_to:
        return stored
    k, first = model.num_classes, config.train.stages[0]

    def total(trial: nn.Module, images: Tensor) -> Tensor:
        target = images[:, 0] % k
        return forward_losses(trial, loss, images, target)["total"]

    chosen, seconds = choose_precision(
        model,
        total,
        size=first.size,
        batch_size=first.batch_size,
        device=device,
        precision=config.train.precision,
        channels_last=config.train.channels_last,
    )
    measured = "; ".join(f"{name} {s * 1000:.0f} ms" for name, s in seconds.items())
    reporter.message(f"arithmetic: {chosen}" + (f" (measured: {measured})" if measured else ""))
    return chosen


def _write_run_files(run: Training) -> None:
    files.make_folder(run.folder)
    text = yaml.safe_dump(run.config.to_dict(), sort_keys=False, allow_unicode=True)
    files.write_text(run.folder / "config.yaml", text)
    environment = describe_environment(run.device)
    environment["precision"] = str(run.precision)
    files.write_json(run.folder / "environment.json", environment)
