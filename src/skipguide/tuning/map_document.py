"""The map of a model's layers as plain data: map.json, and the rows of map.csv.

The names in map.json are stable (docs/layer-map.md): the studio and the ComfyUI pack draw the map
from it. Numbers that are not known are null."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from skipguide.method.protocols import PlainData
from skipguide.tuning import ranking
from skipguide.tuning.scan_record import Cell, Floats

if TYPE_CHECKING:
    from skipguide.tuning.layer_map import LayerMap

FORMAT = "skipguide layer map 1"
TITLES = {
    "ratio": "length of the push, |c - p| / |c|",
    "hf": "share of high frequencies in the push",
    "cos_c": "cosine of the push and c",
    "cos_cfg": "cosine of the push and c - u",
}
_FACTS = ("family", "denoiser", "depth", "width", "outputs", "prompts", "levels", "num_places")
_OF_CELL = ("score", "rank", "rank_low", "rank_high", "first")
_COST = ("forwards", "seconds_strong", "seconds_weak")
_DIGITS = 6


def title_of(quantity: str) -> str:
    """Return what a quantity is, in words; those of a sound begin with "audio_"."""
    name = quantity.removeprefix("audio_")
    return TITLES[name] if name == quantity else f"{TITLES[name]}, of the sound"


def write(found: LayerMap) -> str:
    """Return a map as the text of map.json."""
    document = {
        "format": FORMAT,
        **{name: _plain(getattr(found, name)) for name in _FACTS},
        **{name: _plain(getattr(found, name)) for name in _COST},
        "thresholds": {
            "idle": ranking.IDLE,
            "broken": ranking.BROKEN,
            "edge": ranking.EDGE,
            "same_way": ranking.SAME_WAY,
        },
        "quantities": {name: title_of(name) for name in found.means},
        "shortlist": [cell.name for cell in found.shortlist()],
        "cells": [_cell(found, k) for k in range(len(found.cells))],
        "gram": [[_plain(value) for value in row] for row in found.gram],
    }
    return json.dumps(document, indent=1) + "\n"


def _cell(found: LayerMap, k: int) -> PlainData:
    return {
        **found.cells[k].to_dict(),
        "name": found.cells[k].name,
        "place": _plain(found.places[k]),
        "cost": _plain(found.costs[k]),
        "kind": found.kinds[k],
        "cluster": int(found.clusters[k]),
        **{name: _plain(getattr(found, name)[k]) for name in _OF_CELL},
        "quantities": {
            name: {
                "mean": _plain(found.means[name][k]),
                "low": _plain(found.lows[name][k]),
                "high": _plain(found.highs[name][k]),
                "levels": [_plain(value) for value in found.by_level[name][k]],
            }
            for name in found.means
        },
    }


def _plain(value: Any) -> Any:
    """Return a number as JSON has it: null for nan, six digits, whole numbers as such."""
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, str | int) or value is None:
        return value
    number = float(value)
    if not math.isfinite(number):
        return None
    rounded = float(f"{number:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def read(text: str) -> dict[str, Any]:
    """Return the fields of a LayerMap from the text of map.json.

    Raises:
        ValueError: for something else.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"a map of layers must be JSON, but {error}. Write it again: skipguide layers --map."
        ) from error
    came = document.get("format") if isinstance(document, dict) else None
    if came != FORMAT:
        raise ValueError(
            f"a map of layers must have the format {FORMAT!r}, but got {came!r}. Write it again"
            " with this version: skipguide layers --map."
        )
    cells = document["cells"]
    names = list(document["quantities"])

    def quantities(part: str) -> dict[str, Floats]:
        return {name: _array([row["quantities"][name][part] for row in cells]) for name in names}

    facts = {name: document[name] for name in (*_FACTS, *_COST)}
    return {
        **facts,
        "outputs": tuple(facts["outputs"]),
        "levels": tuple(facts["levels"]),
        "cells": tuple(map(Cell.from_dict, cells)),
        "places": _array([row["place"] for row in cells]),
        "costs": _array([row["cost"] for row in cells]),
        "kinds": tuple(row["kind"] for row in cells),
        "clusters": np.array([row["cluster"] for row in cells], np.int64),
        **{name: _array([row[name] for row in cells]) for name in _OF_CELL},
        "means": quantities("mean"),
        "lows": quantities("low"),
        "highs": quantities("high"),
        "by_level": quantities("levels"),
        "gram": _array(document["gram"]),
    }


def _array(values: Any) -> Floats:
    return np.array(values, np.float64)  # None becomes nan


def rows(found: LayerMap) -> list[PlainData]:
    """Return one row for each cell, in the order of the model, for map.csv."""
    return [_row(found, k) for k in range(len(found.cells))]


def _row(found: LayerMap, k: int) -> PlainData:
    cell = _cell(found, k)
    quantities = cell.pop("quantities")
    flat = {}
    for name, parts in quantities.items():
        flat |= {name: parts["mean"], f"{name}_low": parts["low"], f"{name}_high": parts["high"]}
    return {**cell, **flat}
