"""Sections beyond IoU: edges and sizes, calibration, people lost, TTA, weather."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segcli.labels import LabelSpace
from segcli.reporting.html.charts import chart, columns_chart, curve, reliability
from segcli.reporting.html.data import ReportData
from segcli.reporting.html.markup import Html, el, number, percent, signed, text
from segcli.reporting.html.page import Section, named
from segcli.reporting.html.tables import Cell, Column, rate, table


def edges_section(data: ReportData) -> Section | None:
    """Error against distance to the nearest boundary, and against the size of the object."""
    boundary, objects = data.scores.get("boundary"), data.scores.get("objects")
    charts = []
    if boundary and boundary.get("by_distance"):
        charts.append(_by_distance(boundary["by_distance"]))
    if objects and objects.get("by_size"):
        charts.append(_by_size(objects))
    if not charts:
        return None
    lead = "Where the wrong pixels are: close to the edges between classes, and in small things."
    return Section("edges", "Edges and sizes", lead, el("div", charts, class_="columns"))


def span(low: float | None, high: float | None) -> str:
    """A range of whole units: ``4–8``, ``64+``."""
    if high is None:
        return f"{_short(low or 0)}+"
    return f"{_short(low or 0)}–{_short(high)}"


def _below(low: float | None, high: float | None) -> str:
    """The same range by its upper end alone, where there is little room."""
    return span(low, high) if high is None else f"<{_short(high)}"


def _short(value: float) -> str:
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            part = value / unit
            return f"{part:.0f}{letter}" if part >= 10 else f"{part:.2g}{letter}"
    return f"{value:.3g}"


def _by_distance(bins: Sequence[Mapping[str, Any]]) -> Html:
    names = [span(b["from"], b["to"]) for b in bins]
    drawing = columns_chart(
        "Columns: error rate by distance to the nearest boundary",
        [_below(b["from"], b["to"]) for b in bins],
        [b["error"] for b in bins],
        x_title="distance to the nearest boundary, px",
        tone="wrong",
    )
    total = sum(b["pixels"] for b in bins) or 1
    rows = [
        [Cell(name, i), rate(b["error"]), rate(b["pixels"] / total), Cell(f"{b['errors']:,}")]
        for i, (name, b) in enumerate(zip(names, bins, strict=True))
    ]
    columns = [Column("distance, px"), Column("wrong %"), Column("of all pixels %")]
    says = "Share of the pixels at that distance that are wrong."
    columns.append(Column("wrong pixels"))
    return chart("Error and distance to a boundary", says, drawing, columns, rows)


def _by_size(objects: Mapping[str, Any]) -> Html:
    bins = objects["by_size"]
    names = [span(b["from"], b["to"]) for b in bins]
    found = [b["found"] / b["objects"] if b["objects"] else None for b in bins]
    drawing = columns_chart(
        "Columns: error rate by object size; dots: share of the objects that were found",
        [_below(b["from"], b["to"]) for b in bins],
        [b["error"] if b["pixels"] else None for b in bins],
        x_title="size of the object, px",
        tone="wrong",
        dots=found,
    )
    rows = [
        [Cell(name, i), Cell(f"{b['objects']:,}"), rate(share), rate(b["error"])]
        for i, (name, b, share) in enumerate(zip(names, bins, found, strict=True))
    ]
    kind = "instances" if objects.get("kind") == "instances" else "connected regions"
    says = f"Columns: wrong pixels of the {kind} of that size. Dots: share of them found."
    columns = [Column("size, px"), Column("objects"), Column("found %"), Column("wrong %")]
    return chart("Error and object size", says, drawing, columns, rows)


def calibration_section(data: ReportData) -> Section | None:
    """The reliability diagram, before and after the fitted temperature."""
    calibration = data.scores.get("calibration")
    if not calibration:
        return None
    before, after = calibration.get("before"), calibration.get("after")
    charts = [_reliability("As predicted", calibration["bins"], calibration["ece"])]
    lead = "A calibrated model is right as often as it is sure. Red shows by how much it is not."
    if before and after and calibration.get("temperature"):
        title = f"With temperature {number(calibration['temperature'], 2)}"
        says = (
            f"The half not fitted on: ECE {percent(before['ece'], 2)} % before, "
            f"{percent(after['ece'], 2)} % after; NLL {number(before['nll'], 3)} to "
            f"{number(after['nll'], 3)}."
        )
        charts.append(_reliability(title, after["bins"], after["ece"], says))
    body = el("div", charts, class_="columns")
    return Section("calibration", "Calibration", lead, body)


def _reliability(
    title: str, bins: Sequence[Mapping[str, Any]], ece: float | None, says: str = ""
) -> Html:
    shown = [(b["from"], b["to"], b["confidence"], b["accuracy"]) for b in bins if b["pixels"]]
    total = sum(b["pixels"] for b in bins) or 1
    rows = [
        [
            Cell(f"{100 * b['from']:.0f}–{100 * b['to']:.0f}", b["from"]),
            rate(b["confidence"] if b["pixels"] else None),
            rate(b["accuracy"] if b["pixels"] else None),
            rate(b["pixels"] / total),
        ]
        for b in bins
    ]
    columns = [Column("confidence %"), Column("mean %"), Column("right %"), Column("of pixels %")]
    label = "Reliability diagram: share of right pixels over confidence, with the ideal diagonal"
    says = says or f"Expected calibration error {percent(ece, 2)} %."
    return chart(title, says, reliability(label, shown), columns, rows)


def critical_section(data: ReportData) -> Section | None:
    """People taken for ground."""
    critical = data.scores.get("critical")
    if not critical or not critical.get("pairs"):
        return None
    columns = [
        Column("truth", number=False),
        Column("taken for", number=False),
        Column("pixels"),
        Column("share %", hint="of all its pixels"),
    ]
    names = list(data.space.class_names)

    def cell(name: str) -> Cell:
        known = named(names.index(name), data.space) if name in names else name
        return Cell(known, name)

    rows = [
        [
            cell(p["truth"]),
            cell(p["prediction"]),
            Cell(number(p["pixels"], 0), p["pixels"]),
            rate(p["share"], digits=2),
        ]
        for p in critical["pairs"]
    ]
    parts = [table("Critical misses", columns, rows)]
    worst = [e for e in critical.get("images") or () if e["pixels"]][:12]
    if worst:
        images = [
            [Cell(str(e["id"]), str(e["id"])), Cell(number(e["pixels"], 0), e["pixels"])]
            for e in worst
        ]
        heads = [Column("image", number=False), Column("pixels lost")]
        parts.append(table("Images with the most", heads, images))
    lead = "What must not happen on a street: someone is there, and the model sees free ground."
    if critical.get("objects"):
        lead += (
            f" Of {critical['objects']:,} objects, {critical['missed']:,} are mostly taken for it."
        )
    body = el("div", parts, class_="columns")
    return Section("critical", "Critical misses", lead, body, "People lost")


def stress_section(data: ReportData) -> Section | None:
    """Curves of the kept share by severity, and every class in every kind."""
    stress = data.scores.get("stress")
    if not stress:
        return None
    severities = [str(s) for s in stress["severities"]]
    known = [e["kept"] or 0 for by in stress["kinds"].values() for e in by.values()]
    top = max(100.0, 100 * max(known, default=1.0))
    charts = [_stress_curve(kind, by, severities, top) for kind, by in stress["kinds"].items()]
    means = {
        s: {"kept": _mean([by[s]["kept"] for by in stress["kinds"].values()])} for s in severities
    }
    charts.append(_stress_curve("mean of all", means, severities, top))
    notes = [el("p", warning, class_="note", role="note") for warning in stress["warnings"]]
    lead = (
        f"Share of the clean mIoU ({percent(stress['clean']['miou'])} %) that is kept in simulated "
        f"weather at severity {severities[0]} to {severities[-1]}; the simulation is seeded and "
        "shares no code with training."
    )
    body = [
        *notes,
        el("div", charts, class_="multiples"),
        el("div", _stress_table(stress, severities, data.space), class_="gap-small"),
    ]
    return Section("stress", "Weather stress", lead, text(body), "Weather")


def _stress_curve(kind: str, by: Mapping[str, Any], severities: Sequence[str], top: float) -> Html:
    names = ["clean", *severities]
    values = [1.0, *(by[s]["kept"] for s in severities)]
    words = ", ".join(f"{percent(v, 0)} % at {s}" for s, v in zip(severities, values[1:]))  # noqa: B905
    label = f"{kind}: share of the clean mIoU kept, {words}"
    tone = "wrong" if (values[-1] or 0) < 0.5 else ""
    drawing = curve(label, names, values, top=top, tone=tone)
    return el("figure", el("h3", kind.capitalize()), drawing, class_="chart")


def _stress_table(stress: Mapping[str, Any], severities: Sequence[str], space: LabelSpace) -> Html:
    kinds = list(stress["kinds"])
    marks = {k: " *" if k in stress["trained_on"] else "" for k in kinds}
    columns = [Column("class", number=False), Column("clean IoU %")]
    columns += [Column(f"{k}{marks[k]}", hint="mean over the severities") for k in kinds]
    overall = [Cell(el("b", "mean IoU"), ""), rate(stress["clean"]["miou"])]
    overall += [_kept([stress["kinds"][k][s]["kept"] for s in severities]) for k in kinds]
    rows = [overall]
    for index, (name, entry) in enumerate(stress["clean"]["classes"].items()):
        row = [Cell(named(index, space), name), rate(entry["iou"])]
        for kind in kinds:
            found = [stress["kinds"][kind][s]["classes"][name]["kept"] for s in severities]
            row.append(_kept(found))
        rows.append(row)
    title = "Share kept per class, percent, mean over the severities"
    if any(marks.values()):
        title += "; * training has shown this kind"
    return table(title, columns, rows, class_="tight")


def _kept(values: Sequence[float | None]) -> Cell:
    mean = _mean(values)
    if mean is None:
        return Cell("–")
    # A tenth of the shade for every tenth that is lost.
    level = min(10, max(0, round(10 * (1 - mean))))
    return Cell(percent(mean, 0), mean, tone=f"w m{level}" if level else "")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def difference(value: float | None) -> Cell:
    """A cell of a change in points, green up and red down."""
    tone = "" if not value or abs(value) < 5e-4 else ("good" if value > 0 else "bad")
    return Cell(signed(value, 2), value, tone=tone)
