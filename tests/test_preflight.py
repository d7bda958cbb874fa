"""Pre-flight and probe: faults before step 1, and a run that they do not move by a bit."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY
from tiny_run import one_thread  # noqa: F401

from segcli import resources
from segcli.config_file import load_config
from segcli.data.manifest import FILE_NAME
from segcli.errors import DataError, OutputError, SegcliError
from segcli.recipes import training, training_probe
from segcli.recipes.train import run_stages, train
from segcli.recipes.training import Training
from segcli.recipes.training_guard import StopRequest
from segcli.recipes.training_preflight import preflight, unchanged_streams, validation_step
from segcli.recipes.training_probe import StageCost, probe
from segcli.recipes.training_setup import set_up
from segcli.reporting.events import NullReporter

CPU = torch.device("cpu")
TWO_STAGES = (
    "train.stages=[{size: [32, 32], resize: 0.5, epochs: 5, batch_size: 4, accumulate: 2}, "
    "{size: [32, 64], epochs: 5, batch_size: 4}]"
)


class Recorder(NullReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.messages: list[str] = []
        self.tables: list[tuple[Sequence[str], Sequence[Sequence[str]]]] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.tables.append((columns, rows))


def start(prepared: Path, folder: Path, *overrides: str) -> Training:
    config = load_config("fpn.yaml", [*TINY, f"data.prepared={prepared}", *overrides])
    return set_up(config, folder=folder, device=CPU, reporter=Recorder(), resume=None)


@pytest.fixture
def own_prepared(tiny_city: Path, tiny_prepared: Path, tmp_path: Path) -> Path:
    """A prepared folder of one's own, and the raw images it names, to be damaged."""
    shutil.copytree(tiny_city, tmp_path / "city")
    shutil.copytree(tiny_prepared, tmp_path / "prepared")
    return tmp_path / "prepared"


def everything(run: Training) -> dict[str, Any]:
    """All state that may move, copied."""
    return {
        "model": copy.deepcopy(run.model.state_dict()),
        "average": copy.deepcopy(run.average.model.state_dict()),
        "optimizer": copy.deepcopy(run.optimizer.state_dict()),
        "grads": [p.grad is None for p in run.model.parameters()],
        "modes": [m.training for m in run.model.modules()],
        "layout": [p.stride() for p in run.model.parameters()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),
        "position": (run.step, run.seconds),
    }


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return bool(a == b)


def test_nothing_of_the_run_moves(tiny_prepared: Path, tmp_path: Path) -> None:
    run = start(tiny_prepared, tmp_path / "run", TWO_STAGES, "model.dropout=0.3")
    before = everything(run)
    preflight(run)
    costs = probe(run)
    assert len(costs) == 2
    assert equal(before, everything(run))


def test_training_ends_in_the_same_bits(tiny_prepared: Path, tmp_path: Path) -> None:
    stage = "train.stages=[{size: [32, 32], resize: 0.5, epochs: 5, batch_size: 2}]"
    settings = (stage, "model.dropout=0.3", "train.validate_every=10")
    ends = []
    for name in ("with", "without"):
        run = start(tiny_prepared, tmp_path / name, *settings)
        if name == "with":
            preflight(run)
            assert probe(run)
        run_stages(run, StopRequest())
        ends.append(copy.deepcopy(run.model.state_dict()))
    assert equal(*ends)


def test_random_streams_are_put_back_after_an_error() -> None:
    state = torch.get_rng_state()
    with pytest.raises(KeyError), unchanged_streams(CPU):
        torch.rand(3)
        raise KeyError
    assert torch.equal(state, torch.get_rng_state())


# --- the probe -------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_the_probe_reports_each_stage(tiny_prepared: Path, tmp_path: Path, workers: int) -> None:
    run = start(tiny_prepared, tmp_path / "run", TWO_STAGES, f"data.workers={workers}")
    costs = probe(run)
    assert [c.size for c in costs] == [(32, 32), (32, 64)]
    assert [c.steps for c in costs] == [15, 15]
    assert all(c.step_seconds > 0 and c.load_seconds > 0 and 0 <= c.wait < 1 for c in costs)
    assert all(c.overlapped == (workers > 0) for c in costs)
    assert isinstance(run.reporter, Recorder)
    ((columns, rows),) = run.reporter.tables
    assert "data wait" in columns
    assert [row[1] for row in rows] == ["32×32", "64×32"]
    assert any("expected end" in line for line in run.reporter.messages)


def test_short_and_resumed_runs_are_not_probed(tiny_prepared: Path, tmp_path: Path) -> None:
    assert probe(start(tiny_prepared, tmp_path / "short")) == []
    run = start(tiny_prepared, tmp_path / "run", TWO_STAGES)
    run.step = 4
    assert probe(run) == []


def test_time_of_a_stage_counts_loading_that_overlaps_once() -> None:
    cost = StageCost((8, 8), 2, 10, 1.0, 3.0, 2 / 3, True, None)
    assert cost.seconds == 30.0
    assert StageCost((8, 8), 2, 10, 1.0, 3.0, 0.75, False, None).seconds == 40.0


