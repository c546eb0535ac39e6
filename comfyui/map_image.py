"""The map of a model's layers as a picture and as a table, with what ComfyUI has: numpy and PIL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ._skipguide.tuning.scan.layer_map import LayerMap
from ._skipguide.tuning.scan.record import Cell, Floats

# Quantity -> what it is; those that have two signs are white at 0.
PANELS = {
    "score": "score: mean rank of hf, -cos(d, c) and nearness to the middle (bright is better)",
    "ratio": "length of the push |d| / |c|, d = c - p",
    "hf": "hf: share of d in the upper half of the spatial frequencies",
    "cos_c": "cos(d, c)",
    "cos_cfg": "cos(d, c - u)",
}
_SIGNED = ("cos_c", "cos_cfg")
_CELL, _ROW, _LEFT, _TOP = 22, 22, 96, 46  # pixels
_DARK, _BRIGHT = np.array([68, 1, 84]), np.array([253, 231, 37])
_BLUE, _WHITE, _RED = np.array([59, 76, 192]), np.array([245, 245, 245]), np.array([180, 4, 38])
_GREY = (128, 128, 128)
_COLUMNS = ("rank", "95 %", "cell", "score", "|d|/|c|", "hf", "cos c", "cos cfg", "cost", "")


def draw(found: LayerMap) -> torch.Tensor:
    """Return the picture of a map as ComfyUI has pictures: `(1, H, W, 3)` from 0 to 1.

    The first three of the shortlist are framed; what is left out has a cross.
    """
    layers = list(dict.fromkeys(cell.layer for cell in found.cells))
    lanes = list(dict.fromkeys(cell.skip for cell in found.cells))
    names = [name for name in PANELS if not np.isnan(_values(found, name)).all()]
    height = _TOP + len(names) * (len(lanes) * _ROW + 40) + 30
    width = max(_LEFT + len(layers) * _CELL + 20, 640)
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    _write(pen, (10, 8), title(found), 14)
    top = _TOP
    for name in names:
        _write(pen, (10, top), _with_range(found, name), 12)
        _draw_panel(pen, found, name, layers, lanes, top + 18)
        top += len(lanes) * _ROW + 40
    for column in range(0, len(layers), max(1, len(layers) // 24)):
        number = layers[column].rpartition(":")[2]
        _write(pen, (_LEFT + column * _CELL + 4, top - 16), number, 11)
    return torch.from_numpy(np.asarray(image, np.float32) / 255)[None]


def _draw_panel(
    pen: ImageDraw.ImageDraw, found: LayerMap, name: str, layers: list[str], lanes: list[str],
    top: int,
) -> None:  # fmt: skip
    values, first = _values(found, name), found.shortlist()
    low, high = _limits(values, name)
    for lane, skip in enumerate(lanes):
        _write(pen, (10, top + lane * _ROW + 4), skip, 12)
    for number, cell in enumerate(found.cells):
        left = _LEFT + layers.index(cell.layer) * _CELL
        upper = top + lanes.index(cell.skip) * _ROW
        box = (left, upper, left + _CELL - 2, upper + _ROW - 2)
        pen.rectangle(box, fill=_colour(values[number], low, high, name in _SIGNED))
        if found.kinds[number]:
            pen.line(box, fill=_GREY, width=2)
            pen.line((box[0], box[3], box[2], box[1]), fill=_GREY, width=2)
        if cell in first:
            pen.rectangle(box, outline=(0, 0, 0), width=3)


def _write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int) -> None:
    pen.text(at, text, fill="black", font=ImageFont.load_default(size))


def _with_range(found: LayerMap, name: str) -> str:
    low, high = _limits(_values(found, name), name)
    return f"{PANELS[name]}: {low:.3g} to {high:.3g}"


def _values(found: LayerMap, name: str) -> Floats:
    values = found.score if name == "score" else found.means[name]
    return np.where(np.isfinite(values), values, np.nan)


def _limits(values: Floats, name: str) -> tuple[float, float]:
    if name in _SIGNED:
        far = float(np.nanmax(np.abs(values))) or 1.0
        return -far, far
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return low, high if high > low else low + 1.0


def _colour(value: float, low: float, high: float, signed: bool) -> tuple[int, ...]:
    if not np.isfinite(value):
        return _GREY
    place = (value - low) / (high - low)
    if not signed:
        mixed = _DARK + place * (_BRIGHT - _DARK)
    elif place < 0.5:
        mixed = _BLUE + 2 * place * (_WHITE - _BLUE)
    else:
        mixed = _WHITE + (2 * place - 1) * (_RED - _WHITE)
    return tuple(int(part) for part in mixed)


def title(found: LayerMap) -> str:
    """Return what was scanned, in one line."""
    levels = ", ".join(f"{level:g}" for level in found.levels)
    runs = "trajectory" if found.prompts == 1 else "trajectories"
    return (
        f"{found.family}: {len(found.cells)} cells, {found.prompts} {runs}, noise {levels};"
        f" {found.forwards:.1f} forward passes"
    )


def table(found: LayerMap) -> str:
    """Return the map as lines of text, the best first; a ranking and no verdict."""
    rows = [_COLUMNS, *(_row(found, number) for number in found.order)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([title(found), *lines])


def _row(found: LayerMap, number: int) -> tuple[str, ...]:
    rank, low, high = (
        float(values[number]) for values in (found.rank, found.rank_low, found.rank_high)
    )
    return (
        "" if np.isnan(rank) else f"{rank:.0f}",
        "" if np.isnan(low) else f"{low:.0f}-{high:.0f}",
        found.cells[number].name,
        *(_shown(_values(found, name)[number]) for name in PANELS),
        _shown(found.costs[number]),
        found.kinds[number],
    )


def _shown(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def describe_shortlist(cells: Sequence[Cell]) -> str:
    """Return the shortlist as lines: the layer as nodes take it, and the kind of skip."""
    return "\n".join(f"{cell.layer} {cell.skip}" for cell in cells)
