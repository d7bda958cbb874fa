"""Everything before the first step: data, model, arithmetic, the state to go on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from segcli import checkpoint, distributed, files
from segcli.config import Config
from segcli.data.manifest import Manifest, load_manifest
from segcli.distributed import World
from segcli.environment import describe_environment
from segcli.errors import ConfigError, LabelSpaceError
from segcli.losses.supervised import SegmentationLoss, class_weights_from_counts
from segcli.models.build import parameter_groups
from segcli.models.segmenter import Segmenter
from segcli.optim.average import WeightAverage
from segcli.optim.optimizers import build_optimizer
from segcli.optim.precision import Precision, candidates, choose_precision
from segcli.recipes.training import (
    Training,
    build_from_config,
    forward_losses,
    plan,
    score_names,
    stage_transform,
)
from segcli.recipes.training_freeze import set_train_mode
from segcli.recipes.training_state import restore
from segcli.recipes.training_teaching import Teaching
from segcli.reporting.events import Reporter


def set_up(
    config: Config,
    *,
    folder: Path,
    device: torch.device,
    reporter: Reporter,
    resume: Path | None,
    world: World | None = None,
    teach: Callable[[Training], Teaching] | None = None,
    precision: Precision | None = None,
) -> Training:
    """Everything before the first step: data, model, arithmetic, the state to go on from.

    Args:
        teach: makes what `distill` adds to the run; the other arguments are `train`'s.

    Raises:
        SegcliError: data, config or checkpoint that do not fit, before anything is written.
    """
    world = world or World()
    torch.manual_seed(config.train.seed)
    manifest = load_manifest(config.data.prepared, config.label_sources)
    check_config(config, manifest)
    _check_prediction_size(config, reporter)
    samples = tuple(s for name in config.data.train for s in manifest.split(name))
    model = _build_model(config, manifest, world, pretrained=resume is None)
    loss = _build_loss(config, manifest, world)
    model.to(device).train()
    loss.to(device)
    state = checkpoint.load_resume(resume, warn=reporter.warning) if resume else None
    stored = precision if state is None else Precision(*state["precision"])
    precision = _same_precision(config, model, loss, device, reporter, stored, world)
    if world.size > 1 and device.type == "cuda":
        # Not before rank zero has measured by itself: every forward pass is a meeting of all.
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    model.to(memory_format=precision.memory_format)
    run = Training(
        config=config,
        folder=folder,
        manifest=manifest,
        samples=samples,
        stages=plan(config.train.stages, len(samples)),
        model=model,
        average=WeightAverage(model, config.train.ema),
        loss=loss,
        optimizer=_build_optimizer(config, model),
        scaler=torch.amp.GradScaler(device.type, enabled=precision.name == "fp16"),
        precision=precision,
        device=device,
        reporter=reporter,
        world=world,
    )
    if teach is not None:
        run.teaching = teach(run)
    if state is not None:
        restore(run, state, Path(str(resume)))
        if world.is_main:
            checkpoint.set_aside_if_damaged(Path(str(resume)))
    return run


def _build_model(
    config: Config, manifest: Manifest, world: World, *, pretrained: bool
) -> Segmenter:
    if not world.is_main:
        distributed.wait(world)  # rank zero fetches pretrained weights for all of the machine
    model = build_from_config(config, manifest.label_space.num_classes, pretrained=pretrained)
    if world.is_main:
        distributed.wait(world)
    return model


def _build_optimizer(config: Config, model: Segmenter) -> torch.optim.Optimizer:
    settings = config.train.optimizer
    return build_optimizer(
        parameter_groups(model),
        name=settings.name,
        lr=settings.lr,
        encoder_lr_factor=settings.encoder_lr_factor,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
    )


def check_config(config: Config, manifest: Manifest) -> None:
    """What a config can get wrong about the data it names.

    Raises:
        SegcliError: another label space, an empty split, an unknown score or transform.
    """
    wanted, found = config.data.label_space, manifest.label_space
    if wanted is not None and wanted != found.name:
        raise LabelSpaceError(
            f"the config expects label space '{wanted}', the data is '{found.name}'",
            file=manifest.folder,
            hint="prepare again with that label space, or point data.prepared elsewhere",
        )
    for name in config.data.val:
        manifest.split(name)
    known = score_names(found)
    if config.train.best_by not in known:
        raise ConfigError(
            f"train.best_by: no score is called '{config.train.best_by}'",
            hint=f"known: {', '.join(known)}",
        )
    for stage in config.train.stages:
        # Unknown transforms and arguments are found here, and not in a worker.
        stage_transform(config, stage, found.ignore_index)


def _check_prediction_size(config: Config, reporter: Reporter) -> None:
    """`loss_at: label` is for networks that see small pictures, when they predict as well."""
    last = config.train.stages[-1]
    if config.train.loss_at == "label" and last.resize != 1 and config.eval.size is None:
        reporter.warning(
            f"the network is trained on pictures resized by {last.resize:g} and will predict at "
            "full size; eval.size: [height, width] has it predict at the size it knows"
        )


def _build_loss(config: Config, manifest: Manifest, world: World) -> SegmentationLoss:
    settings = config.train.loss
    counts = sum(torch.tensor(manifest.class_pixels(n)[:-1]) for n in config.data.train)

    def mean_over_ranks(count: Tensor) -> Tensor:
        return distributed.add_up(world, count.clone()) / world.size

    return SegmentationLoss(
        ignore_index=manifest.label_space.ignore_index,
        class_weights=class_weights_from_counts(torch.as_tensor(counts), settings.class_weights),
        auxiliary=settings.auxiliary,
        label_smoothing=settings.label_smoothing,
        terms=settings.terms,
        ohem_threshold=settings.ohem_threshold,
        ohem_keep=settings.ohem_keep,
        focal_gamma=settings.focal_gamma,
        count_over=mean_over_ranks if world.size > 1 else None,
    )


def _same_precision(
    config: Config,
    model: Segmenter,
    loss: SegmentationLoss,
    device: torch.device,
    reporter: Reporter,
    stored: Precision | None,
    world: World,
) -> Precision:
    """What rank zero has chosen, for all."""
    chosen = _precision(config, model, loss, device, reporter, stored) if world.is_main else None
    precision = distributed.from_main(world, chosen)
    if precision is None:
        raise ValueError("rank zero has chosen no arithmetic")
    return precision


def _precision(
    config: Config,
    model: Segmenter,
    loss: SegmentationLoss,
    device: torch.device,
    reporter: Reporter,
    stored: Precision | None,
) -> Precision:
    """That of a resumed run's first part, or of its control; else a measurement decides."""
    open_to = candidates(config.train.precision, config.train.channels_last)
    if stored in open_to:
        return stored
    k = model.num_classes
    # Small crops say little: what counts is the stage with the most pixels, and what learns there.
    largest = max(config.train.stages, key=lambda s: s.epochs * s.size[0] * s.size[1])
    set_train_mode(model, config.train, largest.freeze_stride)

    def total(trial: nn.Module, images: Tensor) -> Tensor:
        target = images[:, 0] % k
        return forward_losses(trial, loss.alone(), images, target)["total"]

    chosen, seconds = choose_precision(
        model,
        total,
        size=largest.size,
        batch_size=largest.batch_size // largest.accumulate,
        device=device,
        precision=config.train.precision,
        channels_last=config.train.channels_last,
    )
    model.train().requires_grad_(True)
    measured = "; ".join(f"{name} {s * 1000:.0f} ms" for name, s in seconds.items())
    reporter.message(f"arithmetic: {chosen}" + (f" (measured: {measured})" if measured else ""))
    return chosen


def write_run_files(run: Training) -> None:
    """Write the resolved config and the environment: from here on there is a run."""
    if run.world.is_main:
        precision = str(run.precision)
        begin_run(run.folder, run.config, run.device, run.world, precision=precision)


def begin_run(
    folder: Path, config: Config, device: torch.device, world: World, **more: str
) -> None:
    """Write what --resume and a restart by torchrun know a run by; on rank zero.

    Args:
        more: further entries of ``environment.json``.
    """
    files.make_folder(folder)
    text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    files.write_text(folder / "config.yaml", text)
    environment = describe_environment(device) | more
    environment["processes"] = world.size
    environment["launcher"] = distributed.launcher()
    files.write_json(folder / "environment.json", environment)
