"""Runs that are stopped, killed or starved: nothing is lost, and they go on bit for bit."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY

from segcli import checkpoint
from segcli.config_file import load_config
from segcli.data.dataset import TrainDataset
from segcli.data.manifest import load_manifest
from segcli.distributed import World
from segcli.errors import CheckpointError, ConfigError, DataError
from segcli.models.layers import ConvBlock
from segcli.recipes import train as recipe
from segcli.recipes import training_step as step_recipe
from segcli.recipes.train import TrainResult, train
from segcli.recipes.training_guard import Interrupted, NonFiniteError, StopRequest
from segcli.reporting.events import NullReporter

CPU = torch.device("cpu")
# Everything that could make a resumed run differ: two sizes, parts of batches, dropout, frozen
# epochs and layers, averages, weather.
RICH = (
    "train.stages=[{size: [32, 32], resize: 0.5, epochs: 1, batch_size: 4}, "
    "{size: [32, 64], epochs: 2, batch_size: 6, lr_scale: 0.5, accumulate: 2, freeze_stride: 8}]",
    "train.augment={preset: weather}",
    "train.freeze_encoder=1",
    "train.optimizer.clip_norm=1",
    "model.dropout=0.2",
)
STEPS = 3 + 4


class Signals(NullReporter):
    """Sends this process a signal when a given step is reported, or its nth picture is."""

    def __init__(self, step: int = 0, *, at_picture: bool = False, number: int = signal.SIGTERM):
        self.step, self.at_picture, self.number = step, at_picture, number
        self.warnings: list[str] = []

    def scalar(self, name: str, value: float, step: int) -> None:
        if name == "loss/total" and step == self.step and not self.at_picture:
            os.kill(os.getpid(), self.number)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        if self.at_picture and step == self.step:
            os.kill(os.getpid(), self.number)

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def run(
    prepared: Path, folder: Path, *overrides: str, reporter: Any = None, resume: bool = False
) -> TrainResult:
    config = load_config("fpn.yaml", [*TINY, f"data.prepared={prepared}", *overrides])
    reporter = reporter or NullReporter()
    last = folder / "last" if resume else None
    return train(config, folder=folder, device=CPU, reporter=reporter, resume=last)


def same(a: Path, b: Path) -> bool:
    first = checkpoint.load_resume(a / "last")
    second = checkpoint.load_resume(b / "last")
    for part in ("model", "average"):
        if not all(torch.equal(first[part][k], second[part][k]) for k in first[part]):
            return False
    return bool(first["step"] == second["step"] and first["best_score"] == second["best_score"])


@pytest.fixture(scope="module")
def undisturbed(tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert run(tiny_prepared, folder, *RICH).steps == STEPS
    return folder


@pytest.mark.parametrize("step, workers", [(1, 0), (3, 1), (4, 0), (5, 1), (7, 0)])
def test_a_stopped_run_goes_on_to_the_same_bits(
    tiny_prepared: Path, tmp_path: Path, undisturbed: Path, step: int, workers: int
) -> None:
    folder, worker = tmp_path / "run", f"data.workers={workers}"
    with pytest.raises(Interrupted, match=f"SIGTERM at step {step} of {STEPS}") as caught:
        run(tiny_prepared, folder, *RICH, worker, reporter=Signals(step))
    assert caught.value.exit_code == 143
    assert checkpoint.verify(folder / "last")["step"] == step
    result = run(tiny_prepared, folder, *RICH, worker, resume=True)
    assert result.steps == STEPS
    assert same(folder, undisturbed)
    assert run(tiny_prepared, folder, *RICH, resume=True).best_miou == result.best_miou


def test_a_signal_while_validating_leaves_the_validation_to_the_resumed_run(
    tiny_prepared: Path, tmp_path: Path, undisturbed: Path
) -> None:
    folder = tmp_path / "run"
    reporter = Signals(3, at_picture=True, number=signal.SIGINT)
    # Started in the background, the tests themselves may have been told to ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(Interrupted) as caught:
        run(tiny_prepared, folder, *RICH, reporter=reporter)
    assert caught.value.exit_code == 130
    assert not (folder / "best").exists()
    run(tiny_prepared, folder, *RICH, resume=True)
    assert same(folder, undisturbed)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_a_run_of_other_stages_or_broken_checkpoints_is_refused(
    tiny_prepared: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run(tiny_prepared, folder, "train.checkpoint_minutes=0")
    with pytest.raises(CheckpointError, match="other stages"):
        run(tiny_prepared, folder, *RICH, resume=True)
    resume = folder / "last" / "resume.pt"
    resume.write_bytes(resume.read_bytes()[:-7])
    # The previous checkpoint, one step older, takes over with a word about it.
    reporter = Signals()
    assert run(tiny_prepared, folder, resume=True, reporter=reporter).steps == 6
    assert any("previous checkpoint" in text for text in reporter.warnings)


def test_a_loss_that_is_not_finite_is_skipped_and_kept_and_ends_the_run_in_time(
    tiny_prepared: Path, tmp_path: Path
) -> None:
    folder, reporter = tmp_path / "run", Signals()
    wild = ("train.optimizer.lr=1e30", "train.optimizer.warmup=0", "train.checkpoint_minutes=0")
    with pytest.raises(NonFiniteError, match="4 steps in a row"):
        run(tiny_prepared, folder, *wild, "train.nonfinite_limit=4", reporter=reporter)
    assert len(reporter.warnings) == 4
    kept = sorted((folder / "nonfinite").glob("*.npz"))
    assert len(kept) == 3
    batch = np.load(kept[0])
    assert batch["images"].shape == (4, 3, 32, 64)
    assert len(batch["samples"]) == 4
    state = checkpoint.load_resume(folder / "last")
    assert all(v.isfinite().all() for v in state["model"].values() if v.is_floating_point())


def test_one_bad_step_does_not_poison_what_follows(
    tiny_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ConvBlock.forward
    calls = {"count": 0}

    def sometimes_infinite(self: ConvBlock, x: torch.Tensor) -> torch.Tensor:
        calls["count"] += self.training
        return whole(self, x * float("inf") if calls["count"] == 9 and self.training else x)

    monkeypatch.setattr(ConvBlock, "forward", sometimes_infinite)
    reporter = Signals()
    run(tiny_prepared, tmp_path / "run", reporter=reporter)
    assert len(reporter.warnings) == 1
    state = checkpoint.load_resume(tmp_path / "run" / "last")
    for part in ("model", "average"):
        assert all(v.isfinite().all() for v in state[part].values() if v.is_floating_point())


@pytest.mark.parametrize("fate", ["dead", "hung"])
def test_a_worker_that_dies_or_hangs_ends_in_an_error_that_names_the_sample(
    tiny_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    view = TrainDataset.view

    def fateful(self: TrainDataset, ticket: tuple[int, int]) -> Any:
        if ticket[1] == 5 and torch.utils.data.get_worker_info() is not None:
            if fate == "dead":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        return view(self, ticket)

    monkeypatch.setattr(TrainDataset, "view", fateful)
    started = time.monotonic()
    with pytest.raises(DataError, match=r"worker (died|gave no batch)") as caught:
        run(tiny_prepared, tmp_path / "run", "data.workers=1", "data.worker_timeout=2")
    assert time.monotonic() - started < 30
    assert caught.value.file == load_manifest(tiny_prepared).split("train")[5].image
    # The traceback holds the loader, and torch would blame its dead worker on later ones.
    del caught
    gc.collect()


def test_training_stops_early_and_the_best_is_by_the_score_that_was_asked_for(
    tiny_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.5, 0.4, 0.3, 0.9])
    logged = recipe.logged_scores

    def scripted(found: Any) -> dict[str, float]:
        return {**logged(found), "val_iou/road": next(scores)}

    monkeypatch.setattr(recipe, "_report_scores", lambda run, scores, epoch: None)
    monkeypatch.setattr(recipe, "logged_scores", scripted)
    settings = (
        "train.stages=[{size: [32, 64], epochs: 5, batch_size: 12}]",
        "train.patience=2",
        "train.best_by=val_iou/road",
    )
    result = run(tiny_prepared, tmp_path / "run", *settings)
    assert result.steps == 4
    assert checkpoint.verify(tmp_path / "run" / "best")["step"] == 2
    with pytest.raises(ConfigError, match="no score is called 'val/mio'"):
        run(tiny_prepared, tmp_path / "other", "train.best_by=val/mio")


def test_a_best_score_is_no_bound_for_another_score(tiny_prepared: Path, tmp_path: Path) -> None:
    folder, heard = tmp_path / "run", Signals(4)
    best = "train.best_by=val/pixel_accuracy"
    with pytest.raises(Interrupted):
        run(tiny_prepared, folder, *RICH, best, reporter=heard)
    first = checkpoint.load_resume(folder / "last")
    assert first["best_score"] is not None
    heard = Signals()
    run(tiny_prepared, folder, *RICH, "train.best_by=val_iou/road", resume=True, reporter=heard)
    assert any("train.best_by changed" in text for text in heard.warnings)
    assert checkpoint.verify(folder / "best")["step"] > 4


def test_a_run_that_had_ended_says_what_it_ended_at(tiny_prepared: Path, tmp_path: Path) -> None:
    result = run(tiny_prepared, tmp_path / "run", *RICH)
    again = run(tiny_prepared, tmp_path / "run", *RICH, resume=True)
    assert (again.last_miou, again.best_miou) == (result.last_miou, result.best_miou)


def test_the_network_computes_in_the_layout_that_was_asked_for(
    tiny_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    losses = step_recipe.step_losses

    def watched(run: Any, network: Any, images: torch.Tensor, target: torch.Tensor) -> Any:
        seen.append(images.is_contiguous(memory_format=torch.channels_last))
        return losses(run, network, images, target)

    monkeypatch.setattr(step_recipe, "step_losses", watched)
    for asked in (True, False):
        seen.clear()
        run(tiny_prepared, tmp_path / str(asked), *RICH, f"train.channels_last={asked}")
        assert set(seen) == {asked}


def weights(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    state = checkpoint.load_resume(folder / "last")["model"]
    return {k: v for k, v in state.items() if k.startswith(prefix)}


def test_frozen_parts_stay_as_they_are(tiny_prepared: Path, tmp_path: Path) -> None:
    def encoder(name: str, *overrides: str, epochs: int = 1) -> dict[str, torch.Tensor]:
        stage = f"train.stages=[{{size: [32, 64], epochs: {epochs}, batch_size: 4}}]"
        run(tiny_prepared, tmp_path / name, stage, *overrides)
        return weights(tmp_path / name, "encoder.")

    frozen = encoder("frozen", "train.freeze_encoder=1")
    again = encoder("again", "train.freeze_encoder=1", "train.optimizer.lr=1e-2")
    assert all(torch.equal(frozen[k], again[k]) for k in frozen)
    thawed = encoder("thawed", "train.freeze_encoder=1", epochs=2)
    assert not all(torch.equal(frozen[k], thawed[k]) for k in frozen)
    normed = encoder("normed", "train.freeze_batchnorm=all")
    statistics = [k for k in frozen if "running" in k or "num_batches" in k]
    assert statistics
    assert all(torch.equal(frozen[k], normed[k]) for k in statistics)
    assert not all(torch.equal(frozen[k], normed[k]) for k in frozen)


def test_layers_up_to_a_stride_are_frozen_for_a_stage(tiny_prepared: Path, tmp_path: Path) -> None:
    def trained(name: str, *stages: str, lr: float = 1e-3) -> dict[str, torch.Tensor]:
        plan = ", ".join(f"{{size: [32, 64], batch_size: 4, {stage}}}" for stage in stages)
        rate = f"train.optimizer.lr={lr}"
        run(tiny_prepared, tmp_path / name, f"train.stages=[{plan}]", rate)
        return weights(tmp_path / name, "")

    def moved(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
        parts = {".".join(k.split(".")[: 3 if k.startswith("encoder") else 1]) for k in a}
        return {p for p in parts if any(not torch.equal(a[k], b[k]) for k in a if k.startswith(p))}

    late = {f"encoder.stages.{number}" for number in (2, 3, 4)} | {"decoder"}
    slow = trained("slow", "epochs: 1, freeze_stride: 4")
    fast = trained("fast", "epochs: 1, freeze_stride: 4", lr=1e-2)
    assert moved(slow, fast) == late
    assert moved(slow, trained("all", "epochs: 1, freeze_stride: 32")) == late
    first = trained("first", "epochs: 1", "epochs: 1, freeze_stride: 4")
    early = {"encoder.stages.0", "encoder.stages.1"}
    assert moved(slow, first) == early | late


@pytest.mark.parametrize(
    "loss, soft",
    [
        ("{auxiliary: 0, class_weights: sqrt}", "false"),
        ("{auxiliary: 0, class_weights: sqrt}", "true"),
        ("{auxiliary: 0, class_weights: sqrt, terms: {bce: 1}}", "false"),
        ("{auxiliary: 0, class_weights: none, terms: {focal: 1}}", "true"),
    ],
)
def test_parts_of_a_batch_add_up_to_the_batch(
    tiny_prepared: Path, tmp_path: Path, loss: str, soft: str
) -> None:
    fixed = ("train.freeze_batchnorm=all", f"train.loss={loss}", "train.optimizer.name=sgd")
    fixed += (f"data.soft_targets={soft}",)

    def trained(name: str, accumulate: int) -> dict[str, torch.Tensor]:
        stage = f"{{size: [32, 64], epochs: 1, batch_size: 12, accumulate: {accumulate}}}"
        run(tiny_prepared, tmp_path / name, f"train.stages=[{stage}]", *fixed)
        return weights(tmp_path / name, "")

    whole, parts = trained("whole", 1), trained("parts", 4)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6)


def test_a_signal_while_waiting_for_data_is_heard_at_once(
    tiny_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = TrainDataset.view

    def slow(self: TrainDataset, ticket: tuple[int, int]) -> Any:
        if ticket == (1, 3):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
            time.sleep(60)
        return view(self, ticket)

    monkeypatch.setattr(TrainDataset, "view", slow)
    started = time.monotonic()
    with pytest.raises(Interrupted, match="SIGTERM at step") as caught:
        run(tiny_prepared, tmp_path / "run")
    assert time.monotonic() - started < 30
    assert caught.value.exit_code == 143
    step = checkpoint.verify(tmp_path / "run" / "last")["step"]
    assert f"at step {step} of 6" in str(caught.value)


def test_several_processes_stop_for_what_they_have_agreed_on() -> None:
    stop = StopRequest(World(rank=1, local_rank=1, size=2))
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.heard == 1
        assert stop.asked == 0
        stop.settle(1.0)
        assert stop.asked == signal.SIGTERM
    other = StopRequest(World(rank=0, local_rank=0, size=2))
    other.settle(1.0)
    assert other.asked == signal.SIGTERM


def test_a_damaged_checkpoint_never_takes_the_place_of_the_previous_one(
    tiny_prepared: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run(tiny_prepared, folder, "train.checkpoint_minutes=0")
    weights_file = folder / "last" / "model.safetensors"
    weights_file.write_bytes(b"no weights")
    checkpoint.set_aside_if_damaged(folder / "last")
    assert not (folder / "last").exists()
    assert checkpoint.verify(folder / "last.previous")
    assert checkpoint.verify_or_previous(folder / "last")[0].name == "last.previous"


def test_a_checkpoint_of_another_optimiser_is_refused(tiny_prepared: Path, tmp_path: Path) -> None:
    run(tiny_prepared, tmp_path / "run")
    with pytest.raises(CheckpointError, match="was trained with adamw, not sgd"):
        run(tiny_prepared, tmp_path / "run", "train.optimizer.name=sgd", resume=True)
