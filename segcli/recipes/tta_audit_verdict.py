"""What the figures of a TTA audit mean, in words and as tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from segcli.inference.alignment import Fit
from segcli.inference.tta import PLAIN, View
from segcli.metrics.confusion import Scores
from segcli.reporting.events import Reporter
from segcli.reporting.tables import percent

Views = tuple[View, ...]
# Pixels by which a view may put things off their place: rounding makes a tenth of one.
TOLERANCE = 0.4
# The same for what a network makes of it, which at other scales sees other borders.
_DRIFT = 2.0
# A flipped view this much (in IoU) below the same scale unflipped is no honest view,
_TWIN = 0.1
# nor is one with less than this share of plain's score.
_RUIN = 0.4
# What is gained or lost below this is noise.
_NOISE = 0.0005
# A smaller set of views that loses no more than this is the better bargain.
_BARGAIN = 0.001


@dataclass(frozen=True)
class Audit:
    """What was measured.

    Attributes:
        images: how many were scored.
        averaged: the views of the TTA that is audited.
        fits: where each view but plain puts what it sees, compared to plain.
        drifts: how the network's maps of those views lie on plain's.
        alone: scores of each view, plain first.
        sets: scores of the mean over each set of views; the first is all of them.
        names: of the sets.
    """

    images: int
    averaged: Views
    fits: dict[View, Fit]
    drifts: dict[View, Fit]
    alone: dict[View, Scores]
    sets: dict[Views, Scores]
    names: dict[Views, str]

    @property
    def plain(self) -> float:
        """mIoU of the plain view."""
        return self.alone[PLAIN].miou

    def without(self, view: View) -> float:
        """mIoU of the mean over all views but `view`; nan where that set was not scored."""
        rest = tuple(v for v in self.averaged if v != view)
        return self.sets[rest].miou if rest in self.sets else math.nan


def displacement(fit: Fit, tolerance: float = TOLERANCE) -> str | None:
    """What is wrong with where a view's map lies; None where nothing is."""
    if fit.mirrored > fit.agreement:
        return (
            "its map is mirrored, left and right were not exchanged back: "
            f"{percent(fit.mirrored, 1)} % of its pixels agree with plain when they are, "
            f"{percent(fit.agreement, 1)} % as it is"
        )
    right, down = fit.shift
    if max(abs(right), abs(down)) < tolerance:
        return None
    steps = [
        f"{abs(pixels):.1f} px {names[pixels < 0]}"
        for pixels, names in ((right, ("to the right", "to the left")), (down, ("down", "up")))
        if abs(pixels) >= tolerance
    ]
    return (
        f"its map lies {' and '.join(steps)}: {percent(fit.moved, 1)} % of its pixels agree "
        f"with plain when moved back, {percent(fit.agreement, 1)} % as it is"
    )


def fault(audit: Audit, view: View) -> str | None:
    """Why `view` counts as misaligned; None where it does not."""
    if view == PLAIN:
        return None
    drift = displacement(audit.drifts[view], _DRIFT / min(1, view.scale))
    if found := displacement(audit.fits[view]) or drift:
        return found
    score = audit.alone[view].miou
    for twin, scores in audit.alone.items():
        if view.flip and not twin.flip and twin.scale == view.scale and scores.miou - score > _TWIN:
            return (
                f"{percent(score)} is far below the {percent(scores.miou)} of {twin.name}, "
                "of which it is the mirror image"
            )
    if score < _RUIN * audit.plain:
        return f"{percent(score)} is far below the {percent(audit.plain)} of plain"
    return None


def to_dict(audit: Audit) -> dict[str, Any]:
    """Everything as plain JSON types; rates in 0..1, null where they have no meaning.

    Returns:
        ``images``; ``plain`` and ``merged``, each with ``miou``; ``views``: ``name, scale,
        flip, miou, change`` (from plain), ``aligned, shift`` ([right, down] in pixels by which
        it puts things off their place), ``drift`` (the same, of the network's map against
        plain's), ``agreement`` (with plain's map), ``without`` (mIoU of the mean of all others),
        ``keep, verdict``; ``classes``: ``name, plain, merged, change``; ``sets``: ``name,
        views, miou``; ``recommended``: ``name, views, miou``; ``verdict``, a sentence.
    """
    faults = {view: fault(audit, view) for view in audit.alone}
    best = _recommended(audit, [view for view, found in faults.items() if found])
    all_views = next(iter(audit.sets))
    plain, merged = audit.alone[PLAIN], audit.sets[all_views]
    return {
        "images": audit.images,
        "plain": {"miou": _number(plain.miou)},
        "merged": {"miou": _number(merged.miou), "views": [v.name for v in all_views]},
        "views": [_view(audit, view, faults[view], best) for view in audit.alone],
        "classes": [
            {
                "name": name,
                "plain": _number(before),
                "merged": _number(after),
                "change": _number(after - before),
            }
            for name, before, after in zip(
                plain.class_names, plain.class_iou, merged.class_iou, strict=True
            )
        ],
        "sets": [
            {"name": audit.names[s], "views": [v.name for v in s], "miou": _number(scores.miou)}
            for s, scores in audit.sets.items()
        ],
        "recommended": {
            "name": audit.names.get(best, "plain"),
            "views": [view.name for view in best],
            "miou": _number(_score(audit, best)),
        },
        "verdict": _summary(audit, faults, best),
    }


