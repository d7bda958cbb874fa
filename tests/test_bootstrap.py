"""Intervals that cover the truth as often as they say, and differences that are exact."""

from __future__ import annotations

import math

import numpy as np
import pytest

from segcli.labels import LabelClass, LabelSpace
from segcli.metrics.bootstrap import (
    difference,
    draw_scores,
    run_scores,
    seed_intervals,
    t_quantile,
)
from segcli.metrics.confusion import scores
from segcli.metrics.image_counts import ImageCounts, image_counts


def population(count: int, classes: int = 6, *, networks: int = 2, seed: int = 0):
    """Counts of `networks` networks on `count` images: shares of the classes, hardness shared.

    Rarer classes are absent from more images, as fences and riders are.
    """
    g = np.random.default_rng(seed)
    share = g.gamma(2.0, 1.0, (count, classes)) * np.geomspace(1, 0.1, classes)
    share *= g.random((count, classes)) < np.linspace(1, 0.6, classes)
    truth = np.round(1e5 * share / share.sum(1, keepdims=True))
    hardness = g.normal(0, 0.5, (count, 1))
    result = []
    for network in range(networks):
        logit = np.linspace(2.5, 0.5, classes) + hardness + g.normal(0, 0.5, (count, classes))
        right = 1 / (1 + np.exp(-logit - 0.1 * network))
        false = truth.mean(0) * g.gamma(1.0, 0.5, (count, classes)) * (1 - right)
        hits = np.round(truth * right)
        result.append(ImageCounts(hits, truth + np.round(false), truth))
    return result


def pick(counts: ImageCounts, rows) -> ImageCounts:
    return ImageCounts(*(table[rows] for table in counts))


def both(a: ImageCounts, b: ImageCounts, draws: int = 1000):
    drawn = draw_scores([a, b], draws=draws)
    return difference([a], [b], drawn[:, :1], drawn[:, 1:])


@pytest.mark.parametrize(
    "images",
    [60, pytest.param(20, marks=pytest.mark.slow), pytest.param(150, marks=pytest.mark.slow)],
)
def test_intervals_cover_the_truth_as_often_as_they_say(images):
    """1,000 sets of images out of one world, whose difference is known: mIoU and classes."""
    world = population(4000)
    truth = np.diff(run_scores(world), axis=0)[0]
    generator = np.random.default_rng(1)
    inside = np.zeros(len(truth))
    for _ in range(1000):
        rows = generator.integers(0, 4000, images)
        found = both(*(pick(counts, rows) for counts in world)).delta
        inside += [i.low <= t <= i.high for i, t in zip(found, truth, strict=True)]
    assert 930 <= inside[0] <= 970, inside
    assert inside[1:].mean() >= 925 and inside[1:].min() >= 900, inside


def test_unpaired_intervals_would_be_wider():
    a, b = population(300)
    paired = both(a, b).delta[0]
    drawn = draw_scores([a, b], draws=2000)
    shuffled = np.random.default_rng(5).permutation(drawn[:, 1])
    apart = difference([a], [b], drawn[:, :1], shuffled[:, None]).delta[0]
    assert apart.high - apart.low > 1.3 * (paired.high - paired.low)


def test_intervals_over_seeds_cover_what_other_seeds_and_images_would_say():
    """Two recipes of equal worth: three seeds of each, whose networks differ by chance."""
    generator = np.random.default_rng(3)
    inside = inside_images = 0
    for _ in range(400):
        arms = []
        rows = generator.integers(0, 4000, 60)
        for _ in range(6):
            counts = pick(population_of_one(), rows)
            # A seed makes every class of its network a bit better or worse, in all images.
            right = np.clip(1 + generator.normal(0, 0.03, (1, 6)), 0, None)
            arms.append(
                counts._replace(hits=np.minimum(np.round(counts.hits * right), counts.truth))
            )
        drawn = draw_scores(arms, draws=200)
        found = difference(arms[:3], arms[3:], drawn[:, :3], drawn[:, 3:])
        assert found.seeds_counted
        inside += found.delta[0].low <= 0 <= found.delta[0].high
        inside_images += found.over_images[0].low <= 0 <= found.over_images[0].high
    assert 368 <= inside <= 396, inside / 400
    assert inside_images < 320, "images alone are overconfident about recipes"


