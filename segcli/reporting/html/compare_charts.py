"""The two drawings of a comparison: intervals beside a zero line, and curves over steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from segcli.reporting.comparison import points, span
from segcli.reporting.html.markup import Child, Html, el

_W = 440
_TONES = {"better": "good", "worse": "bad"}


class Line(NamedTuple):
    """A curve: what it is called, its colour's number, and its (step, value) points."""

    name: str
    color: int
    points: Sequence[tuple[float, float]]


def tone(verdict: str) -> str:
    """The style of a verdict; none for what is not distinguishable."""
    return _TONES.get(verdict, "")


def forest(label: str, rows: Sequence[tuple[str, Mapping[str, Any], str]]) -> Html:
    """An interval per row around its value, in points, with a line at zero.

    Args:
        rows: (name, interval of a difference of rates, verdict).
    """
    left, right, step, top = 118, _W - 14, 23, 8
    known = [100 * i[k] for _, i, _ in rows for k in ("low", "high", "value") if i[k] is not None]
    ticks = _ticks(min([0.0, *known]), max([0.0, *known]), 5)
    low, high = ticks[0], ticks[-1]
    foot = top + step * len(rows)

    def x(value: float) -> float:
        return round(left + (right - left) * (100 * value - low) / (high - low), 2)

    parts: list[Child] = []
    for tick in ticks:
        at = x(tick / 100)
        kind = "zero" if abs(tick) < 1e-9 else "grid"
        parts.append(el("line", x1=at, x2=at, y1=top, y2=foot, class_=kind))
        name = f"{tick:+g}".replace("-", "\u2212") if abs(tick) > 1e-9 else "0"
        parts.append(el("text", name, x=at, y=foot + 17, text_anchor="middle"))
    for number, (name, interval, verdict) in enumerate(rows):
        y = top + step * (number + 0.5)
        strong = "strong" if number == 0 else None
        parts.append(_row_name(name, left - 12, y + 4, strong))
        if interval["value"] is None:
            continue
        tip = el("title", f"{name}: {points(interval['value'])}, {span(interval)}, {verdict}")
        if interval["low"] is not None:
            ends = {"x1": x(interval["low"]), "x2": x(interval["high"])}
            parts.append(el("line", y1=y, y2=y, class_=f"reach {tone(verdict)}", **ends))
        dot = {"cx": x(interval["value"]), "cy": y, "r": 5 if number == 0 else 4}
        parts.append(el("circle", tip, class_=f"middle {tone(verdict)}", **dot))
    parts.append(el("text", "points", x=(left + right) / 2, y=foot + 34, text_anchor="middle"))
    return _svg(label, parts, foot + 42)


def _row_name(name: str, x: float, y: float, class_: str | None) -> Html:
    shown = name if len(name) <= 17 else f"{name[:16]}…"
    return el("text", el("title", name), shown, x=x, y=y, text_anchor="end", class_=class_)


def curves(label: str, lines: Sequence[Line], *, unit: str = "", dots: bool = False) -> Html:
    """Curves over training steps, on an axis from their least value to their largest."""
    left, right, top, foot = 44, _W - 10, 10, 210
    every = [p for line in lines for p in line.points]
    ticks = _ticks(min(v for _, v in every), max(v for _, v in every), 4)
    last = max(max(s for s, _ in every), 1)

    def at(step: float, value: float) -> tuple[float, float]:
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return left + (right - left) * step / last, foot - (foot - top) * share

    parts: list[Child] = []
    for i, tick in enumerate(ticks):
        y = round(at(0, tick)[1], 2)
        parts.append(el("line", x1=left, x2=right, y1=y, y2=y, class_="grid" if i else "axis"))
        name = f"{tick:g}{unit if i == len(ticks) - 1 else ''}"
        parts.append(el("text", name, x=left - 7, y=y + 4, text_anchor="end"))
    for step in _ticks(0, last, 4):
        if step <= last:
            x = at(step, ticks[0])[0]
            parts.append(
                el("text", f"{step:,.0f}", x=round(x, 2), y=foot + 17, text_anchor="middle")
            )
    for line in lines:
        places = [at(s, v) for s, v in line.points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(el("path", el("title", line.name), d=path, class_=f"line a{line.color}"))
        for (x, y), (step, value) in zip(places, line.points, strict=True):
            if dots or len(places) == 1:
                tip = el("title", f"{line.name}, step {step:,}: {value:.4g}{unit}")
                place = {"cx": round(x, 2), "cy": round(y, 2)}
                parts.append(el("circle", tip, r=3.5, class_=f"point a{line.color}", **place))
    parts.append(el("text", "steps", x=(left + right) / 2, y=foot + 34, text_anchor="middle"))
    return _svg(label, parts, foot + 42)


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers from `low` or a little below to `high` or a little above."""
    span_ = max(high - low, 1e-6)
    power = 10 ** math.floor(math.log10(span_ / wanted))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power * wanted >= span_ * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 10) for i in range(first, max(last, first + 1) + 1)]


def _svg(label: str, parts: Sequence[Child], height: float) -> Html:
    return el("svg", parts, viewBox=f"0 0 {_W} {height:g}", role="img", aria_label=label)
