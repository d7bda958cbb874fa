"""Objects by size, and people taken for ground."""

from __future__ import annotations

import json

import numpy as np
import pytest

from segcli.labels import LabelClass, LabelSpace, load_label_space
from segcli.metrics.critical import CriticalMisses
from segcli.metrics.objects import (
    SIZE_EDGES,
    ObjectScores,
    component_table,
    instance_table,
    thing_classes,
)

CAMVID = load_label_space("camvid-11")
ROAD, PERSON, BICYCLIST, CAR = (
    CAMVID.class_names.index(n) for n in ("road", "pedestrian", "bicyclist", "car")
)


def street() -> tuple[np.ndarray, np.ndarray]:
    """Two pedestrians, one mostly taken for road, touching corners within; a car cut in two."""
    truth = np.full((60, 80), ROAD, np.uint8)
    truth[10:20, 10:14] = PERSON
    truth[20:30, 14:18] = PERSON  # touches by a corner: one object
    truth[40:50, 60:64] = PERSON
    truth[5:25, 30:50] = CAR
    truth[5:25, 40] = 255
    prediction = truth.copy()
    prediction[truth == 255] = ROAD
    prediction[40:48, 60:64] = ROAD
    prediction[5:25, 41:50] = BICYCLIST
    return truth, prediction


def test_components_and_their_sizes():
    truth, prediction = street()
    table = component_table(truth, prediction, 11, thing_classes(CAMVID))
    rows = sorted(np.stack([table.classes, table.sizes, table.hits], 1).tolist())
    assert rows == sorted([[CAR, 180, 0], [CAR, 200, 200], [PERSON, 40, 8], [PERSON, 80, 80]])
    scores = ObjectScores(CAMVID)
    scores.update(table)
    value = scores.to_dict()
    assert (value["objects"], value["found"]) == (4, 2)
    assert set(value["classes"]) == {"car", "pedestrian"}
    assert [row["objects"] for row in value["by_size"]] == [1, 3, 0, 0, 0, 0, 0]
    assert value["by_size"][0] | {"to": 64} == {
        "from": 0, "to": 64, "objects": 1, "found": 0, "pixels": 40, "errors": 32, "error": 0.8,
    }  # fmt: skip
    assert value["by_size"][2]["error"] is None and value["by_size"][-1]["to"] is None
    assert len(value["by_size"]) == len(SIZE_EDGES)
    json.dumps(value, allow_nan=False)


def test_instances_equal_a_count_by_hand():
    generator = np.random.default_rng(0)
    instances = generator.choice(
        np.array([0, 7, 26, 1000, 24000, 24001, 26003, 33999], np.uint16), (40, 50)
    )
    prediction = generator.integers(0, 34, (40, 50)).astype(np.uint8)
    table = instance_table(instances, prediction, 34)
    assert table.classes.tolist() == [24, 24, 26, 33]
    for row, value in zip(table.counts, (24000, 24001, 26003, 33999), strict=True):
        assert row.tolist() == np.bincount(prediction[instances == value], minlength=34).tolist()
    assert instance_table(np.zeros((4, 4), np.uint16), prediction[:4, :4], 34).counts.shape == (
        0,
        34,
    )


def test_people_taken_for_ground():
    truth, prediction = street()
    critical = CriticalMisses(CAMVID)
    matrix = np.zeros((11, 11), np.int64)
    np.add.at(matrix, (truth[truth != 255], prediction[truth != 255]), 1)
    table = component_table(truth, prediction, 11, thing_classes(CAMVID))
    assert critical.update("b", "val", matrix, table) == 32
    assert critical.update("a", "val", np.eye(11, dtype=np.int64)) == 0
    value = critical.to_dict(matrix)
    assert value["truth"] == ["pedestrian", "bicyclist"]
    assert value["prediction"] == ["road", "pavement"]
    assert (value["pixels"], value["taken"], value["objects"], value["missed"]) == (120, 32, 2, 1)
    assert value["share"] == pytest.approx(32 / 120)
    assert value["pairs"][0] == {
        "truth": "pedestrian", "prediction": "road", "pixels": 32, "share": 32 / 120,
    }  # fmt: skip
    assert value["pairs"][2]["share"] is None, "there is no bicyclist"
    assert value["images"] == [{"id": "b", "split": "val", "pixels": 32}]
    json.dumps(value, allow_nan=False)


def test_a_label_space_without_people_has_no_critical_misses():
    plain = LabelSpace("p", "indices", (LabelClass("cell", (0, 0, 0), (0,), "cell"),))
    critical = CriticalMisses(plain)
    assert not critical.applies and critical.to_dict(np.ones((1, 1), np.int64)) is None
    assert thing_classes(plain) == [0]


@pytest.mark.parametrize("name", ["cityscapes-19", "cityscapes-categories", "camvid-11"])
def test_shipped_label_spaces_know_people_and_ground(name):
    assert CriticalMisses(load_label_space(name)).applies
