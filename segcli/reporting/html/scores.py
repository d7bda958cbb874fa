"""Tables of scores: classes, categories, images, people lost, and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from segcli.labels import LabelSpace
from segcli.reporting.html.charts import chart, columns_chart
from segcli.reporting.html.data import ReportData
from segcli.reporting.html.markup import Html, el, number, percent, text
from segcli.reporting.html.page import Section, named
from segcli.reporting.html.tables import Cell, Column, rate, scroller, table


def classes_section(data: ReportData) -> Section:
    """Every class with all its scores, and the categories where they differ from classes."""
    parts = [_class_table(data.scores, data.space)]
    categories = data.scores.get("categories") or {}
    if 1 < len(categories) < data.space.num_classes:
        parts.append(el("div", _category_table(data.scores), class_="gap-small narrow"))
    lead = (
        "IoU is what truth and prediction share of their union; precision and recall say on "
        "which side the rest was lost. Sort by any column."
    )
    return Section("classes", "Scores per class", lead, text(parts), "Classes")


def _class_table(scores: Mapping[str, Any], space: LabelSpace) -> Html:
    instance = (scores.get("instance") or {}).get("classes") or {}
    boundary = (scores.get("boundary") or {}).get("classes") or {}
    columns = [
        Column("class", number=False),
        Column("IoU %", hint="intersection over union"),
        Column("recall %", hint="share of its true pixels that were found"),
        Column("precision %", hint="share of its predicted pixels that are right"),
    ]
    if instance:
        columns.append(Column("iIoU %", hint="IoU with every instance weighted alike"))
    if boundary:
        columns.append(Column("boundary IoU %", hint="IoU of the bands along the edges"))
        columns.append(Column("boundary F %", hint="edges that lie where they should"))
    columns += [
        Column("pixels %", hint="share of all labelled pixels"),
        Column("most often taken for", number=False),
    ]
    rows = []
    for index, (name, entry) in enumerate(scores["classes"].items()):
        said = sum(row[index] for row in scores["confusion_matrix"])
        hits = scores["confusion_matrix"][index][index]
        row = [
            Cell(named(index, space), name),
            rate(entry["iou"], bar=True),
            rate(entry["accuracy"]),
            rate(hits / said if said else None),
        ]
        if instance:
            row.append(rate((instance.get(name) or {}).get("iiou")))
        if boundary:
            row += [rate((boundary.get(name) or {}).get(key)) for key in ("iou", "f_score")]
        share = entry["pixels"] / scores["pixels"] if scores["pixels"] else None
        rows.append([*row, rate(share, digits=2), _taken_for(scores, space, index)])
    return table("Classes", columns, rows, hide_caption=True)


def _taken_for(scores: Mapping[str, Any], space: LabelSpace, index: int) -> Cell:
    row = scores["confusion_matrix"][index]
    others = [(count, k) for k, count in enumerate(row) if k != index]
    count, k = max(others, default=(0, 0))
    if not count:
        return Cell("–")
    share = count / sum(row)
    words = el("span", f" {percent(share)} %", class_="muted")
    return Cell(text([named(k, space), words]), space.class_names[k])


def _category_table(scores: Mapping[str, Any]) -> Html:
    instance = (scores.get("instance") or {}).get("categories") or {}
    columns = [Column("category", number=False), Column("IoU %")]
    columns += [Column("iIoU %")] if instance else []
    rows = []
    for name, entry in scores["categories"].items():
        row = [Cell(name, name), rate(entry["iou"], bar=True)]
        rows.append(row + ([rate((instance.get(name) or {}).get("iiou"))] if instance else []))
    return table("Categories", columns, rows)


def matrix_section(data: ReportData) -> Section:
    """The confusion matrix as a grid to walk through."""
    lead = text(
        [
            "Each row is a class of the truth and says in percent what its pixels were called; ",
            "the diagonal is right. Point at a cell, or walk with the arrow keys, for counts; ",
            "sort the rows by any column.",
        ]
    )
    readout = el(
        "p",
        "Point at a cell for its counts.",
        class_="readout",
        id="readout",
        role="status",
        aria_live="polite",
    )
    body = el("div", _matrix(data.scores, data.space), readout, class_="explorer")
    return Section("confusion", "Confusion matrix", lead, body, "Confusions")


def _matrix(scores: Mapping[str, Any], space: LabelSpace) -> Html:
    counts = scores["confusion_matrix"]
    names = space.class_names
    said = [sum(row[k] for row in counts) for k in range(len(names))]
    axis = [el("td"), el("th", "predicted as", scope="colgroup", colspan=len(names))]
    corner = _matrix_head("truth", "plain", None, number=False)
    heads = [_matrix_head(name, "", name) for name in names]
    side = [_matrix_head("IoU %", "plain", None), _matrix_head("pixels", "plain", None)]
    rows = []
    for t, name in enumerate(names):
        total = sum(counts[t])
        cells = [_matrix_cell(counts[t][p], total, said[p], t == p) for p in range(len(names))]
        first = [cells[0].replace('tabindex="-1"', 'tabindex="0"', 1)] if t == 0 else [cells[0]]
        iou = scores["classes"][name]["iou"]
        ends = [
            el("td", percent(iou), class_="side", data_v="" if iou is None else str(iou)),
            el("td", number(total, 0), class_="side", data_v=str(total)),
        ]
        head = el("th", named(t, space), scope="row", data_v=name)
        body = [Html(cell) for cell in (*first, *cells[1:])]
        rows.append(el("tr", head, body, ends, data_name=name))
    grid = el(
        "table",
        el("caption", "Share of each true class by prediction, percent", class_="unseen"),
        el("thead", el("tr", axis, class_="axis"), el("tr", corner, heads, side)),
        el("tbody", rows),
        class_="matrix",
        data_sortable=True,
        data_readout="readout",
    )
    return scroller(grid, "confusion matrix")


def _matrix_head(title: str, class_: str, name: str | None, *, number: bool = True) -> Html:
    return el(
        "th",
        el("button", title, type="button"),
        scope="col",
        aria_sort="none",
        data_name=name,
        class_=f"{'num ' if number else ''}{class_}".strip() or None,
    )


def _matrix_cell(count: int, truth: int, said: int, right: bool) -> Html:
    share = count / truth if truth else 0.0
    # The root makes rare confusions visible.
    level = min(10, math.ceil(10 * math.sqrt(share))) if count else 0
    shown = "·" if 100 * share < 0.5 else f"{100 * share:.0f}"
    tone = "r" if right else "w"
    return el(
        "td",
        shown if truth else "–",
        tabindex=-1,
        class_=f"{tone} m{level}" if count else "empty",
        data_v=str(share) if truth else "",
        data_n=f"{count:,}",
        data_r=f"{100 * share:.2f} %",
        data_p=f"{100 * count / said:.2f} %" if said else "none",
    )


def images_table(images: Sequence[Mapping[str, Any]]) -> Html:
    """Histogram and table of the scores of single images, the worst first."""
    known = [e["miou"] for e in images if e["miou"] is not None]
    edges = [k / 20 for k in range(21)]
    counts = [sum(a <= v < b or (v == b == 1) for v in known) for a, b in _pairs(edges)]
    low = next((i for i, n in enumerate(counts) if n), 0)
    high = max((i + 1 for i, n in enumerate(counts) if n), default=20)
    names = [f"{100 * a:.0f}–{100 * b:.0f}" for a, b in _pairs(edges[low : high + 1])]
    shown: list[float | None] = [float(n) for n in counts[low:high]]
    drawing = columns_chart(
        "Histogram of the mIoU of single images", names, shown, x_title="mIoU, %", unit=""
    )
    rows = [[Cell(n, i), Cell(f"{v:.0f}", v)] for i, (n, v) in enumerate(zip(names, shown))]  # noqa: B905
    histogram = chart(
        "How the images spread",
        f"{len(known):,} images by their own mIoU, over the classes that occur in each.",
        drawing,
        [Column("mIoU %"), Column("images")],
        rows,
    )
    return el("div", histogram, _image_list(images), class_="columns")


def _image_list(images: Sequence[Mapping[str, Any]]) -> Html:
    order = sorted(images, key=lambda e: (e["miou"] is None, e["miou"]))
    critical = any(e.get("critical") for e in images)
    columns = [Column("image", number=False), Column("mIoU %"), Column("pixels right %")]
    columns += [Column("people lost, px")] if critical else []
    rows = []
    for entry in order[:2000]:
        row = [Cell(str(entry["id"]), str(entry["id"])), rate(entry["miou"])]
        row.append(rate(entry["pixel_accuracy"]))
        lost = entry.get("critical")
        rows.append([*row, Cell(number(lost, 0), lost)] if critical else row)
    listing = table("Every image, the worst first", columns, rows, class_="tight")
    return Html(listing.replace('class="scroll"', 'class="scroll tall"', 1))


def _pairs(edges: Sequence[float]) -> list[tuple[float, float]]:
    return [(edges[i], edges[i + 1]) for i in range(len(edges) - 1)]
