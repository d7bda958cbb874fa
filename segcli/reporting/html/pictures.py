"""Pictures of the report as data URIs: layers under a slider, crops, classes in an image.

Shapes: image uint8 (H, W, 3) RGB, truth and prediction uint8 (H, W), mask uint8 (H, W) of 0
and 255. Photographs become JPEG; class maps become lossless WebP with transparency.
"""

from __future__ import annotations

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from segcli.labels import LabelSpace
from segcli.reporting.html.data import Crop, Picture
from segcli.reporting.render import hatch, occurring

U8 = NDArray[np.uint8]

_LONGEST = 960  # of the pictures under a slider, pixels
_THUMB = 420
_CROP = 220
_MISSED, _ALARM, _HIT = (240, 72, 62), (255, 182, 39), (61, 155, 255)


def picture(
    sample_id: str,
    image: U8,
    truth: U8,
    prediction: U8,
    space: LabelSpace,
    *,
    miou: float | None = None,
    pixel_accuracy: float | None = None,
) -> Picture:
    """The four layers of one image, shrunk to 960 pixels where it is larger."""
    height, width = _fitting(image.shape[:2], _LONGEST)
    photo = _shrunk(image, (height, width))
    truth, prediction = (_nearest(label, (height, width)) for label in (truth, prediction))
    both = np.concatenate([truth.ravel(), prediction.ravel()])
    ignored = truth == space.ignore_index
    return Picture(
        id=sample_id,
        size=(height, width),
        photo=jpeg(photo),
        truth=webp(_classes(truth, space), _opaque(~ignored)),
        prediction=webp(_classes(prediction, space), _opaque(np.ones_like(ignored))),
        errors=_errors(truth, prediction, ignored),
        miou=miou,
        pixel_accuracy=pixel_accuracy,
        classes=tuple(occurring(both, space)),
    )


def class_thumb(
    sample_id: str, image: U8, truth: U8, prediction: U8, index: int, ignore_index: int
) -> Crop:
    """One class in one image: missed red, false alarms amber, recognised blue."""
    size = _fitting(image.shape[:2], _THUMB)
    valid = truth != ignore_index
    is_true, is_said = truth == index, (prediction == index) & valid
    hits = int((is_true & is_said).sum())
    union = int((is_true | is_said).sum())
    grey = cv2.cvtColor(_shrunk(image, size), cv2.COLOR_RGB2GRAY)
    canvas = cv2.cvtColor(cv2.convertScaleAbs(grey, alpha=0.7, beta=12), cv2.COLOR_GRAY2RGB)
    masks = ((is_true & is_said, _HIT, 0.5), (is_true & ~is_said, _MISSED, 0.85))
    for mask, color, strength in (*masks, (is_said & ~is_true, _ALARM, 0.8)):
        # Shrunk as a share, so that thin things stay visible.
        share = _shrunk(_opaque(mask), size).astype(np.float32)[..., None] / 255 * strength
        canvas = np.rint(canvas + (np.array(color, np.float32) - canvas) * share).astype(np.uint8)
    wrong = union - hits
    return Crop(
        sample_id, size, jpeg(np.asarray(canvas, np.uint8)), wrong, hits / union if union else None
    )


def confusion_crop(sample_id: str, image: U8, mask: U8) -> Crop | None:
    """The largest region of `mask` in its surroundings, outlined; None for an empty mask."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if len(stats) < 2:
        return None
    region = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    x, y, w, h = (int(v) for v in stats[region, :4])
    height, width = mask.shape
    side = int(np.clip(max(1.7 * max(w, h), height * 0.3, 48), 1, min(height, width)))
    left = int(np.clip(x + w // 2 - side // 2, 0, width - side))
    top = int(np.clip(y + h // 2 - side // 2, 0, height - side))
    window = np.s_[top : top + side, left : left + side]
    view = _resized(image[window], (_CROP, _CROP))
    inside = _nearest(_opaque(labels[window] == region), (_CROP, _CROP))
    dimmed = cv2.convertScaleAbs(view, alpha=0.72)
    cv2.copyTo(view, inside, dimmed)
    # Beside the region and not upon it: thin things would vanish below their outline.
    around = cv2.dilate(inside, np.ones((7, 7), np.uint8))
    outlines, _ = cv2.findContours(around, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(dimmed, outlines, -1, (0, 0, 0), 4, cv2.LINE_AA)
    cv2.drawContours(dimmed, outlines, -1, (255, 255, 255), 2, cv2.LINE_AA)
    return Crop(
        sample_id, (_CROP, _CROP), jpeg(np.asarray(dimmed, np.uint8)), int((mask > 0).sum())
    )


def jpeg(image: U8, quality: int = 82) -> str:
    """A data URI of an RGB picture."""
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return _uri("jpeg", bytes(data))


def webp(image: U8, alpha: U8) -> str:
    """A lossless data URI of an RGB picture (H, W, 3) and its opacity (H, W)."""
    # Equal colours where nothing is seen compress best.
    bgra = np.dstack([image[:, :, ::-1] * (alpha[..., None] > 0), alpha])
    # A quality above 100 is cv2's word for lossless.
    _, data = cv2.imencode(".webp", bgra, [cv2.IMWRITE_WEBP_QUALITY, 101])
    return _uri("webp", bytes(data))


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _errors(truth: U8, prediction: U8, ignored: NDArray[np.bool_]) -> str:
    """Wrong pixels red, right ones dimmed, ignored ones hatched."""
    colors = np.full((*truth.shape, 3), (12, 14, 18), np.uint8)
    alpha = np.full(truth.shape, 150, np.uint8)
    wrong = (truth != prediction) & ~ignored
    colors[wrong], alpha[wrong] = _MISSED, 200
    return webp(hatch(colors, _opaque(ignored)), alpha)


def _classes(label: U8, space: LabelSpace) -> U8:
    colors: U8 = space.palette()[label]
    return colors


def _opaque(mask: NDArray[np.bool_]) -> U8:
    return np.where(mask, np.uint8(255), np.uint8(0))


def _fitting(shape: tuple[int, ...], longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _shrunk(image: U8, size: tuple[int, int]) -> U8:
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def _resized(image: U8, size: tuple[int, int]) -> U8:
    how = cv2.INTER_AREA if image.shape[0] > size[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size[::-1], interpolation=how), np.uint8)


def _nearest(label: U8, size: tuple[int, int]) -> U8:
    if label.shape == size:
        return label
    return np.asarray(cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
