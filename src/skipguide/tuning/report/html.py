"""Elements of an HTML page from data: text becomes text, whatever is in it."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

NOT_KNOWN, MINUS, CROSS = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
_EMPTY = frozenset({"img", "line", "circle"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child: TypeAlias = "str | Iterable[Child] | None"


def el(tag: str, *children: Child, **given: Any) -> Markup:
    """Return an element; attributes that are None are left out.

    Args:
        children: texts, elements, and lists of these.
        given: attributes; "_" stands for "-", and one at the end for nothing: `class_`.
    """
    attributes = "".join(_attribute(name, value) for name, value in given.items())
    if tag in _EMPTY and not children:
        return Markup(f"<{tag}{attributes}>" if tag == "img" else f"<{tag}{attributes}/>")
    return Markup(f"<{tag}{attributes}>{join(children)}</{tag}>")


def join(children: Iterable[Child]) -> Markup:
    """Return several elements and texts one after the other."""
    return Markup("".join(map(_child, children)))


def _child(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    return html.escape(child) if isinstance(child, str) else join(child)


def _attribute(name: str, value: Any) -> str:
    if value is None:
        return ""
    return f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'


def sentence(text: str) -> list[Child]:
    """Return a sentence in which `backquotes` are code."""
    return [el("code", part) if i % 2 else part for i, part in enumerate(text.split("`"))]


def table(heads: Iterable[Child], rows: Iterable[Markup], **given: Any) -> Markup:
    """Return a table that scrolls where the window is narrow."""
    head = el("tr", [el("th", name, scope="col") for name in heads])
    inner = el("table", el("thead", head), el("tbody", list(rows)), **given)
    return el("div", inner, class_="scrolled")


def told_cells(heads: Sequence[str], texts: Sequence[str]) -> list[Markup]:
    """Return cells that a narrow window has below each other, each with the head of its column."""
    return [
        el("td", text, class_="number", data_head=head)
        for head, text in zip(heads, texts, strict=True)
    ]


# --- numbers --------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Return a number as short as it can be read; a dash for one that is not known."""
    if value is None or not math.isfinite(value):
        return NOT_KNOWN
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}".replace("-", MINUS)
    shortened = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return shortened.replace("-", MINUS)


def signed(value: float | None) -> str:
    """Return a difference with its sign."""
    text = number(value)
    return f"+{text}" if value is not None and value > 0 else text


def interval(low: float | None, high: float | None, with_sign: bool = False) -> str:
    """Return " (low to high)"; "" where neither is known."""
    if low is None and high is None:
        return ""
    said = signed if with_sign else number
    return f" ({said(low)} to {said(high)})"
