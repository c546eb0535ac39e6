"""Draw the map of a model's layers: a heat map for each quantity, layers along, skips across.

Cells that are left out are hatched, and the shortlist is framed, with its ranks in the first
panel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skipguide.tuning.scan import ranking
from skipguide.tuning.scan.layer_map import LayerMap
from skipguide.tuning.scan.record import Cell, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 130
# Quantity -> (title, colours); those that have two signs are white at 0.
PANELS = {
    "score": ("score, from the ranks of hf, \u2212cos(d, c) and nearness to the middle", "viridis"),
    "first_three": ("chance of being among the first three", "Blues"),
    "ratio": ("length of the push |d| / |c|,  d = c \u2212 p", "cividis"),
    "hf": ("hf: share of d in the upper half of the spatial frequencies", "cividis"),
    "cos_c": ("cos(d, c)", "RdBu_r"),
    "cos_cfg": ("cos(d, c \u2212 u), the direction of CFG", "RdBu_r"),
    "cost": ("cost of the weak pass, in forward passes", "Greys"),
}
_TWO_SIGNS = ("cos_c", "cos_cfg", "audio_cos_c", "audio_cos_cfg")
_HATCHES = {"idle": "....", "broken": "xxxx", "edge": "////"}
_KIND_WORDS = {
    "idle": f"idle: |d| < {ranking.IDLE} |c|",
    "broken": f"broken: |d| > {ranking.BROKEN} |c|",
    "edge": "first two layers",
}
_NUMBER: dict[str, Any] = {
    "ha": "center", "va": "center", "fontsize": 8, "fontweight": "bold",
    "bbox": {"boxstyle": "circle,pad=0.12", "color": "white", "alpha": 0.85},
}  # fmt: skip
_MOST_LABELS = 32  # layers that are named along the axis


def save(figure: Figure, path: Path) -> None:
    """Save a figure as PNG, the same bytes for the same map."""
    figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})


def draw(found: LayerMap) -> Figure:
    """Draw a map."""
    from matplotlib.figure import Figure  # without pyplot there is no state and no window

    lanes = _lanes(found)
    layers = list(dict.fromkeys(cell.layer for cell in found.cells))
    names = [name for name in _quantities(found) if not np.isnan(_values(found, name)).all()]
    width = min(max(7.5, 0.27 * len(layers) + 3.2), 22.0)
    height = (0.3 if len(lanes) > 1 else 0.42) * len(lanes) + 0.55
    figure = Figure(figsize=(width, height * len(names) + 1.7), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axis, name in zip(panels, names, strict=True):
        _draw_quantity(figure, axis, found, name, layers, lanes)
    _name_layers(panels[-1], layers)
    figure.suptitle(_title(found), fontsize=10, x=0.01, ha="left")
    _explain(figure, found)
    return figure


def _quantities(found: LayerMap) -> list[str]:
    sound = [name for name in found.means if name.startswith("audio_")]
    measured = [name for name in PANELS if name in found.means]
    return ["score", "first_three", *measured, *sound, "cost"]


def _values(found: LayerMap, name: str) -> Floats:
    own = {"score": found.score, "first_three": found.first_three, "cost": found.costs}
    known = {**own, **found.means}
    return np.where(np.isfinite(known[name]), known[name], np.nan)


def _lanes(found: LayerMap) -> list[tuple[str, str | None]]:
    """Return the rows of the heat maps: each kind of skip, and in it each axis."""
    return list(dict.fromkeys((cell.skip, cell.axis) for cell in found.cells))


def _place(cell: Cell, layers: Sequence[str], lanes: Sequence[tuple[str, str | None]]) -> Any:
    return lanes.index((cell.skip, cell.axis)), layers.index(cell.layer)


def _title(found: LayerMap) -> str:
    prompts = f"{found.prompts} prompt{'s' * (found.prompts > 1)}"
    levels = ", ".join(f"{level:g}" for level in found.levels)
    spent = f"{found.forwards:.0f} forward passes"
    return (
        f"{found.family}, {found.depth} blocks: what skipping each layer pushes\n"
        f"{prompts}, noise shares {levels}, {spent}\n"
        "a ranking with its uncertainty, not a verdict"
    )


def _lane_name(lane: tuple[str, str | None]) -> str:
    return " ".join(filter(None, lane))


def _draw_quantity(
    figure: Figure, axis: Axes, found: LayerMap, name: str, layers: Sequence[str],
    lanes: Sequence[tuple[str, str | None]],
) -> None:  # fmt: skip
    title, colours = PANELS.get(name) or _sound_panel(name)
    grid = np.full((len(lanes), len(layers)), np.nan)
    values = _values(found, name)
    for k, cell in enumerate(found.cells):
        grid[_place(cell, layers, lanes)] = values[k]
    low, high = _colour_range(name, values)
    image = axis.imshow(grid, cmap=colours, vmin=low, vmax=high, aspect="auto")
    bar = figure.colorbar(image, ax=axis, pad=0.012, fraction=0.03, aspect=12)
    bar.ax.tick_params(labelsize=6.5)
    bar.outline.set_visible(False)  # type: ignore[operator]
    axis.set_title(title, fontsize=9, loc="left", pad=3)
    axis.set_yticks(range(len(lanes)), [_lane_name(lane) for lane in lanes], fontsize=7)
    axis.tick_params(length=0)
    axis.set_xticks(np.arange(-0.5, len(layers)), minor=True)
    axis.set_yticks(np.arange(-0.5, len(lanes)), minor=True)
    axis.grid(which="minor", color="white", linewidth=0.8)
    axis.tick_params(which="minor", length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    _mark(axis, found, layers, lanes, numbered=name == "score")


def _sound_panel(name: str) -> tuple[str, str]:
    title, colours = PANELS[name.removeprefix("audio_")]
    return f"{title}, of the sound", colours


def _colour_range(name: str, values: Floats) -> tuple[float, float]:
    """Return the ends of the colours; a few extreme cells do not flatten the others."""
    known = values[~np.isnan(values)]
    if name in _TWO_SIGNS:
        end = float(max(np.abs(known).max(), 0.05))
        return -end, end
    if name in ("cost", "first_three"):
        return 0.0, 1.0
    low, high = (float(v) for v in np.quantile(known, (0.02, 0.98)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _mark(
    axis: Axes, found: LayerMap, layers: Sequence[str], lanes: Sequence[tuple[str, str | None]],
    numbered: bool,
) -> None:  # fmt: skip
    """Hatch what is left out, and frame the shortlist; in one panel its ranks stand in it."""
    from matplotlib.patches import Rectangle

    shortlist = found.shortlist()
    for k, cell in enumerate(found.cells):
        row, column = _place(cell, layers, lanes)
        corner = (column - 0.5, row - 0.5)
        if found.kinds[k]:
            axis.add_patch(
                Rectangle(corner, 1, 1, fill=False, hatch=_HATCHES[found.kinds[k]],
                          edgecolor="0.25", linewidth=0, alpha=0.7)
            )  # fmt: skip
        if cell in shortlist:
            axis.add_patch(
                Rectangle(corner, 1, 1, fill=False, edgecolor="crimson", linewidth=2, zorder=5)
            )
        if numbered and cell in shortlist:
            axis.text(column, row, f"{found.rank[k]:.0f}", color="crimson", zorder=6, **_NUMBER)


def _name_layers(axis: Axes, layers: Sequence[str]) -> None:
    every = -(-len(layers) // _MOST_LABELS)
    at = list(range(0, len(layers), every))
    stacks = {layer.partition(":")[0] for layer in layers if ":" in layer}
    short = len(stacks) <= 1
    names = [layers[k].rpartition(":")[2] if short else layers[k] for k in at]
    axis.set_xticks(at, names, fontsize=7.5, rotation=0 if short else 60)
    axis.set_xlabel(f"layer ({next(iter(stacks))}:)" if short and stacks else "layer", fontsize=9)


def _explain(figure: Figure, found: LayerMap) -> None:
    """Write below what the marks mean."""
    from matplotlib.patches import Patch

    there = [kind for kind in _HATCHES if kind in found.kinds]
    marks = [Patch(facecolor="white", edgecolor="crimson", linewidth=2, label="shortlist")]
    marks += [
        Patch(facecolor="white", edgecolor="0.25", hatch=_HATCHES[kind],
              label=f"left out: {_KIND_WORDS[kind]}")
        for kind in there
    ]  # fmt: skip
    figure.legend(
        handles=marks, loc="outside lower left", ncols=len(marks), fontsize=8, frameon=False
    )
