"""How sure a difference of two scores is: images drawn again, networks trained again.

*Images.* IoU is a ratio of sums over images, so that its error has no simple formula. The
bootstrap (Efron 1979) draws the N images with replacement, many times, and scores each draw.
Two networks see the same draws: what makes an image hard for both cancels in the difference.
A draw is a row of counts that add up to N, and all draws are one matrix product with the
images' true positives and unions. The interval is the expanded percentile interval (Hesterberg
2015, "What teachers should know about the bootstrap"): percentiles move out as far as a t
quantile does from the normal one, for the plain ones are too narrow for few images. Where a
few images with much of a class decide, its N images are worth fewer; the t quantile's degrees
of freedom say how many, by the kurtosis of the images' parts. In 1,000 simulations each of 20
to 150 images this covered the truth in 93.5 to 96.2 % for mIoU and 95 % for classes, where
percentile, basic, BCa and studentised intervals fell to 92.8, 85, 90 and 90 %.

*Drives.* Frames of one drive resemble each other, and tell less than as many images of their own.
Where neighbours do, in the order of the images, the interval is stretched by the long-run
variance of the images' parts over their plain one (Bartlett's kernel; Newey and West 1987).

*Seeds.* That says how two given networks compare on other images, not how two recipes do: a
network trained with another seed scores differently. With two seeds or more in both arms, the
variance over seeds joins that over images, with Welch's degrees of freedom (1947).

Shapes: N images, K classes, R runs, B draws. Scores are (..., 1 + K): mIoU, then every class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from segcli.metrics.image_counts import Floats, ImageCounts

LEVEL = 0.95
DRAWS = 10_000
# Draws × images held at a time: 32 MB.
_BLOCK = 4_000_000


class Interval(NamedTuple):
    """A value and where it may as well lie; nan where there is no telling."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


class Difference(NamedTuple):
    """An arm against the baseline, mIoU first and then every class.

    Attributes:
        delta: arm minus baseline; over images and seeds where `seeds_counted`, else as
            `over_images`.
        over_images: of these very networks on other images.
        over_seeds: of other seeds on these very images; None with a single seed in an arm.
        identical: every image's counts are the same in both, so that all of it is exactly 0.
        alike: correlation of neighbouring images' parts in the difference of mIoU.
        effective_images: to how many independent images they come down for it.
    """

    delta: tuple[Interval, ...]
    over_images: tuple[Interval, ...]
    over_seeds: tuple[Interval, ...] | None
    identical: bool
    alike: float
    effective_images: float

    @property
    def seeds_counted(self) -> bool:
        return self.over_seeds is not None


def run_scores(runs: Sequence[ImageCounts]) -> Floats:
    """mIoU and IoU of every class, (R, 1 + K), over all images of each run."""
    scores: Floats = _scores(np.ones((1, len(runs[0].hits))), runs)[0]
    return scores


