"""Renderings that test robustness: rain, snow, fog, night, blur, noise, drops on the lens.

They share no code with the effects of training (`segcli.data.weather`): particles are
filtered noise and not drawn lines, fog follows the depth of a street, night is simulated in
linear light, blur is the path of a shaking hand. What they depict is the same, so that a gain
here is one in weather drawn otherwise, not in photographs of weather.

Each is a pure function (image uint8 (H, W, 3) RGB, severity 1..3, generator) -> uint8
(H, W, 3). A human still sees the scene at severity 3. Sizes are shares of the height.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
Stress = Callable[[U8, int, np.random.Generator], U8]

SEVERITIES = (1, 2, 3)


def rain(image: U8, severity: int, rng: np.random.Generator) -> U8:
    """Streaks of filtered noise at two distances, in a mist that grows with depth."""
    density, light = _pick(severity, (0.003, 0.006, 0.01), (0.4, 0.5, 0.6))
    misty = _attenuate(image, _pick(severity, (0.09, 0.15, 0.22))[0], rng.uniform(0.5, 0.62), rng)
    angle, height = rng.uniform(-20, 20), image.shape[0]
    layer = np.zeros(image.shape[:2], np.float32)
    for zoom, length, share in ((1.2, 0.07, 1.0), (2.4, 0.16, 0.5)):
        seeds = _sparse(image.shape[:2], density * share, zoom * height / 360, rng)
        streaks = _directed(seeds, length * height, angle)
        layer = np.maximum(layer, light * np.minimum(streaks * 6, 1))
    # Light adds up on a screen: 1 - (1 - a)(1 - b).
    dim = misty.astype(np.float32) * _pick(severity, (0.9, 0.8, 0.7))[0]
    return _u8(255 - (255 - dim) * (1 - 0.75 * layer[..., None]))


def snow(image: U8, severity: int, rng: np.random.Generator) -> U8:
    """Flakes of thresholded noise at three scales, on a scene that snow light whitens."""
    density, white, veil = _pick(
        severity, (0.008, 0.014, 0.022), (0.1, 0.2, 0.3), (0.06, 0.12, 0.19)
    )
    height = image.shape[0]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    # What lies flat collects snow: the lower half of the picture pales more than the upper.
    rows = np.clip(np.linspace(0.3, 1.3, height, dtype=np.float32), 0, 1)[:, None]
    pale = np.maximum(grey, 110 + 0.5 * grey)[..., None]
    scene = image + (pale - image) * (white * rows)[..., None]
    scene = _attenuate(_u8(scene), veil, rng.uniform(0.8, 0.92), rng).astype(np.float32)
    angle = rng.uniform(-50, 50)
    for zoom, share in ((1.3, 1.0), (3.0, 0.7), (6.5, 0.5)):
        seeds = _sparse(image.shape[:2], density * share, zoom * height / 360, rng)
        flakes = _directed(seeds, zoom * 0.006 * height, angle)
        scene += (248 - scene) * np.minimum(flakes * 2.5, 1)[..., None] * 0.9
    return _u8(scene)


def fog(image: U8, severity: int, rng: np.random.Generator) -> U8:
    """Koschmieder's law over the depth of a street: t = exp(-beta d), air light beyond."""
    return _attenuate(image, _pick(severity, (0.22, 0.4, 0.62))[0], rng.uniform(0.68, 0.9), rng)


def night(image: U8, severity: int, rng: np.random.Generator) -> U8:
    """Little, orange light in linear units, headlights ahead, and the sensor's own noise."""
    exposure, photons = _pick(severity, (0.34, 0.2, 0.12), (900.0, 500.0, 280.0))
    height, width = image.shape[:2]
    linear = (image.astype(np.float32) / 255) ** 2.2
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None] - rng.uniform(-0.2, 0.2)
    beam = np.exp(-(((rows - 0.78) / 0.22) ** 2) - (columns / 0.55) ** 2)
    # The sky gives no light at night: the upper rows darken most.
    ambient = exposure * (0.45 + 0.55 * np.clip(rows / 0.45, 0, 1))
    color = np.array([1.0, rng.uniform(0.78, 0.9), rng.uniform(0.5, 0.72)], np.float32)
    light = linear / (1 + 0.6 * linear) * (ambient + 0.5 * exposure * beam)[..., None] * color
    shot = rng.poisson(light * photons).astype(np.float32) / photons
    read = rng.standard_normal(image.shape, np.float32) * 0.002
    return _u8(255 * np.clip(shot + read, 0, 1) ** (1 / 2.2))


def blur(image: U8, severity: int, rng: np.random.Generator) -> U8:
    """The path that a shaking hand drew while the shutter was open."""
    reach = _pick(severity, (0.006, 0.011, 0.018))[0] * image.shape[0]
    turn = np.cumsum(rng.normal(0, 0.25, 64)) + rng.uniform(0, 2 * np.pi)
    path = np.cumsum(np.stack([np.sin(turn), np.cos(turn)], 1), 0)
    path -= path.mean(0)
    path *= reach / max(1e-6, float(np.sqrt((path**2).sum(1).mean())))
    half = int(np.ceil(np.abs(path).max())) + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    for y, x in path + half:
        kernel[round(y), round(x)] += 1
    soft = np.asarray(cv2.GaussianBlur(kernel, (0, 0), 0.7 + reach / 8), np.float32)
    return _u8(cv2.filter2D(image, -1, soft / soft.sum(), borderType=cv2.BORDER_REFLECT))


