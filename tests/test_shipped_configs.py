"""Every shipped config trains on a tiny demo city; its header and the docs name real things."""

from __future__ import annotations

import functools
import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import one_thread, write_image

from segcli.checkpoint import load_checkpoint
from segcli.config import Config, StageConfig
from segcli.config_file import load_config, shipped_folder, shipped_names
from segcli.data.city import generate_city
from segcli.data.images import read_image, read_label
from segcli.data.manifest import load_manifest
from segcli.labels import SHIPPED, load_label_space
from segcli.losses.supervised import SegmentationLoss
from segcli.png import encode_indices
from segcli.recipes.prepare import prepare_labels
from segcli.recipes.train import train
from segcli.recipes.training import build_from_config
from segcli.reporting.events import NullReporter
from segcli.reporting.jsonl import JsonLinesReporter

__all__ = ["one_thread"]

DOCS = Path(__file__).parent.parent / "docs"
SPACES = sorted(p.stem for p in (shipped_folder() / "label_spaces").glob("*.yaml"))
# Where CamVid's classes are looked for in a picture of the demo city, as 19 train ids.
CAMVID_OF_19 = (3, 4, 1, 1, 7, 2, 6, 6, 5, 5, 0, 9, 10, 8, 8, 8, 8, 10, 10)
# Trained in place of larger encoders, whose checkpoints take seconds to write; their own step
# is a test of its own.
STAND_IN = ("mobilenet_v2", 0.25)


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Cityscapes tree of 64×128 frames: 4 train, 2 val."""
    root = tmp_path_factory.mktemp("shipped") / "city"
    counts = {"train": 4, "val": 2}
    generate_city(root, size=(64, 128), counts=counts, seed=2, drives=0, drive_frames=0, workers=1)
    return root


@pytest.fixture(scope="module")
def camvid(city: Path) -> Path:
    """The same streets as CamVid keeps them: train, trainannot, ..., with its ids and its void."""
    prepared = prepare(city, city.parent / "for-camvid", "cityscapes-19")
    table = np.array([*CAMVID_OF_19, *[11] * (256 - len(CAMVID_OF_19))], np.uint8)
    palette = load_label_space("camvid-11").palette()
    root = city.parent / "camvid"
    for split in ("train", "val"):
        for number, sample in enumerate(load_manifest(prepared).split(split)):
            write_image(root / split / f"{number}.png", read_image(sample.image))
            mask = root / f"{split}annot" / f"{number}.png"
            mask.parent.mkdir(exist_ok=True)
            label = read_label(sample.label, num_classes=19)
            mask.write_bytes(encode_indices(table[label], palette))
    return root


def prepare(root: Path, out: Path, space: str) -> Path:
    prepare_labels(
        root, reporter=NullReporter(), label_space=space, out=out, one_hot=True, workers=1
    )
    return out


@pytest.fixture(scope="module")
def prepared_for(city: Path, camvid: Path) -> Any:
    """A function: label space -> prepared folder, made once."""

    @functools.cache
    def folder(space: str) -> Path:
        root = camvid if load_label_space(space).source == "camvid" else city
        return prepare(root, city.parent / f"prepared-{space}", space)

    return folder


def reduced(config: Config, prepared: Path) -> list[str]:
    """Overrides that leave an experiment what it is, and make it two steps of stamps.

    One stage takes two steps; each of several stages takes one, and there are two at least.
    """
    stages = config.train.stages
    small = json.dumps([_reduced_stage(s, 2 if len(stages) == 1 else 4) for s in stages])
    overrides = [
        f"data.prepared={prepared}",
        "data.workers=0",
        f"model.encoder={STAND_IN[0]}",
        f"model.width_mult={STAND_IN[1]}",
        "model.weights=null",
        "model.width=16",
        "model.head_width=16",
        f"train.stages={small}",
        "train.precision=fp32",
        "train.channels_last=true",
    ]
    if config.eval.size is not None:
        overrides.append("eval.size=[32, 64]")
    return overrides


def _reduced_stage(stage: StageConfig, batch_size: int) -> dict[str, Any]:
    size = [max(32, side // 16) for side in stage.size]
    return {**stage.model_dump(), "size": size, "epochs": 1, "batch_size": batch_size}


@pytest.mark.parametrize("name", shipped_names())
def test_it_trains_two_steps_on_the_demo_city(name: str, prepared_for: Any, tmp_path: Path) -> None:
    shipped = load_config(name)
    assert shipped.data.label_space is not None
    prepared = prepared_for(shipped.data.label_space)
    config = load_config(name, reduced(shipped, prepared))
    reporter = JsonLinesReporter(tmp_path / "log.jsonl")
    result = train(config, folder=tmp_path, device=torch.device("cpu"), reporter=reporter)
    reporter.done()
    assert result.steps == max(2, len(shipped.train.stages))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [line["value"] for line in lines if line.get("name") == "loss/total"]
    assert len(losses) == result.steps
    assert np.isfinite(losses).all()
    saved = load_checkpoint(tmp_path / "last")
    assert saved.label_space == load_label_space(shipped.data.label_space)
    assert all(bool(torch.isfinite(value).all()) for value in saved.state_dict.values())


def networks() -> dict[tuple[object, ...], str]:
    """Every network that configs name, with the first config that names it."""
    found: dict[tuple[object, ...], str] = {}
    for name in shipped_names():
        m = load_config(name).model
        found.setdefault((m.encoder, m.decoder, m.decoder_block, m.width), name)
    return found


@pytest.mark.parametrize("name", networks().values())
def test_its_own_network_takes_a_step(name: str) -> None:
    torch.manual_seed(0)
    model = build_from_config(load_config(name), 5, pretrained=False)
    output = model(torch.randint(0, 256, (2, 3, 32, 64), dtype=torch.uint8))
    target = torch.randint(0, 5, (2, 32, 64), dtype=torch.uint8)
    loss = SegmentationLoss()(output.logits, output.auxiliary, target, output.padded)["total"]
    loss.backward()
    assert bool(torch.isfinite(loss))
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)


def header(name: str) -> str:
    text = (shipped_folder() / name).read_text(encoding="utf-8")
    lines = text.split("\ndata:")[0].splitlines()
    assert all(line.startswith("#") for line in lines)
    return " ".join(line.removeprefix("#").strip() for line in lines)


@pytest.mark.parametrize("name", shipped_names())
def test_its_header_tells_command_and_result(name: str) -> None:
    text, config = header(name), load_config(name)
    assert re.findall(r"segcli (?:train|distill) (\S+\.yaml)", text)[0] == name
    assert ("Measured:" in text) != ("Expected, not measured here:" in text)
    if "segcli prepare-labels" in text:
        space = re.findall(r"--label-space (\S+)", text) or ["cityscapes-19", "camvid-11"]
        assert config.data.label_space in space
        assert ("--one-hot" in text) == config.data.soft_targets
    for mentioned in re.findall(r"(?<![\w/-])\w+\.yaml", text):
        assert mentioned in shipped_names()


@pytest.mark.parametrize("name", shipped_names())
def test_its_folder_is_the_one_that_prepare_labels_writes(name: str) -> None:
    data = load_config(name).data
    assert data.prepared == f"prepared/{data.label_space}"


def test_progressive_configs_see_the_same_street_at_every_size() -> None:
    """Or more of it, as far as crops are padded to multiples of 32 anyway; two pixels may go."""
    for name in shipped_names():
        stages = load_config(name).train.stages
        last = stages[-1]
        for stage in stages:
            for side, whole in zip(stage.size, last.size, strict=True):
                wanted = whole / last.resize * stage.resize
                assert abs(side - wanted) <= 2 or side == -(-wanted // 32) * 32, name


@pytest.mark.parametrize("name", SPACES)
def test_shipped_label_spaces_are_found_by_name_and_used(name: str) -> None:
    space = load_label_space(name)
    assert space.name == name
    assert load_label_space(f"{name}.yaml") == space
    base = load_label_space({"cityscapes": "cityscapes-19", "camvid": "camvid-11"}[space.source])
    gathered = {i for c in space.classes for i in c.raw_ids}
    assert gathered == {i for c in base.classes for i in c.raw_ids}
    assert any(load_config(n).data.label_space == name for n in shipped_names())


def test_configs_name_label_spaces_that_exist() -> None:
    assert {load_config(n).data.label_space for n in shipped_names()} <= {*SHIPPED, *SPACES}


def commands(page: Path) -> list[list[str]]:
    """The `segcli train` commands in the code blocks of a page, as a shell splits them."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = [re.search(r"segcli train .*", line) for line in lines]
    return [shlex.split(hit[0], comments=True)[2:] for hit in found if hit]


@pytest.mark.parametrize("page", ["experiments.md", "scale-out.md", "distillation.md"])
def test_the_commands_in_the_guides_name_configs_and_keys_that_exist(page: str) -> None:
    if not DOCS.is_dir():
        pytest.skip("the docs are not beside these tests")
    trained = [words for words in commands(DOCS / page) if words and words[0] != "--resume"]
    assert trained
    for words in trained:
        overrides = [b for a, b in pairwise(words) if a == "--set"]
        load_config(words[0], overrides)
