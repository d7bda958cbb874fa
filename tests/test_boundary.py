"""Boundary scores against a look at every pixel and all its neighbours."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segcli.labels import LabelClass, LabelSpace
from segcli.metrics.boundary import DISTANCE_EDGES, BoundaryScores

SPACE = LabelSpace(
    "three", "indices", tuple(LabelClass(n, (i, i, i), (i,), n) for i, n in enumerate("abc"))
)


def distances(labels: np.ndarray) -> np.ndarray:
    """Chessboard distance to the nearest other class, inf where there is none."""
    result = np.full(labels.shape, math.inf)
    for (y, x), value in np.ndenumerate(labels):
        for (v, u), other in np.ndenumerate(labels):
            if 255 not in (value, other) and other != value:
                result[y, x] = min(result[y, x], max(abs(y - v), abs(x - u)))
    return result


@st.composite
def maps(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    coarse = draw(st.sampled_from([1, 2, 4]))

    def drawn(values):
        small = generator.choice(np.array(values, np.uint8), (9, 9))
        return np.kron(small, np.ones((coarse, coarse), np.uint8))[: shape[0], : shape[1]].copy()

    return drawn([0, 1, 2, 255]), drawn([0, 1, 2])


@settings(max_examples=60, deadline=None)
@given(maps())
def test_counts_equal_a_look_at_every_pixel(drawn):
    truth, prediction = drawn
    diagonal = math.hypot(*truth.shape)
    # Widths of 2 and 1 pixels, whatever the size.
    scores = BoundaryScores(SPACE, iou_width=2 / diagonal, tolerance=1 / diagonal)
    scores.update(truth, prediction)
    said = np.where(truth == 255, 255, prediction)
    true_far, said_far = distances(truth), distances(said)
    for k in range(3):
        g, p = (truth == k) & (true_far <= 2), (said == k) & (said_far <= 2)
        assert scores.iou_counts[k].tolist() == [(g & p).sum(), g.sum(), p.sum()]
        g, p = (truth == k) & (true_far == 1), (said == k) & (said_far == 1)
        assert scores.contours[k].tolist() == [
            p.sum(),
            sum(bool(around(g, y, x)) for y, x in np.argwhere(p)),
            g.sum(),
            sum(bool(around(p, y, x)) for y, x in np.argwhere(g)),
        ]
    contour = np.argwhere(true_far == 1)
    far = np.full(truth.shape, math.inf)
    for y, x in np.ndindex(truth.shape):
        if len(contour):
            far[y, x] = 1 + np.abs(contour - (y, x)).max(1).min()
    for i, low in enumerate(DISTANCE_EDGES):
        high = (*DISTANCE_EDGES, math.inf)[i + 1]
        last = i == len(DISTANCE_EDGES) - 1
        inside = (truth != 255) & (far >= low) & ((far < high) | last)
        wrong = inside & (said != truth)
        assert scores.distances[i].tolist() == [inside.sum(), wrong.sum()]


def around(mask: np.ndarray, y: int, x: int) -> int:
    return mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].sum()


def test_a_perfect_map_scores_one_and_a_shift_costs_most_at_the_boundary():
    truth = np.zeros((200, 200), np.uint8)
    truth[50:150, 50:150] = 1
    perfect, shifted = BoundaryScores(SPACE), BoundaryScores(SPACE)
    perfect.update(truth, truth)
    value = perfect.to_dict()
    assert value["iou"] == value["f_score"] == 1.0
    assert value["classes"]["c"] == {"iou": None, "f_score": None}
    assert [row["errors"] for row in value["by_distance"]] == [0] * len(DISTANCE_EDGES)
    shifted.update(truth, np.roll(truth, 3, 1))
    value = shifted.to_dict()
    assert value["iou"] < 0.7, "where plain IoU is 0.94"
    errors = [row["error"] for row in value["by_distance"]]
    assert errors[0] > 0.2 and errors[2] > 0 and errors[3:] == [0, 0, 0, 0, None]
    # Two pixels of tolerance do not reach three; three do, and do not forgive a lost class.
    assert value["f_score"] < 0.9
    wide = BoundaryScores(SPACE, tolerance=3 / math.hypot(200, 200))
    wide.update(truth, np.roll(truth, 3, 1))
    assert wide.to_dict()["f_score"] == 1.0
    wide.update(truth, np.full_like(truth, 2))
    assert wide.to_dict()["f_score"] < 0.75


def test_what_the_truth_does_not_know_is_no_boundary():
    truth = np.zeros((40, 40), np.uint8)
    truth[10:20] = 255
    scores = BoundaryScores(SPACE)
    scores.update(truth, np.where(truth == 255, 2, 0).astype(np.uint8))
    assert not scores.iou_counts.any() and not scores.contours.any()
    assert scores.to_dict()["iou"] is None
    assert scores.distances[-1].tolist() == [1200, 0]


def test_parts_merge_to_the_whole():
    generator = np.random.default_rng(0)
    pairs = [generator.integers(0, 3, (2, 20, 30)).astype(np.uint8) for _ in range(3)]
    whole, one, two = (BoundaryScores(SPACE) for _ in range(3))
    for index, (truth, prediction) in enumerate(pairs):
        whole.update(truth, prediction)
        (one, two)[index % 2].update(truth, prediction)
    one.merge(two)
    assert one.to_dict() == whole.to_dict()
    assert one.to_dict()["iou"] == pytest.approx(whole.to_dict()["iou"])
