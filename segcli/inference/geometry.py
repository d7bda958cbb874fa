"""The size at which a picture is shown to the model.

Shapes: image uint8 (H, W, 3) RGB; sizes are (height, width) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
_KINDS = ("none", "fixed", "scale", "longest")


@dataclass(frozen=True)
class SizeRule:
    """How the model's input size follows from the picture's own.

    `none` keeps it; `fixed` takes `value` = (h, w); `scale` multiplies both sides by
    `value`; `longest` shrinks or grows the longer side to `value` pixels and keeps the
    aspect ratio. The way back is exact by construction: logits are resized to the size
    that was there before, whatever rounding took place.
    """

    kind: str = "none"
    value: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        length = {"none": 0, "fixed": 2}.get(self.kind, 1)
        if self.kind not in _KINDS or len(self.value) != length or min(self.value, default=1) <= 0:
            raise ValueError(f"not a size rule: {self.kind} {self.value}")

    @classmethod
    def of(cls, value: Any) -> SizeRule:
        """From what a config or a checkpoint holds: null, [h, w], {kind: value}; or a rule.

        Raises:
            ValueError: anything else.
        """
        if value is None:
            return cls()
        if isinstance(value, cls):
            return value
        if isinstance(value, dict) and len(value) == 1:
            ((kind, number),) = value.items()
            numbers = number if isinstance(number, Sequence) else [number]
            return cls(str(kind), tuple(float(n) for n in numbers))
        if isinstance(value, Sequence) and len(value) == 2:
            return cls("fixed", (float(value[0]), float(value[1])))
        raise ValueError(f"not a size rule: {value!r}")

    def target(self, size: Size) -> Size:
        """The model's input size for a picture of `size`; at least 1 pixel each way."""
        height, width = size
        if self.kind == "none":
            return size
        if self.kind == "fixed":
            return int(self.value[0]), int(self.value[1])
        scale = self.value[0]
        if self.kind == "longest":
            scale /= max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def scaled(self, factor: float) -> SizeRule:
        """The rule whose targets are `factor` times as high and wide as this one's."""
        if factor == 1:
            return self
        if self.kind == "none":
            return SizeRule("scale", (factor,))
        value = tuple(number * factor for number in self.value)
        if self.kind == "fixed":
            value = tuple(float(max(1, round(number))) for number in value)
        return SizeRule(self.kind, value)

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize `image` to its target: by area where it shrinks, else bilinear."""
        size = (image.shape[0], image.shape[1])
        target = self.target(size)
        if target == size:
            return image
        import cv2

        shrinks = target[0] * target[1] < size[0] * size[1]
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, target[::-1], interpolation=how), np.uint8)
