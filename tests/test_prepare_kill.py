"""Killed at any moment and run again, prepare-labels ends with the bytes of a quiet run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prepare_tree import bytes_below, cityscapes

ROOT = Path(__file__).resolve().parents[1]
ALSO = "labelIds,instanceIds"


def _start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "segcli", "prepare-labels", "raw"]
    command += ["--workers", "2", "--one-hot", "--also", ALSO, "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=quiet, stderr=quiet)


def _kill_and_compare(folder: Path, kills: int, seed: int) -> None:
    count = {"train": 150, "val": 50}
    cityscapes(folder / "raw", count, size=(128, 256))
    assert _start(folder).wait() == 0
    expected = bytes_below(folder / "out")
    rng, half_done = random.Random(seed), 0
    for _ in range(kills):
        shutil.rmtree(folder / "out")
        process, labels = _start(folder), rng.randrange(1, sum(count.values()))
        # Not after a time: how far that is depends on what else the machine does.
        while process.poll() is None and _written(folder) < labels:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        half_done += not (folder / "out/manifest.json").exists()
        assert _start(folder).wait() == 0
        assert bytes_below(folder / "out") == expected
    assert half_done, "no kill came while files were written"


def _written(folder: Path) -> int:
    return sum(1 for _ in (folder / "out/labels").rglob("*.png"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_three_times(tmp_path: Path) -> None:
    _kill_and_compare(tmp_path, kills=3, seed=1)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_ten_times(tmp_path: Path) -> None:
    _kill_and_compare(tmp_path, kills=10, seed=2)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="looks at /proc")
def test_workers_do_not_outlive_their_parent(tmp_path: Path) -> None:
    cityscapes(tmp_path / "raw", {"train": 60}, size=(256, 512))
    process = _start(tmp_path)
    children: list[str] = []
    while len(children) < 2 and process.poll() is None:
        listing = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children = listing.read_text().split() if listing.exists() else []
    process.kill()
    process.wait()
    assert len(children) == 2
    deadline = time.monotonic() + 5
    while any(_alive(c) for c in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_alive(c) for c in children)


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
