"""Weather for training crops: snow, rain, fog, night, blur, drops on the lens.

Each kind is an albumentations pipeline; what the library lacks, or does too slowly for every
second crop, is a function of (image, generator) here. Sizes are shares of the image's
height, so that a small crop and a large one show the same weather.

Shapes: image uint8 (H, W, 3) RGB, opacity uint8 (H, W). Strength 1 is normal, 2 is severe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
Effect = Callable[[U8, np.random.Generator], U8]

# Below this many pixels a side there is nothing to see, and kernels would not fit.
_SMALLEST = 16


class Weather:
    """One kind of weather, drawn at random, on a share of the crops.

    Args:
        strength: factor on amount and opacity of the effect; above 2 it counts as 2.
        share: probability that a crop gets any weather.
        height: of the crops in pixels; blur kernels are measured by it.
    """

    def __init__(self, strength: float, *, share: float, height: int) -> None:
        self.share = share
        self.kinds = pipelines(strength, height)

    def __call__(self, image: U8, rng: np.random.Generator) -> U8:
        """The crop in its weather: a function of `image` and `rng` alone."""
        drawn, kind, seed = rng.random(), int(rng.integers(len(self.kinds))), seed_from(rng)
        if drawn >= self.share or min(image.shape[:2]) < _SMALLEST:
            return image
        pipeline = list(self.kinds.values())[kind]
        pipeline.set_random_seed(seed)
        return np.asarray(pipeline(image=image)["image"], np.uint8)


def seed_from(rng: np.random.Generator) -> int:
    """A seed for albumentations, which keeps generators of its own."""
    return int(rng.integers(2**31))


def pipelines(strength: float, height: int) -> dict[str, Any]:
    """An albumentations pipeline for each kind: snow, rain, fog, night, blur, drops.

    Args:
        strength: see `Weather`.
        height: of the crops in pixels.
    """
    s = min(strength, 2.0)
    dull = A.HueSaturationValue(0, (-45 * s, -15 * s), 0, p=1)
    wet = A.RandomBrightnessContrast((-0.1 * s, 0.02), (-0.2 * s, 0.0), p=1)
    white = A.RandomBrightnessContrast((0.0, 0.12 * s), (-0.15 * s, 0.0), p=1)
    kinds: dict[str, list[Any]] = {
        "snow": [dull, white, _Drawn(partial(snow, strength=s))],
        "rain": [dull, wet, _Drawn(partial(rain, strength=s))],
        "fog": [_Drawn(partial(haze, density=(0.35 * s**0.5, min(0.95, 0.8 * s**0.5))))],
        "night": [_Drawn(partial(night, strength=s))],
        "blur": [_blur(s, height)],
        "drops": [_Drawn(partial(drops, strength=s))],
    }
    return {name: A.Compose(steps) for name, steps in kinds.items()}


class _Drawn(A.ImageOnlyTransform):  # type: ignore[misc]
    """An `Effect` as an albumentations transform, on the pipeline's generator."""

    def __init__(self, effect: Effect) -> None:
        super().__init__(p=1.0)
        self.effect = effect

    def get_params(self) -> dict[str, Any]:
        return {"seed": seed_from(self.random_generator)}

    def apply(self, img: U8, seed: int, **_: Any) -> U8:
        return self.effect(img, np.random.default_rng(seed))


def _blur(strength: float, height: int) -> Any:
    """Motion along a line, or a lens out of focus."""
    low = max(3, round(height * 0.012) | 1)
    high = max(low, round(height * 0.034 * strength) | 1)
    largest = height * 0.0105 * strength
    radius = (min(largest, height * 0.004 * strength**0.5), largest)
    return A.OneOf([A.MotionBlur((low, high), p=1), _Drawn(partial(defocus, radius=radius))], p=1)


def defocus(image: U8, rng: np.random.Generator, radius: tuple[float, float]) -> U8:
    """Spread every pixel over a disc whose radius in pixels lies in the given range."""
    r = max(1.0, rng.uniform(*radius))
    reach = int(np.ceil(r))
    offsets = np.arange(-reach, reach + 1)
    # Pixels on the rim count in part, so that the radius need not be whole.
    disc = np.clip(r + 0.5 - np.hypot(offsets[:, None], offsets[None]), 0, 1)
    kernel = (disc / disc.sum()).astype(np.float32)
    return _u8(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT))


