"""The training pipeline for one size. Geometry and colour are ours, weather albumentations'.

Shapes: image uint8 (H, W, 3) RGB; label uint8 (H, W), or channels uint8 (K, H, W) of 0/1.
Training crops are (h, w), their targets (h', w'). Each pipeline is a pure function of its
inputs and a generator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segcli.data.color import ColorJitter
from segcli.data.extra import pixel_transforms
from segcli.data.pack import Level, PackedImage

U8 = NDArray[np.uint8]


class TrainTransform:
    """Random resize, crop, flip, colour, weather; what lies outside the image is ignored.

    The crop is cut in the source's own pixels and only then resized, so that the cost is
    that of the crop. Pixels are interpolated linearly, below half the size areas are averaged;
    labels take the nearest pixel, channels are resized as fractions. Padding stays out of the
    weather.

    Args:
        size: (h, w) of the crop in pixels.
        scale: range of the random resize, uniform in its logarithm.
        resize: fixed factor before it.
        flip: probability of mirroring left and right.
        color: strength of the colour jitter.
        weather: strength of the weather, 1 is normal; 0 is always fair.
        weather_share: probability that a crop gets weather.
        extra: more albumentations transforms of pixels: their `name` and arguments.
        loss_at: `network` gives targets of `size`; `label` gives them at the label's own
            resolution, `size / resize`, of the same window.
        ignore_index: value of label pixels outside the image.

    Raises:
        ConfigError: what `pixel_transforms` refuses.
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        scale: tuple[float, float] = (0.5, 2.0),
        resize: float = 1.0,
        flip: float = 0.5,
        color: float = 0.3,
        weather: float = 0.0,
        weather_share: float = 0.25,
        extra: Sequence[Mapping[str, Any]] = (),
        loss_at: str = "network",
        ignore_index: int = 255,
    ) -> None:
        self.size = size
        self.scale = scale
        self.resize = resize
        self.flip = flip
        self.ignore_index = ignore_index
        self.target_size = target_size(size, resize, loss_at)
        self.jitter = ColorJitter(color) if color > 0 else None
        self.weather = _weather(weather, weather_share, size[0])
        self.extra = pixel_transforms(extra) if extra else None

    def __call__(
        self, image: U8 | PackedImage, label: U8 | Level, rng: np.random.Generator
    ) -> tuple[U8, U8]:
        """One view: (h, w, 3) and (h', w'), or (K, h', w') in 0..255 for channels."""
        factor = self.resize * math.exp(rng.uniform(*np.log(self.scale)))
        window, inner, offset = self._crop(image.shape[:2], factor, rng)
        mirrored = rng.random() < self.flip
        color_seed = int(rng.integers(2**31))
        # A packed image chooses the level to cut from by the size that is asked for.
        pixels = image.window(window, inner) if isinstance(image, PackedImage) else image[window]
        view = _resize_image(pixels, inner)
        if self.jitter is not None:
            view = self.jitter(view, color_seed)
        if self.weather is not None:
            view = self.weather(view, rng)
        if self.extra is not None:
            self.extra.set_random_seed(int(rng.integers(2**31)))
            view = np.asarray(self.extra(image=view)["image"], np.uint8)
        # Padding is grey of ImageNet's mean, so that it is near 0 after normalisation.
        placed = _place(view, (*self.size, 3), offset, (124, 116, 104))
        target = self._target(label, window, inner, offset)
        if mirrored:
            # OpenCV turns pixels in a tenth of the time, and knows no channels before them.
            placed = _flip(placed)
            target = _flip(target) if target.ndim == 2 else target[..., ::-1]
        return np.ascontiguousarray(placed), np.ascontiguousarray(target)

    def _target(
        self,
        label: U8 | Level,
        window: tuple[slice, slice],
        inner: tuple[int, int],
        offset: tuple[int, int],
    ) -> U8:
        """What the loss sees of the window that lies at `offset` of the crop, `inner` large."""
        if self.target_size != self.size:
            inner, offset = rescale(inner, offset, self.size, self.target_size)
        if not isinstance(label, Level) and label.ndim == 3:
            shares = resize_channels(label[:, window[0], window[1]], inner)
            target = np.zeros((label.shape[0], *self.target_size), np.uint8)
            y, x = offset
            target[:, y : y + inner[0], x : x + inner[1]] = shares
            return target
        nearest = cv2.INTER_NEAREST_EXACT
        small = cv2.resize(label[window], inner[::-1], interpolation=nearest)
        return _place(np.asarray(small, np.uint8), self.target_size, offset, self.ignore_index)

    def _crop(
        self, source: tuple[int, ...], factor: float, rng: np.random.Generator
    ) -> tuple[tuple[slice, slice], tuple[int, int], tuple[int, int]]:
        """(window in the source, its size after resizing, where that lies in the crop)."""
        window, inner, offset = [], [], []
        for full, wanted in zip(source, self.size, strict=True):
            length = min(full, max(1, round(wanted / factor)))
            start = int(rng.integers(full - length + 1))
            # A window that fills the crop but for rounding is stretched to fill it.
            resized = wanted if length < full else min(wanted, max(1, round(length * factor)))
            window.append(slice(start, start + length))
            inner.append(resized)
            offset.append(int(rng.integers(wanted - resized + 1)))
        return (window[0], window[1]), (inner[0], inner[1]), (offset[0], offset[1])


