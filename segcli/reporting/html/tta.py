"""The TTA audit as a section: every view alone, the mean, what changes per class, what to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segcli.labels import LabelSpace
from segcli.reporting.html.audits import difference
from segcli.reporting.html.charts import chart, dot_plot
from segcli.reporting.html.data import ReportData
from segcli.reporting.html.markup import Html, el, percent, signed, text
from segcli.reporting.html.page import Section, named
from segcli.reporting.html.tables import Cell, Column, rate, table


def tta_section(data: ReportData) -> Section | None:
    """Verdict, views, classes and sets; None without an audit."""
    tta = data.scores.get("tta")
    if not tta:
        return None
    whole = all(view["aligned"] for view in tta["views"])
    verdict = el("p", f"{tta['verdict'][:1].upper()}{tta['verdict'][1:]}.", class_="verdict")
    body = [
        verdict if whole else el("p", verdict, class_="note", role="note"),
        el("div", _plot(tta), _classes(tta["classes"], data.space), class_="columns"),
        el("div", _views(tta), class_="gap-small"),
        el("div", _sets(tta["sets"], tta["recommended"]["name"]), class_="gap-small narrow"),
    ]
    lead = (
        "Every view scored alone and in the mean. A view whose classes do not lie where the plain "
        "one's do is misaligned, and no averaging mends that."
    )
    return Section("tta", "Test-time augmentation", lead, text(body), "TTA")


def _plot(tta: Mapping[str, Any]) -> Html:
    views = [(v["name"], v["miou"], "" if v["aligned"] else "wrong") for v in tta["views"]]
    recommended = tta["recommended"]
    points = [*views, ("all merged", tta["merged"]["miou"], "")]
    if recommended["miou"] is not None and len(recommended["views"]) > 1:
        points.append(("those to keep", recommended["miou"], ""))
    label = "Dots: mIoU of each view and of their means; the line is the plain view"
    plain = tta["plain"]["miou"]
    rows = [
        [Cell(name, i), rate(miou, digits=2), difference(_minus(miou, plain))]
        for i, (name, miou, _) in enumerate(points)
    ]
    columns = [Column("view", number=False), Column("mIoU %"), Column("to plain")]
    says = f"The dashed line is the plain view, {percent(plain, 2)} %."
    return chart("mIoU of the views", says, dot_plot(label, points, plain), columns, rows)


def _views(tta: Mapping[str, Any]) -> Html:
    columns = [
        Column("view", number=False),
        Column("mIoU %"),
        Column("to plain", hint="points of mIoU"),
        Column("mean without it %", hint="mIoU of the mean of all other views"),
        Column("aligned", number=False),
        Column("keep", number=False),
        Column("verdict", number=False),
    ]
    rows = [
        [
            Cell(v["name"], v["name"]),
            rate(v["miou"], digits=2),
            difference(v["change"]),
            rate(v["without"], digits=2),
            Cell(
                *(("yes", 1.0) if v["aligned"] else ("no", 0.0)), tone="" if v["aligned"] else "bad"
            ),
            Cell(*(("yes", 1.0) if v["keep"] else ("no", 0.0))),
            Cell(v["verdict"], v["verdict"], tone="words"),
        ]
        for v in tta["views"]
    ]
    return table("Views", columns, rows, class_="tight")


def _classes(classes: Sequence[Mapping[str, Any]], space: LabelSpace) -> Html:
    columns = [
        Column("class", number=False),
        Column("plain %"),
        Column("merged %"),
        Column("change", hint="points of IoU"),
    ]
    rows = [
        [
            Cell(named(index, space), c["name"]),
            rate(c["plain"], digits=2),
            rate(c["merged"], digits=2),
            difference(c["change"]),
        ]
        for index, c in enumerate(classes)
    ]
    return table("Change per class", columns, rows, class_="tight")


def _sets(sets: Sequence[Mapping[str, Any]], best: str) -> Html:
    columns = [Column("views averaged", number=False), Column("number"), Column("mIoU %")]
    rows = []
    for s in sets:
        name = el("b", s["name"]) if s["name"] == best else s["name"]
        count = len(s["views"])
        rows.append([Cell(name, s["name"]), Cell(str(count), count), rate(s["miou"], digits=2)])
    listing = table("Sets of views", columns, rows, class_="tight")
    return el("details", el("summary", "Other sets of views"), listing, class_="more")


def tta_finding(tta: Mapping[str, Any] | None) -> tuple[str, Html] | None:
    """A sentence for the head of the report, and its tone."""
    if not tta or tta["merged"]["miou"] is None or tta["plain"]["miou"] is None:
        return None
    change = tta["merged"]["miou"] - tta["plain"]["miou"]
    bad = [view["name"] for view in tta["views"] if not view["aligned"]]
    if bad:
        return "bad", text(["Misaligned TTA views: ", el("b", ", ".join(bad)), "."])
    words = f" points of mIoU by averaging {len(tta['merged']['views'])} views."
    return ("good" if change > 0 else ""), text([el("b", signed(change, 2)), words])


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
