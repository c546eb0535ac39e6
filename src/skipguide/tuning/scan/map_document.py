"""The map of a model's layers as plain data: map.json, and the rows of map.csv.

The names in map.json are stable (docs/layer-map.md): the studio and the ComfyUI pack draw the map
from it. Numbers that are not known are null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from skipguide.method.protocols import PlainData
from skipguide.tuning.scan import ranking
from skipguide.tuning.scan.record import Cell, Floats

if TYPE_CHECKING:
    from skipguide.tuning.scan.layer_map import LayerMap

KIND, FORMAT = "layer map", 1
# What the quantities of a cell are, and what counts as better in the score.
QUANTITY_WORDS = {
    "score": ("mean of the ranks of hf, -cos_c and the nearness to the middle", "higher"),
    "ratio": ("length of the push, |c - p| / |c|", None),
    "hf": ("share of the push in the upper half of the spatial frequencies", "higher"),
    "cos_c": ("cosine of the push c - p and the prediction c", "lower"),
    "cos_cfg": ("cosine of the push c - p and the direction of CFG, c - u", None),
    "cost": ("cost of the weak pass, in forward passes", "lower"),
}
_FACTS = ("family", "denoiser", "depth", "width", "outputs", "prompts", "levels", "num_places")
_RANKS = ("rank", "rank_low", "rank_high", "first_three")
# Where ranks are shown beside a shortlist.
RULE = (
    "The shortlist takes cells by rank, but one alone of those that push the same way, and none"
    " that would give a cell of it a second neighbour, unless too few are left."
)
COST = ("forwards", "seconds_strong", "seconds_weak")
_DIGITS = 6


def describe(quantity: str) -> str:
    """Return what a quantity is; those of a sound begin with "audio_"."""
    name = quantity.removeprefix("audio_")
    words = QUANTITY_WORDS[name][0]
    return words if name == quantity else f"{words}; of the sound"


def _quantity(name: str) -> PlainData:
    better = QUANTITY_WORDS[name][1] if name in QUANTITY_WORDS else None
    return {"name": name, "what": describe(name), "better": better}


def write(found: LayerMap) -> str:
    """Return a map as the text of map.json."""
    document = {
        "kind": KIND,
        "format": FORMAT,
        **{name: _plain(getattr(found, name)) for name in (*_FACTS, *COST)},
        "thresholds": {
            "idle": ranking.IDLE,
            "broken": ranking.BROKEN,
            "edge": ranking.EDGE,
            "same_way": ranking.SAME_WAY,
        },
        "quantities": [_quantity(name) for name in ("score", *found.means, "cost")],
        "shortlist_rule": RULE,
        "shortlist": [cell.name for cell in found.shortlist()],
        "cells": [_cell(found, k, found.passed_over()) for k in range(len(found.cells))],
        "gram": [[_plain(value) for value in row] for row in found.gram],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _cell(found: LayerMap, k: int, passed: Mapping[str, str]) -> PlainData:
    values = {name: _plain(array[k]) for name, array in found.means.items()}
    return {
        "name": found.cells[k].name,
        **found.cells[k].to_dict(),
        "place": _plain(found.places[k]),
        "kind": found.kinds[k],
        "cluster": int(found.clusters[k]),
        "passed_over": passed.get(found.cells[k].name, ""),  # by the shortlist, and why
        **{name: _plain(getattr(found, name)[k]) for name in _RANKS},
        "values": {"score": _plain(found.score[k]), **values, "cost": _plain(found.costs[k])},
        "intervals": {
            name: [_plain(found.lows[name][k]), _plain(found.highs[name][k])]
            for name in found.means
        },
        "levels": {
            name: [_plain(value) for value in array[k]] for name, array in found.by_level.items()
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
    came = document if isinstance(document, dict) else {}
    if (came.get("kind"), came.get("format")) != (KIND, FORMAT):
        raise ValueError(
            f"a map of layers must have the kind {KIND!r} and the format {FORMAT}, but got"
            f" {came.get('kind')!r} and {came.get('format')!r}. Write it again with this version:"
            " skipguide layers --map."
        )
    cells = document["cells"]
    listed = [row["name"] for row in document["quantities"]]
    names = [name for name in listed if name not in ("score", "cost")]

    def values(name: str) -> Floats:
        return _array([row["values"][name] for row in cells])

    def ends(side: int) -> dict[str, Floats]:
        return {name: _array([row["intervals"][name][side] for row in cells]) for name in names}

    facts = {name: document[name] for name in (*_FACTS, *COST)}
    return {
        **facts,
        "outputs": tuple(facts["outputs"]),
        "levels": tuple(facts["levels"]),
        "cells": tuple(map(Cell.from_dict, cells)),
        "places": _array([row["place"] for row in cells]),
        "costs": values("cost"),
        "score": values("score"),
        "kinds": tuple(row["kind"] for row in cells),
        "clusters": np.array([row["cluster"] for row in cells], np.int64),
        **{name: _array([row[name] for row in cells]) for name in _RANKS},
        "means": {name: values(name) for name in names},
        "lows": ends(0),
        "highs": ends(1),
        "by_level": {name: _array([row["levels"][name] for row in cells]) for name in names},
        "gram": _array(document["gram"]),
    }


def _array(values: Any) -> Floats:
    return np.array(values, np.float64)  # None becomes nan


def rows(found: LayerMap) -> list[PlainData]:
    """Return one row for each cell, in the order of the model, for map.csv."""
    return [_row(found, k) for k in range(len(found.cells))]


def _row(found: LayerMap, k: int) -> PlainData:
    cell = _cell(found, k, found.passed_over())
    values, intervals = cell.pop("values"), cell.pop("intervals")
    del cell["levels"]
    for name, (low, high) in intervals.items():
        values |= {f"{name}_low": low, f"{name}_high": high}
    return {**cell, **values}
