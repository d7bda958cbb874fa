"""Batches are pure functions of (seed, epoch, index), whatever the number of workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from segcli.data.dataset import StageBatches, TrainDataset, epoch_order, train_loader
from segcli.data.manifest import load_manifest
from segcli.data.transforms import TrainTransform
from segcli.errors import DataError


def dataset(prepared: Path, *, soft: bool = False) -> TrainDataset:
    transform = TrainTransform((32, 48), color=0.3)
    samples = load_manifest(prepared).split("train")
    return TrainDataset(samples, transform, seed=5, num_classes=19, soft_targets=soft)


def batches(start: int = 0) -> StageBatches:
    return StageBatches(12, 5, epochs=3, first_epoch=2, seed=5, start=start)


def test_order_is_a_permutation_that_changes_with_epoch_and_seed() -> None:
    orders = {tuple(epoch_order(12, seed=s, epoch=e)) for s in (0, 1) for e in (0, 1, 2)}
    assert len(orders) == 6
    assert all(sorted(o) == list(range(12)) for o in orders)


def test_a_stage_started_in_the_middle_is_the_tail_of_the_whole() -> None:
    whole = list(batches())
    assert len(whole) == len(batches()) == 6
    assert {epoch for batch in whole for epoch, _ in batch} == {2, 3, 4}
    for start in range(7):
        assert list(batches(start)) == whole[start:]


def test_an_epoch_smaller_than_a_batch_is_filled_from_its_own_order() -> None:
    (only,) = list(StageBatches(3, 8, epochs=1, first_epoch=0, seed=0, start=0))
    assert len(only) == 8
    assert {index for _, index in only} == {0, 1, 2}


def test_any_number_of_workers_gives_the_same_batches(tiny_prepared: Path) -> None:
    data = dataset(tiny_prepared)
    streams = [list(train_loader(data, batches(), workers=n, pin_memory=False)) for n in (0, 1, 3)]
    for other in streams[1:]:
        for (images, targets), (images2, targets2) in zip(streams[0], other, strict=True):
            assert torch.equal(images, images2)
            assert torch.equal(targets, targets2)
    images, targets = streams[0][0]
    assert images.shape == (5, 3, 32, 48)
    assert images.dtype == targets.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert len({view.numpy().tobytes() for images, _ in streams[0] for view in images}) == 30


def test_soft_targets_agree_with_hard_ones(tiny_prepared: Path) -> None:
    _, hard = dataset(tiny_prepared)[(0, 1)]
    _, soft = dataset(tiny_prepared, soft=True)[(0, 1)]
    assert soft.shape == (19, 32, 48)
    valid = (hard != 255) & (soft.sum(0) > 0)
    agree = soft.argmax(0)[valid] == hard[valid]
    assert agree.float().mean() > 0.85


def test_a_label_that_lost_its_size_is_named(tiny_prepared: Path, tmp_path: Path) -> None:
    import dataclasses

    import cv2

    data = dataset(tiny_prepared)
    small = tmp_path / "small.png"
    small.write_bytes(cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes())
    data.samples = (dataclasses.replace(data.samples[0], label=small), *data.samples[1:])
    with pytest.raises(DataError, match=r"image is 64×128 but its label 8×8: .*small\.png"):
        data.view((0, 0))


KILLED = """
import multiprocessing, os, signal, sys, threading, time
from pathlib import Path
import cv2
from segcli.data.dataset import StageBatches, TrainDataset, train_loader
from segcli.data.manifest import load_manifest
from segcli.data.transforms import TrainTransform

multiprocessing.set_start_method("fork")  # so that workers have what is put here
parent, pids = os.getpid(), Path(sys.argv[2])

def held_up(_):
    if os.getpid() != parent:
        (pids / str(os.getpid())).touch()
        while os.getppid() == parent:
            time.sleep(0.01)

cv2.setNumThreads = held_up
samples = load_manifest(sys.argv[1]).split("train")
data = TrainDataset(samples, TrainTransform((32, 64)), seed=0, num_classes=19)
order = StageBatches(len(samples), 4, epochs=1, first_epoch=0, seed=0, start=0)
loader = train_loader(data, order, workers=2, pin_memory=False)
threading.Thread(target=lambda: list(loader), daemon=True).start()
while len(list(pids.iterdir())) < 2:
    time.sleep(0.01)
os.kill(parent, signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks processes up in /proc")
def test_workers_end_when_their_parent_is_killed_before_they_are_ready(
    tiny_prepared: Path, tmp_path: Path
) -> None:
    """Torch's own watch begins later, and waits for ever for process 1 to end."""
    words = [sys.executable, "-c", KILLED, str(tiny_prepared), str(tmp_path)]
    assert subprocess.run(words, timeout=120).returncode == -signal.SIGKILL
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert len(pids) == 2
    until = time.monotonic() + 60
    while any(is_running(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    left = [pid for pid in pids if is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"
