"""Class maps that keep still: smoothed over time, or carried on from the last one predicted.

Shapes: image uint8 (H, W, 3) RGB, class map uint8 (H, W), probabilities float32 (K, h, w) on a
grid of a quarter of what the network sees.
"""

from __future__ import annotations

import math

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
DEFAULT_STRENGTH = 0.7


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

    def update(self, image: Bytes, labels: Bytes | None, cut: bool) -> Bytes:
        """The class map of the next frame.

        Args:
            labels: predicted for it, or None; at a cut they have to be there.
        """
        if cut:
            self._motion.reset()
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


class Smoother:
    """A running mean of softmax that moves with the picture.

    P = p + trust * strength * (warp(P of the frame before) - p), begun anew at cuts, and
    wherever the moved picture does not look like the new one.

    Args:
        strength: weight of what came before, in 0..1; 0 smooths nothing.
    """

    def __init__(self, strength: float = DEFAULT_STRENGTH) -> None:
        self._strength = strength
        self._motion = Motion()
        self._mean: Tensor | None = None
        self._said: Bytes | None = None
        self.before, self.after = Flicker(), Flicker()

    def update(self, image: Bytes, probabilities: Tensor | None, cut: bool) -> Bytes:
        """The smoothed class map (H, W) of the next frame.

        Args:
            probabilities: of it, (K, h, w); None carries the earlier ones on.
        """
        if cut:
            self._motion.reset()
            self._mean = None
        step = self._motion.step(image)
        carried = self._carried(step)
        if probabilities is None:
            if carried is None:
                raise ValueError("the first frame of a shot has to be predicted")
            mean = carried
        elif carried is None or step is None:
            mean = probabilities
        else:
            weight = _on_grid(step.trust, probabilities) * self._strength
            mean = torch.lerp(probabilities, carried, weight)
        self._mean = mean
        self._measure(probabilities, mean, step)
        size = (image.shape[0], image.shape[1])
        # Logarithms of softmax differ from logits by what all classes share: resized between
        # pixels they give the class map that logits would.
        return class_map(mean.clamp_min(1e-8).log(), Lay(size, size, size)).cpu().numpy()

    def _measure(self, probabilities: Tensor | None, mean: Tensor, step: Step | None) -> None:
        """Count the flicker of what the network said, and of what is shown."""
        if probabilities is not None:
            self._said = _top(probabilities)
        elif self._said is not None and step is not None:
            self._said = moved_labels(self._said, step.flow)
        if self._said is not None:
            self.before.update(self._said, step)
        self.after.update(_top(mean), step)

    def _carried(self, step: Step | None) -> Tensor | None:
        """The mean so far as it lies on the new picture."""
        if self._mean is None or step is None:
            return self._mean
        height, width = self._mean.shape[-2:]
        at = places(resized(step.flow, (height, width)))
        # grid_sample wants -1..1 from edge to edge of the picture.
        scaled = (2 * at + 1) / np.array([width, height], np.float32) - 1
        grid = torch.from_numpy(np.asarray(scaled, np.float32)).to(self._mean.device)
        warped = torch.nn.functional.grid_sample(
            self._mean[None], grid[None], padding_mode="border", align_corners=False
        )
        return warped[0]


def _on_grid(trust: NDArray[np.float32], like: Tensor) -> Tensor:
    height, width = like.shape[-2:]
    small = cv2.resize(trust, (width, height), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.asarray(small, np.float32)).to(like.device)


def _top(probabilities: Tensor) -> Bytes:
    result: Bytes = probabilities.argmax(0).to(torch.uint8).cpu().numpy()
    return result