def _view(audit: Audit, view: View, found: str | None, best: Views) -> dict[str, Any]:
    score, without = audit.alone[view].miou, audit.without(view)
    fit, drift = audit.fits.get(view), audit.drifts.get(view)
    worth = audit.sets[next(iter(audit.sets))].miou - without
    if found:
        verdict = f"misaligned: {found}"
    elif view not in audit.averaged:
        verdict = "not averaged"
    elif math.isnan(worth):
        verdict = "the only view"
    elif abs(worth) < _NOISE:
        verdict = "makes no difference to the mean"
    else:
        gain = f"{'adds' if worth > 0 else 'costs'} {percent(abs(worth))} to the mean of the others"
        verdict = (
            gain.replace("costs", "takes").replace("to the", "from the") if worth < 0 else gain
        )
    return {
        "name": view.name,
        "scale": view.scale,
        "flip": view.flip,
        "miou": _number(score),
        "change": _number(score - audit.plain),
        "aligned": found is None,
        "shift": [round(s, 2) for s in fit.shift] if fit else [0.0, 0.0],
        "drift": [round(s, 2) for s in drift.shift] if drift else [0.0, 0.0],
        "agreement": drift.agreement if drift else 1.0,
        "without": _number(without),
        "keep": view in best,
        "verdict": verdict,
    }


def _score(audit: Audit, members: Views) -> float:
    return audit.plain if members == (PLAIN,) else audit.sets[members].miou


def _recommended(audit: Audit, misaligned: list[View]) -> Views:
    """The cheapest set of aligned views that is as good as the best; plain alone included."""
    sets = [s for s in audit.sets if not any(view in misaligned for view in s)]
    candidates: list[Views] = [(PLAIN,), *(s for s in sets if s != (PLAIN,))]
    top = max((_score(audit, s) for s in candidates), default=math.nan)
    if not top > audit.plain + _NOISE:
        return (PLAIN,)
    good = [s for s in candidates if _score(audit, s) >= top - _BARGAIN]
    return min(good, key=lambda s: (sum(view.scale**2 for view in s), -_score(audit, s)))


def _summary(audit: Audit, faults: dict[View, str | None], best: Views) -> str:
    merged = next(iter(audit.sets.values())).miou
    change = merged - audit.plain
    if math.isnan(change):
        return "no class has a score"
    what = "raises" if change >= _NOISE else "lowers" if change <= -_NOISE else "does not change"
    text = f"TTA {what} mIoU: {percent(audit.plain)} plain, {percent(merged)} merged"
    bad = [view.name for view, found in faults.items() if found]
    if bad:
        text += f"; misaligned: {', '.join(bad)}"
    if best == (PLAIN,):
        return f"{text}; keep the plain view alone"
    return f"{text}; keep {', '.join(view.name for view in best)} ({percent(_score(audit, best))})"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else percent(value)


def report(reporter: Reporter, value: dict[str, Any]) -> None:
    """Tables of views, classes and sets, and the verdict, as a warning where one is misaligned."""
    rows = [
        [
            view["name"],
            _percent(view["miou"]),
            _points(view["change"]),
            _percent(view["without"]),
            "yes" if view["keep"] else "no",
            view["verdict"],
        ]
        for view in value["views"]
    ]
    columns = ("view", "mIoU %", "to plain", "merged without %", "keep", "verdict")
    reporter.table(f"TTA, {value['images']} images", columns, rows)
    classes = [
        [c["name"], _percent(c["plain"]), _percent(c["merged"]), _points(c["change"])]
        for c in value["classes"]
    ]
    reporter.table("", ("class", "plain IoU %", "merged IoU %", "change"), classes)
    sets = [[s["name"], str(len(s["views"])), _percent(s["miou"])] for s in value["sets"]]
    reporter.table("", ("views averaged", "number", "mIoU %"), sets)
    whole = all(view["aligned"] for view in value["views"])
    (reporter.message if whole else reporter.warning)(value["verdict"])
