"""The tiny world: a demo city of postage stamps, prepared once, and no way to the network."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# Postage stamps are no work for two threads; one is faster and repeats to the last bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).parent.parent.parent / "shared"
# What keeps a training of seconds small: the network, its crops and its schedule.
TINY = [
    "model.encoder=mobilenet_v2",
    "model.width_mult=0.25",
    "model.width=16",
    "model.head_width=16",
    "model.weights=null",
    "train.stages=[{size: [32, 64], epochs: 2, batch_size: 4}]",
    "train.validate_every=1",
    "train.precision=fp32",
    "train.channels_last=true",
    "eval.size=null",
    "data.workers=0",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """NNCF goes last: in a process that has loaded it, torch's second derivatives crash."""
    items.sort(key=lambda item: item.path.name == "test_export.py")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to leave this machine fails the test that makes it."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            raise AssertionError(f"a connection to {address} was opened")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def tiny_city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Cityscapes tree of 64×128 frames: 12 train, 4 val, 3 train_extra."""
    from segcli.data.city import generate_city

    root = tmp_path_factory.mktemp("world") / "city"
    counts = {"train": 12, "val": 4, "train_extra": 3}
    generate_city(root, size=(64, 128), counts=counts, seed=1, drives=1, drive_frames=3, workers=1)
    return root


@pytest.fixture(scope="session")
def tiny_prepared(tiny_city: Path) -> Path:
    """The tiny city, prepared for cityscapes-19 with one-hot channels."""
    from segcli.recipes.prepare import prepare_labels
    from segcli.reporting.events import NullReporter

    out = tiny_city.parent / "prepared"
    prepare_labels(tiny_city, reporter=NullReporter(), out=out, one_hot=True, workers=1)
    return out


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; tests that need it skip where it is not."""
    if not SHARED.is_dir():
        pytest.skip("the shared folder with real data is not beside this checkout")
    return SHARED


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder as the current one."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The working folder, with a small prepared data set and the run `runs/demo` on it."""
    from tiny_run import make_prepared, make_run

    monkeypatch.chdir(tmp_path)
    manifest = make_prepared(tmp_path)
    make_run(tmp_path / "runs" / "demo", manifest.folder)
    return manifest
