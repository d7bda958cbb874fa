"""The colour jitter's matrix means what its factors say."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segcli.data.color import ColorJitter, apply, color_matrix

LUMA = np.array([0.299, 0.587, 0.114])


def picture(seed: int = 0) -> np.ndarray:
    """Colours far enough from black and white that nothing is cut off."""
    return np.random.default_rng(seed).integers(90, 150, (19, 34, 3)).astype(np.uint8)


def mean(image: np.ndarray) -> np.ndarray:
    return image.reshape(-1, 3).mean(0)


def test_factors_of_one_change_nothing() -> None:
    image = picture()
    assert np.array_equal(apply(image, color_matrix(1, 1, 1, 0, mean(image))), image)


def test_each_factor_by_a_formula_of_its_own() -> None:
    image = picture()
    x = image.astype(float)
    grey = (x @ LUMA)[..., None]
    wanted = {
        (1.2, 1, 1, 0): 1.2 * x,
        (1, 0.7, 1, 0): 0.7 * x + 0.3 * grey.mean(),
        (1, 1, 0.5, 0): 0.5 * x + 0.5 * grey,
        (1, 1, 0, 0): np.repeat(grey, 3, axis=2),
    }
    for factors, result in wanted.items():
        made = apply(image, color_matrix(*factors, mean(image)))
        assert np.abs(made - result).max() <= 1


@pytest.mark.parametrize("turn", [-0.1, 0.05, 0.1])
def test_hue_turns_and_luma_stays(turn: float) -> None:
    image = np.full((4, 4, 3), (160, 110, 90), np.uint8)
    made = apply(image, color_matrix(1, 1, 1, turn, mean(image)))
    assert abs(float((made[0, 0] - (image[0, 0] @ LUMA)) @ LUMA)) < 1
    before, after = (colorsys.rgb_to_hsv(*(p[0, 0] / 255))[0] for p in (image, made))
    moved = (after - before + 0.5) % 1 - 0.5
    assert abs(moved) == pytest.approx(abs(turn), abs=0.04)
    back = apply(made, color_matrix(1, 1, 1, -turn, mean(made)))
    assert np.abs(back.astype(int) - image).max() <= 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0.01, 2.0))
def test_a_seed_fixes_the_result_and_the_picture_stays(seed: int, strength: float) -> None:
    image = picture(seed)
    before = image.copy()
    made = ColorJitter(strength)(image, seed)
    assert np.array_equal(made, ColorJitter(strength)(image, seed))
    assert np.array_equal(image, before)
    assert made.dtype == np.uint8
    assert made.shape == image.shape


def test_one_picture_in_five_is_left_alone_and_factors_stay_in_range() -> None:
    image = picture()
    jitter = ColorJitter(0.3)
    made = [jitter(image, seed) for seed in range(400)]
    alone = sum(m is image for m in made)
    assert 50 < alone < 110
    ratios = [mean(m) @ LUMA / (mean(image) @ LUMA) for m in made]
    assert 0.69 < min(ratios) < 0.75
    assert 1.25 < max(ratios) < 1.31
