"""The race in the report: who was how much better than CFG alone, and quality against cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from skipguide.method.protocols import PlainData
from skipguide.tuning.race.state import AT_THE_SAME_PRICE, BASELINE, LOWER
from skipguide.tuning.report.html import (
    NOT_KNOWN,
    Child,
    Markup,
    el,
    interval,
    number,
    signed,
    table,
    told_cells,
)

ROLES: Mapping[str, str] = {
    BASELINE: "CFG alone",
    LOWER: "CFG alone, lower",
    AT_THE_SAME_PRICE: "CFG alone at the price of STG",
    "preset": "published preset",
    "scan": "from the map",
    "search": "search around the winner",
}
_STATES = {"winner": "winner", "baseline": "compared with", "racing": "in to the end", "out": "out"}
_ROOM = 2.6  # how far an interval is drawn, in lengths of the largest difference
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720.0, 380.0, 62.0, 26.0, 18.0, 46.0
_BESIDE, _APART = 3, 16.0  # points of the same price beside each other, and how far apart


# --- quality against cost -------------------------------------------------------------------------


def quality_and_cost(answer: PlainData) -> Child:
    """Return the plot of all that raced, and its table, which names the points."""
    raced = sorted(
        (one for one in answer.get("raced") or [] if one.get("value") is not None),
        key=lambda one: (one["passes"], -_gain(one)),
    )
    if not raced:
        return None
    heads = (
        "", "Setting", "Forward passes", answer.get("metric") or "Objective", "Prompts",
        "Difference to CFG alone", "Measured on",
    )  # fmt: skip
    return [
        el(
            "p",
            "Each setting was compared with CFG alone on the prompts that both have, so that those"
            " on few prompts stand beside those on many. A thick ring: on prompts that chose"
            " nothing. The lines are 95 % intervals of one look. Points of the same price are moved"
            " apart sideways; the table has their passes.",
        ),
        el("div", _plot(raced, answer), class_="plot"),
        table(
            heads, [_raced_row(i, one, answer, heads) for i, one in enumerate(raced, 1)],
            class_="told",
        ),
    ]  # fmt: skip


def _gain(one: PlainData) -> float:
    """Return the difference to CFG alone; 0 for CFG alone itself."""
    return one.get("difference") or 0.0


def _raced_row(place: int, one: PlainData, answer: PlainData, heads: Sequence[str]) -> Markup:
    ends = interval(one.get("difference_low"), one.get("difference_high"), True)
    told = f"{signed(one['difference'])}{ends}" if one.get("difference") is not None else NOT_KNOWN
    where = "prompts that chose nothing" if one.get("held_back") else "prompts of the race"
    value = number(one["value"]) + interval(one.get("low"), one.get("high"))
    chosen = "recommended" if one["name"] == answer.get("use") else None
    title = one.get("title") if one.get("title") != one["name"] else None
    small = " · ".join(filter(None, (title, chosen)))
    return el(
        "tr",
        el("td", el("b", str(place), class_="dot")),
        el("th", one["name"], el("small", small) if small else None, scope="row"),
        told_cells(heads[2:], [number(one["passes"]), value, str(one.get("n") or ""), told, where]),
        class_="chosen" if chosen else None,
    )


def _plot(raced: Sequence[PlainData], answer: PlainData) -> Markup:
    across = _Scale([one["passes"] for one in raced], _LEFT + 14, _WIDTH - _RIGHT - 14)
    names = ("difference_low", "difference", "difference_high")
    ends = [one[name] for one in raced for name in names if one.get(name) is not None]
    up = _Scale([0.0, *ends], _HEIGHT - _BOTTOM, _TOP)
    bottom = _HEIGHT - _BOTTOM
    rules = [
        *(_rule(across.place(at), _TOP, across.place(at), bottom) for at in across.ticks),
        *(_text(across.place(at), bottom + 17, number(at)) for at in across.ticks),
        *(_rule(_LEFT, up.place(at), _WIDTH - _RIGHT, up.place(at)) for at in up.ticks),
        *(_text(_LEFT - 8, up.place(at) + 4, signed(at), "end") for at in up.ticks),
    ]
    metric = answer.get("metric") or "objective"
    turned = f"translate(13 {(_TOP + bottom) / 2:.0f}) rotate(-90)"
    titles = [
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, "forward passes of a clip"),
        el(
            "text",
            f"{metric}, over CFG alone",
            text_anchor="middle",
            transform=turned,
            class_="along",
        ),
    ]
    aside = _aside([one["passes"] for one in raced])
    points = [
        _point(i, one, across.place(one["passes"]) + aside[i - 1], up, answer)
        for i, one in enumerate(raced, 1)
    ]
    return el(
        "svg", rules, titles, points, viewBox=f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}", role="img",
        aria_label=f"{metric} of all that raced, over CFG alone, against their forward passes; the"
        " table below has the numbers",
    )  # fmt: skip


def _aside(prices: Sequence[float]) -> list[float]:
    """Return how far each point is moved sideways: those of the same price, three beside each
    other."""
    seen, found = Counter[float](), list[float]()
    count = Counter(prices)
    for price in prices:
        middle = (min(count[price], _BESIDE) - 1) / 2
        found.append(_APART * (seen[price] % _BESIDE - middle))
        seen[price] += 1
    return found


def _point(place: int, one: PlainData, x: float, up: _Scale, answer: PlainData) -> list[Markup]:
    y, bar = up.place(_gain(one)), None
    low, high = one.get("difference_low"), one.get("difference_high")
    if low is not None and high is not None:
        bar = _rule(x, up.place(low), x, up.place(high), "interval")
    kind = "point" + (" chosen" if one["name"] == answer.get("use") else "")
    kind += " kept" if one.get("held_back") else ""
    title = el("title", f"{one['name']}: {signed(_gain(one))}, {number(one['passes'])} passes")
    mark = el("circle", cx=_round(x), cy=_round(y), r=10)
    label = _text(x, y + 4, str(place))
    return [el("g", title, bar, mark, label, class_=kind)]


class _Scale:
    """A linear scale over values, with ticks at round numbers."""

    def __init__(self, values: Sequence[float], start: float, end: float):
        least, most = min(values), max(values)
        room = (most - least or abs(most) or 1) * 0.08
        self.least, self.most, self.start, self.end = least - room, most + room, start, end
        step = 10 ** math.floor(math.log10((self.most - self.least) / 5))
        width = next(
            times * step
            for times in (1, 2, 5, 10)
            if (self.most - self.least) / (times * step) <= 6
        )
        first = math.ceil(self.least / width)
        self.ticks = [i * width for i in range(first, math.floor(self.most / width) + 1)]

    def place(self, value: float) -> float:
        share = (value - self.least) / (self.most - self.least)
        return self.start + share * (self.end - self.start)


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str = "rule") -> Markup:
    return el("line", x1=_round(x1), y1=_round(y1), x2=_round(x2), y2=_round(y2), class_=kind)


def _text(x: float, y: float, content: str, anchor: str = "middle") -> Markup:
    return el("text", content, x=_round(x), y=_round(y), text_anchor=anchor)


def _round(value: float) -> str:
    return f"{value:.1f}"


# --- the race -------------------------------------------------------------------------------------


def race_table(race: PlainData) -> Child:
    """Return a row per candidate, with its difference to CFG alone as a point on a line."""
    rows = sorted(race.get("candidates") or [], key=_place_in_race)
    if not rows:
        return el("p", "Nothing raced.")
    known = [one for one in rows if one.get("difference") is not None]
    least, most = _reach(known)
    is_measured = (race.get("metric") or {}).get("kind") != "none"

    def share(value: float) -> float:
        return 4 + 92 * (min(max(value, least), most) - least) / (most - least)

    heads: list[Child] = ["Candidate", _axis(least, most, share), "Difference to CFG alone",
                          "Prompts", "Passes", "How it ended"]  # fmt: skip
    shown = [
        part
        for one in rows
        for part in (_race_row(one, share, least, most, is_measured), _why(one))
    ]
    return table(heads, [row for row in shown if row is not None], class_="race")


def _place_in_race(one: PlainData) -> tuple[int, float]:
    order = {"winner": 0, "out": 2}.get(one["state"], 1)
    return order, -(one.get("difference") or 0)


def _reach(known: Sequence[PlainData]) -> tuple[float, float]:
    """Return from where to where the lines go; long intervals are cut off."""
    size = max([abs(one["difference"]) for one in known] or [1.0]) or 1.0
    lows = [one["low"] for one in known if one.get("low") is not None]
    highs = [one["high"] for one in known if one.get("high") is not None]
    values = [one["difference"] for one in known]  # which may have no interval
    least = max(min([*lows, *values, -size / 4]), -_ROOM * size)
    return least, min(max([*highs, *values, size / 4]), _ROOM * size)


def _axis(least: float, most: float, share: Any) -> Markup:
    ticks = [(least, signed(least)), (0.0, "0"), (most, signed(most))]
    marks = [el("span", text, style=f"left:{share(at):.1f}%") for at, text in ticks]
    return el("div", marks, class_="forest axis", aria_hidden="true")


def _race_row(one: PlainData, share: Any, least: float, most: float, is_measured: bool) -> Markup:
    words: list[str] = [_role(one)]
    if one.get("cell"):
        words.append(f"{one['cell']}, scale {number(one.get('scale'))}")
    start, stop = one.get("start") or 0.0, one.get("stop")
    if start > 0 or (stop is not None and stop < 1):
        words.append(f"from {number(start)} to {number(stop)} of the run")
    difference = one.get("difference")
    told = NOT_KNOWN
    if difference is not None:
        told = signed(difference) + interval(one.get("low"), one.get("high"), True)
    state: str = _STATES.get(one["state"]) or one["state"]
    if not is_measured and one["state"] == "racing":
        state = "sampled"
    if one.get("round_out"):
        state += f" in round {one['round_out']}"
    return el(
        "tr",
        el("th", one["name"], el("small", " · ".join(words)), scope="row"),
        el("td", _forest(one, share, least, most)),
        el("td", told, class_="number"),
        el("td", str(one.get("clips") or "")),
        el("td", number(one.get("passes"))),
        el("td", state),
        class_=one["state"],
    )


def _role(one: PlainData) -> str:
    """Return the place of a candidate in the race; of CFG alone what it is."""
    title = one.get("title")
    if title and title != one["name"]:
        return f"{title}, the price of STG" if one["role"] == AT_THE_SAME_PRICE else title
    return ROLES.get(one["role"], one["role"])


def _why(one: PlainData) -> Markup | None:
    """Return why a candidate went, as a row of its own below it."""
    reason = one.get("out_reason")
    if not reason:
        return None
    return el(
        "tr",
        el("td", f"It{reason[2:]}" if reason.startswith("it ") else reason, colspan=6),
        class_="why",
    )


def _forest(one: PlainData, share: Any, least: float, most: float) -> Markup:
    zero = el("s", style=f"left:{share(0):.1f}%")
    difference = one.get("difference")
    if difference is None:
        mark = el("b", class_="base", style=f"left:{share(0):.1f}%")
        kind = mark if one["role"] == BASELINE else None
        return el("div", zero, kind, class_="forest", aria_hidden="true")
    low, high = one.get("low"), one.get("high")
    start = 0 if low is None or low < least else share(low)
    end = 100 if high is None or high > most else share(high)
    return el(
        "div",
        zero,
        el("i", style=f"left:{start:.1f}%;width:{end - start:.1f}%"),
        el("b", style=f"left:{share(difference):.1f}%"),
        class_="forest",
        aria_hidden="true",
    )
