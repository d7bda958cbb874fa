"""Training views: pure functions of their seed, labels that stay with their pixels."""

from __future__ import annotations

import numpy as np
import pytest

from segcli.data.transforms import TrainTransform, resize_channels


def scene(height: int = 60, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red channel is its label times 20, in blocks of 10 pixels."""
    blocks = np.arange(height // 10)[:, None] + np.arange(width // 10)[None]
    label = np.kron(blocks % 12, np.ones((10, 10))).astype(np.uint8)
    image = np.stack([label * 20, label * 0 + 7, label * 0 + 9], axis=2).astype(np.uint8)
    return image, label


@pytest.mark.parametrize("size", [(32, 48), (96, 64), (61, 33)])
@pytest.mark.parametrize("scale", [(0.5, 2.0), (1.0, 1.0), (0.25, 0.25), (3.0, 3.0)])
def test_labels_stay_with_their_pixels(size: tuple, scale: tuple) -> None:
    image, label = scene()
    transform = TrainTransform(size, scale=scale, flip=0.5, color=0.0)
    agreeing = total = 0
    for seed in range(20):
        view, target = transform(image, label, np.random.default_rng(seed))
        assert view.shape == (*size, 3)
        assert target.shape == size
        assert view.dtype == target.dtype == np.uint8
        valid = target != 255
        # Outside the image both say so: the padding's colour, and the ignore index.
        assert (view[~valid] == (124, 116, 104)).all()
        agreeing += (np.abs(view[..., 0][valid] / 20.0 - target[valid]) < 0.5).sum()
        total += valid.sum()
    # Only pixels blended along the edges of blocks differ; at a quarter those are many.
    assert agreeing / total > (0.55 if scale[0] < 0.5 else 0.9)


def test_identity_when_nothing_is_random() -> None:
    image, label = scene()
    transform = TrainTransform((60, 80), scale=(1, 1), flip=0.0, color=0.0)
    view, target = transform(image, label, np.random.default_rng(0))
    assert (view == image).all()
    assert (target == label).all()


def test_a_flip_mirrors_both() -> None:
    image, label = scene()
    transform = TrainTransform((60, 80), scale=(1, 1), flip=1.0, color=0.0)
    view, target = transform(image, label, np.random.default_rng(0))
    assert (view == image[:, ::-1]).all()
    assert (target == label[:, ::-1]).all()


def test_a_view_depends_on_its_seed_alone() -> None:
    image, label = scene()
    transform = TrainTransform((32, 48), color=0.5)
    first = [transform(image, label, np.random.default_rng(s)) for s in range(6)]
    again = [transform(image, label, np.random.default_rng(s)) for s in reversed(range(6))][::-1]
    for (a, b), (c, d) in zip(first, again, strict=True):
        assert (a == c).all()
        assert (b == d).all()
    assert len({view.tobytes() for view, _ in first}) == 6


def test_channels_become_shares_that_match_the_hard_label() -> None:
    image, label = scene()
    channels = (label[None] == np.arange(12)[:, None, None]).astype(np.uint8)
    hard = TrainTransform((32, 48), color=0.0)
    _, target = hard(image, label, np.random.default_rng(3))
    _, shares = hard(image, channels, np.random.default_rng(3))
    assert shares.shape == (12, 32, 48)
    total = shares.astype(int).sum(0)
    assert (total[target == 255] == 0).all()
    assert (np.abs(total[target != 255] - 255) <= 6).all()
    valid = target != 255
    assert (shares.argmax(0)[valid] == target[valid]).mean() > 0.9


def test_shares_of_a_shrunken_mask_are_areas() -> None:
    channels = np.zeros((2, 4, 4), np.uint8)
    channels[0, :, :1] = 1
    channels[1, :, 1:] = 1
    shares = resize_channels(channels, (2, 2))
    assert np.abs(shares[0].astype(int) - [[128, 0], [128, 0]]).max() <= 1
    assert np.abs(shares[1].astype(int) - [[128, 255], [128, 255]]).max() <= 1
