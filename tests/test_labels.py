"""Label spaces: the official table, users' own files, and what may be mixed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from segcli.errors import LabelSpaceError
from segcli.labels import CITYSCAPES_LABELS, SHIPPED, LabelSpace, load_label_space


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_spaces_survive_json(name: str) -> None:
    space = load_label_space(name)
    assert space.name == name
    assert LabelSpace.from_dict(space.to_dict()) == space
    assert space.palette().shape == (256, 3)


def test_cityscapes_19_follows_the_official_train_ids() -> None:
    lut = load_label_space("cityscapes-19").lut()
    for label in CITYSCAPES_LABELS:
        if label.id >= 0:
            assert lut[label.id] == label.train_id
    assert (lut[34:] == 255).all()


def test_categories_gather_trained_classes_and_leave_void_out() -> None:
    space = load_label_space("cityscapes-categories")
    assert space.class_names == (
        "flat", "construction", "object", "nature", "sky", "human", "vehicle",
    )  # fmt: skip
    names = {label.id: label for label in CITYSCAPES_LABELS}
    for raw, index in enumerate(space.lut()[:34]):
        if index != 255:
            assert names[raw].category == space.class_names[index]
        else:
            assert names[raw].ignore_in_eval


def test_ids_keep_their_value() -> None:
    assert (load_label_space("cityscapes-ids").lut()[:34] == np.arange(34)).all()


def test_camvid_void_is_ignored() -> None:
    lut = load_label_space("camvid-11").lut()
    assert (lut[:11] == np.arange(11)).all()
    assert lut[11] == 255


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_user_can_pick_merge_and_rename(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "base: cityscapes-19\n"
        "classes:\n"
        "  - road\n"
        "  - {name: vehicles, from: [car, truck, bus], color: [1, 2, 3], category: traffic}\n",
    )
    space = load_label_space(path)
    assert space.name == "mine"
    assert space.class_names == ("road", "vehicles")
    assert space.classes[1].color == (1, 2, 3)
    lut = space.lut()
    assert [lut[i] for i in (7, 26, 27, 28, 11)] == [0, 1, 1, 1, 255]


def test_a_space_without_base_lists_mask_values(tmp_path: Path) -> None:
    path = write(tmp_path, "name: n\nclasses: [a, {name: b, ids: [4, 5]}, {name: c, ids: [9]}]")
    space = load_label_space(path)
    lut = space.lut()
    assert space.source == "indices"
    assert [lut[i] for i in (0, 4, 5, 9, 1)] == [0, 1, 1, 2, 255]
    assert len({c.color for c in space.classes}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: cityscapes-19\nclasses: [raod]", "did you mean 'road'"),
        ("base: cityscapes19\nclasses: [road]", "did you mean 'cityscapes-19'"),
        ("base: cityscapes-19\nclass: [road]", "did you mean 'classes'"),
        ("base: cityscapes-19\nclasses: [road, road]", "stands there twice"),
        ("base: cityscapes-19\nclasses: [{name: x, from: [car]}, car]", "raw id '26'"),
        ("classes: []", "without a list of 'classes'"),
        ("classes: [{name: a, ids: [300]}]", "0-255"),
        ("classes: [{name: a, color: [1, 2]}]", "not \\[R, G, B\\]"),
        ("classes: [{ids: [1]}]", "no 'name'"),
        ("classes: [", "not valid YAML, .*'<stream end>', line 1"),
        ("3", "a label space file holds"),
    ],
)
def test_a_malformed_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LabelSpaceError, match=message) as caught:
        load_label_space(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(LabelSpaceError, match="did you mean 'camvid-11'"):
        load_label_space("camvid11")


def test_differences_are_named() -> None:
    a, b = load_label_space("cityscapes-19"), load_label_space("camvid-11")
    assert a.difference(a) == ""
    assert "19 classes" in a.difference(b)
    renamed = dataclasses.replace(
        b, classes=(dataclasses.replace(b.classes[0], name="heaven"), *b.classes[1:])
    )
    assert b.difference(renamed) == "class 0 is 'sky' in 'camvid-11' and 'heaven' in 'camvid-11'"
    recolored = dataclasses.replace(
        b, classes=(dataclasses.replace(b.classes[0], color=(0, 0, 0)), *b.classes[1:])
    )
    assert b.difference(recolored) == ""


def test_a_shipped_file_is_found_by_its_name_and_a_users_file_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = load_label_space("traffic-9")
    assert load_label_space("traffic-9.yaml") == shipped
    (tmp_path / "traffic-9.yaml").write_text("base: cityscapes-19\nclasses: [road]\n")
    assert load_label_space("traffic-9.yaml").class_names == ("road",)
    with pytest.raises(LabelSpaceError, match="did you mean 'traffic-9'"):
        load_label_space("traffic9")
    with pytest.raises(LabelSpaceError, match="no such label space file"):
        load_label_space("elsewhere/traffic-9.yaml")


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "base: cityscapes-19\nclasses: [{name: v, from: [car], from: [train]}]",
            "stands there tw",
        ),
        ("base: cityscapes-19\nclasses: [road]\nclasses: [car]", "stands there twice"),
        ("classes: [{name: no, ids: [1]}]", "put it in quotes"),
        ("classes: [on, off]", "put it in quotes"),
        ("base: cityscapes-19\nclasses: [{name: v, from: [yes]}]", "put it in quotes"),
    ],
)
def test_what_yaml_would_read_otherwise_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LabelSpaceError, match=message):
        load_label_space(str(write(tmp_path, text)))


def test_keys_without_a_value_are_not_there(tmp_path: Path) -> None:
    text = "name:\nclasses: [{name: a, category:, color:, ids: [3]}]"
    space = load_label_space(str(write(tmp_path, text)))
    assert space.name == "mine" and space.classes[0].category == "a"