def haze(
    image: U8,
    rng: np.random.Generator,
    density: tuple[float, float],
    light: tuple[int, int] = (170, 235),
) -> U8:
    """Drifting fog: thickest around a horizon, thinner towards the camera.

    Args:
        density: range of the greatest opacity, 0..1.
        light: range of the fog's grey value.
    """
    height, width = image.shape[:2]
    thickest, nearest = rng.uniform(*density), rng.uniform(0.25, 0.8)
    horizon = rng.uniform(0.2, 0.5)
    rows = np.linspace(0, 1, 12, dtype=np.float32)[:, None]
    below = np.clip((rows - horizon) / (1 - horizon), 0, 1)
    drift = rng.uniform(0.75, 1.0, (4, 5)).astype(np.float32)
    clouds = cv2.resize(drift, (16, 12), interpolation=cv2.INTER_CUBIC)
    coarse = thickest * clouds * (1 - (1 - nearest) * below)
    opacity = cv2.resize(coarse * 255, (width, height), interpolation=cv2.INTER_CUBIC)
    grey, tint = rng.uniform(*light), rng.uniform(-6, 6)
    return _blend(image, _u8(cv2.convertScaleAbs(opacity)), (grey - tint, grey, grey + tint))


@dataclass(frozen=True)
class _Layer:
    """Falling particles at one distance.

    Attributes:
        count: of them on a square crop.
        length, width: as shares of the height.
        opacity: 0..255.
        blur: sigma as a share of the height.
    """

    count: float
    length: float
    width: float
    opacity: float
    blur: float


_RAIN = (
    _Layer(700, 0.05, 0.0, 48, 0.0016),
    _Layer(300, 0.11, 0.0026, 62, 0.0018),
    _Layer(36, 0.26, 0.006, 62, 0.005),
)
_SNOW = (
    _Layer(900, 0.002, 0.003, 150, 0.0012),
    _Layer(330, 0.005, 0.007, 200, 0.0018),
    _Layer(70, 0.012, 0.014, 215, 0.004),
    _Layer(12, 0.03, 0.032, 170, 0.011),
)


def rain(image: U8, rng: np.random.Generator, strength: float) -> U8:
    """Streaks at three distances in front of a light haze."""
    veiled = haze(image, rng, (0.15 * strength, 0.4 * strength), (120, 190))
    return _fall(veiled, rng, _RAIN, strength, slant=0.35, color=(205, 210, 215))


def snow(image: U8, rng: np.random.Generator, strength: float) -> U8:
    """Flakes at four distances in front of a white haze."""
    veiled = haze(image, rng, (0.15 * strength, 0.4 * strength), (190, 240))
    return _fall(veiled, rng, _SNOW, strength, slant=0.9, color=(248, 250, 252))


def _fall(
    image: U8,
    rng: np.random.Generator,
    layers: Sequence[_Layer],
    strength: float,
    *,
    slant: float,
    color: tuple[float, float, float],
) -> U8:
    """Draw particles that fall along one direction, up to `slant` radians off the vertical."""
    height, width = image.shape[:2]
    amount, opacity = strength * rng.uniform(0.5, 1.5), rng.uniform(0.7, 1.1)
    angle, zoom = rng.uniform(-slant, slant), rng.uniform(0.8, 1.3)
    mask = np.zeros((height, width), np.uint8)
    for layer in layers:
        count = rng.poisson(layer.count * amount * width / height)
        if count == 0:
            continue
        drawn = np.zeros_like(mask)
        turn = angle + rng.normal(0, 0.04, count)
        length = layer.length * height * zoom * rng.uniform(0.6, 1.4, count)
        begin = rng.uniform((-0.1 * width, -0.2 * height), (1.1 * width, height), (count, 2))
        end = begin + length[:, None] * np.stack([np.sin(turn), np.cos(turn)], 1)
        lines = np.round(np.stack([begin, end], 1) * 16).astype(np.int32)
        value = min(255.0, layer.opacity * opacity)
        thick = max(1, round(layer.width * height * zoom))
        cv2.polylines(drawn, list(lines), False, (value,), thick, cv2.LINE_AA, 4)
        if (sigma := layer.blur * height) > 0.4:
            cv2.GaussianBlur(drawn, (0, 0), sigma, dst=drawn)
        cv2.max(mask, drawn, dst=mask)
    return _blend(image, mask, color)


