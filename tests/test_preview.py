"""The contact sheet: the very views that training draws, their ignored pixels marked."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from segcli.config import Config
from segcli.config_file import load_config
from segcli.data.dataset import StageBatches, train_loader
from segcli.data.manifest import load_manifest
from segcli.errors import ConfigError, DataError
from segcli.labels import load_label_space
from segcli.recipes.preview import describe_stage, first_tickets, preview, stage_dataset
from segcli.recipes.training import plan
from segcli.reporting.contact_sheet import Row, View, contact_sheet
from segcli.reporting.events import NullReporter
from segcli.reporting.render import hatch

STAGES = (
    "train.stages=[{size: [32, 64], resize: 0.5, epochs: 2, batch_size: 2, augment: 0.5},"
    " {size: [48, 64], epochs: 1, batch_size: 4}]"
)


def tiny_config(prepared: Path, *more: str) -> Config:
    return load_config("demo_fpn.yaml", [f"data.prepared={prepared}", STAGES, *more])


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path))[:, :, ::-1]


def test_a_sheet_is_written_for_every_stage(tiny_prepared: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_prepared, "train.augment.preset=weather")
    path = preview(config, out=tmp_path / "new", reporter=NullReporter())
    assert path == tmp_path / "new" / "preview.png"
    sheet = read(path)
    again = preview(config, out=tmp_path / "again", reporter=NullReporter())
    assert (sheet == read(again)).all()
    one = tiny_config(tiny_prepared, "train.stages=[{size: [32, 64], epochs: 1, batch_size: 2}]")
    shorter = read(preview(one, out=tmp_path, reporter=NullReporter(), count=2))
    assert shorter.shape[0] < sheet.shape[0]
    assert shorter.shape[1] < sheet.shape[1]


def test_the_views_are_those_that_training_loads(tiny_prepared: Path) -> None:
    config = tiny_config(tiny_prepared, "train.augment.preset=weather")
    manifest = load_manifest(tiny_prepared)
    samples = manifest.split("train")
    for stage in plan(config.train.stages, len(samples)):
        dataset = stage_dataset(config, stage, samples, manifest.label_space)
        tickets = first_tickets(config, stage, len(samples), 4)
        assert {epoch for epoch, _ in tickets} == {stage.first_epoch}
        batches = StageBatches(
            len(samples),
            stage.config.batch_size,
            epochs=stage.config.epochs,
            first_epoch=stage.first_epoch,
            seed=config.train.seed,
            start=0,
        )
        batch = next(iter(train_loader(dataset, batches, workers=0, pin_memory=False)))
        assert not isinstance(batch, DataError)
        for position, ticket in enumerate(tickets[: stage.config.batch_size]):
            image, target = dataset.view(ticket)
            assert (image == batch[0][position]).all()
            assert (target == batch[1][position]).all()


def test_soft_targets_and_the_loss_at_the_label_can_be_seen(
    tiny_prepared: Path, tmp_path: Path
) -> None:
    config = tiny_config(tiny_prepared, "data.soft_targets=true", "train.loss_at=label")
    assert read(preview(config, out=tmp_path, reporter=NullReporter(), count=1)).size
    stage = plan(config.train.stages, 12)[0]
    assert "loss at 64x128" in describe_stage(config, stage, (64, 128))
    assert "augment 0.5: colour 0.15" in describe_stage(config, stage, (32, 64))


def test_a_sheet_shows_images_masks_and_ignored_pixels() -> None:
    space = load_label_space("camvid-11")
    image = np.full((60, 80, 3), (10, 200, 30), np.uint8)
    target = np.full((120, 160), 3, np.uint8)
    target[:, :80] = space.ignore_index
    sheet = contact_sheet([Row("stage 1", "a note", [View("x", image, target)])], space, tile=80)
    colors = {tuple(c) for c in sheet.reshape(-1, 3)}
    assert (10, 200, 30) in colors
    assert tuple(space.palette()[3]) in colors
    # Ignored pixels are hatched in the mask...
    stripes = hatch(np.zeros((20, 20, 3), np.uint8), np.full((20, 20), 255, np.uint8))
    assert {tuple(c) for c in stripes.reshape(-1, 3)} <= colors
    # ...and show the image alone in the overlay: its left half, below the mask's.
    overlay = sheet[-60 - 40 : -40]
    assert ((overlay == (10, 200, 30)).all(2)).any()


def test_large_views_shrink_and_small_ones_grow() -> None:
    space = load_label_space("camvid-11")
    target = np.zeros((1024, 2048), np.uint8)
    views = [View(f"sample {n}", np.zeros((1024, 2048, 3), np.uint8), target) for n in range(4)]
    note = " · ".join(["a setting of some length"] * 20)
    sheet = contact_sheet([Row("stage 1 of 1", note, views)], space)
    assert 1600 <= sheet.shape[1] <= 1700
    small = View("y" * 90, np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.uint8))
    assert contact_sheet([Row("s", "n", [small])], space).shape[0] > 600


def test_what_cannot_be_previewed_is_said(tiny_prepared: Path, tmp_path: Path) -> None:
    wrong = tiny_config(tiny_prepared, "train.augment.extra=[{name: GaussNois}]")
    with pytest.raises(ConfigError, match="GaussNoise"):
        preview(wrong, out=tmp_path, reporter=NullReporter())
    absent = tiny_config(tiny_prepared, "data.train=[elsewhere]")
    with pytest.raises(DataError, match="elsewhere"):
        preview(absent, out=tmp_path, reporter=NullReporter())
    assert not (tmp_path / "preview.png").exists()
