"""Pictures of the report: the worst images under a slider, and every class in its worst images."""

from __future__ import annotations

from segcli.labels import LabelSpace
from segcli.reporting.html.data import ClassDetail, Confusion, Crop, Picture, ReportData
from segcli.reporting.html.markup import Html, el, number, percent, text
from segcli.reporting.html.page import Section, named, swatch
from segcli.reporting.html.scores import images_table
from segcli.reporting.html.tables import bar

_MODES = (("truth", "prediction"), ("photo", "prediction"), ("photo", "errors"))


def images_section(data: ReportData) -> Section:
    """The worst images, then how all of them spread."""
    lead = "The images with the lowest mIoU of their own. Drag the divider, or use the arrow keys."
    parts = [_viewer(data)] if data.worst else []
    if data.images:
        parts.append(el("div", images_table(data.images), class_="gap" if data.worst else None))
    return Section("images", "Worst images", lead, text(parts), "Images")


def _viewer(data: ReportData) -> Html:
    buttons = [
        el(
            "button",
            f"{left.capitalize()} | {right}",
            type="button",
            data_left=left,
            data_right=right,
            aria_pressed="false" if i else "true",
        )
        for i, (left, right) in enumerate(_MODES)
    ]
    strength = el(
        "input", class_="strength", type="range", min=20, max=100, value=72, id="strength"
    )
    tools = el(
        "div",
        el("div", buttons, class_="segmented", role="group", aria_label="What to compare"),
        el("label", "Opacity", strength, for_="strength"),
        class_="tools",
    )
    seen = [k for k in range(data.space.num_classes) if any(k in p.classes for p in data.worst)]
    legend = el("ul", [el("li", named(k, data.space)) for k in seen], class_="chips")
    pictures = [_figure(p, rank, data.space) for rank, p in enumerate(data.worst, 1)]
    ignored = el("p", "Ignored pixels stay uncoloured; among the errors they are hatched.")
    return el(
        "div",
        tools,
        legend,
        el("div", pictures, class_="gallery gap-small"),
        el("div", ignored, class_="small muted gap-small"),
        class_="viewer",
    )


def _figure(picture: Picture, rank: int, space: LabelSpace) -> Html:
    height, width = picture.size
    size = {"width": width, "height": height}
    share = percent(picture.pixel_accuracy)
    names = ", ".join(space.class_names[k] for k in picture.classes[:5])
    layers = [
        el(
            "img",
            src=getattr(picture, kind),
            alt=f"{kind} of {picture.id}",
            class_=f"layer {kind} {side}".strip(),
            data_kind=kind,
            **size,
        )
        for kind, side in (("truth", "on-left"), ("prediction", "on-right"), ("errors", ""))
    ]
    stage = el(
        "div",
        el("img", src=picture.photo, alt=f"photograph {picture.id}: {names}", **size),
        layers,
        el("span", class_="divider", aria_hidden="true"),
        el("span", "truth", class_="tag left", aria_hidden="true"),
        el("span", "prediction", class_="tag right", aria_hidden="true"),
        el(
            "input",
            type="range",
            min=0,
            max=100,
            value=50,
            aria_label="truth to the left, prediction to the right",
        ),
        class_="stage",
    )
    words = f"  mIoU {percent(picture.miou)} %, {share} % of the pixels right"
    return el("figure", stage, el("figcaption", f"{rank}. ", el("b", picture.id), words))


def details_section(data: ReportData) -> Section:
    """A fold for each class: what it is taken for, and where that costs most."""
    lead = text(
        [
            "Weakest class first. For each: what its pixels are taken for, with the largest such ",
            "region outlined, and the images that cost it most: ",
            el("span", class_="key missed", aria_hidden="true"),
            "missed, ",
            el("span", class_="key alarm", aria_hidden="true"),
            "false alarm, ",
            el("span", class_="key hit", aria_hidden="true"),
            "found.",
        ]
    )
    scores = data.scores["classes"]
    names = data.space.class_names

    def weakness(detail: ClassDetail) -> float:
        iou = scores[names[detail.index]]["iou"]
        return 2.0 if iou is None else float(iou)

    order = sorted(data.classes, key=weakness)
    folds = [_fold(detail, data, is_open=i == 0) for i, detail in enumerate(order)]
    return Section("details", "Where each class fails", lead, text(folds), "Class by class")


def _fold(detail: ClassDetail, data: ReportData, *, is_open: bool) -> Html:
    name = data.space.class_names[detail.index]
    iou = data.scores["classes"][name]["iou"]
    summary = el(
        "summary",
        el("span", el("b", named(detail.index, data.space))),
        bar(iou or 0.0),
        el("span", f"{percent(iou)} %", el("span", class_="open", aria_hidden="true")),
    )
    parts = []
    if detail.confusions:
        pairs = [_pair(c, data.space) for c in detail.confusions]
        parts.append(el("div", el("h3", f"{name} is taken for"), el("div", pairs, class_="pairs")))
    if detail.worst:
        thumbs = [_thumb(crop, name) for crop in detail.worst]
        heading = el("h3", "Images that cost it most")
        parts.append(el("div", heading, el("div", thumbs, class_="thumbs")))
    return el("details", summary, el("div", parts), class_="class", open=is_open)


def _pair(pair: Confusion, space: LabelSpace) -> Html:
    truth, said = space.class_names[pair.truth], space.class_names[pair.prediction]
    crops = [
        el(
            "img",
            src=crop.uri,
            width=crop.size[1],
            height=crop.size[0],
            alt=f"part of {crop.id}: the outlined {truth} is taken for {said}",
            title=crop.id,
        )
        for crop in pair.crops
    ]
    return el(
        "figure",
        el("h4", swatch(pair.prediction), said),
        el(
            "p",
            f"{percent(pair.share)} % of its pixels, {number(pair.pixels, 0)} in all",
            class_="small",
        ),
        el("div", crops, class_="crops"),
    )


def _thumb(crop: Crop, name: str) -> Html:
    height, width = crop.size
    alt = f"{crop.id}: where {name} was found, missed or falsely seen"
    image = el("img", src=crop.uri, alt=alt, width=width, height=height)
    words = f"  IoU {percent(crop.iou)} %, {number(crop.pixels, 0)} px wrong"
    return el("figure", image, el("figcaption", el("b", crop.id), words))