def night(image: U8, rng: np.random.Generator, strength: float) -> U8:
    """Little light, bluish shadows, some lamps, and the noise of a camera that turns up."""
    height, width = image.shape[:2]
    s = strength**0.7
    # Shadows keep some light, and the sky is what loses most of it.
    gamma, shoulder = 1 + s * rng.uniform(0.0, 0.35), s * rng.uniform(0.3, 1.8)
    light = np.linspace(0, 1, 256)[:, None] ** gamma
    tone = 255 * light / (1 + shoulder * (0.35 + light))
    tint = np.array([1 - 0.2 * s, 1 - 0.08 * s, 1.0]) if rng.random() < 0.7 else np.ones(3)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    pale = cv2.addWeighted(image, 1 - 0.3 * s, grey, 0.3 * s, 0)
    dark = cv2.LUT(pale, np.clip(tone * tint, 0, 255).astype(np.uint8)[None])
    lamps = rng.poisson(2)
    if lamps:
        # Lamps are drawn small: their glow is smooth, and enlarging it costs little.
        rows, columns = np.mgrid[0:24, 0 : max(8, 24 * width // height)].astype(np.float32)
        glow = np.zeros((*rows.shape, 3), np.float32)
        for _ in range(lamps):
            y, x = rng.uniform(0, 15), rng.uniform(0, rows.shape[1])
            color = np.array([1.0, rng.uniform(0.7, 0.95), rng.uniform(0.4, 0.85)])
            near = 1 + ((rows - y) ** 2 + (columns - x) ** 2) / rng.uniform(0.5, 4)
            glow += (rng.uniform(60, 190) / near**1.5)[..., None] * color.astype(np.float32)
        large = cv2.resize(glow, (width, height), interpolation=cv2.INTER_CUBIC)
        dark = cv2.add(dark, cv2.convertScaleAbs(large))
    noise = rng.integers(0, 256, image.shape, np.uint8)
    share = s * rng.uniform(0.02, 0.09)
    return _u8(cv2.addWeighted(dark, 1.0, noise, share, -127.5 * share))


def drops(image: U8, rng: np.random.Generator, strength: float) -> U8:
    """Water on the lens: each drop shows the scene upside down, small and out of focus."""
    height, width = image.shape[:2]
    count = 4 + rng.poisson(32 * strength * rng.uniform(0.4, 1.6) * width / height)
    columns, rows = np.meshgrid(np.arange(width, dtype="f4"), np.arange(height, dtype="f4"))
    opacity, shade = np.zeros((2, height, width), np.float32)
    for _ in range(count):
        # Few large drops, many small ones; gravity makes them a little longer than wide.
        radius = height * min(0.1, 0.012 * strength**0.25 * (1 + rng.pareto(1.8)))
        tall = rng.uniform(1.0, 1.35)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        ys = slice(max(0, int(y - radius * tall)), min(height, int(y + radius * tall) + 2))
        xs = slice(max(0, int(x - radius)), min(width, int(x + radius) + 2))
        dy = (np.arange(ys.start, ys.stop) - y)[:, None]
        dx = (np.arange(xs.start, xs.stop) - x)[None]
        reach = np.sqrt((dx / radius) ** 2 + (dy / (radius * tall)) ** 2).astype(np.float32)
        inside = np.clip((1 - reach) * 4, 0, 1)
        bend = 2.5 + 3 * reach
        opacity[ys, xs] = np.maximum(opacity[ys, xs], inside)
        # A drop is dark at its upper rim and bright below, where it gathers the sky.
        shade[ys, xs] = np.where(inside > 0, 38 * dy / (radius * tall) * reach, shade[ys, xs])
        columns[ys, xs] = np.where(inside > 0, x - dx * bend, columns[ys, xs])
        rows[ys, xs] = np.where(inside > 0, y - dy * bend, rows[ys, xs])
    soft = cv2.blur(image, (max(3, height // 70) | 1,) * 2)
    seen = cv2.remap(soft, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    seen = cv2.add(seen, cv2.merge([shade, shade, shade]), dtype=cv2.CV_8U)
    mask = cv2.convertScaleAbs(opacity, alpha=255 * min(1.0, 0.88 + 0.06 * strength))
    return _mix(image, _u8(seen), _u8(mask))


def _blend(image: U8, opacity: U8, color: Sequence[float]) -> U8:
    """`image` behind a layer of one colour: uint8 (H, W, 3)."""
    layer = cv2.merge([cv2.convertScaleAbs(opacity, alpha=c / 255) for c in color])
    clear = cv2.bitwise_not(opacity)
    behind = cv2.multiply(image, cv2.merge([clear, clear, clear]), scale=1 / 255)
    return _u8(cv2.add(behind, layer))


def _mix(image: U8, other: U8, opacity: U8) -> U8:
    """`other` where `opacity` is 255, `image` where it is 0: uint8 (H, W, 3)."""
    solid, clear = opacity, cv2.bitwise_not(opacity)
    front = cv2.multiply(other, cv2.merge([solid, solid, solid]), scale=1 / 255)
    behind = cv2.multiply(image, cv2.merge([clear, clear, clear]), scale=1 / 255)
    return _u8(cv2.add(behind, front))


def _u8(array: Any) -> U8:
    return np.asarray(array, np.uint8)
