"""Tables that sort: real headers with buttons, and values the script can compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segcli.reporting.html.markup import Html, el, percent


@dataclass(frozen=True)
class Column:
    """A heading; `number` aligns right and sorts from the largest.

    Attributes:
        title: text of the heading.
        number: whether its cells hold numbers.
        hint: what the figure means, read out and shown as a tooltip.
    """

    title: str
    number: bool = True
    hint: str = ""


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, and the value it sorts by (None comes last).

    Attributes:
        bar: a share of 0..1 drawn below the figure; None draws none.
        tone: class of the cell, such as ``good`` or ``bad``.
    """

    content: str | Html
    value: float | str | None = None
    bar: float | None = None
    tone: str = ""


def rate(value: float | None, *, bar: bool = False, digits: int = 1) -> Cell:
    """A cell of a rate in percent."""
    return Cell(percent(value, digits), value, value if bar else None)


def table(
    caption: str | Html,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    sortable: bool = True,
    hide_caption: bool = False,
    class_: str = "",
) -> Html:
    """A table whose first cell of every row is the row's header."""
    head = [_header(column, sortable) for column in columns]
    body = [
        el("tr", [_cell(cell, columns[i], first=not i) for i, cell in enumerate(row)])
        for row in rows
    ]
    whole = el(
        "table",
        el("caption", el("span", caption), class_="unseen" if hide_caption else None),
        el("thead", el("tr", head)),
        el("tbody", body),
        class_=class_ or None,
        data_sortable=sortable,
    )
    return scroller(whole, caption)


def scroller(content: Html, label: str) -> Html:
    """A box that scrolls sideways where the page is narrow, by keyboard too."""
    # The label of a region is text; markup in it would be read out as such.
    plain = str(label) if not isinstance(label, Html) else "table"
    return el("div", content, class_="scroll", role="region", aria_label=plain, tabindex=0)


def _header(column: Column, sortable: bool) -> Html:
    inner = (
        el("button", column.title, type="button", title=column.hint or None)
        if sortable
        else el("span", column.title, title=column.hint or None)
    )
    return el(
        "th",
        inner,
        scope="col",
        class_="num" if column.number else None,
        aria_sort="none" if sortable else None,
    )


def _cell(cell: Cell, column: Column, *, first: bool) -> Html:
    value = "" if cell.value is None else cell.value
    classes = " ".join(c for c in ("num" if column.number else "", cell.tone) if c)
    options = {"class_": classes or None, "data_v": str(value)}
    content = [cell.content, None if cell.bar is None else bar(cell.bar)]
    return el("th", content, scope="row", **options) if first else el("td", content, **options)


def bar(share: float, class_: str = "bar") -> Html:
    """A thin bar that is `share` of its cell's width; decoration beside a figure."""
    width = 100 * min(1.0, max(0.0, share))
    track = el("rect", class_="track", width=100, height=4)
    return el(
        "svg",
        track,
        el("rect", class_="fill", width=round(width, 2), height=4),
        class_=class_,
        viewBox="0 0 100 4",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
