"""Charts drawn by hand in SVG: columns, curves and the reliability diagram.

Every chart comes with its figures as a table, for readers who hear the page. Coordinates are
those of a view box of 440 by 250 units with 12-unit text.
"""

from __future__ import annotations

from collections.abc import Sequence

from segcli.reporting.html.markup import Child, Html, el
from segcli.reporting.html.tables import Cell, Column, table

_W, _H = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 12, 44


def chart(
    title: str,
    says: str | Html,
    drawing: Html,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    level: str = "h3",
) -> Html:
    """A figure: heading, what it says in words, the drawing, its figures as a table."""
    return el(
        "figure",
        el(level, title),
        el("p", says) if says else None,
        drawing,
        el(
            "details",
            el("summary", "Figures as a table"),
            table(title, columns, rows, sortable=False, hide_caption=True, class_="tight"),
        ),
        class_="chart",
    )


def columns_chart(
    label: str,
    names: Sequence[str],
    values: Sequence[float | None],
    *,
    x_title: str,
    unit: str = "%",
    tone: str = "",
    dots: Sequence[float | None] = (),
) -> Html:
    """Columns over categories, with dots over them for a second figure of the same scale.

    Args:
        label: what a screen reader says of the drawing.
        values: at most 1 where `unit` is %, which scales them by 100; counts otherwise.
    """
    factor = 100 if unit == "%" else 1
    known = [factor * v for v in (*values, *dots) if v is not None]
    top = _nice(max(known, default=1.0))
    area = _Area(top)
    step = area.width / max(1, len(names))
    parts: list[Child] = [area.grid(unit)]
    for i, value in enumerate(values):
        if value is None:
            continue
        y = area.y(factor * value)
        tip = el("title", f"{names[i]}: {factor * value:.4g} {unit}")
        shape = {"x": _LEFT + (i + 0.14) * step, "width": 0.72 * step, "y": y}
        parts.append(
            el("rect", tip, height=max(0.0, area.foot - y), rx=1.5, class_=f"col {tone}", **shape)
        )
    for i, value in enumerate(dots):
        if value is not None:
            tip = el("title", f"{names[i]}: {factor * value:.4g} {unit}")
            parts.append(_dot(_LEFT + (i + 0.5) * step, area.y(factor * value), tip))
    parts.append(_names(names, step))
    parts.append(_x_title(x_title))
    return _svg(label, parts)


def reliability(
    label: str, bins: Sequence[tuple[float, float, float | None, float | None]]
) -> Html:
    """Accuracy over confidence, with the gap to the diagonal; bins (from, to, conf, acc)."""
    area = _Area(100.0)
    parts: list[Child] = [area.grid("%")]
    for low, high, confidence, accuracy in bins:
        if confidence is None or accuracy is None:
            continue
        x, width = _LEFT + low * area.width, (high - low) * area.width
        y, ideal = area.y(100 * accuracy), area.y(100 * confidence)
        tip = el("title", f"said {100 * confidence:.1f} %, right {100 * accuracy:.1f} %")
        box = {"x": x + 1, "width": max(0.5, width - 2)}
        parts.append(el("rect", tip, y=y, height=area.foot - y, class_="col light", **box))
        gap = {"y": min(y, ideal), "height": abs(y - ideal)}
        parts.append(el("rect", el("title", "gap"), class_="gapbar", **box, **gap))
        parts.append(
            el("line", x1=x + 1, x2=x + width - 1, y1=y, y2=y, class_="curve", stroke_width=2)
        )
    parts.append(el("line", x1=_LEFT, y1=area.foot, x2=_W - _RIGHT, y2=_TOP, class_="ideal"))
    for share in (0, 25, 50, 75, 100):
        x = _LEFT + share / 100 * area.width
        parts.append(el("text", share, x=x, y=area.foot + 16, text_anchor="middle"))
    parts.append(_x_title("confidence, %"))
    return _svg(label, parts)


