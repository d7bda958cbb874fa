"""The page around a report: one file, its own styles and script, and a policy that allows no more.

The content security policy names the hashes of the style and the script; everything else,
connections above all, is refused by the browser even if a name should become markup.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files as resources

from segcli.labels import LabelSpace
from segcli.reporting.html.markup import Html, el


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading and an entry in the navigation.

    Attributes:
        key: its anchor, a word.
        title: heading, and text of the link where `short` is empty.
        lead: a sentence or two on what is seen and how to read it.
        body: markup.
    """

    key: str
    title: str
    lead: str | Html
    body: Html
    short: str = ""


def document(
    title: str,
    header: Html,
    sections: Sequence[Section],
    *,
    space: LabelSpace | None = None,
    styles: str = "",
) -> str:
    """The whole page.

    Args:
        title: of the browser's tab.
        header: what stands above the first section, with the page's h1.
        space: its colours become classes ``c0``, ``c1`` ... for swatches.
        styles: name of one more style sheet beside this file.
    """
    style = _resource("report.css") + _class_colors(space)
    style += _resource(styles) if styles else ""
    script = _resource("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", title),
        el("link", rel="icon", href="data:,"),
        el("style", Html(style)),
    )
    body = el(
        "body",
        el("a", "Skip to the report", class_="skip", href="#content"),
        el("div", _navigation(sections), _main(header, sections), class_="frame"),
        el("script", Html(script)),
    )
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'


def _navigation(sections: Sequence[Section]) -> Html:
    links = [el("li", el("a", s.short or s.title, href=f"#{s.key}")) for s in sections]
    return el("nav", el("ul", links), aria_label="Sections")


def _main(header: Html, sections: Sequence[Section]) -> Html:
    parts = [
        el(
            "section",
            el("h2", s.title, id=f"{s.key}-title"),
            el("p", s.lead, class_="lead") if s.lead else None,
            s.body,
            id=s.key,
            aria_labelledby=f"{s.key}-title",
        )
        for s in sections
    ]
    return el("main", el("header", header), parts, id="content", tabindex=-1)


def _class_colors(space: LabelSpace | None) -> str:
    if space is None:
        return ""
    colors = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in (c.color for c in space.classes)]
    return "".join(f".c{k}{{--c:{color}}}\n" for k, color in enumerate(colors))


def swatch(index: int) -> Html:
    """A small square in the colour of a class."""
    return el("span", class_=f"swatch c{index}", aria_hidden="true")


def named(index: int, space: LabelSpace) -> Html:
    """Swatch and name of a class."""
    return el("span", swatch(index), space.class_names[index], class_="name")


def _resource(name: str) -> str:
    return resources("segcli.reporting.html").joinpath(name).read_text("utf-8")


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
