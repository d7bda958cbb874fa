"""Training views: pure functions of their seed, labels that stay with their pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from segcli.data.transforms import TrainTransform, resize_channels
from segcli.errors import ConfigError


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


def test_weather_leaves_geometry_labels_and_padding_alone() -> None:
    image, label = scene()
    fair = TrainTransform((64, 96), scale=(0.4, 1.5))
    foul = TrainTransform((64, 96), scale=(0.4, 1.5), weather=1.0, weather_share=1.0)
    changed = 0
    for seed in range(12):
        view, target = fair(image, label, np.random.default_rng(seed))
        other, same = foul(image, label, np.random.default_rng(seed))
        assert (target == same).all()
        assert (other[target == 255] == (124, 116, 104)).all()
        assert other.dtype == np.uint8
        changed += bool((other != view).any())
    assert changed >= 11


def test_without_weather_the_numbers_are_those_of_base() -> None:
    image, label = scene()
    base = TrainTransform((32, 48))
    rare = TrainTransform((32, 48), weather=1.0, weather_share=1e-9)
    for seed in range(5):
        a, b = (t(image, label, np.random.default_rng(seed))[0] for t in (base, rare))
        assert (a == b).all()


def test_extra_transforms_change_pixels_by_the_seed_alone() -> None:
    image, label = scene()
    extra = [{"name": "GaussNoise", "std_range": [0.1, 0.2], "p": 1.0}]
    noisy = TrainTransform((32, 48), extra=extra)
    plain = TrainTransform((32, 48))
    for seed in range(4):
        view, target = noisy(image, label, np.random.default_rng(seed))
        again, _ = noisy(image, label, np.random.default_rng(seed))
        clean, same = plain(image, label, np.random.default_rng(seed))
        assert (view == again).all()
        assert (view != clean).mean() > 0.3
        assert (target == same).all()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "GausNoise"}, "did you mean 'GaussNoise'"),
        ({"name": "gaussnoise"}, "did you mean 'GaussNoise'"),
        ({"name": "GaussNoise", "std_rang": [0.1, 0.2]}, "did you mean 'std_range'"),
        ({"name": "GaussNoise", "std_range": [0.1, 7]}, "std_range"),
        ({"name": "HorizontalFlip"}, "part the image from its label"),
        ({"name": "CoarseDropout"}, "part the image from its label"),
        ({"name": "Normalize"}, "uint8"),
        ({"name": "HistogramMatching"}, "HistogramMatching"),
        ({"p": 0.5}, "without a name"),
        ({"name": "ImageOnlyTransform"}, "no transform"),
        ({"name": "Compose"}, "no transform"),
    ],
)
def test_an_extra_transform_that_cannot_be_meant_is_an_error(entry: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        TrainTransform((32, 48), extra=[entry])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("resize", [0.5, 0.4, 2.0])
def test_the_loss_at_the_label_sees_the_same_window(resize: float) -> None:
    image, label = scene(120, 160)
    arguments = {"scale": (0.6, 1.4), "resize": resize, "color": 0.0}
    network = TrainTransform((32, 48), **arguments)
    at_label = TrainTransform((32, 48), loss_at="label", **arguments)
    assert at_label.target_size == (round(32 / resize), round(48 / resize))
    agreeing = total = 0
    for seed in range(20):
        view, small = network(image, label, np.random.default_rng(seed))
        same, large = at_label(image, label, np.random.default_rng(seed))
        assert (view == same).all()
        assert large.shape == at_label.target_size
        back = cv2.resize(large, (48, 32), interpolation=cv2.INTER_NEAREST_EXACT)
        agreeing += (back == small).sum()
        total += small.size
    assert agreeing / total > 0.85


def test_the_label_keeps_its_own_pixels_where_only_the_network_sees_less() -> None:
    image, label = scene()
    half = TrainTransform((30, 40), scale=(1, 1), resize=0.5, flip=0.0, color=0.0, loss_at="label")
    _, target = half(image, label, np.random.default_rng(0))
    assert (target == label).all()
    channels = (label[None] == np.arange(12)[:, None, None]).astype(np.uint8)
    _, shares = half(image, channels, np.random.default_rng(0))
    assert (shares == channels * 255).all()