_ONE: list[ImageCounts] = []


def population_of_one() -> ImageCounts:
    if not _ONE:
        _ONE.extend(population(4000, networks=1))
    return _ONE[0]


def test_identical_runs_differ_by_exactly_nothing():
    a = population(80)[0]
    same = ImageCounts(*(table.copy() for table in a))
    found = both(a, same)
    assert found.identical
    assert all((i.value, i.low, i.high) == (0.0, 0.0, 0.0) for i in found.delta)
    assert not any(i.excludes_zero for i in found.delta)
    other = a.hits.copy()
    other[3, 2] -= 1
    assert not both(a, a._replace(hits=other)).identical


def test_swapping_the_arms_changes_the_sign_alone():
    a, b = population(70)
    drawn = draw_scores([a, b], draws=500)
    there = difference([a], [b], drawn[:, :1], drawn[:, 1:]).delta
    back = difference([b], [a], drawn[:, 1:], drawn[:, :1]).delta
    for x, y in zip(there, back, strict=True):
        assert (x.value, x.low, x.high) == pytest.approx((-y.value, -y.high, -y.low), abs=1e-12)


def test_a_clear_difference_is_called_one_and_noise_is_not():
    a, _ = population(200)
    assert not both(a, a._replace(hits=np.maximum(a.hits - 1, 0))).identical
    worse = both(a, a._replace(hits=np.round(a.hits * 0.9)))
    assert all(i.excludes_zero and i.high < 0 for i in worse.delta)


def test_scores_are_those_of_the_confusion_matrix():
    generator = np.random.default_rng(0)
    matrices = generator.integers(0, 900, (20, 5, 5)) * (generator.random((20, 5, 5)) < 0.5)
    matrices[:, 4] = matrices[:, :, 4] = 0  # a class that never occurs
    sparse = [[[i, j, int(m[i, j])] for i, j in zip(*m.nonzero(), strict=True)] for m in matrices]
    space = LabelSpace(
        "five", "indices", tuple(LabelClass(f"c{k}", (k, k, k), (k,), "all") for k in range(5))
    )
    found = run_scores([image_counts(sparse, 5)])[0]
    wanted = scores(matrices.sum(0), space)
    assert found[0] == pytest.approx(wanted.miou, abs=1e-15)
    np.testing.assert_allclose(found[1:], wanted.class_iou, atol=1e-15)
    assert math.isnan(found[5])


def test_a_class_that_never_occurs_has_no_interval():
    a, b = population(40)
    for counts in (a, b):
        for table in counts:
            table[:, 2] = 0
    found = both(a, b)
    assert all(math.isnan(x) for x in found.delta[3])
    assert not found.delta[3].excludes_zero and not math.isnan(found.delta[0].low)


def test_one_image_tells_nothing():
    a, b = population(1)
    found = both(a, b).delta[0]
    assert math.isnan(found.low) and math.isfinite(found.value) and not found.excludes_zero


@pytest.mark.parametrize("wrong", [[[0, 5, 1]], [[-1, 0, 1]], [[0, 0, -1]], [[0, 0]]])
def test_counts_that_are_none(wrong):
    with pytest.raises(ValueError):
        image_counts([wrong], 5)


def test_no_images_and_empty_images():
    assert image_counts([[], [[1, 1, 3]]], 2).hits.tolist() == [[0, 0], [0, 3]]


