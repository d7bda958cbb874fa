"""The command line from the outside: whole jobs, and every mistake in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import TINY


def segcli(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the real program."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "segcli", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def fails(*arguments: str | Path, cwd: Path) -> str:
    """Run, expect a failure in one line on stderr without a traceback, return that line."""
    result = segcli(*arguments, cwd=cwd)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr + result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def trained(tiny_city: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which prepare-labels and train were typed as in the README."""
    folder = tmp_path_factory.mktemp("user")
    result = segcli("prepare-labels", tiny_city, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "segcli train fpn.yaml" in result.stdout
    settings = [word for o in TINY for word in ("--set", o)]
    result = segcli("train", "fpn.yaml", *settings, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "next: segcli eval" in result.stdout
    return folder


def test_the_main_job_as_a_user_types_it(trained: Path, tiny_city: Path) -> None:
    result = segcli("eval", "--json", cwd=trained)
    assert result.returncode == 0, result.stderr
    scores = json.loads(result.stdout)
    assert 0 <= scores["miou"] <= 1
    (run,) = (trained / "runs").iterdir()
    assert run.name.startswith("fpn-")
    for name in ("scores.json", "confusion.png"):
        assert (run / "eval" / "val" / name).is_file()
    assert len(list((run / "eval/val/pictures").glob("*.png"))) == 4

    image = next((tiny_city / "leftImg8bit/val").rglob("*.png"))
    result = segcli("predict", image, cwd=trained)
    assert result.returncode == 0, result.stderr
    (mask,) = (trained / "predictions/masks").rglob("*.png")
    assert cv2.imread(str(mask), cv2.IMREAD_UNCHANGED).shape[:2] == (64, 128)
    (overlay,) = (trained / "predictions/overlays").rglob("*.png")
    assert cv2.imread(str(overlay)).shape == (64, 128, 3)


def test_resume_goes_on_in_the_same_folder(trained: Path) -> None:
    (run,) = (trained / "runs").iterdir()
    result = segcli("train", "--resume", run, cwd=trained)
    assert result.returncode == 0, result.stderr
    assert "nothing left to train" in result.stdout


def test_print_model_needs_no_data(tmp_path: Path) -> None:
    result = segcli("train", "demo_fpn.yaml", "--print-model", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "million parameters" in result.stdout
    assert "multiply-adds" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_train_without_data_says_what_to_type(tmp_path: Path) -> None:
    line = fails("train", "fpn.yaml", "--set", "model.weights=null", cwd=tmp_path)
    assert "prepared/cityscapes-19" in line
    assert "segcli prepare-labels" in line
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], "which config"),
        (["train", "fnp.yaml"], "did you mean 'fpn.yaml'"),
        (["train", "fpn.yaml", "--set", "train.epocs=1"], "train.stages.0.epochs"),
        (["train", "fpn.yaml", "--device", "tpu"], "tpu"),
        (["train", "--resume", "nothing"], "nothing"),
        (["prepare-labels", "nowhere"], "nowhere"),
        (["prepare-labels", "."], "no data set recognised"),
        (["eval"], "segcli train"),
        (["eval", "nothing"], "nothing"),
        (["predict", "nothing.png"], "no such file or folder: nothing.png"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    assert words in fails(*arguments, cwd=tmp_path)


def test_a_damaged_checkpoint_is_named(trained: Path, tmp_path: Path) -> None:
    (run,) = (trained / "runs").iterdir()
    copy = tmp_path / "run" / "best"
    shutil.copytree(run / "best", copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    line = fails("eval", copy, cwd=tmp_path)
    assert "damaged" in line
    assert str(weights) in line


def test_a_checkpoint_of_another_label_space_is_refused(
    trained: Path, tiny_city: Path, tmp_path: Path
) -> None:
    (run,) = (trained / "runs").iterdir()
    other = tmp_path / "categories"
    space = ("--label-space", "cityscapes-categories", "--out", other)
    prepared = segcli("prepare-labels", tiny_city, *space, cwd=tmp_path)
    assert prepared.returncode == 0
    line = fails("eval", run, "--prepared", other, cwd=tmp_path)
    assert "19 classes" in line
    assert "7" in line
    # The command that prepare-labels proposes for the choice of classes does work.
    proposed = prepared.stdout.split("next: segcli ")[1].split()
    settings = [word for o in TINY for word in ("--set", o)]
    result = segcli(*proposed, *settings, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_an_unreadable_picture_is_named_and_the_others_are_done(
    trained: Path, tmp_path: Path
) -> None:
    good = np.full((20, 30, 3), 90, np.uint8)
    (tmp_path / "good.png").write_bytes(cv2.imencode(".png", good)[1].tobytes())
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (run,) = (trained / "runs").iterdir()
    line = fails("predict", "good.png", "bad.png", "--checkpoint", run, cwd=tmp_path)
    assert "bad.png" in line
    assert len(list((tmp_path / "predictions/masks").rglob("*.png"))) == 1
