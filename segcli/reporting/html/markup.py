"""HTML and SVG from function calls, where text is escaped unless it is markup already."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

_UNFIT = re.compile(r"[\x00-\x08\x0b-\x1f\ud800-\udfff]")
_VOID = {"br", "hr", "img", "input", "link", "meta"}


class Html(str):
    """Markup: what `el` makes. A plain str is text, whatever it contains."""

    __slots__ = ()


Child = str | float | None | Iterable["Child"]


def text(value: Child) -> Html:
    """Escaped text; markup stays as it is, None is nothing, and of an iterable all members.

    Control characters, which no HTML may contain, and surrogates, as in file names that are
    not UTF-8, become the replacement character.
    """
    if value is None:
        return Html("")
    if isinstance(value, Html):
        return value
    if isinstance(value, str):
        return Html(escape(_UNFIT.sub("\ufffd", value)))
    if isinstance(value, int | float):
        return Html(str(value))
    return Html("".join(text(member) for member in value))


def el(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """An element. ``class_`` is the attribute class, ``aria_sort`` is aria-sort.

    Attributes that are None or False are left out; True stands without a value. No style
    attributes: the security policy of the page refuses them.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(key if value is True else f'{key}="{text(_plain(value))}"')
    head = f"<{' '.join(parts)}>"
    return Html(head if name in _VOID else f"{head}{text(children)}</{name}>")


def _plain(value: str | float) -> str:
    # A value that is Html would slip through unescaped, quotes and all.
    return f"{value:.6g}" if isinstance(value, float) else str.__str__(str(value))


def number(value: float | None, digits: int = 1, *, scale: float = 1.0) -> str:
    """A number with thousands separators, an en dash where there is none."""
    return "–" if value is None else f"{scale * value:,.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A rate of 0..1 in percent, without the sign."""
    return number(value, digits, scale=100)


def signed(value: float | None, digits: int = 1) -> str:
    """A difference of rates in points, with its sign (a real minus)."""
    if value is None:
        return "–"
    rounded = f"{100 * value:+,.{digits}f}"
    return "0" if float(rounded.replace(",", "")) == 0 else rounded.replace("-", "\u2212")
