"""Checkpoints: whole or not at all, verified to the bit, the previous one kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segcli import checkpoint
from segcli.errors import CheckpointError, OutputError
from segcli.labels import load_label_space

MODEL = {
    "encoder": "mobilenet_v2",
    "decoder": "fpn",
    "num_classes": 11,
    "width": 8,
    "head_width": 8,
    "width_mult": 0.1,
    "dropout": 0.0,
}


def description(step: int = 1) -> dict:
    return {
        "model_config": MODEL,
        "label_space": load_label_space("camvid-11").to_dict(),
        "inference": {"precision": "fp32", "channels_last": True, "size": None},
        "training": {},
        "data": {"prepared": "x", "val": ["val"], "fingerprint": "f"},
        "scores": {"miou": 0.5},
        "step": step,
    }


def model(seed: int) -> torch.nn.Module:
    from segcli.models.build import build_model

    torch.manual_seed(seed)
    return build_model(**MODEL).eval()


def save(folder: Path, seed: int = 0, *, resume: dict | None = None) -> torch.nn.Module:
    built = model(seed)
    layout = built.to(memory_format=torch.channels_last)
    checkpoint.save_checkpoint(folder, layout.state_dict(), description(seed), resume=resume)
    return built


def test_a_checkpoint_alone_rebuilds_the_model(tmp_path: Path) -> None:
    original = save(tmp_path / "best")
    loaded = checkpoint.load_checkpoint(tmp_path / "best")
    image = torch.randint(0, 256, (1, 3, 40, 52), dtype=torch.uint8)
    rebuilt = checkpoint.build_from_checkpoint(loaded).to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(rebuilt(image), original(image))
    assert loaded.label_space == load_label_space("camvid-11")
    assert loaded.scores == {"miou": 0.5}
    # Any of its files means the checkpoint, too.
    assert checkpoint.load_checkpoint(tmp_path / "best" / "model.safetensors").step == loaded.step


def test_the_previous_one_is_kept_and_used_when_the_new_one_is_damaged(tmp_path: Path) -> None:
    save(tmp_path / "last", 1)
    save(tmp_path / "last", 2)
    words: list[str] = []
    assert checkpoint.load_checkpoint(tmp_path / "last", warn=words.append).step == 2
    assert words == []
    weights = tmp_path / "last" / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-7])
    assert checkpoint.load_checkpoint(tmp_path / "last", warn=words.append).step == 1
    assert len(words) == 1
    assert "last.previous" in words[0]


def test_a_crash_between_the_two_renames_leaves_the_previous_one(tmp_path: Path) -> None:
    save(tmp_path / "last", 1)
    (tmp_path / "last").rename(tmp_path / "last.previous")
    assert checkpoint.load_checkpoint(tmp_path / "last").step == 1


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.DESCRIPTION, checkpoint.RESUME])
def test_any_flipped_bit_is_noticed(tmp_path: Path, name: str) -> None:
    save(tmp_path / "last", resume={"step": 3, "model": {"w": torch.arange(4.0)}})
    file = tmp_path / "last" / name
    whole = file.read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 40)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        file.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load_checkpoint(tmp_path / "last")
        assert name in str(caught.value)
    file.write_bytes(whole)
    assert checkpoint.load_resume(tmp_path / "last")["step"] == 3


def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no checkpoint in this folder"):
        checkpoint.load_checkpoint(tmp_path)
    save(tmp_path / "best")
    with pytest.raises(CheckpointError, match="holds weights only"):
        checkpoint.load_resume(tmp_path / "best")


def test_a_newer_format_asks_for_an_update(tmp_path: Path) -> None:
    save(tmp_path / "best")
    file = tmp_path / "best" / checkpoint.DESCRIPTION
    value = json.loads(file.read_text())
    body = {k: v for k, v in value.items() if k != "sha256"} | {"format": 99}
    file.write_text(json.dumps(body | {"sha256": checkpoint._digest(body)}))
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.load_checkpoint(tmp_path / "best")


_LIMITED = """
import resource, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_checkpoint import save
from segcli.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    save(Path(sys.argv[1]), 2, resume={"x": torch.zeros(100_000)})
except OutputError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_checkpoint_untouched(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    save(folder, 1)
    arguments = [sys.executable, "-c", _LIMITED, str(folder), str(Path(__file__).parent)]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert "no space left" in result.stdout or "cannot write checkpoint" in result.stdout
    assert str(folder) in result.stdout
    assert checkpoint.load_checkpoint(folder).step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_an_unwritable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save(tmp_path / "file" / "best")
