"""Training on the tiny city: it learns, repeats, resumes, and refuses what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY

from segcli import checkpoint
from segcli.config_file import load_config
from segcli.errors import DataError, LabelSpaceError
from segcli.recipes.evaluate_run import evaluate_run
from segcli.recipes.train import TrainResult, train
from segcli.recipes.training_setup import set_up
from segcli.reporting.events import NullReporter, Reporters
from segcli.reporting.jsonl import JsonLinesReporter
from segcli.reporting.tensorboard import TensorBoardReporter

CPU = torch.device("cpu")


def run(prepared: Path, folder: Path, *overrides: str, resume: Path | None = None) -> TrainResult:
    config = load_config("fpn.yaml", [*TINY, f"data.prepared={prepared}", *overrides])
    return train(config, folder=folder, device=CPU, reporter=NullReporter(), resume=resume)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_checkpoint(folder).state_dict


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    tiny_prepared: Path, tmp_path: Path
) -> None:
    run(tiny_prepared, tmp_path / "a", "model.dropout=0.2")
    run(tiny_prepared, tmp_path / "b", "model.dropout=0.2", "data.workers=1")
    run(tiny_prepared, tmp_path / "c", "model.dropout=0.2", "train.seed=1")
    assert same(tmp_path / "a/last", tmp_path / "b/last")
    assert not same(tmp_path / "a/last", tmp_path / "c/last")


def test_every_stage_begins_a_new_average(tiny_prepared: Path, tmp_path: Path) -> None:
    stages = "[{size: [32, 64], epochs: 3, batch_size: 2}, {size: [64, 128], epochs: 1}]"
    run(tiny_prepared, tmp_path / "run", f"train.stages={stages}")
    state = checkpoint.load_resume(tmp_path / "run/last")
    (*_, first), (*_, last) = state["stages"]
    assert state["step"] == last
    assert state["average_updates"] == last - first


def test_it_learns_its_images_and_eval_gives_the_same_figure_from_the_checkpoint_alone(
    tiny_prepared: Path, tmp_path: Path
) -> None:
    stages = "train.stages=[{size: [64, 128], epochs: 14, batch_size: 6}]"
    result = run(
        tiny_prepared,
        tmp_path / "run",
        stages,
        "data.val=[train]",
        "train.augment={scale: [1, 1], color: 0}",
        "train.optimizer.encoder_lr_factor=1",
        "train.optimizer.lr=2e-3",
        "train.validate_every=14",
        "train.ema=0.9",
        "model.encoder=resnet18",
        "model.width_mult=1",
        "model.width=32",
        "model.head_width=32",
    )
    assert result.best_miou > 0.08
    scores, _ = evaluate_run(tmp_path / "run", out=tmp_path / "eval", pictures=1)
    assert scores["miou"] == result.best_miou
    assert scores["pixel_accuracy"] > 0.4


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.decoder=unet", "model.decoder_block=residual", "train.optimizer.name=sgd"],
        ["data.soft_targets=true", "train.ema=0"],
        ["train.loss.class_weights=log", "train.precision=auto", "train.channels_last=null"],
        ["eval.size=[32, 64]", "train.optimizer.schedule=cosine", "train.optimizer.clip_norm=1"],
        ["data.train=[train, train_extra]", "train.precision=bf16", "data.workers=1"],
        pytest.param(["train.compile=on"], marks=pytest.mark.slow),
    ],
)
def test_the_other_ways_to_train(tiny_prepared: Path, tmp_path: Path, overrides: list[str]) -> None:
    one = "train.stages=[{size: [32, 64], epochs: 1, batch_size: 4}]"
    result = run(tiny_prepared, tmp_path / "run", one, *overrides)
    assert 0 <= result.last_miou <= 1
    evaluated, _ = evaluate_run(tmp_path / "run", out=tmp_path / "eval", pictures=0)
    assert evaluated["miou"] == result.last_miou


def test_a_run_folder_tells_its_story(tiny_prepared: Path, tmp_path: Path) -> None:
    config = load_config("fpn.yaml", [*TINY, f"data.prepared={tiny_prepared}"])
    folder = tmp_path / "run"
    reporter = Reporters(
        JsonLinesReporter(folder / "log.jsonl"), TensorBoardReporter(folder / "tensorboard")
    )
    train(config, folder=folder, device=CPU, reporter=reporter)
    reporter.done()
    assert load_config(folder / "config.yaml") == config
    assert json.loads((folder / "environment.json").read_text())["versions"]["torch"]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    names = {line["name"] for line in lines if "name" in line}
    assert {"loss/total", "loss/p2", "lr/encoder", "lr/decoder", "val/miou"} <= names
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    rates = [event.value for event in events.Scalars("lr/decoder")]
    assert len(rates) == 6
    assert rates[-1] < max(rates)
    assert len(events.Scalars("lr/decoder/no_decay")) == 6
    assert events.Tags()["images"]


def test_what_does_not_fit_is_refused(tiny_prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prepare-labels"):
        run(tmp_path / "nowhere", tmp_path / "run")
    with pytest.raises(LabelSpaceError, match="expects label space 'camvid-11'"):
        run(tiny_prepared, tmp_path / "run", "data.label_space=camvid-11")
    with pytest.raises(DataError, match="no samples in split 'test'"):
        run(tiny_prepared, tmp_path / "run", "data.train=[test]")
    assert not (tmp_path / "run" / "last").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_breaks_while_training_is_named_in_one_line(
    tiny_prepared: Path, tmp_path: Path, workers: int
) -> None:
    broken = tmp_path / "prepared"
    shutil.copytree(tiny_prepared, broken)
    label = sorted((broken / "labels" / "train").rglob("*.png"))[5]
    label.write_bytes(label.read_bytes()[:-20])
    with pytest.raises(DataError) as caught:
        run(broken, tmp_path / "run", f"data.workers={workers}")
    assert caught.value.file == label
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_resumed_run_takes_the_settings_it_is_given(tiny_prepared: Path, tmp_path: Path) -> None:
    run(tiny_prepared, tmp_path / "run")
    overrides = [*TINY, f"data.prepared={tiny_prepared}", "train.optimizer.lr=5e-4"]
    config = load_config("fpn.yaml", overrides)
    again = set_up(
        config,
        folder=tmp_path / "run",
        device=CPU,
        reporter=NullReporter(),
        resume=tmp_path / "run/last",
    )
    rates = {group["name"]: group["base_lr"] for group in again.optimizer.param_groups}
    assert rates["decoder"] == 5e-4
    assert again.step == 6
    assert again.optimizer.state
