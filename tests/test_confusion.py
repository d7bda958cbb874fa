"""The confusion matrix and its scores against a pixel-by-pixel count."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segcli.labels import LabelClass, LabelSpace, load_label_space
from segcli.metrics import confusion
from segcli.metrics.confusion import ConfusionMatrix, scores

CATEGORIES = ("a", "b", "a", "c", "b", "d")


def space_of(k: int) -> LabelSpace:
    classes = tuple(LabelClass(f"class {i}", (i, i, i), (i,), CATEGORIES[i]) for i in range(k))
    return LabelSpace("property", "indices", classes)


@st.composite
def image_pairs(draw):
    """A label space and some images; few values, so that classes are often absent."""
    k = draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pairs = []
    for _ in range(draw(st.integers(0, 3))):
        shape = (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
        allowed = draw(st.lists(st.sampled_from([*range(k), 255]), min_size=1, max_size=4))
        guessed = draw(st.lists(st.integers(0, k - 1), min_size=1, max_size=3))
        truth = generator.choice(np.array(allowed, np.uint8), shape)
        pairs.append((truth, generator.choice(np.array(guessed, np.uint8), shape)))
    return space_of(k), pairs


def counted_iou(pixels, group, index):
    """IoU of one group by looking at every pixel; None where it has no meaning."""
    true = [group[t] == index for t, _ in pixels]
    said = [group[p] == index for _, p in pixels]
    union = sum(t or p for t, p in zip(true, said, strict=True))
    return sum(t and p for t, p in zip(true, said, strict=True)) / union if union else None


def same(value: float, expected: float | None) -> bool:
    return math.isnan(value) if expected is None else value == pytest.approx(expected, abs=1e-12)


def mean(values):
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


@settings(max_examples=150, deadline=None)
@given(image_pairs())
def test_scores_equal_a_count_of_every_pixel(drawn):
    space, pairs = drawn
    matrix = ConfusionMatrix(space.num_classes)
    for truth, prediction in pairs:
        matrix.update(truth, prediction)
    pixels = [
        (int(t), int(p))
        for truth, prediction in pairs
        for t, p in zip(truth.ravel(), prediction.ravel(), strict=True)
        if t != 255
    ]
    result = scores(matrix, space)
    k = space.num_classes
    for t in range(k):
        for p in range(k):
            assert matrix.matrix[t, p] == pixels.count((t, p))
    per_class = [counted_iou(pixels, range(k), i) for i in range(k)]
    per_category = [counted_iou(pixels, space.category_of, i) for i in range(len(space.categories))]
    assert all(map(same, result.class_iou, per_class))
    assert all(map(same, result.category_iou, per_category))
    assert same(result.miou, mean(per_class))
    assert same(result.category_miou, mean(per_category))
    right = sum(t == p for t, p in pixels)
    assert same(result.pixel_accuracy, right / len(pixels) if pixels else None)
    assert result.pixels == len(pixels)
    json.loads(json.dumps(result.to_dict(), allow_nan=False))


def test_a_class_that_is_only_predicted_counts_as_zero():
    matrix = ConfusionMatrix(3)
    matrix.update(np.zeros((1, 4), np.uint8), np.array([[0, 0, 0, 1]], np.uint8))
    result = scores(matrix, space_of(3))
    assert result.class_iou[:2] == (0.75, 0.0)
    assert math.isnan(result.class_iou[2])
    assert result.miou == 0.375
    assert result.mean_accuracy == 0.75


def test_ignored_truth_is_no_false_positive():
    matrix = ConfusionMatrix(2)
    truth = np.array([[0, 0, 255, 255]], np.uint8)
    matrix.update(truth, np.array([[0, 0, 1, 1]], np.uint8))
    assert matrix.matrix.tolist() == [[2, 0], [0, 0]]
    assert scores(matrix, space_of(2)).miou == 1.0


def test_all_ignored_is_null_in_json():
    matrix = ConfusionMatrix(2)
    matrix.update(np.full((3, 3), 255, np.uint8), np.zeros((3, 3), np.uint8))
    result = scores(matrix, space_of(2))
    assert math.isnan(result.miou)
    assert result.to_dict()["miou"] is None
    assert result.to_dict()["classes"]["class 0"] == {"iou": None, "accuracy": None, "pixels": 0}


def test_cityscapes_categories_equal_their_blocks():
    space = load_label_space("cityscapes-19")
    counts = np.random.default_rng(1).integers(0, 1000, (19, 19))
    result = scores(counts, space)
    for index, category in enumerate(space.categories):
        inside = [i for i, c in enumerate(space.classes) if c.category == category]
        hits = counts[np.ix_(inside, inside)].sum()
        union = counts[inside].sum() + counts[:, inside].sum() - hits
        assert result.category_iou[index] == pytest.approx(hits / union)


def test_an_ignore_index_among_the_classes():
    matrix = ConfusionMatrix(3, ignore_index=0)
    matrix.update(np.array([0, 1, 2], np.uint8), np.array([1, 1, 0], np.uint8))
    assert matrix.matrix.tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("truth", "prediction", "says"),
    [
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 3, np.uint8), "prediction 3"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8), "prediction 255"),
        (np.full((2, 2), 3, np.uint8), np.zeros((2, 2), np.uint8), "truth 3"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), "but prediction is"),
        (np.zeros((2, 2), np.int64), np.zeros((2, 2), np.uint8), "uint8"),
    ],
)
def test_what_cannot_be_counted_is_refused_and_leaves_no_trace(truth, prediction, says):
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=says):
        matrix.update(truth, prediction)
    assert not matrix.matrix.any()


def test_parts_merge_to_the_whole():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 4, (6, 5, 4), dtype=np.uint8)
    prediction = generator.integers(0, 4, (6, 5, 4), dtype=np.uint8)
    whole, parts = ConfusionMatrix(4), [ConfusionMatrix(4), ConfusionMatrix(4)]
    whole.update(truth, prediction)
    for index in range(6):
        parts[index % 2].update(truth[index], prediction[index])
    parts[0].merge(parts[1])
    assert (parts[0].matrix == whole.matrix).all()
    with pytest.raises(ValueError, match="cannot join"):
        whole.merge(ConfusionMatrix(3))
    whole.reset()
    assert not whole.matrix.any()


def test_more_pixels_than_float32_can_count(monkeypatch):
    """A frame of one class with 2^24 + 3 pixels: float32 would stop at 2^24."""
    truth = np.zeros(2**24 + 3, np.uint8)
    matrix = ConfusionMatrix(2)
    matrix.update(truth.reshape(1, -1), truth.reshape(1, -1))
    assert matrix.matrix[0, 0] == 2**24 + 3
    monkeypatch.setattr(confusion, "_EXACT", 10)
    monkeypatch.setattr(confusion, "_SHORT", math.inf)
    small = ConfusionMatrix(2)
    small.update(truth[:77].reshape(7, 11), truth[:77].reshape(7, 11))
    assert small.matrix[0, 0] == 77


def test_every_other_column_of_a_map():
    """Views with gaps are counted as what they show."""
    truth = np.random.default_rng(0).integers(0, 4, (9, 8), dtype=np.uint8)
    matrix, expected = ConfusionMatrix(4), ConfusionMatrix(4)
    matrix.update(truth[:, ::2], truth[::-1, 1::2])
    expected.update(truth[:, ::2].copy(), truth[::-1, 1::2].copy())
    assert (matrix.matrix == expected.matrix).all()


@pytest.mark.parametrize("coarse", [1, 40])
def test_noise_and_long_runs_are_counted_alike(coarse):
    generator = np.random.default_rng(0)
    truth, said = generator.integers(0, 19, (2, 30, 50), dtype=np.uint8)
    truth[truth == 7] = 255
    grid = np.ones((1, coarse), np.uint8)
    truth, said = np.kron(truth, grid), np.kron(said, grid)
    matrix = ConfusionMatrix(19)
    matrix.update(truth, said)
    expected = np.zeros((256, 256), np.int64)
    np.add.at(expected, (truth, said), 1)
    assert (matrix.matrix == expected[:19, :19]).all()
