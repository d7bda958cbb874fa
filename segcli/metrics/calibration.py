"""Does a confidence of 0.8 mean right in 80 of 100? Reliability, ECE, and one temperature.

Expected calibration error (ECE) and temperature scaling: Guo et al., On Calibration of Modern
Neural Networks, ICML 2017. Reliability counts every labelled pixel. The temperature is fitted
on sampled pixels of one half of the images and judged on those of the other half.

Shapes: maps (H, W); n sampled pixels, K classes, B bins of equal width over 0..1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcli.labels import IGNORE_INDEX

BINS = 15
# Pixels sampled in all, both halves together: 20 MB at 19 classes.
SAMPLES = 2**18
_LIMITS = 1 / 50, 50.0  # of 1 / temperature


class Samples(NamedTuple):
    """Pixels to fit on: logits (or log probabilities) float32 (n, K), truth (n,)."""

    logits: NDArray[np.float32]
    truth: NDArray[np.uint8]


class Calibration:
    """Confidence against correctness, over any number of images, in bounded memory.

    Args:
        images: how many will come, which decides the pixels sampled of each.
    """

    def __init__(self, images: int, *, ignore_index: int = IGNORE_INDEX, seed: int = 0) -> None:
        self.ignore_index, self._seed = ignore_index, seed
        self._per_image = max(16, SAMPLES // max(1, images))
        # Pixels, summed confidence, right ones.
        self.sums: NDArray[np.float64] = np.zeros((BINS, 3))
        self._halves: tuple[list[Samples], list[Samples]] = ([], [])

    def positions(self, truth: NDArray[np.uint8], index: int) -> NDArray[np.int64]:
        """Which pixels to sample of image number `index`: ascending places in the flat map.

        They depend on the seed and the index alone; ignored pixels are left out.
        """
        generator = np.random.default_rng([self._seed, index])
        # A few more than wanted, for some of them will be ignored.
        drawn = np.unique(generator.integers(0, truth.size, 2 * self._per_image))
        known = drawn[truth.ravel()[drawn] != self.ignore_index]
        step = max(1, -(-known.size // self._per_image))
        return np.asarray(known[::step], np.int64)

    def update(
        self,
        truth: NDArray[np.uint8],
        prediction: NDArray[np.uint8],
        confidence: NDArray[np.float32],
    ) -> None:
        """Count one image: class map uint8 (H, W) and its probability float32 (H, W)."""
        self.sums += reliability(truth, prediction, confidence, self.ignore_index)

    def sample(self, index: int, logits: NDArray[np.float32], truth: NDArray[np.uint8]) -> None:
        """Keep the sampled pixels of image number `index`: float32 (n, K), uint8 (n,)."""
        self._halves[index % 2].append(Samples(logits.astype(np.float32), truth))

    def to_dict(self) -> dict[str, Any]:
        """The `calibration` section of scores.json, plain JSON types.

        The temperature is null where there are too few samples to fit it.
        """
        result: dict[str, Any] = {
            "pixels": int(self.sums[:, 0].sum()),
            "ece": _ece(self.sums),
            "bins": _bins(self.sums),
            **dict.fromkeys(("temperature", "fitted_on", "reported_on", "before", "after")),
        }
        fit, held = self._split()
        if min(fit.truth.size, held.truth.size) < 100:
            return result
        temperature = fit_temperature(fit)
        return {
            **result,
            "temperature": temperature,
            "fitted_on": int(fit.truth.size),
            "reported_on": int(held.truth.size),
            "before": _judged(held, 1.0),
            "after": _judged(held, temperature),
        }

    def _split(self) -> tuple[Samples, Samples]:
        """Both halves; a single image is split by its pixels."""
        halves = [_joined(half) for half in self._halves]
        if halves[1].truth.size == 0:
            only = halves[0]
            return Samples(only.logits[::2], only.truth[::2]), Samples(
                only.logits[1::2], only.truth[1::2]
            )
        return halves[0], halves[1]


def reliability(
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    confidence: NDArray[np.float32],
    ignore_index: int = IGNORE_INDEX,
) -> NDArray[np.float64]:
    """What one image adds to `Calibration.sums`: float64 (B, 3)."""
    known = truth != ignore_index
    return _binned(confidence[known], prediction[known] == truth[known])


def fit_temperature(samples: Samples) -> float:
    """The temperature T with the least negative log-likelihood of ``softmax(logits / T)``.

    That is convex in 1 / T; Newton's steps are kept inside a bracket that shrinks.
    """
    z = samples.logits.astype(np.float64)
    own = np.take_along_axis(z, samples.truth[:, None].astype(np.int64), 1)[:, 0]
    low, high = _LIMITS
    x = 1.0
    for _ in range(60):
        p = _softmax(x * z)
        mean = (p * z).sum(1)
        slope = float((mean - own).mean())
        bend = float(((p * z**2).sum(1) - mean**2).mean())
        low, high = (x, high) if slope < 0 else (low, x)
        step = x - slope / bend if bend > 0 else low
        following = step if low < step < high else (low * high) ** 0.5
        if abs(following - x) < 1e-7 * x:
            break
        x = following
    return float(1 / x)


def _judged(samples: Samples, temperature: float) -> dict[str, Any]:
    p = _softmax(samples.logits.astype(np.float64) / temperature)
    own = np.take_along_axis(p, samples.truth[:, None].astype(np.int64), 1)[:, 0]
    sums = _binned(p.max(1), p.argmax(1) == samples.truth)
    nll = float(-np.log(np.maximum(own, 1e-12)).mean())
    return {"ece": _ece(sums), "nll": nll, "bins": _bins(sums)}


def _softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    e: NDArray[np.float64] = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def _binned(confidence: NDArray[Any], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(B, 3): pixels, summed confidence, right ones; a confidence of 1 is in the last bin."""
    place = np.minimum((confidence * BINS).astype(np.uint8), BINS - 1)
    columns = [
        np.bincount(place, minlength=BINS),
        np.bincount(place, confidence, BINS),
        np.bincount(place, right, BINS),
    ]
    return np.stack(columns, 1).astype(np.float64)


def _ece(sums: NDArray[np.float64]) -> float | None:
    """Mean gap between confidence and accuracy, each bin by its share of the pixels."""
    total = sums[:, 0].sum()
    return float(np.abs(sums[:, 1] - sums[:, 2]).sum() / total) if total else None


def _bins(sums: NDArray[np.float64]) -> list[dict[str, Any]]:
    return [
        {
            "from": i / BINS,
            "to": (i + 1) / BINS,
            "pixels": int(pixels),
            "confidence": confidence / pixels if pixels else None,
            "accuracy": right / pixels if pixels else None,
        }
        for i, (pixels, confidence, right) in enumerate(sums.tolist())
    ]


def _joined(parts: list[Samples]) -> Samples:
    if not parts:
        return Samples(np.zeros((0, 1), np.float32), np.zeros(0, np.uint8))
    return Samples(
        np.concatenate([p.logits for p in parts]), np.concatenate([p.truth for p in parts])
    )
