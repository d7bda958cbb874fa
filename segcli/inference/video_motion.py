"""How a picture moved since the one before, and what of a result may move along with it.

Dense inverse search flow (Kroeger et al. 2016, ECCV) on small grey pictures. Where the moved
picture does not look like the new one, something was uncovered: there nothing is carried over.

Shapes: image uint8 (H, W, 3) RGB; flow float32 (h, w, 2), in pixels of the small picture, from
each place in the new picture to its place in the old one; trust float32 (h, w) in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_LONGEST = 384
_SMALLEST = 16  # below, there is nothing to search in
_THUMB = (64, 36)
# Grey levels: a moved picture that differs by less is the same place, by more another.
_SAME, _OTHER = 10.0, 30.0
_CUT_LEAST, _CUT_TIMES = 18.0, 3.5


class CutDetector:
    """Tells when a picture begins another shot, from small grey pictures alone."""

    def __init__(self) -> None:
        self._last: Floats | None = None
        self._usual = 0.0

    def is_cut(self, image: Bytes) -> bool:
        """Whether `image` starts a shot; the first picture does.

        A cut changes the picture by far more than the frames before it changed each other.
        """
        thumb = cv2.resize(image, _THUMB, interpolation=cv2.INTER_AREA)
        grey = np.asarray(cv2.cvtColor(thumb, cv2.COLOR_RGB2GRAY), np.float32)
        last, self._last = self._last, grey
        if last is None:
            return True
        change = float(np.abs(grey - last).mean())
        if change > _CUT_LEAST and change > _CUT_TIMES * self._usual:
            self._usual = 0.0
            return True
        self._usual += 0.2 * (change - self._usual)
        return False


@dataclass(frozen=True)
class Step:
    """The way from one picture to another, as a rule from the new one back to the one before.

    Attributes:
        flow: float32 (h, w, 2), from each place of the first to its place in the second.
        trust: float32 (h, w), 1 where both show the same place, 0 where they do not.
    """

    flow: Floats
    trust: Floats


class Motion:
    """Flow between successive pictures of one video; `None` at its start and after `reset`.

    Args:
        fine: take the slower search, which is surer at the edges of things.
    """

    def __init__(self, *, fine: bool = False) -> None:
        preset = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM if fine else cv2.DISOPTICAL_FLOW_PRESET_FAST
        self._search: Any = cv2.DISOpticalFlow.create(preset)
        self._last: Bytes | None = None

    def reset(self) -> None:
        """The next picture begins a shot."""
        self._last = None

    def step(self, image: Bytes) -> Step | None:
        """The way back from `image`; None when there is nothing to go back to."""
        new, old = self._pair(image)
        return None if old is None else self._way(new, old)

    def steps(self, image: Bytes) -> tuple[Step, Step] | None:
        """The way back from `image`, and the way from the picture before to `image`."""
        new, old = self._pair(image)
        return None if old is None else (self._way(new, old), self._way(old, new))

    def _pair(self, image: Bytes) -> tuple[Bytes, Bytes | None]:
        small = _small(image)
        last, self._last = self._last, small
        if last is None or last.shape != small.shape or min(small.shape) < _SMALLEST:
            return small, None
        return small, last

    def _way(self, start: Bytes, end: Bytes) -> Step:
        flow: Any = self._search.calc(start, end, None)
        return Step(flow, _trust(start, end, flow))


def _small(image: Bytes) -> Bytes:
    height, width = image.shape[:2]
    scale = min(1.0, _LONGEST / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def _moved(picture: Any, at: Floats, how: int) -> Any:
    """`picture` looked up at the places `at`; what lies outside takes the nearest border."""
    rows, columns = np.ascontiguousarray(at[..., 1]), np.ascontiguousarray(at[..., 0])
    return cv2.remap(picture, columns, rows, how, borderMode=cv2.BORDER_REPLICATE)


def _trust(new: Bytes, old: Bytes, flow: Floats) -> Floats:
    at = places(flow)
    moved = _moved(old, at, cv2.INTER_LINEAR)
    difference = cv2.blur(cv2.absdiff(new, moved), (3, 3)).astype(np.float32)
    trust = np.clip((_OTHER - difference) / (_OTHER - _SAME), 0, 1)
    height, width = new.shape
    inside = (at[..., 0] >= -0.5) & (at[..., 0] <= width - 0.5)
    inside &= (at[..., 1] >= -0.5) & (at[..., 1] <= height - 0.5)
    return np.asarray(trust * inside, np.float32)


def places(flow: Floats) -> Floats:
    """Coordinates (x, y) in the old picture, float32 (h, w, 2)."""
    height, width = flow.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return np.stack([flow[..., 0] + x, flow[..., 1] + y[:, None]], axis=-1)


def resized(flow: Floats, size: tuple[int, int]) -> Floats:
    """The flow for pictures of `size` (h, w), its vectors scaled along."""
    height, width = flow.shape[:2]
    if (height, width) == size:
        return flow
    larger = cv2.resize(flow, size[::-1], interpolation=cv2.INTER_LINEAR)
    factors = np.array([size[1] / width, size[0] / height], np.float32)
    return np.asarray(larger * factors, np.float32)


def chained(flow: Floats, further: Floats | None) -> Floats:
    """`flow` followed by `further`, which starts where `flow` arrives; None is no motion."""
    if further is None:
        return flow
    return np.asarray(flow + _moved(further, places(flow), cv2.INTER_LINEAR), np.float32)


def moved_labels(labels: Bytes, flow: Floats) -> Bytes:
    """A class map (H, W) of the old picture as it lies on the new one, nearest pixels."""
    at = places(resized(flow, (labels.shape[0], labels.shape[1])))
    return np.asarray(_moved(labels, at, cv2.INTER_NEAREST), np.uint8)


class Flicker:
    """How often a pixel changes its class although the picture only moved.

    The share of pixels whose class differs from the one that the flow brings along, among
    pixels that both pictures show: 0 is steady. Also known as one minus temporal consistency.
    """

    def __init__(self) -> None:
        self._last: Bytes | None = None
        self._changed = self._seen = 0

    def update(self, labels: Bytes, step: Step | None) -> None:
        """Count a class map (h, w); without a step it is the first of a shot."""
        last, self._last = self._last, labels
        if step is None or last is None or last.shape != labels.shape:
            return
        size = (labels.shape[0], labels.shape[1])
        trust = cv2.resize(step.trust, size[::-1], interpolation=cv2.INTER_NEAREST)
        both = np.asarray(trust) > 0.5
        self._seen += int(both.sum())
        self._changed += int((both & (moved_labels(last, step.flow) != labels)).sum())

    @property
    def share(self) -> float | None:
        """In 0..1; None when no two frames were comparable."""
        return self._changed / self._seen if self._seen else None
