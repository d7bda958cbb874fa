"""Two real processes under torchrun follow one process, share every image, and start again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from segcli import checkpoint
from segcli.data.dataset import StageBatches
from segcli.data.manifest import load_manifest
from segcli.distributed import World, launcher, world
from segcli.errors import ConfigError, UsageError

TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--nproc-per-node", "2", "--standalone", "--max-restarts", "1"),
]
ALIKE = (
    # What learns changes from stage to stage, and with it what the processes exchange.
    "train.stages=[{size: [32, 64], epochs: 4, batch_size: 4}, "
    "{size: [32, 64], epochs: 3, batch_size: 4, freeze_stride: 8}]",
    "train.freeze_batchnorm=all",
    "train.validate_every=7",
    "train.loss={terms: {cross_entropy: 1, focal: 0.5}, class_weights: sqrt}",
)


def command(prepared: Path, folder: Path, *overrides: str) -> list[str]:
    settings = [*TINY, f"data.prepared={prepared}", *overrides]
    words = [word for setting in settings for word in ("--set", setting)]
    return [
        "-m",
        "segcli",
        "train",
        "fpn.yaml",
        "--run-dir",
        str(folder),
        "--device",
        "cpu",
        *words,
    ]


def curve(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["value"] for row in rows if row.get("name") == "loss/total"}


def finish(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=240, **options)


def test_two_processes_follow_one(tiny_prepared: Path, tmp_path: Path) -> None:
    single = finish([sys.executable, *command(tiny_prepared, tmp_path / "one", *ALIKE)])
    assert single.returncode == 0, single.stderr
    double = finish([*TORCHRUN, *command(tiny_prepared, tmp_path / "two", *ALIKE)])
    assert double.returncode == 0, double.stderr
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert len(one) == len(two) == 21
    assert max(abs(one[step] - two[step]) for step in one) < 1e-4
    assert one[1] > one[21]
    # Every validation image once: the scores count exactly its valid pixels.
    pixels = sum(load_manifest(tiny_prepared).class_pixels("val")[:-1])
    for name in ("one", "two"):
        assert checkpoint.verify(tmp_path / name / "best")["scores"]["pixels"] == pixels
    assert double.stdout.count("run folder:") == 1


@pytest.mark.slow
def test_a_killed_process_is_started_again_from_the_last_checkpoint(
    tiny_prepared: Path, tmp_path: Path
) -> None:
    long = ("train.stages=[{size: [32, 64], epochs: 60, batch_size: 4}]", *ALIKE[1:])
    often = "train.checkpoint_minutes=0"
    folder = tmp_path / "run"
    job = subprocess.Popen([*TORCHRUN, *command(tiny_prepared, folder, *long, often)])
    while not (folder / "last.previous").is_dir():
        assert job.poll() is None
        time.sleep(0.2)
    children = f"/proc/{job.pid}/task/{job.pid}/children"
    os.kill(int(Path(children).read_text().split()[-1]), signal.SIGKILL)
    assert job.wait(timeout=300) == 0
    steps = [
        json.loads(line)["step"]
        for line in (folder / "log.jsonl").read_text().splitlines()
        if '"loss/total"' in line
    ]
    assert sorted(set(steps)) == list(range(1, 181))
    assert steps.count(1) == 1


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_parts_of_all_ranks_are_the_batch(size: int) -> None:
    def tickets(rank: int, of: int) -> list[list[tuple[int, int]]]:
        sampler = StageBatches(11, 4, epochs=2, first_epoch=3, seed=5, start=1, rank=rank, world=of)
        return list(sampler)

    parts = [tickets(rank, size) for rank in range(size)]
    joined = [
        [ticket for part in together for ticket in part] for together in zip(*parts, strict=True)
    ]
    assert joined == tickets(0, 1)
    items = list(range(7))
    shared = [World(rank, rank, size).share(items) for rank in range(size)]
    assert sorted(item for share in shared for item in share) == items


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size 6 does not divide among 4"):
        StageBatches(11, 6, epochs=1, first_epoch=0, seed=0, start=0, world=4)


def test_the_world_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert world() == World(0, 0, 1)
    assert launcher() == ""
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert world() == World(3, 1, 4, local_size=4)
    assert not world().is_main
    monkeypatch.setenv("RANK", "third")
    with pytest.raises(UsageError, match="not all numbers"):
        world()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-7")
    assert launcher() == "job-7"
