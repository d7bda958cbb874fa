"""The page of a comparison: verdict, intervals per class, curves, cost, and where it is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segcli.reporting.comparison import (
    chance,
    cost_cells,
    dependence,
    meaning,
    percent,
    plain_span,
    points,
    sentence,
    span,
)
from segcli.reporting.html.compare_charts import Line, curves, forest, tone
from segcli.reporting.html.markup import Html, el, text
from segcli.reporting.html.page import Section, document
from segcli.reporting.html.tables import Cell, Column, table

Result = Mapping[str, Any]
_COLORS = 6


def comparison_page(result: Result) -> str:
    """The whole page, from what compare.json holds."""
    names = [arm["name"] for arm in result["arms"]]
    several = len(names) > 2
    title = f"{len(names)} runs compared" if several else f"{names[1]} against {names[0]}"
    sections = [
        _difference(result, entry, i, several) for i, entry in enumerate(result["differences"])
    ]
    sections += [s for s in (_curves(result), _cost(result)) if s is not None]
    sections.append(_runs(result))
    return document(title, _header(result, title), sections, styles="compare.css")


def _header(result: Result, title: str) -> Html:
    images, splits = result["images"], ", ".join(s for s in result["splits"] if s)
    facts = {
        "images": f"{images:,} of {splits}" if splits else f"{images:,}",
        "classes": f"{len(result['arms'][0]['classes'])} ({result['label_space'] or 'unnamed'})",
        "baseline": result["baseline"],
        "intervals": f"{100 * result['level']:g} %, {result['draws']:,} draws of the images",
    }
    rows = [el("div", el("dt", key), el("dd", value)) for key, value in facts.items()]
    first = result["differences"][0]
    return text(
        [
            el("p", "Segmentation comparison", class_="eyebrow"),
            el("h1", title),
            el("dl", rows, class_="facts"),
            _headline(result, first) if len(result["differences"]) == 1 else None,
            el("ul", [_finding(result, e) for e in result["differences"]], class_="findings"),
        ]
    )


def _headline(result: Result, entry: Result) -> Html:
    delta = entry["miou"]["delta"]
    says = f"points of mIoU, {100 * result['level']:g} % interval {span(delta)}"
    return el("p", points(delta["value"]), el("small", _wrapped(says)), class_="delta")


def _finding(result: Result, entry: Result) -> Html:
    return el(
        "li", _wrapped(sentence(result, entry)), class_=tone(entry["miou"]["verdict"]) or None
    )


def _difference(result: Result, entry: Result, number: int, several: bool) -> Section:
    arms = {arm["name"]: arm for arm in result["arms"]}
    before, after = arms[entry["against"]], arms[entry["arm"]]
    rows = [("mIoU", entry["miou"], before["miou"], after["miou"])]
    rows += [
        (name, found, before["classes"][name], after["classes"][name])
        for name, found in entry["classes"].items()
    ]
    drawing = forest(
        f"Difference per class of {after['name']} against {before['name']}, with its interval",
        [(name, found["delta"], found["verdict"]) for name, found, _, _ in rows],
    )
    figure = el(
        "figure",
        el("h3", "Difference in points, with its interval"),
        el("p", "An interval that touches the line at zero leaves open which one is better."),
        drawing,
        class_="chart forest",
    )
    warning, by_chance = dependence(result, entry), chance(result, entry)
    body = text(
        [
            el("p", _wrapped(warning), class_="note") if warning else None,
            figure,
            el("div", _difference_table(result, rows, before["name"], after["name"]), class_="gap"),
            el("p", by_chance, class_="muted small gap-small") if by_chance else None,
        ]
    )
    title = f"{after['name']} against {before['name']}" if several else "Per class"
    lead = sentence(result, entry) if entry["identical"] else meaning(result, entry)
    short = after["name"] if several else ""
    return Section(f"difference-{number}", title, _wrapped(lead), body, short)


def _wrapped(line: str) -> str:
    """The line with its units kept at their numbers where it wraps."""
    return line.replace(" %", "\N{NO-BREAK SPACE}%").replace(" points", "\N{NO-BREAK SPACE}points")


def _difference_table(
    result: Result, rows: Sequence[tuple[str, Result, Result, Result]], before: str, after: str
) -> Html:
    columns = [
        Column("class", number=False),
        Column(f"{before} %", hint="IoU"),
        Column(f"{after} %", hint="IoU"),
        Column("Δ points"),
        Column(f"{100 * result['level']:g} % interval"),
        Column("images", hint="in which the class occurs"),
        Column("verdict", number=False),
    ]
    cells = []
    for name, found, old, new in rows:
        delta, verdict = found["delta"], found["verdict"]
        count = found.get("images", result["images"])
        cells.append(
            [
                Cell(name, name),
                Cell(percent(old["value"]), old["value"]),
                Cell(percent(new["value"]), new["value"]),
                Cell(points(delta["value"]), delta["value"]),
                Cell(span(delta), delta["low"]),
                Cell(f"{count:,}", count),
                Cell(verdict, verdict, tone=f"verdict {tone(verdict)}".strip()),
            ]
        )
    return table("Classes", columns, cells, hide_caption=True)


def _curves(result: Result) -> Section | None:
    found = [
        (i % _COLORS, curve)
        for i, arm in enumerate(result["arms"])
        for curve in arm.get("curves", ())
        if curve
    ]
    if not found:
        return None
    charts = []
    for key, title, says, scale in (
        ("miou", "Validation mIoU, %", "Of the averaged weights, at every validation.", 100),
        (
            "loss",
            "Training loss",
            "What is minimised; losses of other recipes have other scales.",
            1,
        ),
    ):
        lines = [
            Line(c["run"], color, [(s, scale * v) for s, v in c[key]])
            for color, c in found
            if c[key]
        ]
        if lines:
            drawing = curves(f"{title} over steps", lines, dots=key == "miou")
            head = [el("h3", title), el("p", says)]
            charts.append(el("figure", head, drawing, _ends(title, lines), class_="chart"))
    names = [el("li", _swatch(i % _COLORS), arm["name"]) for i, arm in enumerate(result["arms"])]
    body = text([el("ul", names, class_="legend"), el("div", charts, class_="columns")])
    return Section("curves", "Training", "How each run came to its weights.", body)


def _ends(title: str, lines: Sequence[Line]) -> Html:
    """The figures of a chart that matter, for who hears the page."""
    columns = [Column("run", number=False), Column("first"), Column("last"), Column("steps")]
    rows = [
        [
            Cell(line.name, line.name),
            Cell(f"{line.points[0][1]:.4g}", line.points[0][1]),
            Cell(f"{line.points[-1][1]:.4g}", line.points[-1][1]),
            Cell(f"{line.points[-1][0]:,}", line.points[-1][0]),
        ]
        for line in lines
    ]
    return el(
        "details",
        el("summary", "Figures as a table"),
        table(title, columns, rows, sortable=False, hide_caption=True, class_="tight"),
    )


def _cost(result: Result) -> Section | None:
    if not any(arm.get("cost") for arm in result["arms"]):
        return None
    columns = [
        Column("arm", number=False),
        Column("mIoU %"),
        Column("parameters"),
        Column("FLOPs", hint="two per multiply-add of convolutions and matrix products"),
        Column("ms per image", hint="median, one picture at a time"),
    ]
    rows = []
    for i, arm in enumerate(result["arms"]):
        cost = arm.get("cost") or {}
        parameters, flops, seconds = cost_cells(cost)
        rows.append(
            [
                Cell(text([_swatch(i % _COLORS), arm["name"]]), arm["name"]),
                Cell(percent(arm["miou"]["value"]), arm["miou"]["value"]),
                Cell(parameters, cost.get("parameters")),
                Cell(flops, cost.get("flops")),
                Cell(seconds, cost.get("seconds")),
            ]
        )
    lead = "Arithmetic of one picture, and how long it took on the machine that compared."
    return Section("cost", "Cost", lead, table("Cost", columns, rows, hide_caption=True))


def _runs(result: Result) -> Section:
    columns = [
        Column("arm", number=False),
        Column("run", number=False),
        Column("seed"),
        Column("step"),
        Column("mIoU %"),
        Column("evaluation", number=False),
    ]
    rows = [
        [
            Cell(arm["name"], arm["name"]),
            Cell(run["name"], run["name"]),
            Cell("–" if run["seed"] is None else str(run["seed"]), run["seed"]),
            Cell("–" if run["step"] is None else f"{run['step']:,}", run["step"]),
            Cell(percent(run["miou"]), run["miou"]),
            Cell(el("span", run["evaluation"], class_="path"), run["evaluation"]),
        ]
        for arm in result["arms"]
        for run in arm["runs"]
    ]
    means = [
        f"{arm['name']}: {percent(arm['miou']['value'])} % over {len(arm['runs'])} seeds "
        f"({100 * result['level']:g} % interval {plain_span(arm['miou'])})."
        for arm in result["arms"]
        if len(arm["runs"]) > 1
    ]
    listing = table("Runs", columns, rows, hide_caption=True)
    return Section("runs", "Runs", " ".join(means), listing)


def _swatch(color: int) -> Html:
    return el("span", class_=f"swatch a{color}", aria_hidden="true")