def draw_scores(runs: Sequence[ImageCounts], *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """The scores (B, R, 1 + K) of every run on the same `draws` draws of the images."""
    images = len(runs[0].hits)
    generator = np.random.default_rng(seed)
    block = max(1, min(draws, _BLOCK // max(images, 1)))
    parts = [
        _scores(_draw(generator, min(block, draws - start), images), runs)
        for start in range(0, draws, block)
    ]
    return np.concatenate(parts)


def _draw(generator: np.random.Generator, draws: int, images: int) -> Floats:
    """(B, N): how often each image came in each draw."""
    chosen = generator.integers(0, images, (draws, images))
    chosen += np.arange(draws)[:, None] * images
    counts = np.bincount(chosen.ravel(), minlength=draws * images)
    return counts.reshape(draws, images).astype(np.float64)


def _scores(weights: Floats, runs: Sequence[ImageCounts]) -> Floats:
    """(B, N) weights -> (B, R, 1 + K). Sums are whole numbers below 2^53, hence exact."""
    stacked = np.stack([np.stack((run.hits, run.union)) for run in runs])  # (R, 2, N, K)
    r, _, n, k = stacked.shape
    sums = weights @ stacked.transpose(2, 0, 1, 3).reshape(n, -1)
    sums = sums.reshape(len(weights), r, 2, k)
    hits, union = sums[:, :, 0], sums[:, :, 1]
    iou = np.full(hits.shape, np.nan)
    np.divide(hits, union, out=iou, where=union > 0)
    known = ~np.isnan(iou)
    miou = np.full(iou.shape[:2], np.nan)
    np.divide(np.where(known, iou, 0).sum(2), known.sum(2), out=miou, where=known.any(2))
    return np.concatenate([miou[:, :, None], iou], 2)


def difference(
    baseline: Sequence[ImageCounts],
    arm: Sequence[ImageCounts],
    baseline_draws: Floats,
    arm_draws: Floats,
    *,
    level: float = LEVEL,
) -> Difference:
    """How `arm` differs from `baseline`, each one or more seeds on the same images.

    Args:
        baseline_draws, arm_draws: (B, R, 1 + K) of one call to `draw_scores`, so that both saw
            the same draws.
        level: of the intervals, such as 0.95.
    """
    before, after = run_scores(baseline), run_scores(arm)
    images = len(baseline[0].hits)
    value = after.mean(0) - before.mean(0)
    draws = arm_draws.mean(1) - baseline_draws.mean(1)
    parts = _influence(arm) - _influence(baseline)
    stretch, lags = _long_run(parts)
    # A long-run variance of N images is known as well as a plain one of 1.5 N / lags.
    freedom = _freedom(parts)
    fewer = np.clip(freedom, 1, max(1.5 * images / lags, 1))
    freedom = np.where(stretch > 1, fewer, freedom)
    draws = value + np.sqrt(stretch) * (draws - value)
    over_images = _expanded(value, draws, freedom, images, level)
    over_seeds = None
    delta = over_images
    if len(before) > 1 and len(after) > 1:
        ones = np.ones_like(value)
        seeds = [(s.var(0, ddof=1) / len(s), ones * (len(s) - 1)) for s in (before, after)]
        over_seeds = _welch(value, seeds, level)
        # The draws' variance is that of N images around their own mean: N / (N - 1) of it.
        spread = _variance(draws) * images / max(images - 1, 1)
        delta = _welch(value, [*seeds, (spread, freedom)], level)
        # More freedom can outweigh more variance; what is less certain is never called surer.
        delta = tuple(max(pair, key=_width) for pair in zip(delta, over_seeds, strict=True))
    identical = len(baseline) == len(arm) and all(
        np.array_equal(x, y)
        for one, other in zip(baseline, arm, strict=True)
        for x, y in zip(one, other, strict=True)
    )
    alike = float(_correlation(parts, 1)[0]) if images > 1 else 0.0
    left = images / float(stretch[0])
    return Difference(delta, over_images, over_seeds, identical, alike, left)


def _expanded(
    value: Floats, draws: Floats, freedom: Floats, images: int, level: float
) -> tuple[Interval, ...]:
    """Expanded percentile intervals of (M,) values from their (B, M) draws of `images` images."""
    if images < 2:
        return tuple(Interval(float(v), math.nan, math.nan) for v in value)
    unbiased = math.sqrt(images / (images - 1))
    reach = [t_quantile(0.5 + level / 2, f) * unbiased for f in freedom]
    tails = np.array([NormalDist().cdf(-r) for r in reach])
    ordered = np.sort(draws, axis=0)  # nan, a draw in which the class does not occur, comes last
    low, high = _quantile(ordered, tails), _quantile(ordered, 1 - tails)
    return tuple(
        Interval(float(v), float(a), float(b)) if math.isfinite(v) else Interval(*3 * (math.nan,))
        for v, a, b in zip(value, low, high, strict=True)
    )


def _quantile(ordered: Floats, shares: Floats) -> Floats:
    """Of each column of (B, M), sorted with nan at the end, the quantile at its share."""
    columns = np.arange(ordered.shape[1])
    last = np.maximum((~np.isnan(ordered)).sum(0) - 1, 0)
    place = shares * last
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, last)
    low, high = ordered[below, columns], ordered[above, columns]
    result: Floats = low + (high - low) * (place - below)
    return result


def seed_intervals(scores: Floats, *, level: float = LEVEL) -> tuple[Interval, ...]:
    """Mean over the seeds of (R, M) scores and its t interval; no interval for one seed."""
    value = scores.mean(0)
    if len(scores) < 2:
        return tuple(Interval(float(v), math.nan, math.nan) for v in value)
    freedom = np.full_like(value, len(scores) - 1)
    return _welch(value, [(scores.var(0, ddof=1) / len(scores), freedom)], level)


def _width(interval: Interval) -> float:
    return interval.high - interval.low


def _welch(
    value: Floats, variances: Sequence[tuple[Floats, Floats]], level: float
) -> tuple[Interval, ...]:
    """t intervals of (M,) values whose variance is a sum of (M,) parts, each with its freedom."""
    total = np.sum([v for v, _ in variances], 0)
    doubt = np.sum([v**2 / freedom for v, freedom in variances], 0)
    intervals = []
    for middle, variance, unsure in zip(value, total, doubt, strict=True):
        if math.isnan(variance) or math.isnan(middle):
            intervals.append(Interval(float(middle), math.nan, math.nan))
            continue
        freedom = variance**2 / unsure if unsure > 0 else math.inf
        half = t_quantile(0.5 + level / 2, freedom) * math.sqrt(variance)
        intervals.append(Interval(float(middle), float(middle - half), float(middle + half)))
    return tuple(intervals)


def t_quantile(probability: float, freedom: float) -> float:
    """Student's t quantile for `probability` in 0.5..1 and any `freedom` >= 1, to five digits.

    With ``t = sqrt(freedom) tan(a)`` its density is ``cos(a)^(freedom - 1)``, which is smooth
    and ends at a right angle: a sum over a fine grid is all that its integral takes.
    """
    if freedom > 1e6:
        return NormalDist().inv_cdf(probability)
    # Beyond this angle nothing is left of the density.
    end = min(math.pi / 2, 12 / math.sqrt(freedom))
    edges = np.linspace(0.0, end, 2_001)
    middles = (edges[1:] + edges[:-1]) / 2
    area = np.concatenate([[0.0], np.cumsum(np.cos(middles) ** (freedom - 1))])
    angle = float(np.interp((2 * probability - 1) * area[-1], area, edges))
    return math.sqrt(freedom) * math.tan(angle)


def _influence(arm: Sequence[ImageCounts]) -> Floats:
    """(N, 1 + K): by how much each image moves each score, to first order; columns sum to 0."""
    images, classes = arm[0].hits.shape
    total = np.zeros((images, 1 + classes))
    for run in arm:
        union = run.union.sum(0)
        known = union > 0
        if known.any():
            whole = np.where(known, union, 1)
            parts = (run.hits - run.union * (run.hits.sum(0) / whole)) / whole
            total[:, 1:] += parts
            total[:, 0] += parts[:, known].mean(1)
    return total / len(arm)


def _freedom(parts: Floats) -> Floats:
    """(M,): degrees of freedom of the variance of (N, M) parts, N - 1 at most and 1 at least.

    The variance of a variance is (kurtosis - 1) / N of its square, that of a chi-square with f
    degrees of freedom 2 / f.
    """
    images = len(parts)
    second, fourth = (parts**2).mean(0), (parts**4).mean(0)
    excess = fourth / np.where(second > 0, second, 1) ** 2 - 1
    freedom: Floats = np.clip(2 * images / np.maximum(excess, 1e-9), 1, max(images - 1, 1))
    return freedom


def _variance(draws: Floats) -> Floats:
    """(M,) variance of the known of (B, M), nan where none is."""
    known = ~np.isnan(draws)
    number = np.where(known.any(0), known.sum(0), np.nan)
    mean = np.where(known, draws, 0).sum(0) / number
    result: Floats = (np.where(known, draws - mean, 0) ** 2).sum(0) / number
    return result


def _long_run(parts: Floats) -> tuple[Floats, int]:
    """(M,) long-run variance over the plain one of (N, M) parts, 1 without likeness; its lags."""
    images = len(parts)
    lags = math.ceil(1.5 * math.sqrt(images))
    ratio = np.ones(parts.shape[1])
    if images > 1:
        for lag in range(1, min(lags, images)):
            ratio += 2 * (1 - lag / lags) * _correlation(parts, lag)
        chance = _correlation(parts, 1) <= 2 / math.sqrt(images)
        ratio = np.where(chance, 1, np.maximum(ratio, 1))
    return ratio, lags


def _correlation(parts: Floats, lag: int) -> Floats:
    """(M,): of images `lag` apart in (N, M) parts; 0 where there is nothing to tell."""
    middle = parts - parts.mean(0)
    spread = (middle**2).sum(0)
    products: Floats = (middle[lag:] * middle[:-lag]).sum(0)
    return np.where(spread > 0, products / np.where(spread > 0, spread, 1), 0.0)