def test_t_quantiles_are_those_of_the_tables():
    table = {1: 12.7062, 2: 4.302653, 4: 2.776445, 29: 2.045230, 100: 1.983972, 1e5: 1.959988}
    for freedom, value in table.items():
        assert t_quantile(0.975, freedom) == pytest.approx(value, rel=1e-5)
    assert t_quantile(0.975, 2.5) == pytest.approx(3.574655, rel=1e-5)
    assert t_quantile(0.975, math.inf) == pytest.approx(1.959964, rel=1e-6)


def test_interval_over_seeds_is_students():
    values = np.array([[0.60], [0.62], [0.64]])
    interval = seed_intervals(values)[0]
    half = 4.302653 * 0.02 / math.sqrt(3)
    assert interval == pytest.approx((0.62, 0.62 - half, 0.62 + half))
    assert math.isnan(seed_intervals(values[:1])[0].low)


def drives(generator, images: int, length: int = 8):
    """Counts of two networks on drives, whose frames share what makes the networks differ.

    On average over all drives the networks are equal.
    """
    count = images // length
    union = np.full((images, 1), 1000.0)
    base = generator.uniform(500, 700, (images, 1))
    shared = np.repeat(generator.normal(0, 40, (count, 1)), length, axis=0)
    hits = base + shared + generator.normal(0, 40, (images, 1))
    return ImageCounts(base, union, union), ImageCounts(hits, union, union)


def test_frames_of_a_drive_are_noticed_and_counted_for_less():
    film = both(*drives(np.random.default_rng(0), 200))
    stills = both(*population(200))
    assert film.alike > 0.3 > 0.2 > abs(stills.alike)
    assert film.effective_images < 100 and stills.effective_images == 200


def test_intervals_of_drives_cover_the_truth():
    generator = np.random.default_rng(4)
    inside = plain = 0
    for _ in range(400):
        a, b = drives(generator, 120)
        order = generator.permutation(120)
        inside += _holds(both(a, b, draws=300))
        plain += _holds(both(pick(a, order), pick(b, order), draws=300))
    assert inside >= 360, "nearly as often as they say"
    assert plain < 300, "shuffled, the same images seem to tell more than they do"


def _holds(found) -> bool:
    return bool(found.delta[0].low <= 0 <= found.delta[0].high)


def test_draws_repeat_and_do_not_depend_on_blocks(monkeypatch):
    runs = population(30)
    once = draw_scores(runs, draws=50, seed=4)
    monkeypatch.setattr("segcli.metrics.bootstrap._BLOCK", 30 * 7)
    assert np.array_equal(once, draw_scores(runs, draws=50, seed=4))
    assert not np.array_equal(once, draw_scores(runs, draws=50, seed=5))


def test_the_interval_of_a_mean_is_students():
    """With unions of one size IoU is a plain mean, whose interval is mean +- t s / sqrt(N)."""
    g = np.random.default_rng(2)
    hits = np.round(g.uniform(200, 800, (40, 1)))
    union = np.full((40, 1), 1000.0)
    nothing = ImageCounts(np.zeros((40, 1)), union, union)
    some = ImageCounts(hits, union, union)
    interval = both(nothing, some, draws=40_000).delta[1]
    half = t_quantile(0.975, 39) * (hits / 1000).std(ddof=1) / math.sqrt(40)
    assert interval.value == hits.mean() / 1000
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.02)


def test_few_images_that_decide_widen_the_interval():
    g = np.random.default_rng(2)
    union = np.full((60, 1), 1000.0)
    even = np.round(500 + 50 * g.choice([-1, 1], (60, 1)))
    rare = np.full((60, 1), 500.0)
    rare[:2] += [[387.0], [-387.0]]  # the same variance, out of two images
    nothing = ImageCounts(np.zeros((60, 1)), union, union)
    spans = []
    for hits in (even, rare):
        delta = both(nothing, ImageCounts(hits, union, union), draws=20_000).delta[1]
        spans.append((delta.high - delta.low) / hits.std())
    assert spans[1] > 1.2 * spans[0]
