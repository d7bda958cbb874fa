"""Distillation on the tiny city, as the tests of several files run it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from tiny_run import one_thread

from segcli import checkpoint
from segcli.config import Config
from segcli.config_file import load_config
from segcli.data.manifest import load_manifest
from segcli.recipes.distill import Asked, DistillResult, distill
from segcli.recipes.distill_data import find_extra
from segcli.recipes.distill_step import Distillation
from segcli.recipes.distill_teacher import Teacher, load_teacher
from segcli.recipes.train import TrainResult, train
from segcli.reporting.events import NullReporter, Reporter

__all__ = ["one_thread", "teacher"]

CPU = torch.device("cpu")
EVERYTHING = (
    "distill.losses={pixel: 1, channel: 3, pairwise: 10, feature: 1, holistic: 0.1}",
    "distill.coarse=[train_extra]",
    "distill.unlabelled=[val]",
    "distill.discriminator.width=4",
    "distill.measure_every=2",
    "distill.fine_only=0.3",
    "train.stages=[{size: [32, 64], epochs: 2, batch_size: 4, accumulate: 2}]",
    "model.dropout=0.2",
)
NOTHING = "distill.losses={pixel: 0, channel: 0}"


class Listener(NullReporter):
    """Keeps what it hears, and may send a signal when a step is reported."""

    def __init__(self, stop_at: int = 0) -> None:
        self.scalars: dict[str, list[float]] = {}
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.stop_at = stop_at

    def scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.setdefault(name, []).append(value)
        if name == "loss/total" and step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def message(self, text: str) -> None:
        self.lines.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def teacher(tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a network of another encoder and width than the student's."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    own = ["model.encoder=resnet18", "model.width_mult=1", "model.width=24", "model.head_width=24"]
    settings = load_config("fpn.yaml", [*TINY, *own, f"data.prepared={tiny_prepared}"])
    train(settings, folder=folder, device=CPU, reporter=NullReporter())
    return folder


def config(prepared: Path, *overrides: str) -> Config:
    return load_config("fpn.yaml", [*TINY, f"data.prepared={prepared}", "distill={}", *overrides])


def run(
    prepared: Path,
    folder: Path,
    teacher: Path | Teacher,
    *overrides: str,
    reporter: Reporter | None = None,
    resume: bool = False,
) -> TrainResult:
    """Distil without looking at the teacher first."""
    settings = config(prepared, *overrides)
    manifest = load_manifest(prepared)
    assert settings.distill is not None
    extra = find_extra(settings.distill, manifest)
    taught = teacher if isinstance(teacher, Teacher) else load_teacher(teacher)
    return train(
        settings,
        folder=folder,
        device=CPU,
        reporter=reporter or NullReporter(),
        resume=folder / "last" if resume else None,
        teach=lambda run: Distillation(run, taught, extra),
    )


def whole(
    prepared: Path, folder: Path, teacher: Path, *overrides: str, **options: Any
) -> DistillResult:
    """Distil as the command does."""
    reporter = options.pop("reporter", None) or NullReporter()
    wishes = {k: options.pop(k) for k in ("control", "insist", "baseline") if k in options}
    return distill(
        config(prepared, *overrides),
        folder=folder,
        device=CPU,
        reporter=reporter,
        reporter_for=lambda place: NullReporter(),
        teacher=teacher,
        asked=Asked(**wishes),
        **options,
    )


def state(folder: Path) -> dict[str, Any]:
    return checkpoint.load_resume(folder / "last")


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, whatever it is that tensors lie in."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
