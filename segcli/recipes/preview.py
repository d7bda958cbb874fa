"""A contact sheet of exactly what the network will see, stage by stage, before any training.

The views are those of training itself: the first samples of each stage's first epoch, from
the same data set class, the same seeds, the same order.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np

from segcli import files
from segcli.config import Config
from segcli.data.dataset import StageBatches, Ticket, TrainDataset
from segcli.data.manifest import Sample, load_manifest
from segcli.labels import LabelSpace
from segcli.recipes.training import Stage, plan, stage_scale, stage_transform
from segcli.reporting.contact_sheet import Row, View, contact_sheet
from segcli.reporting.events import Reporter
from segcli.reporting.render import Picture


def preview(config: Config, *, out: Path, reporter: Reporter, count: int = 4) -> Path:
    """Write ``out/preview.png``: for every stage `count` images, masks and overlays.

    Args:
        out: folder; it is created.
        count: samples per stage, fewer where the stage has fewer.

    Returns:
        The picture.

    Raises:
        DataError: a data set, a split or a file that cannot be used.
        ConfigError: a transform that albumentations does not know.
        OutputError: a folder that cannot be written to.
    """
    manifest = load_manifest(config.data.prepared, config.label_sources)
    space = manifest.label_space
    samples = tuple(s for name in config.data.train for s in manifest.split(name))
    stages = plan(config.train.stages, len(samples))
    rows: list[Row] = []
    with reporter.progress("preview", len(stages), unit="stages") as progress:
        for number, stage in enumerate(stages, 1):
            dataset = stage_dataset(config, stage, samples, space)
            tickets = first_tickets(config, stage, len(samples), count)
            title = f"stage {number} of {len(stages)}"
            note = describe_stage(config, stage, dataset.transform.target_size)
            views = [_view(dataset, ticket, space) for ticket in tickets]
            rows.append(Row(title, note, views))
            progress.advance()
    path = files.make_folder(out) / "preview.png"
    _, data = cv2.imencode(".png", contact_sheet(rows, space)[:, :, ::-1])
    files.write_bytes(path, bytes(data))
    return path


def stage_dataset(
    config: Config, stage: Stage, samples: tuple[Sample, ...], space: LabelSpace
) -> TrainDataset:
    """The data set that training has in this stage."""
    return TrainDataset(
        samples,
        stage_transform(config, stage.config, space.ignore_index),
        seed=config.train.seed,
        num_classes=space.num_classes,
        soft_targets=config.data.soft_targets,
        packed=config.data.packed,
    )


def first_tickets(config: Config, stage: Stage, samples: int, count: int) -> list[Ticket]:
    """(epoch, index) of the first `count` views that training draws in this stage."""
    batches = StageBatches(
        samples,
        stage.config.batch_size,
        epochs=stage.config.epochs,
        first_epoch=stage.first_epoch,
        seed=config.train.seed,
        start=0,
    )
    return list(itertools.islice(itertools.chain.from_iterable(batches), count))


def describe_stage(config: Config, stage: Stage, target_size: tuple[int, int]) -> str:
    """The settings that shape a view, in words, separated by ' · '; the font has no ×."""
    settings, augment = stage.config, config.train.augment
    height, width = settings.size
    scale = " to ".join(f"{factor:g}" for factor in stage_scale(augment, settings))
    parts = [
        f"{height}x{width} pixels",
        f"resize {settings.resize:g}, then {scale}",
        f"batch {settings.batch_size}",
        f"epochs {stage.first_epoch + 1} to {stage.first_epoch + settings.epochs}",
        f"augment {settings.augment:g}: colour {augment.color * settings.augment:g}",
    ]
    if augment.weather * settings.augment:
        strength = f"{augment.weather * settings.augment:g}"
        parts[-1] += f", weather {strength} on {augment.weather_share:.0%} of the crops"
    if augment.extra:
        parts.append(f"extra: {', '.join(str(entry.get('name')) for entry in augment.extra)}")
    if target_size != settings.size:
        parts.append(f"loss at {target_size[0]}x{target_size[1]}")
    return " · ".join(parts)


def _view(dataset: TrainDataset, ticket: Ticket, space: LabelSpace) -> View:
    image, target = dataset.view(ticket)
    sample = dataset.samples[ticket[1]]
    picture = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    return View(sample.id, picture, _hard(target.numpy(), space.ignore_index))


def _hard(target: Picture, ignore_index: int) -> Picture:
    """Class indices (h, w) of a target, which may be the shares (K, h, w) of the classes."""
    if target.ndim == 2:
        return target
    hard = np.asarray(target.argmax(0), np.uint8)
    hard[target.max(0) == 0] = ignore_index
    return hard