def curve(
    label: str, names: Sequence[str], values: Sequence[float | None], *, top: float, tone: str = ""
) -> Html:
    """A small line over a few steps, such as the severities of a stress, in percent.

    Args:
        values: 0..1, one for each of `names`.
        top: upper end of the axis in percent, so that several share a scale.
    """
    width, height, left, foot = 210, 132, 30, 106
    step = (width - left - 34) / max(1, len(names) - 1)

    def at(i: int, value: float) -> tuple[float, float]:
        return left + i * step, foot - (foot - 10) * min(100 * value, top) / top

    points = [(i, *at(i, v), v) for i, v in enumerate(values) if v is not None]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for _, x, y, _ in points)
    parts: list[Child] = []
    for tick in (0.0, 50.0, 100.0):
        y = at(0, tick / 100)[1]
        parts.append(el("line", x1=left, x2=width - 34, y1=y, y2=y, class_="grid"))
        parts.append(el("text", f"{tick:g}", x=left - 7, y=y + 4, text_anchor="end"))
    parts.append(el("path", d=path, class_=f"curve {tone}") if points else None)
    for i, x, y, value in points:
        parts.append(_dot(x, y, el("title", f"{names[i]}: {100 * value:.1f} %"), tone))
    for i, name in enumerate(names):
        parts.append(el("text", name, x=left + i * step, y=foot + 18, text_anchor="middle"))
    if points:
        _, x, y, value = points[-1]
        parts.append(el("text", f"{100 * value:.0f}", x=x + 9, y=y + 4, class_="strong"))
    return _svg(label, parts, width, height)


def dot_plot(
    label: str, points: Sequence[tuple[str, float | None, str]], mark: float | None
) -> Html:
    """Named rates as dots on one line each, around a dashed `mark`; (name, 0..1, tone)."""
    known = [v for _, v, _ in points if v is not None] + ([] if mark is None else [mark])
    low, high = min(known, default=0.0), max(known, default=1.0)
    room = max(0.004, 0.15 * (high - low))
    low, high = max(0.0, low - room), min(1.0, high + room)
    left, right, line = 112, 52, 22
    foot = line * len(points) + 8

    def at(value: float) -> float:
        return round(left + (value - low) / (high - low) * (_W - left - right), 2)

    parts: list[Child] = []
    for i, (name, value, tone) in enumerate(points):
        y = 14 + i * line
        parts.append(el("line", x1=left, x2=_W - right, y1=y, y2=y, class_="grid"))
        parts.append(el("text", name, x=left - 10, y=y + 4, text_anchor="end"))
        if value is not None:
            shown = f"{100 * value:.2f}"
            parts.append(_dot(at(value), y, el("title", f"{name}: {shown} %"), tone))
            parts.append(el("text", shown, x=_W - right + 10, y=y + 4))
    if mark is not None:
        x = at(mark)
        parts.insert(0, el("line", x1=x, x2=x, y1=4, y2=foot, class_="ideal"))
    return _svg(label, parts, _W, foot + 4)


class _Area:
    """The plotting area: from values up to `top` to view box units."""

    def __init__(self, top: float) -> None:
        self.top = top
        self.width = _W - _LEFT - _RIGHT
        self.foot = _H - _BOTTOM

    def y(self, value: float) -> float:
        return round(self.foot - (self.foot - _TOP) * min(value, self.top) / self.top, 2)

    def grid(self, unit: str) -> list[Html]:
        lines = []
        for part in range(5):
            value = self.top * part / 4
            y = self.y(value)
            kind = "axis" if part == 0 else "grid"
            lines.append(el("line", x1=_LEFT, x2=_W - _RIGHT, y1=y, y2=y, class_=kind))
            name = f"{value:g} %" if unit == "%" and part == 4 else f"{value:g}"
            lines.append(el("text", name, x=_LEFT - 7, y=y + 4, text_anchor="end"))
        return lines


def _nice(value: float) -> float:
    """The next round number whose quarters are short."""
    power = 1e-3
    while True:
        for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8):
            if value <= step * power:
                return round(step * power, 6)
        power *= 10


def _names(names: Sequence[str], step: float) -> list[Html]:
    # Where they would touch, every second or third name is left out.
    longest = max((len(name) for name in names), default=1) * 6.2 + 7
    every = max(1, -(-int(longest) // max(1, int(step))))
    return [
        el(
            "text",
            name,
            x=round(_LEFT + (i + 0.5) * step, 2),
            y=_H - _BOTTOM + 16,
            text_anchor="middle",
        )
        for i, name in enumerate(names)
        if i % every == 0
    ]


def _x_title(title: str) -> Html:
    return el("text", title, x=(_LEFT + _W - _RIGHT) / 2, y=_H - 8, text_anchor="middle")


def _dot(x: float, y: float, tip: Html, tone: str = "") -> Html:
    return el("circle", tip, cx=round(x, 2), cy=round(y, 2), r=3.5, class_=f"dot {tone}")


def _svg(label: str, parts: Sequence[Child], width: int = _W, height: int = _H) -> Html:
    return el("svg", parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=label)
