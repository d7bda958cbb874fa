"""Class maps that keep still: smoothed over time, or carried on from the last one predicted.

Shapes: image uint8 (H, W, 3) RGB, class map uint8 (H, W), probabilities float32 (K, h, w) on a
grid of a quarter of what the network sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcli.inference.geometry import Size
from segcli.inference.predictor import Predictor
from segcli.inference.upsample import Frame as Lay
from segcli.inference.upsample import class_map
from segcli.inference.video_motion import (
    Flicker,
    Motion,
    Step,
    chained,
    moved_labels,
    places,
    resized,
)

Bytes = NDArray[np.uint8]

_GRID = 4
# Weight of what came before, where the picture only moved.
# On a drive with known truth, 0.65 took the most flicker of those that cost no mIoU.
DEFAULT_STRENGTH = 0.65
_AHEAD = 0.75


def quarter(predictor: Predictor, size: Size) -> Size:
    """The grid (h, w) on which pictures of `size` are smoothed."""
    seen = predictor.size_rule.target(size)
    return math.ceil(seen[0] / _GRID), math.ceil(seen[1] / _GRID)


class Reuse:
    """Class maps of frames between predicted ones: the last one, moved with the picture."""

    def __init__(self) -> None:
        self._motion = Motion()
        self._labels: Bytes | None = None
        self._flow: NDArray[np.float32] | None = None

    def update(self, image: Bytes, labels: Bytes | None) -> Bytes:
        """The class map of the next frame.

        Args:
            labels: predicted for it, as those of the first frame of a shot have to be; or None.
        """
        step = self._motion.step(image)
        if labels is not None:
            self._labels, self._flow = labels, None
            return labels
        if self._labels is None:
            raise ValueError("the first frame of a shot has to be predicted")
        if step is not None:
            # From the predicted frame in one move: many small ones would wear it down.
            self._flow = chained(step.flow, self._flow)
        return self._labels if self._flow is None else moved_labels(self._labels, self._flow)


@dataclass(frozen=True)
class _Waiting:
    """The newest frame, until the one behind it is there."""

    size: Size
    probabilities: Tensor | None
    back: Step | None


class Smoother:
    """A mean of softmax over time that moves with the picture, one frame late.

    Of a frame with softmax p, neighbours moved onto it and s the strength:

        q = p + 0.75 s trust (softmax of the frame behind - p)
        P = q + s trust (P of the frame before - q)

    The frame behind shows what is coming nearer better than the one before, and makes up for
    what the past drags along. Both begin anew at cuts, and wherever the moved picture does not
    look like this one.

    Args:
        strength: s, in 0..1; 0 smooths nothing.
    """

    def __init__(self, strength: float = DEFAULT_STRENGTH) -> None:
        self._strength = strength
        self._motion = Motion(fine=True)
        self._waiting: _Waiting | None = None
        self._mean: Tensor | None = None
        self._said: Bytes | None = None
        self.before, self.after = Flicker(), Flicker()

    def push(self, image: Bytes, probabilities: Tensor | None, cut: bool) -> Bytes | None:
        """Take the next frame and settle the one before it.

        Args:
            probabilities: (K, h, w) of it; None carries the earlier ones on.
            cut: whether it begins a shot; it has probabilities then.

        Returns:
            The smoothed class map (H, W) of the frame before; None when this is the first.
        """
        if cut:
            self._motion.reset()
        steps = self._motion.steps(image)
        back, ahead = steps if steps is not None else (None, None)
        settled = None if self._waiting is None else self._settle(probabilities, ahead)
        if cut:
            self._mean = None
        self._waiting = _Waiting((image.shape[0], image.shape[1]), probabilities, back)
        return settled

    def finish(self) -> Bytes | None:
        """The class map of the last frame; None when there was none."""
        settled = None if self._waiting is None else self._settle(None, None)
        self._waiting = None
        return settled

    def _settle(self, behind: Tensor | None, ahead: Step | None) -> Bytes:
        """The class map of the frame that waits; `behind` is the softmax of the next one."""
        waiting = self._waiting
        assert waiting is not None
        own, back = waiting.probabilities, waiting.back
        carried = None if self._mean is None else _moved(self._mean, back)
        if own is None:
            if carried is None:
                raise ValueError("the first frame of a shot has to be predicted")
            mean = carried
        else:
            mean = own
            if behind is not None and ahead is not None:
                weight = _on_grid(ahead.trust, own) * (_AHEAD * self._strength)
                mean = torch.lerp(mean, _moved(behind, ahead), weight)
            if carried is not None and back is not None:
                weight = _on_grid(back.trust, own) * self._strength
                mean = torch.lerp(mean, carried, weight)
        self._mean = mean
        self._measure(own, mean, back)
        # Logarithms of softmax differ from logits by what all classes share: resized between
        # pixels they give the class map that logits would.
        lay = Lay(waiting.size, waiting.size, waiting.size)
        return class_map(mean.clamp_min(1e-8).log(), lay).cpu().numpy()

    def _measure(self, probabilities: Tensor | None, mean: Tensor, step: Step | None) -> None:
        """Count the flicker of what the network said, and of what is shown."""
        if probabilities is not None:
            self._said = _top(probabilities)
        elif self._said is not None and step is not None:
            self._said = moved_labels(self._said, step.flow)
        if self._said is not None:
            self.before.update(self._said, step)
        self.after.update(_top(mean), step)


def _moved(probabilities: Tensor, step: Step | None) -> Tensor:
    """Of the picture at the end of `step`, as they lie on the one at its start."""
    if step is None:
        return probabilities
    height, width = probabilities.shape[-2:]
    at = places(resized(step.flow, (height, width)))
    # grid_sample wants -1..1 from edge to edge of the picture.
    scaled = (2 * at + 1) / np.array([width, height], np.float32) - 1
    grid = torch.from_numpy(np.asarray(scaled, np.float32)).to(probabilities.device)
    warped = torch.nn.functional.grid_sample(
        probabilities[None], grid[None], padding_mode="border", align_corners=False
    )
    return warped[0]


def _on_grid(trust: NDArray[np.float32], like: Tensor) -> Tensor:
    height, width = like.shape[-2:]
    small = cv2.resize(trust, (width, height), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.asarray(small, np.float32)).to(like.device)


def _top(probabilities: Tensor) -> Bytes:
    result: Bytes = probabilities.argmax(0).to(torch.uint8).cpu().numpy()
    return result
