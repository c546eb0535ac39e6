"""The proof of `skipguide tune` in one piece: reliability, power, honesty, and what a scan costs.

It reads what is in docs/paper and docs/tune, so that its numbers need no model: published clips,
and the layer maps that `skipguide layers --map` made of the models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from skipguide.method.terms import explicit_layers
from skipguide.paper import tune_power
from skipguide.paper.tune_maps import (
    OBJECTIVES,
    CellMap,
    frechet_reliability,
    load_maps,
)
from skipguide.paper.tune_power import Honesty, Power
from skipguide.stats.reliability import Reliability, reliability
from skipguide.tuning.plan import budget
from skipguide.tuning.scan.layer_map import LayerMap

ENOUGH = 0.6  # reliability from which on a map is a truth to hold a choice against
HONEST_PROMPTS = (96,)  # of a simulated tuning, a third of which is kept back
# a mean log likelihood is carried by a few clips: docs/decisions/089
HONEST_OBJECTIVES = ("right", "probability")


@dataclass(frozen=True)
class MapReliability:
    """The reliability of one measure of one map."""

    map: CellMap
    measure: str
    found: Reliability


@dataclass(frozen=True)
class ScanCost:
    """The cost of a scan of a model.

    Args:
        forwards: forward passes on the weak passes of one state, of all cells.
        ratios: by skip, what the weak passes of its cells cost together, over (L - 1) / 2. A block
            that is skipped runs nothing of itself, one whose attention is replaced the rest of it:
            L more halves at most.
    """

    path: Path
    map: LayerMap
    forwards: float
    ratios: dict[str, float]


@dataclass(frozen=True)
class Proof:
    """The whole proof: reliability, power, honesty, and the costs of scans."""

    reliabilities: tuple[MapReliability, ...]
    powers: tuple[Power, ...]
    honesties: tuple[Honesty, ...]
    costs: tuple[ScanCost, ...]


def measure_reliabilities(docs: Path, maps: Sequence[CellMap]) -> Iterator[MapReliability]:
    """Yield the reliability of every measure of every map."""
    for one in maps:
        for objective in OBJECTIVES:
            yield MapReliability(one, objective, reliability(one.differences(objective)))
        if (found := frechet_reliability(docs, one)) is not None:
            yield MapReliability(one, "frechet", found)


# --- scans ----------------------------------------------------------------------------------------


def scan_path(docs: Path, one: CellMap) -> Path:
    """Return where the layer map of a scan is: of the same model at the same guidance scale."""
    return docs / "tune" / f"{one.model}-cfg-{one.base.guidance_scale:g}-map.json"


def load_scan(docs: Path, one: CellMap) -> LayerMap | None:
    """Load the scan that belongs to an exhaustive map, if it is there."""
    path = scan_path(docs, one)
    return LayerMap.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def shortlist(scan: LayerMap, one: CellMap, most: int = budget.SHORTLIST) -> list[int]:
    """Return the numbers of the cells of an exhaustive map that a scan would race, best first.

    Raises:
        ValueError: for a scan of other layers.
    """
    known = {}
    for number, row in enumerate(one.cells):
        term = row.terms[0]
        known[str(explicit_layers(term)[0]), term.skip] = number
    found = []
    for cell in scan.shortlist(most):
        key = (cell.layer.removeprefix("blocks:"), cell.skip)
        if cell.axis is not None or key not in known:
            raise ValueError(
                f"a scan must be of the cells of {one.title}, but has {cell.name}. Make it with"
                " --skips residual,attention --axes joint."
            )
        found.append(known[key])
    return found


def scan_costs(docs: Path, maps: Sequence[CellMap]) -> Iterator[ScanCost]:
    """Yield the cost of every scan that is there."""
    for path, one in {scan_path(docs, one): one for one in maps}.items():
        if (scan := load_scan(docs, one)) is not None:
            least = (scan.num_places - 1) / 2
            ratios: dict[str, float] = {}
            for cell, cost in zip(scan.cells, scan.costs.tolist(), strict=True):
                ratios[cell.skip] = ratios.get(cell.skip, 0.0) + cost / least
            states = scan.prompts * len(scan.levels)
            yield ScanCost(path, scan, scan.forwards / states, ratios)


# --- all of it ------------------------------------------------------------------------------------


def prove(docs: Path, models: Sequence[str], repeats: int) -> Proof:
    """Measure everything.

    Args:
        models: their names.

    Raises:
        ValueError: if there are no clips of them.
    """
    maps = [one for one in load_maps(docs) if one.model in models]
    reliabilities = tuple(measure_reliabilities(docs, maps))
    scanned = [(one, scan) for one in maps if (scan := load_scan(docs, one)) is not None]
    lists = [(one, shortlist(scan, one)) for one, scan in scanned]
    known = {(one.map.title, one.measure): one.found.best for one in reliabilities}
    return Proof(
        reliabilities,
        tuple(
            tune_power.power(one, objective, cells, repeats)
            for one, cells in lists
            for objective in OBJECTIVES
            if known[one.title, objective] >= ENOUGH
        ),
        tuple(
            tune_power.honesty(one, objective, cells, prompts, truth, repeats)
            for truth in tune_power.TRUTHS
            for one, cells in lists
            for objective in HONEST_OBJECTIVES
            if (objective, truth) != ("right", "centred")  # these values must stay 0 and 1
            for prompts in HONEST_PROMPTS
        ),
        tuple(scan_costs(docs, maps)),
    )
