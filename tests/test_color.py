"""The colour jitter is albumentations' own, to the bit."""

from __future__ import annotations

import albumentations as A
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segcli.data import color
from segcli.data.color import ColorJitter


def reference(strength: float) -> A.Compose:
    s = strength
    jitter = A.ColorJitter(
        brightness=(1 - s, 1 + s),
        contrast=(1 - s, 1 + s),
        saturation=(1 - s, 1 + s),
        hue=(-s / 5, s / 5),
        p=0.8,
    )
    return A.Compose([jitter])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0.01, 1.0), st.booleans())
def test_pixels_are_those_of_albumentations(seed: int, strength: float, smooth: bool) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (19, 34, 3), np.uint8)
    if smooth:
        image = np.sort(image, axis=0) // 2 + 60
    oracle = reference(strength)
    oracle.set_random_seed(seed)
    before = image.copy()
    assert np.array_equal(ColorJitter(strength)(image, seed), oracle(image=image)["image"])
    assert np.array_equal(image, before)


def test_without_the_fast_look_up_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (19, 34, 3), np.uint8)
    fast = [ColorJitter(0.5)(image, seed) for seed in range(10)]
    monkeypatch.setitem(__import__("sys").modules, "stringzilla", None)
    slow = [ColorJitter(0.5)(image, seed) for seed in range(10)]
    assert all(np.array_equal(a, b) for a, b in zip(fast, slow, strict=True))
    assert color._look_up(image, np.arange(256)).flags.writeable
