"""The config loader: strict, helpful, and in step with what is shipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from segcli.config import Config
from segcli.config_file import (
    find_config,
    json_schema,
    load_config,
    parse_config,
    shipped_folder,
    shipped_names,
)
from segcli.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_config_loads_and_opens_with_its_command(name: str) -> None:
    load_config(name)
    text = (shipped_folder() / name).read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=./schema.json")
    assert f"segcli {'distill' if 'distill' in name else 'train'} {name}" in text


def test_the_schema_beside_the_configs_is_current() -> None:
    on_disk = (shipped_folder() / "schema.json").read_text(encoding="utf-8")
    assert json.loads(on_disk) == json.loads(json_schema())


def test_a_bare_name_finds_the_shipped_config_and_a_file_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("fpn") == find_config("fpn.yaml") == shipped_folder() / "fpn.yaml"
    (tmp_path / "fpn.yaml").write_text("{}", encoding="utf-8")
    assert find_config("fpn.yaml") == Path("fpn.yaml")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no such config: fnp\.yaml \(did you mean 'fpn\.yaml'"):
        find_config("fnp.yaml")
    with pytest.raises(ConfigError, match=r"no such config: nowhere \(shipped: "):
        find_config("nowhere")


def test_defaults_complete_a_short_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "model:\n  encoder: resnet18\n"))
    assert config.model.encoder == "resnet18"
    assert config.train == Config().train
    assert parse_config(config.to_dict()) == config


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.optimizer.lr=1e-3", ("train", "optimizer", "lr"), 1e-3),
        ("train.stages.0.epochs=3", ("train", "stages", 0, "epochs"), 3),
        ("model.weights=null", ("model", "weights"), None),
        ("eval.size=[96, 128]", ("eval", "size"), (96, 128)),
        ("data.train=[train, train_extra]", ("data", "train"), ("train", "train_extra")),
    ],
)
def test_overrides_reach_every_kind_of_key(override: str, path: tuple, value: object) -> None:
    here = load_config("fpn.yaml", [override])
    for part in path:
        here = here[part] if isinstance(part, int) else getattr(here, part)
    assert here == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian: {}", r"unknown key 'trian'.*did you mean 'train'\?"),
        ("train: {epocs: 3}", r"unknown key 'train\.epocs'.*'train\.stages\.0\.epochs'"),
        ("lr: 1", r"unknown key 'lr'.*'train\.optimizer\.lr'"),
        ("train: {optimizer: {lr: -1}}", r"'train\.optimizer\.lr': .*greater than 0.*-1"),
        ("train: {optimizer: {lr: .nan}}", r"'train\.optimizer\.lr'"),
        ("model: {decoder: fnp}", r"'model\.decoder': .*'fpn' or 'unet'"),
        ("train: {augment: {scale: [2, 1]}}", r"smallest, largest"),
        ("train: {stages: []}", r"'train\.stages': should have 1 or more items, not \[\]"),
        ("data: {train: 2}", r"'data\.train': should be a list, not 2"),
        ("model: 3", r"'model': should be a mapping, not 3"),
        (
            "model: {encoder: 'timm:resnet18'}\ntrain: {stages: [{freeze_stride: 4}]}",
            r"stages\.0\.freeze_stride': should be 0 or 32, not 4: timm:resnet18 cannot be",
        ),
        (
            "train: {stages: [{freeze_stride: 3}]}",
            r"freeze_stride': should be 0, 2, 4, 8, 16 or 32, not 3: ",
        ),
        (
            "train: {loss: {terms: {lovasc: 1}}}",
            r"unknown key 'train\.loss\.terms\.lovasc': .*did you mean 'lovasz'\?",
        ),
        ("- 1", r"a config holds"),
        ("model: {encoder: a, encoder: b}", r"line 1: key 'encoder' stands there twice"),
        ("model: [", r"not valid YAML, (?!.*unicode string).*<stream end>', line 1, column 9"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override", ["train", "train.stages.7.epochs=1", "train.=1", "train.seed.x=1", "a=[", "=1"]
)
def test_a_bad_override_is_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        load_config("fpn.yaml", [override])


def test_configs_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        Config().model.encoder = "resnet18"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["fpn.yaml", "demo_fpn.yaml"])
def test_a_preset_given_by_set_brings_its_values(name: str, tmp_path: Path) -> None:
    chosen = load_config(name, ["train.augment.preset=weather", "train.augment.flip=0.25"])
    assert chosen.train.augment.weather == 1.0
    assert chosen.train.augment.flip == 0.25
    # A resolved config spells every key out; the preset given anew still wins over those.
    resolved = tmp_path / "config.yaml"
    resolved.write_text(yaml.safe_dump(chosen.to_dict()))
    none = load_config(resolved, ["train.augment.preset=none"]).train.augment
    assert (none.scale, none.flip, none.color, none.weather) == ((1.0, 1.0), 0.0, 0.0, 0.0)


@pytest.mark.parametrize(("written", "meant"), [("off", "off"), ("on", "on"), ("auto", "auto")])
def test_yaml_words_for_true_and_false_mean_themselves(written: str, meant: str) -> None:
    found = load_config("fpn.yaml", [f"train.compile={written}"])
    assert found.train.compile == meant


def test_a_loss_that_is_added_stands_beside_the_default_ones() -> None:
    added = load_config("fpn.yaml", ["train.loss.terms.dice=0.5"])
    assert added.train.loss.terms == {"cross_entropy": 1.0, "dice": 0.5}
    alone = load_config("fpn.yaml", ["train.loss.terms={dice: 0.5}"])
    assert alone.train.loss.terms == {"dice": 0.5}
    taught = load_config("fpn.yaml", ["distill.losses.holistic=0.1"]).distill
    assert taught is not None and taught.losses == {"pixel": 1, "channel": 3, "holistic": 0.1}
