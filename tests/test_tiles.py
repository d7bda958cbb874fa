"""Tiles: they cover the picture, join without a seam, and come when memory is short."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import MODEL, SPACE, RedDecides, blocks, one_thread  # noqa: F401
from torch import nn

from segcli.inference import tiles as tiling
from segcli.inference.network import LiveBytes, TorchBackend
from segcli.inference.predictor import Predictor
from segcli.inference.tiles import Tiler, tile_size, tiles
from segcli.inference.tta import TTA
from segcli.models.build import build_model
from segcli.resources import MemoryShortageError, free_memory


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.tuples(st.integers(73, 1500), st.integers(73, 1500)),
)
def test_tiles_cover_every_pixel_and_start_on_the_grid(size, tile):
    seen = np.zeros((-(-size[0] // 16), -(-size[1] // 16)), bool)
    for part in tiles(size, tile):
        assert part.top % 32 == part.left % 32 == 0
        assert 0 <= part.top < part.bottom <= size[0] and part.bottom - part.top <= tile[0]
        assert 0 <= part.left < part.right <= size[1] and part.right - part.left <= tile[1]
        seen[part.top // 16 : -(-part.bottom // 16), part.left // 16 : -(-part.right // 16)] = True
    assert seen.all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(256 * 256, 2**22))
def test_the_size_of_tiles_keeps_to_the_pixels_allowed(height, width, most):
    tile = tile_size((height, width), most)
    assert tile[0] * tile[1] <= max(most, 256 * 256)
    list(tiles((height, width), tile))


@pytest.mark.parametrize("tile", [(256, 256), (128, 192), (96, 999), (999, 96)])
@pytest.mark.parametrize("size", [(301, 459), (320, 448), (90, 700)])
def test_tiles_of_a_network_that_sees_single_pixels_leave_no_seam(tile, size):
    images = [blocks(seed, *size) for seed in range(2)]
    whole = Predictor(RedDecides(), SPACE)
    tiled = Predictor(RedDecides(), SPACE, tile=tile)
    torch.testing.assert_close(tiled.logits(images), whole.logits(images), rtol=1e-4, atol=1e-3)
    assert (tiled.predict_batch(images) == whole.predict_batch(images)).all()


def test_tiles_of_a_real_network_share_its_grid():
    """Far from the borders of tiles a network of limited sight says what it says of the whole."""

    class Near(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Conv2d(3, 4, 9, stride=4, padding=4)

        def logits_at_stride(self, images):
            x = nn.functional.pad(
                images.float(), (0, -images.shape[3] % 32, 0, -images.shape[2] % 32)
            )
            return type("Output", (), {"logits": self.body(x)})

    image = np.random.default_rng(0).integers(0, 256, (150, 290, 3)).astype(np.uint8)
    whole, frame = Predictor(Near(), SPACE).coarse([image])
    tiled, same = Predictor(Near(), SPACE, tile=(128, 160)).coarse([image])
    assert frame == same and whole.shape == tiled.shape == (1, 4, 40, 80)
    close = torch.isclose(whole, tiled, rtol=1e-3, atol=1e-2).all(1)[0]
    # Only the two coarse pixels around where a tile begins or ends see less.
    assert close.float().mean() > 0.85


def test_what_a_network_thinks_of_padding_is_in_no_tile():
    """Tiles of any size are cut to whole steps, or the last of them would be mostly padding."""

    class Seen(RedDecides):
        def forward(self, images):
            sizes.add(tuple(images.shape[-2:]))
            return super().forward(images)

    sizes = set()
    Predictor(Seen(), SPACE, tile=(100, 999)).predict(np.zeros((160, 290, 3), np.uint8))
    assert sizes == {(96, 290)}


class Scarce(RedDecides):
    """Has memory for so many pixels at a time, and remembers what it was asked."""

    def __init__(self, pixels, error):
        super().__init__()
        self.pixels, self.error, self.asked = pixels, error, []

    def forward(self, images):
        self.asked.append(images.shape[0] * images.shape[2] * images.shape[3])
        if self.asked[-1] > self.pixels:
            raise self.error
        return super().forward(images)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] can't allocate memory: you tried")]
)
def test_running_out_of_memory_falls_back_to_tiles_once(error):
    image = blocks(0, 600, 700)
    model = Scarce(200_000, error)
    predictor = Predictor(model, SPACE)
    assert (predictor.predict(image) == image[:, :, 0] // 64).all()
    assert model.asked[0] == 600 * 700 and max(model.asked[2:]) <= 200_000
    count = len(model.asked)
    predictor.predict(image)
    assert max(model.asked[count:]) <= 200_000, "what did not fit is not tried again"


def test_a_batch_is_taken_apart_before_its_pictures_are():
    images = [blocks(seed, 300, 300) for seed in range(3)]
    model = Scarce(100_000, MemoryError())
    maps = Predictor(model, SPACE).predict_batch(images)
    assert all((m == i[:, :, 0] // 64).all() for m, i in zip(maps, images, strict=True))
    assert model.asked[-3:] == [90_000] * 3


def test_too_little_memory_for_anything_is_one_clean_line():
    with pytest.raises(MemoryShortageError, match="fits in memory"):
        Predictor(Scarce(100, MemoryError()), SPACE).predict(blocks(0, 400, 400))


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="broken"):
        Predictor(Scarce(0, RuntimeError("broken")), SPACE).predict(blocks(0))


def test_little_free_memory_means_tiles_from_the_start(monkeypatch):
    image = blocks(0, 1100, 1000)
    model = Scarce(10**9, MemoryError())
    monkeypatch.setattr(tiling, "free_memory", lambda: 8 * 2**20)
    monkeypatch.setattr(TorchBackend, "pixel_bytes", lambda self: 20.0)
    assert (Predictor(model, SPACE).predict(image) == image[:, :, 0] // 64).all()
    assert max(model.asked) <= 0.6 * 8 * 2**20 / 20


def test_scaled_views_need_no_more_than_the_plain_one():
    image = blocks(0, 1024, 1100)
    model = Scarce(10**9, MemoryError())
    Predictor(model, SPACE, tta=TTA(flip=False, scales=(1.0, 1.5))).predict(image)
    asked = [pixels for pixels in model.asked if pixels > 256 * 256]  # more than probes
    assert asked[0] == max(asked) == 1024 * 1100 and len(asked) > 2


def test_memory_per_pixel_is_measured_and_right():
    torch.manual_seed(0)
    backend = TorchBackend(build_model(**MODEL, num_classes=4, width_mult=0.25).eval())
    per_pixel = backend.pixel_bytes()
    batch = torch.zeros((1, 3, 192, 384), dtype=torch.uint8)
    with LiveBytes() as live:
        backend(batch)
    assert 0.8 < live.peak / (per_pixel * 192 * 384) < 1.25
    assert free_memory() is None or free_memory() > 2**20


def test_live_memory_does_not_grow_with_the_number_of_views():
    """A running mean: ten views, or two, are one picture's probabilities and one view."""
    torch.manual_seed(0)
    model = build_model(**MODEL, num_classes=4, width_mult=0.25).eval()
    plain = Predictor(model, SPACE)
    image = blocks(0, 128, 256)
    peaks = []
    for scales in ((1.0,), (0.6, 0.7, 0.8, 0.9, 1.0)):
        with LiveBytes() as live:
            plain.with_tta(TTA(scales=scales)).predict(image)
        peaks.append(live.peak)
    assert peaks[1] <= 1.05 * peaks[0]


@pytest.mark.parametrize("tile", ["off", "whole"])
def test_odd_tiles_are_refused(tile):
    with pytest.raises(ValueError, match="tile"):
        Tiler(TorchBackend(RedDecides()), tile)
    with pytest.raises(ValueError, match="too small"):
        list(tiles((100, 100), (30, 30)))
