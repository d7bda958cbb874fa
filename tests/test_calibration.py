"""Calibration: reliability counted by hand, and a known temperature found again."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from segcli.metrics.calibration import BINS, Calibration, Samples, fit_temperature


def drawn(temperature: float, count: int, seed: int, classes: int = 19) -> Samples:
    """Logits of a model that is too sure (or too modest) by a known factor."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(0, 2.5, (count, classes))
    p = np.exp(honest - honest.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    truth = (p.cumsum(1) > generator.random((count, 1))).argmax(1)
    return Samples((honest * temperature).astype(np.float32), truth.astype(np.uint8))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.7, 6.0])
def test_a_known_temperature_is_recovered(temperature):
    found = fit_temperature(drawn(temperature, 60_000, 1))
    assert abs(found / temperature - 1) < 0.02


def test_fitted_on_one_half_and_reported_on_the_other():
    calibration = Calibration(10)
    for index in range(10):
        # The halves differ: only the even one has the temperature that is reported.
        samples = drawn(2.0 if index % 2 == 0 else 3.0, 6_000, index)
        calibration.sample(index, samples.logits, samples.truth)
    value = calibration.to_dict()
    assert abs(value["temperature"] / 2.0 - 1) < 0.03
    assert value["fitted_on"] == value["reported_on"] == 30_000
    assert value["after"]["nll"] < value["before"]["nll"]
    assert value["after"]["ece"] < value["before"]["ece"]
    json.dumps(value, allow_nan=False)


def test_reliability_equals_a_count_by_hand():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 4, (30, 40)).astype(np.uint8)
    truth[:3] = 255
    prediction = generator.integers(0, 4, (30, 40)).astype(np.uint8)
    confidence = generator.random((30, 40)).astype(np.float32)
    confidence[5] = 1.0
    calibration = Calibration(1)
    calibration.update(truth, prediction, confidence)
    value, gap, total = calibration.to_dict(), 0.0, 27 * 40
    for b in range(BINS):
        inside = (truth != 255) & (np.minimum((confidence * BINS).astype(int), BINS - 1) == b)
        row = value["bins"][b]
        assert row["pixels"] == inside.sum()
        assert row["accuracy"] == pytest.approx((prediction == truth)[inside].mean())
        assert row["confidence"] == pytest.approx(confidence[inside].mean(), rel=1e-5)
        gap += inside.sum() / total * abs(row["accuracy"] - row["confidence"])
    assert value["ece"] == pytest.approx(gap)
    assert value["temperature"] is None, "nothing was sampled"


def test_positions_are_labelled_bounded_and_the_same_again():
    truth = np.full((200, 300), 255, np.uint8)
    truth[50:60] = 1
    calibration = Calibration(1000)
    places = calibration.positions(truth, 3)
    assert (truth.ravel()[places] == 1).all() and 0 < places.size <= calibration._per_image
    assert (places == Calibration(1000).positions(truth, 3)).all()
    assert not np.array_equal(places, calibration.positions(truth, 4))
    full = calibration.positions(np.zeros_like(truth), 0)
    assert full.size <= calibration._per_image < 1.5 * full.size
    assert calibration.positions(np.full((9, 9), 255, np.uint8), 0).size == 0


def test_nothing_labelled_is_null():
    value = Calibration(0).to_dict()
    assert value["ece"] is None and value["bins"][0]["accuracy"] is None


def test_one_image_is_split_by_its_pixels():
    calibration = Calibration(1)
    samples = drawn(1.5, 20_000, 4)
    calibration.sample(0, samples.logits, samples.truth)
    value = calibration.to_dict()
    assert value["fitted_on"] == value["reported_on"] == 10_000
    assert math.isclose(value["temperature"], 1.5, rel_tol=0.05)
