"""Weather: a function of its seed, stronger with its strength, at home on any size."""

from __future__ import annotations

import albumentations
import cv2
import numpy as np
import pytest

from segcli.data.weather import Weather, defocus, haze, pipelines

KINDS = ("snow", "rain", "fog", "night", "blur", "drops")


def street(height: int = 240, width: int = 320) -> np.ndarray:
    """Bright above, dark below, with blocks as houses and a fine texture."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(40, 200, (-(-height // 12), -(-width // 12), 3))
    picture = np.kron(coarse, np.ones((12, 12, 1)))[:height, :width]
    picture[: height // 4] = (190, 205, 225)
    picture += rng.normal(0, 6, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def render(kind: str, image: np.ndarray, seed: int, strength: float = 1.0) -> np.ndarray:
    pipeline = pipelines(strength, image.shape[0])[kind]
    pipeline.set_random_seed(seed)
    return pipeline(image=image)["image"]


def change(kind: str, strength: float) -> float:
    """Mean absolute difference that a kind makes, over a few seeds."""
    image = street()
    views = [render(kind, image, seed, strength).astype(int) for seed in range(8)]
    return float(np.mean([np.abs(view - image).mean() for view in views]))


def test_the_kinds_are_these() -> None:
    assert tuple(pipelines(1.0, 96)) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_depends_on_its_seed_alone(kind: str) -> None:
    image = street()
    before = image.copy()
    np.random.seed(1)
    first = [render(kind, image, seed) for seed in range(4)]
    np.random.seed(2)
    again = [render(kind, image, seed) for seed in reversed(range(4))][::-1]
    assert (image == before).all()
    for a, b in zip(first, again, strict=True):
        assert a.dtype == np.uint8
        assert a.shape == image.shape
        assert (a == b).all()
    assert len({view.tobytes() for view in first}) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_strength_grows_the_effect_and_never_hides_the_scene(kind: str) -> None:
    weak, normal, severe = (change(kind, s) for s in (0.25, 1.0, 2.0))
    assert 0 < weak < normal < severe
    image = street()
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float).ravel()
    kept = []
    for seed in range(6):
        view = cv2.cvtColor(render(kind, image, seed), cv2.COLOR_RGB2GRAY).astype(float)
        kept.append(np.corrcoef(grey, view.ravel())[0, 1])
    assert np.mean(kept) > 0.5


@pytest.mark.parametrize("shape", [(16, 16), (17, 200), (200, 17), (33, 64)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_size_of_crop_will_do(kind: str, shape: tuple[int, int]) -> None:
    image = street(*shape)
    for strength in (0.05, 1.0, 2.0):
        assert render(kind, image, 3, strength).shape == image.shape


@pytest.mark.parametrize("kind", KINDS)
def test_it_may_be_as_weak_as_one_likes(kind: str) -> None:
    """A strength is a stage's `augment` times the config's, however small both are."""
    image = street(64, 96)
    for strength in (0.001, 0.01, 0.1, 0.14):
        for seed in range(8):  # a kind may have several forms
            assert render(kind, image, seed, strength).shape == image.shape


def test_what_the_kinds_do_to_the_light() -> None:
    image = street()
    mean = {k: np.mean([render(k, image, s).mean() for s in range(6)]) for k in KINDS}
    contrast = {k: np.mean([render(k, image, s).std() for s in range(6)]) for k in KINDS}
    assert mean["night"] < 0.6 * image.mean()
    assert mean["snow"] > image.mean()
    assert contrast["fog"] < 0.75 * image.std()


def test_fog_is_the_blend_it_says() -> None:
    image = street()
    fog = haze(image, np.random.default_rng(0), (0.5, 0.5), (200, 200))
    black = haze(np.zeros_like(image), np.random.default_rng(0), (0.5, 0.5), (200, 200))
    white = haze(np.full_like(image, 255), np.random.default_rng(0), (0.5, 0.5), (200, 200))
    # Linear in the image: any pixel lies between what black and white become.
    expected = black + (white.astype(float) - black) * image / 255
    assert np.abs(fog - expected).max() <= 2


def test_defocus_keeps_the_light_and_spreads_a_point_over_a_disc() -> None:
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    spread = defocus(point, np.random.default_rng(0), (4.0, 4.0))
    ys, xs = np.nonzero(spread[..., 0])
    assert np.hypot(ys - 20, xs - 20).max() <= 4.6
    assert len(ys) == pytest.approx(np.pi * 4**2, rel=0.35)
    flat = np.full((30, 30, 3), 77, np.uint8)
    assert (defocus(flat, np.random.default_rng(0), (3.0, 3.0)) == 77).all()


def test_the_share_of_crops_with_weather() -> None:
    image = street(32, 32)
    weather = Weather(1.0, share=0.4, height=32)
    foul = sum((weather(image, np.random.default_rng(s)) != image).any() for s in range(300))
    assert 90 <= foul <= 150


def test_a_sliver_of_an_image_stays_as_it_is() -> None:
    sliver = street()[:5]
    assert (Weather(1.0, share=1.0, height=64)(sliver, np.random.default_rng(0)) == sliver).all()


def test_the_global_generators_are_not_touched() -> None:
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    albumentations.Compose([]).set_random_seed(0)
    Weather(1.0, share=1.0, height=240)(street(), np.random.default_rng(0))
    assert (np.random.get_state()[1] == state).all()
