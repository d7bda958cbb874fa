"""Runs of a label: what they count, and a zlib stream that any decoder reads."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segcli import png
from segcli.runlength import compress, find_runs, histogram


def _rows(label: np.ndarray) -> bytes:
    return np.pad(label, ((0, 0), (1, 0))).tobytes()


@st.composite
def labels(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 700))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    longest = draw(st.sampled_from([1, 2, 4, 300, 9000]))
    size = height * width
    runs = rng.integers(1, longest + 1, size)
    values = rng.choice([0, 7, 18, 143, 144, 255], size)
    return np.repeat(values, runs)[:size].reshape(height, width).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(labels())
def test_stream_and_counts_of_any_label(label: np.ndarray) -> None:
    runs = find_runs(label)
    assert zlib.decompress(compress(runs, label.shape[1])) == _rows(label)
    np.testing.assert_array_equal(histogram(runs), np.bincount(label.ravel(), minlength=256))
    assert (
        runs.starts // label.shape[1] == (runs.starts + runs.lengths - 1) // label.shape[1]
    ).all()


def test_every_run_length() -> None:
    for length in range(1, 530):
        label = np.full((2, length), 201, np.uint8)
        assert zlib.decompress(compress(find_runs(label), length)) == _rows(label)


@pytest.mark.parametrize("noisy", [False, True])
def test_png_of_a_big_label(noisy: bool) -> None:
    rng = np.random.default_rng(1)
    cells = (1024, 2048) if noisy else (16, 32)
    label = rng.integers(0, 256, cells, dtype=np.uint8)
    label = label.repeat(1024 // cells[0], 0).repeat(2048 // cells[1], 1)
    palette = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    data = png.encode_indices(label, palette, find_runs(label))
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), label)
    assert noisy or len(data) < label.size // 20