def test_a_step_that_does_not_fit_says_which_key_helps(
    tiny_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tiny_prepared, tmp_path / "run", TWO_STAGES)

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(training_probe.training, "forward_losses", full)
    with pytest.raises(resources.MemoryShortageError, match=r"stage 1 .*train\.stages\.0\.accum"):
        probe(run)


def test_a_bad_picture_is_named(own_prepared: Path, tmp_path: Path) -> None:
    run = start(own_prepared, tmp_path / "run", TWO_STAGES)
    for sample in run.samples:
        data = sample.image.read_bytes()
        sample.image.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="truncated PNG"):
        probe(run)


# --- pre-flight ------------------------------------------------------------------------------


def test_missing_and_resized_files_stop_the_run(own_prepared: Path, tmp_path: Path) -> None:
    run = start(own_prepared, tmp_path / "run")
    run.samples[0].image.unlink()
    image = cv2.imencode(".png", np.zeros((10, 20, 3), np.uint8))[1]
    run.samples[1].image.write_bytes(image.tobytes())
    with pytest.raises(DataError, match=r"2 faults, first: .*segcli check"):
        preflight(run)


def test_absent_classes_are_a_warning(own_prepared: Path, tmp_path: Path) -> None:
    manifest = json.loads((own_prepared / FILE_NAME).read_text())
    for row in manifest["splits"]["val"]:
        row["pixels"][13] = 0
    (own_prepared / FILE_NAME).write_text(json.dumps(manifest))
    run = start(own_prepared, tmp_path / "run")
    preflight(run)
    assert isinstance(run.reporter, Recorder)
    assert any("no pixel of car in 'val'" in line for line in run.reporter.warnings)


def test_a_full_disk_is_known_before_step_1(
    tiny_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tiny_prepared, tmp_path / "run")
    monkeypatch.setattr(resources, "free_disk", lambda _: 2**20)
    with pytest.raises(OutputError, match=r"checkpoints take up to \d+ MiB, 1 MiB is free"):
        preflight(run)


def test_checkpoints_that_are_there_need_no_more_room(
    tiny_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tiny_prepared, tmp_path / "run")
    for name in ("last", "last.previous", "best", "best.previous"):
        (run.folder / name).mkdir(parents=True)
        (run.folder / name / "model.safetensors").write_bytes(b"\0" * 2**24)
    monkeypatch.setattr(resources, "free_disk", lambda _: 2**20)
    preflight(run)


def test_the_estimate_is_what_checkpoints_take(tiny_prepared: Path, tmp_path: Path) -> None:
    config = load_config("fpn.yaml", [*TINY, f"data.prepared={tiny_prepared}"])
    train(config, folder=tmp_path / "run", device=CPU, reporter=NullReporter())
    run = start(tiny_prepared, tmp_path / "other")
    state = sum(t.numel() * t.element_size() for t in run.model.state_dict().values())
    trainable = sum(p.numel() for p in run.model.parameters())
    sizes = {
        name: sum(f.stat().st_size for f in (tmp_path / "run" / name).iterdir())
        for name in ("last", "best")
    }
    expected = resources.checkpoint_bytes(state, trainable, "adamw")
    # Headers and JSON weigh something in a model this small.
    assert expected == pytest.approx(3 * sizes["last"] + 2 * sizes["best"], rel=0.25)


def test_small_shared_memory_is_an_error_that_names_the_key(
    tiny_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tiny_prepared, tmp_path / "run", "data.workers=2")
    need = 2 * 4 * 4 * 32 * 64 * 4
    monkeypatch.setattr(resources, "free_shared_memory", lambda: need - 1)
    with pytest.raises(SegcliError, match=r"data\.workers to 0"):
        preflight(run)
    monkeypatch.setattr(resources, "free_shared_memory", lambda: need + need // 2)
    preflight(run)
    assert isinstance(run.reporter, Recorder)
    assert any("data.workers to 1" in line for line in run.reporter.warnings)
    monkeypatch.setattr(resources, "free_shared_memory", lambda: None)
    preflight(run)


def test_validation_is_tried_at_its_largest(
    own_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest picture, as often as it occurs and no more often than the batch."""
    manifest = json.loads((own_prepared / FILE_NAME).read_text())
    rows = manifest["splits"]["val"]
    for row in rows[:-1]:
        row["size"] = [32, 64]
    (own_prepared / FILE_NAME).write_text(json.dumps(manifest))
    run = start(own_prepared, tmp_path / "run")
    seen: list[Any] = []

    class Spy(training.Predictor):
        def predict_batch(self, images: Any, output_size: Any = None) -> Any:
            seen.append((len(images), images[0].shape, output_size))
            return super().predict_batch(images, output_size)

    monkeypatch.setattr(training, "Predictor", Spy)
    assert validation_step(run) > 0
    assert seen == [(1, (64, 128, 3), (64, 128))]


def test_a_validation_that_does_not_fit_even_in_tiles_stops_before_step_1(
    tiny_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tiny_prepared, tmp_path / "run")

    def full(*_: Any) -> Any:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(run.average.model, "logits_at_stride", full)
    with pytest.raises(resources.MemoryShortageError, match="not even a tile of"):
        preflight(run)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shape"), resources.memory_advice("a", "b"):
        raise RuntimeError("shape mismatch")
    with pytest.raises(resources.MemoryShortageError), resources.memory_advice("a", "b"):
        raise MemoryError