def target_size(size: tuple[int, int], resize: float, loss_at: str) -> tuple[int, int]:
    """(h', w') of the target of a crop (h, w): see `TrainTransform`."""
    if loss_at == "network":
        return size
    return max(1, round(size[0] / resize)), max(1, round(size[1] / resize))


def rescale(
    inner: tuple[int, int], offset: tuple[int, int], size: tuple[int, int], target: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(inner, offset) of a box in a crop of `size`, in a target of another size."""
    boxes = []
    for length, start, full, wanted in zip(inner, offset, size, target, strict=True):
        begin = min(wanted - 1, round(start * wanted / full))
        end = max(begin + 1, round((start + length) * wanted / full))
        boxes.append((end - begin, begin))
    (height, y), (width, x) = boxes
    return (height, width), (y, x)


def _weather(strength: float, share: float, height: int) -> Any:
    if strength == 0 or share == 0:
        return None
    # Here and not above: the import of albumentations takes seconds.
    from segcli.data.weather import Weather

    return Weather(strength, share=share, height=height)


def _resize_image(image: U8, size: tuple[int, int]) -> U8:
    """Linearly down to half the size, where it still reads every pixel; below, areas' means.

    OpenCV's mean over fractional areas takes six to nine times as long.
    """
    if image.shape[:2] == size:
        return image
    by_half = 2 * size[0] >= image.shape[0] and 2 * size[1] >= image.shape[1]
    method = cv2.INTER_LINEAR if by_half else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method), np.uint8)


def resize_channels(channels: U8, size: tuple[int, int]) -> U8:
    """0/1 channels (K, H, W) -> share of each class per pixel, uint8 0..255 (K, h, w)."""
    shrinks = size[0] * size[1] < channels.shape[1] * channels.shape[2]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    out = np.empty((channels.shape[0], *size), np.uint8)
    for k, channel in enumerate(channels):
        out[k] = cv2.resize(channel * np.uint8(255), size[::-1], interpolation=method)
    return out


def _flip(picture: U8) -> U8:
    return np.asarray(cv2.flip(picture, 1), np.uint8)


def _place(inner: U8, shape: tuple[int, ...], offset: tuple[int, int], fill: Any) -> U8:
    if inner.shape == shape:
        return inner
    out = np.empty(shape, np.uint8)
    out[:] = fill
    y, x = offset
    out[y : y + inner.shape[0], x : x + inner.shape[1]] = inner
    return out