def noise(image: U8, severity: int, rng: np.random.Generator) -> U8:
    """Shot and read noise of a sensor, coarse as after demosaicing, a little stronger in blue."""
    photons, read = _pick(severity, (220.0, 100.0, 48.0), (0.015, 0.025, 0.04))
    clean = image.astype(np.float32) / 255
    gain = np.array([1.0, 0.8, 1.3], np.float32)
    spread = np.sqrt(clean / photons + read**2) * gain
    grain = rng.standard_normal(image.shape, np.float32)
    # Demosaicing correlates neighbours; 2 gives back the spread that blurring takes.
    grain = 2 * np.asarray(cv2.GaussianBlur(grain, (3, 3), 0.6), np.float32)
    return _u8(255 * (clean + spread * grain))


def drops(image: U8, severity: int, rng: np.random.Generator) -> U8:
    """Blurred blobs of water on the lens: smooth noise above a threshold, bright in the middle."""
    share, soft = _pick(severity, (0.08, 0.16, 0.27), (0.025, 0.035, 0.045))
    height, width = image.shape[:2]
    field = np.zeros((height, width), np.float32)
    for scale, weight in ((28, 1.0), (14, 0.8)):
        shape = (max(3, scale), max(3, round(scale * width / height)))
        coarse = rng.standard_normal(shape, np.float32)
        field += weight * _resized(coarse, (height, width))
    threshold = np.quantile(field, 1 - share)
    depth = np.clip((field - threshold) / (field.max() - threshold + 1e-6), 0, 1)
    opacity = np.clip(depth * 6, 0, 1)[..., None]
    seen = cv2.GaussianBlur(image, (0, 0), soft * height, borderType=cv2.BORDER_REFLECT)
    glow = seen.astype(np.float32) * (0.8 + 0.5 * depth[..., None]) + 12
    return _u8(image + (glow - image) * opacity)


STRESSES: dict[str, Stress] = {
    "rain": rain,
    "snow": snow,
    "fog": fog,
    "night": night,
    "blur": blur,
    "noise": noise,
    "drops": drops,
}


def street_depth(shape: tuple[int, int], rng: np.random.Generator) -> F32:
    """A guess at the depth of a street scene, float32 (H, W): about 1 at the edges, up to 8.

    Ground, walls and sky as four planes that meet in one vanishing point.
    """
    height, width = shape
    y0, x0 = rng.uniform(0.38, 0.5), rng.uniform(0.4, 0.6)
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(0, 1, width, dtype=np.float32)[None]
    below, above = (rows - y0) / (1 - y0), 0.6 * (y0 - rows) / y0
    beside = 0.8 * np.abs(columns - x0) / 0.5
    nearness = np.maximum(np.maximum(below, above), beside)
    depth: F32 = (1 / np.maximum(nearness, 0.125)).astype(np.float32)
    return depth


def _attenuate(image: U8, beta: float, airlight: float, rng: np.random.Generator) -> U8:
    """J t + A (1 - t) with t = exp(-beta d), d the depth of a street with some turbulence."""
    shape = (image.shape[0], image.shape[1])
    depth = street_depth(shape, rng)
    billows = _resized(rng.standard_normal((5, 7), np.float32), shape)
    passed = np.exp(-beta * depth * np.clip(1 + 0.15 * billows, 0.5, 1.5))
    # Even the thickest fog here lets an eighth of the contrast through.
    passed = np.maximum(passed, 0.125)[..., None]
    tint = np.array([0.98, 1.0, 1.02], np.float32) * (255 * airlight)
    return _u8(image * passed + tint * (1 - passed))


def _sparse(shape: tuple[int, int], share: float, zoom: float, rng: np.random.Generator) -> F32:
    """Random soft dots: noise whose top `share` remains, float32 (H, W) in 0..1.

    Args:
        zoom: pixels across a dot, about.
    """
    size = (max(2, round(shape[0] / max(zoom, 1))), max(2, round(shape[1] / max(zoom, 1))))
    field = rng.random(size, np.float32)
    dots = np.where(field < share, 0.5 + 0.5 * field / share, 0).astype(np.float32)
    return np.clip(_resized(dots, shape), 0, 1)


def _directed(field: F32, length: float, angle: float) -> F32:
    """Blur along a line: `length` pixels, `angle` degrees off the vertical."""
    half = max(1, round(length / 2))
    reach = np.linspace(-half, half, 4 * half + 1)
    ys = np.round(half + reach * np.cos(np.radians(angle))).astype(int)
    xs = np.round(half + reach * np.sin(np.radians(angle))).astype(int)
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    kernel[ys, xs] = 1
    blurred = cv2.filter2D(field, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, np.float32)


def _pick(severity: int, *choices: tuple[float, float, float]) -> tuple[float, ...]:
    if severity not in SEVERITIES:
        raise ValueError(f"severity is 1, 2 or 3, not {severity}")
    return tuple(choice[severity - 1] for choice in choices)


def _resized(array: F32, shape: tuple[int, int]) -> F32:
    large = cv2.resize(array, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(large, np.float32)


def _u8(array: Any) -> U8:
    return np.asarray(np.clip(np.rint(array), 0, 255), np.uint8)
