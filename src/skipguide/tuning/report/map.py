"""The map of the layers in the report: a shade per cell, and the first cells with their ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from skipguide.method.protocols import PlainData
from skipguide.tuning.report.html import (
    CROSS,
    NOT_KNOWN,
    Child,
    Markup,
    el,
    interval,
    number,
    table,
    told_cells,
)
from skipguide.tuning.scan.map_document import RULE

_FIRST = 8
_SHADES = 5
_KINDS: Mapping[str, str] = {
    "idle": "idle: skipping it changes next to nothing",
    "broken": "broken: skipping it changes nearly all",
    "edge": "edge: one of the first layers",
}


def layer_map(found: PlainData) -> Child:
    """Return the map by score, the first cells, and a map of each other quantity."""
    first, *others = found["quantities"]
    return [
        el("p", el("b", "A ranking, not a verdict. "), _about(found)),
        _heat_map(found, first),
        _legend(found),
        _first_cells(found),
        el(
            "details",
            el("summary", "The map of each other quantity"),
            [[el("h3", f"{one['name']}: {one['what']}"), _heat_map(found, one)] for one in others],
        ),
    ]


def _about(found: PlainData) -> str:
    prompts, levels = found["prompts"], len(found["levels"])
    spent = found.get("forwards")
    cost = f" Its weak passes took {spent:,.0f} forward passes." if spent else ""
    return (
        f"Each cell skips one layer of {found['denoiser']} on {prompts}"
        f" prompt{'s' * (prompts != 1)} at {levels} noise level{'s' * (levels != 1)} of the model's"
        f" own trajectories, and looks at what changes.{cost} It ranks layers and proves nothing:"
        " held against exhaustive searches, its first cells were among the best on some models and"
        " no better than the middle layer on another. That is why they raced."
    )


def _heat_map(found: PlainData, quantity: PlainData) -> list[Markup]:
    name = quantity["name"]
    counted = [
        value
        for cell in found["cells"]
        if not cell["kind"] and (value := cell["values"].get(name)) is not None
    ]
    least, most = (min(counted), max(counted)) if counted else (0.0, 0.0)

    def shade(value: float) -> int:
        share = (min(max(value, least), most) - least) / (most - least) if most > least else 0.5
        return round(share * (_SHADES - 1))

    return [_stack(stack, cells, name, shade, found) for stack, cells in _stacks(found).items()]


def _stacks(found: PlainData) -> dict[str, list[PlainData]]:
    stacks: dict[str, list[PlainData]] = {}
    for cell in found["cells"]:
        stack = cell["layer"].rpartition(":")[0] if cell["layer"].count(":") == 1 else ""
        stacks.setdefault(stack, []).append(cell)
    return stacks


def _stack(
    stack: str,
    cells: Sequence[PlainData],
    name: str,
    shade: Callable[[float], int],
    found: PlainData,
) -> Markup:
    def layer(cell: PlainData) -> str:
        return cell["layer"].removeprefix(f"{stack}:")

    def way(cell: PlainData) -> str:
        return " ".join(filter(None, (cell["skip"], cell["axis"])))

    layers, ways = dict.fromkeys(map(layer, cells)), dict.fromkeys(map(way, cells))
    at = {(layer(cell), way(cell)): cell for cell in cells}
    rows = [
        el("tr", el("th", one, scope="row"),
           [el("td", _mark(at.get((number, one)), name, shade, found)) for number in layers])
        for one in ways
    ]  # fmt: skip
    return table([stack or "layer", *layers], rows, class_="heat")


def _mark(
    cell: PlainData | None, name: str, shade: Callable[[float], int], found: PlainData
) -> Markup | None:
    if cell is None:
        return None
    value = cell["values"].get(name)
    kind = "unknown" if value is None else f"shade-{shade(value)}"
    place = found["shortlist"].index(cell["name"]) + 1 if cell["name"] in found["shortlist"] else 0
    rank = "left out" if cell["rank"] is None else f"rank {number(cell['rank'])}"
    said = f"{cell['name']}: {name} {number(value)}, {_KINDS.get(cell['kind'], rank)}"
    text = el("b", str(place)) if place else CROSS if cell["kind"] == "broken" else None
    classes = f"{kind} {cell['kind']}{' listed' if place else ''}".strip()
    return el("div", text, class_=classes, title=said)


def _legend(found: PlainData) -> Markup:
    kinds = [kind for kind in _KINDS if any(cell["kind"] == kind for cell in found["cells"])]
    return el(
        "p",
        el("span", "low ", [el("i", class_=f"shade-{i}") for i in range(_SHADES)], " high"),
        el("span", el("i", el("b", "1"), class_="shade-2 listed"), " the shortlist, in its order"),
        [
            el("span", el("i", CROSS if kind == "broken" else "", class_=f"shade-1 {kind}"), " ",
               _KINDS[kind])
            for kind in kinds
        ],
        class_="legend",
    )  # fmt: skip


def _first_cells(found: PlainData) -> list[Markup]:
    ranked = sorted(
        (cell for cell in found["cells"] if cell["rank"] is not None), key=lambda cell: cell["rank"]
    )
    names = [one["name"] for one in found["quantities"]]
    heads = ["First cells", f"Rank of {len(ranked)}", "Among the first three", *names]

    def row(cell: PlainData) -> Markup:
        mark = "shortlist" if cell["name"] in found["shortlist"] else cell.get("passed_over")
        listed = el("small", mark) if mark else None
        chance = cell["first_three"]
        texts = [
            number(cell["rank"]) + interval(cell["rank_low"], cell["rank_high"]),
            NOT_KNOWN if chance is None else f"{chance:.0%}",
            *(number(cell["values"].get(name)) for name in names),
        ]
        head = el("th", cell["name"], listed, scope="row")
        return el("tr", head, told_cells(heads[1:], texts))

    return [el("p", RULE), table(heads, map(row, ranked[:_FIRST]), class_="told")]
