"""Published settings: the presets of the library that are for a model of ComfyUI."""

from __future__ import annotations

import functools

from ._skipguide.families import presets
from ._skipguide.families.presets import Preset
from ._skipguide.method.terms import Bin, Schedule
from .models import FAMILIES, BlockChain, ComfyFamily
from .node_request import read_layers


@functools.cache
def published_presets() -> dict[str, Preset]:
    """Return the rows for models of ComfyUI, by name; those of the lab's models are left out."""
    return {
        row.name: row
        for row in presets.load_presets()
        if not row.name.startswith("lab-")
        and any(_is_for(row, family) for family in FAMILIES.values())
    }


def _is_for(row: Preset, of: ComfyFamily | BlockChain) -> bool:
    return not {*row.pipelines, row.model}.isdisjoint(of.published_as)


def preset_names(kind: str, scheduled: bool = False) -> list[str]:
    """Return the names of the presets of a kind, "stg" or "slg", with or without a schedule."""
    rows = published_presets().values()
    return [row.name for row in rows if row.kind == kind and bool(row.schedule) == scheduled]


def presets_for(chain: BlockChain) -> list[Preset]:
    """Return the rows that were published for just this model."""
    return [
        row
        for row in published_presets().values()
        if _is_for(row, chain) and presets.fits_size(row, chain.depth, chain.width, chain.config)
    ]


def recommended_preset(chain: BlockChain, kind: str, scheduled: bool = False) -> Preset:
    """Return the row that is recommended for a model.

    Raises:
        ValueError: if there is none, or if it needs the other node.
    """
    rows = [row for row in presets_for(chain) if row.recommended and row.kind == kind]
    row = presets.best_preset(rows, chain.depth, chain.width, chain.config)
    if row is None:
        raise ValueError(
            "this choice needs a published setting for the model, but none is known for"
            f" {chain.describe()}. Choose custom."
        )
    if bool(row.schedule) != scheduled:
        node = "Skip Guidance Schedule" if row.schedule else "Spatiotemporal Skip Guidance"
        raise ValueError(
            f"the published setting for {chain.describe()} is {row.name}, which needs the node"
            f" {node}. Use that node."
        )
    return row


def named_preset(name: str, chain: BlockChain) -> Preset:
    """Return a row by name.

    Raises:
        ValueError: if it is for another model.
    """
    row = published_presets()[name]
    if row not in presets_for(chain):
        raise ValueError(
            f"preset {name} is for {row.model}, {row.depth} blocks, but this model is"
            f" {chain.describe()}. Choose another preset, or custom."
        )
    return row


def preset_schedule(row: Preset) -> Schedule:
    """Return the schedule of a row."""
    bins = [{**entry, "layers": read_layers(entry.get("layers", ()))} for entry in row.schedule]
    return Schedule([Bin(**entry) for entry in bins], source=row.source)
