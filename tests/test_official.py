"""The official protocol, equal to the official tool on 104 pairs of frames and to the digit."""

from __future__ import annotations

import json
import lzma
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from segcli.data.rasterize import paint_ids, paint_instance_ids, parse_annotation
from segcli.labels import load_label_space
from segcli.metrics.official import (
    LABELS,
    OfficialScores,
    average,
    label_id_lut,
    one_label_a_class,
)

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
import make_official_golden as golden  # noqa: E402


@pytest.fixture(scope="module")
def counted() -> dict[str, OfficialScores]:
    """The scores of every case alone."""
    result = {}
    for case in golden.frames():
        annotation = parse_annotation(json.dumps(case.annotation).encode(), Path(case.name))
        truth = paint_ids(annotation)
        result[case.name] = one = OfficialScores()
        one.update(truth, paint_instance_ids(annotation), golden.planted(truth, case.index))
    return result


@pytest.fixture(scope="module")
def official() -> dict[str, dict]:
    return json.loads(lzma.decompress(golden.GOLDEN.read_bytes()))


def together(parts: list[OfficialScores]) -> OfficialScores:
    whole = OfficialScores()
    for part in parts:
        whole.merge(part)
    return whole


def assert_equal(ours: OfficialScores, theirs: dict) -> int:
    """How many values are numbers; all of them are the same to 1e-12."""
    value, numbers = ours.to_official(), 0
    for part in golden.PARTS:
        assert set(value[part]) == set(theirs[part])
        for name, score in theirs[part].items():
            assert (value[part][name] is None) == (score is None), f"{part} {name}"
            if score is not None:
                assert abs(value[part][name] - score) < 1e-12, f"{part} {name}"
                numbers += 1
    for name in golden.MEANS:
        assert (value[name] is None) == (theirs[name] is None)
        assert theirs[name] is None or abs(value[name] - theirs[name]) < 1e-12
    json.dumps(value, allow_nan=False)
    return numbers


def test_each_pair_alone_equals_the_official_tool(counted, official):
    results = official["results"]
    assert len(counted) >= 100
    for name, ours in counted.items():
        assert_equal(ours, results[name])
    perfect = next(iter(counted.values()))
    assert average(perfect.class_scores()) == 1.0
    assert average(perfect.class_instance_scores()) == 1.0


def test_all_pairs_together_equal_the_official_tool(counted, official):
    whole = together(list(counted.values()))
    # 19 classes, 8 of them with instances, 7 categories, 2 with instances.
    assert assert_equal(whole, official["results"]["all"]) == 19 + 8 + 7 + 2
    assert whole.instances.sum() > 100


def test_images_without_instances(counted, official):
    bare = [counted[name] for name in official["without instances"]]
    assert len(bare) >= 10 and all(one.instances.sum() == 0 for one in bare)
    whole = together(bare)
    assert_equal(whole, official["results"]["without instances"])
    # Cars that are not there were predicted: their iIoU is 0 and not "no meaning".
    assert whole.class_instance_scores()["car"] == 0.0


def test_absent_classes_occur_in_the_golden_pairs(official):
    absent = {
        name
        for result in official["results"].values()
        for name, score in result["classScores"].items()
        if score is None
    }
    assert {label.name for label in LABELS if not label.ignore_in_eval} & absent >= {"sky", "road"}


def test_nothing_counted_is_null_everywhere():
    value = OfficialScores().to_official()
    assert value["averageScoreClasses"] is None and value["priors"]["road"] is None
    assert all(score is None for part in golden.PARTS for score in value[part].values())
    assert OfficialScores().to_dict()["iiou"] is None


@pytest.mark.parametrize(
    ("truth", "instances", "prediction"),
    [
        (np.full((2, 2), 34, np.uint8), np.zeros((2, 2), np.uint16), np.zeros((2, 2), np.uint8)),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint16), np.full((2, 2), 255, np.uint8)),
        (np.zeros((2, 2), np.uint8), np.zeros((3, 2), np.uint16), np.zeros((2, 2), np.uint8)),
    ],
)
def test_what_cannot_be_counted_leaves_no_trace(truth, instances, prediction):
    scores = OfficialScores()
    with pytest.raises(ValueError):
        scores.update(truth, instances, prediction)
    assert not scores.matrix.any() and not scores.weighted.any()


def test_label_spaces_that_can_be_scored_officially():
    nineteen = load_label_space("cityscapes-19")
    table = label_id_lut(nineteen)
    assert table is not None and one_label_a_class(nineteen)
    assert [LABELS[i].train_id for i in table[:19]] == list(range(19))
    ids = label_id_lut(load_label_space("cityscapes-ids"))
    assert ids is not None and (ids[:34] == np.arange(34)).all()
    categories = load_label_space("cityscapes-categories")
    table = label_id_lut(categories)
    assert table is not None and not one_label_a_class(categories)
    assert [LABELS[i].category for i in table[:7]] == list(categories.class_names)
    assert label_id_lut(load_label_space("camvid-11")) is None


def test_average_leaves_out_what_has_no_meaning():
    assert average({"a": 1.0, "b": math.nan, "c": 0.0}) == 0.5
    assert math.isnan(average({}))
