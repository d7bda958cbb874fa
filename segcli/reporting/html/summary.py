"""The head of the report: what was evaluated, the headline figures, findings in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segcli.labels import LabelSpace
from segcli.reporting.html.data import ReportData
from segcli.reporting.html.markup import Html, el, number, percent, signed, text
from segcli.reporting.html.tta import tta_finding


def header(data: ReportData) -> Html:
    """Title, facts, headline figures and findings."""
    return text(
        [
            el("p", "Segmentation evaluation", class_="eyebrow"),
            el("h1", data.title),
            _facts(data),
            _figures(data.scores),
            el("ul", findings(data), class_="findings"),
        ]
    )


def _facts(data: ReportData) -> Html:
    scores = data.scores
    count = scores.get("images")
    splits = ", ".join(str(s) for s in scores.get("splits") or ())
    views = scores.get("views") or ()
    facts = {
        "images": f"{count:,} of {splits}" if splits else f"{count:,}",
        "classes": f"{data.space.num_classes} ({data.space.name})",
        "step": scores.get("step"),
        "precision": scores.get("precision"),
        "views": f"{len(views)} averaged" if len(views) > 1 else None,
        "checkpoint": scores.get("checkpoint"),
        # A page is passed on: what its reader sees is the folder's name, not where it lay.
        "data": Path(str(scores["prepared"])).name if scores.get("prepared") else None,
    }
    paths = ("checkpoint", "data")
    rows = [
        el("div", el("dt", k), el("dd", str(v), class_="path" if k in paths else None))
        for k, v in facts.items()
        if v is not None
    ]
    return el("dl", rows, class_="facts")


def _figures(scores: Mapping[str, Any]) -> Html:
    instance, boundary = scores.get("instance") or {}, scores.get("boundary") or {}
    calibration = scores.get("calibration") or {}
    figures = [
        ("pixel accuracy", scores.get("pixel_accuracy")),
        ("mean class accuracy", scores.get("mean_accuracy")),
        ("category mIoU", scores.get("category_miou")),
        ("frequency-weighted IoU", scores.get("frequency_weighted_iou")),
        ("instance-weighted iIoU", instance.get("iiou")),
        ("boundary IoU", boundary.get("iou")),
        ("boundary F-score", boundary.get("f_score")),
        ("calibration error (ECE)", calibration.get("ece")),
    ]
    main = el("div", el("dt", "mean IoU"), _figure(scores.get("miou")), class_="main")
    rest = [el("div", el("dt", name), _figure(v)) for name, v in figures if v is not None]
    return el("dl", main, rest, class_="figures")


def _figure(value: float | None) -> Html:
    return el("dd", percent(value), None if value is None else el("small", "%"))


def findings(data: ReportData) -> list[Html]:
    """A handful of sentences, each about what stands out in one part of the scores."""
    scores, space = data.scores, data.space
    found = [
        _extremes(scores),
        _costliest(scores, space),
        _overconfident(scores.get("calibration")),
        _boundary(scores.get("boundary")),
        _missed(scores.get("critical")),
        tta_finding(scores.get("tta")),
        _weather(scores.get("stress")),
    ]
    return [el("li", words, class_=tone) for tone, words in filter(None, found)]


_Finding = tuple[str, Html] | None


def _b(words: str) -> Html:
    return el("b", words)


def _extremes(scores: Mapping[str, Any]) -> _Finding:
    known = {n: c["iou"] for n, c in scores["classes"].items() if c["iou"] is not None}
    if len(known) < 4:
        return None
    order = sorted(known, key=lambda name: known[name])
    best, weak = order[-1], order[:2]
    return "", text(
        [
            "Strongest in ",
            _b(best),
            f" ({percent(known[best])} %), weakest in ",
            _b(weak[0]),
            f" ({percent(known[weak[0]])} %) and ",
            _b(weak[1]),
            f" ({percent(known[weak[1]])} %).",
        ]
    )


def _costliest(scores: Mapping[str, Any], space: LabelSpace) -> _Finding:
    matrix = scores["confusion_matrix"]
    k = space.num_classes
    pairs = [(matrix[t][p], t, p) for t in range(k) for p in range(k) if t != p]
    wrong = sum(count for count, _, _ in pairs)
    if not wrong:
        return "good", Html("Not one labelled pixel is wrong.")
    count, truth, said = max(pairs)
    words = f": {percent(count / wrong)} % of all wrong pixels."
    names = space.class_names
    return "", text(
        ["The largest confusion is ", _b(names[truth]), " taken for ", _b(names[said]), words]
    )


def _overconfident(calibration: Mapping[str, Any] | None) -> _Finding:
    if not calibration:
        return None
    bins = [b for b in calibration["bins"] if b["pixels"]]
    total = sum(b["pixels"] for b in bins)
    if not total:
        return None
    gap = sum(b["pixels"] * (b["confidence"] - b["accuracy"]) for b in bins) / total
    if abs(gap) < 0.01:
        return "good", Html("Confidence is, on average, within one point of the truth.")
    way, tone = ("more", "bad") if gap > 0 else ("less", "")
    words = f"On average the model is {percent(abs(gap))} points {way} confident than right"
    temperature = calibration.get("temperature")
    after = (calibration.get("after") or {}).get("ece")
    if temperature and after is not None:
        words += f"; a temperature of {number(temperature, 2)} brings the error to {percent(after)}"
    return tone, text([words, " %." if temperature and after is not None else "."])


def _boundary(boundary: Mapping[str, Any] | None) -> _Finding:
    bins = [b for b in (boundary or {}).get("by_distance") or () if b["pixels"]]
    wrong = sum(b["errors"] for b in bins)
    near = [b for b in bins if b["to"] is not None and b["to"] <= 8]
    if not wrong or not near:
        return None
    share = sum(b["errors"] for b in near) / wrong
    reach = max(b["to"] for b in near)
    return "", text(
        [_b(f"{percent(share, 0)} %"), f" of the wrong pixels lie within {reach:g} px of an edge."]
    )


def _missed(critical: Mapping[str, Any] | None) -> _Finding:
    if not critical or not critical.get("pixels"):
        return None
    share = critical.get("share")
    people = " and ".join(critical["truth"])
    ground = " or ".join(critical["prediction"])
    words = f" of {people} is taken for {ground}"
    if critical.get("objects"):
        words += f"; {critical['missed']} of {critical['objects']} are lost for the most part"
    return ("bad" if share else "good"), text([_b(f"{percent(share, 2)} %"), words, "."])


def _weather(stress: Mapping[str, Any] | None) -> _Finding:
    if not stress:
        return None
    last = str(max(stress["severities"]))
    kept = {k: by[last]["kept"] for k, by in stress["kinds"].items()}
    known = {k: v for k, v in kept.items() if v is not None}
    if not known:
        return None
    worst = min(known, key=lambda kind: known[kind])
    return "", text(
        [
            "Hardest weather: ",
            _b(worst),
            f" at severity {last} leaves {percent(known[worst], 0)} % of the clean mIoU (",
            f"{signed(stress['kinds'][worst][last]['miou'] - stress['clean']['miou'])} points).",
        ]
    )
