"""The map of a model's layers: a rank of the cells with its uncertainty, out of a few scans.

It is a ranking and no verdict: held against exhaustive searches, its first cells were among the
best on some models and no better than the middle layer on another (docs/tune.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipguide.method.protocols import PlainData
from skipguide.stats import quantiles
from skipguide.tuning.scan import map_document, ranking
from skipguide.tuning.scan.ranking import mean_of_known
from skipguide.tuning.scan.record import (
    LEVELS,
    QUANTITIES,
    Cell,
    Floats,
    ScanOptions,
    ScanRecord,
    ScanState,
    check_alike,
)

__all__ = ["LEVELS", "QUANTITIES", "Cell", "LayerMap", "ScanOptions", "ScanRecord", "ScanState"]

FIRST = 3  # a shortlist of so many
_SAME = (
    "family", "denoiser", "depth", "width", "outputs", "num_places", "cells", "places", "costs"
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class LayerMap:
    """The cells of a model, ranked by their scans on one or more prompts.

    Args:
        family, denoiser, depth, width, outputs: as in a ScanRecord.
        prompts: how many were scanned.
        levels: the shares of noise at which was looked.
        num_places: how many layers run one after the other.
        cells: the cells, in the order in which they run.
        places, costs: `(cells,)`, as in a ScanRecord.
        means: by quantity `(cells,)`: over levels and prompts.
        lows, highs: by quantity `(cells,)`: 95 % intervals of the means over prompts (Student's t);
            nan with one prompt.
        by_level: by quantity `(cells, levels)`: means over prompts.
        score: `(cells,)` from 0 to 1, larger is better: the mean of the ranks of hf, -cos_c and the
            nearness to the middle, each from 0 to 1 among all cells. nan where nothing is known.
        rank: `(cells,)` from 1 for the best; nan for the cells that are left out (`kinds`).
        rank_low, rank_high: `(cells,)`: 95 % of the resamples of prompts are between them; nan with
            one prompt.
        first_three: `(cells,)`: the share of these resamples in which the cell is among the first
            three.
        kinds: "" for a cell that counts; "idle", |c - p| < 0.02 |c|; "broken", |c - p| > 0.7 |c|;
            "edge", of the first two layers, where there are others.
        clusters: `(cells,)`: number of the cluster of cells that push the same way: average
            linkage, cut where the mean cosine falls below `ranking.SAME_WAY`.
        gram: `(cells, cells)`: mean cosines of the pushes.
        forwards, seconds_strong, seconds_weak: of all states and prompts together.
    """

    family: str
    denoiser: str
    depth: int
    width: int
    outputs: tuple[str, ...]
    prompts: int
    levels: tuple[float, ...]
    num_places: int
    cells: tuple[Cell, ...]
    places: Floats
    costs: Floats
    means: Mapping[str, Floats]
    lows: Mapping[str, Floats]
    highs: Mapping[str, Floats]
    by_level: Mapping[str, Floats]
    score: Floats
    rank: Floats
    rank_low: Floats
    rank_high: Floats
    first_three: Floats
    kinds: tuple[str, ...]
    clusters: NDArray[np.int64]
    gram: Floats
    forwards: float
    seconds_strong: float
    seconds_weak: float

    @classmethod
    def build(cls, records: Sequence[ScanRecord]) -> LayerMap:
        """Make the map of the scans of one or more prompts.

        Raises:
            ValueError: for none, or records of different models, cells or levels.
        """
        check_alike(records)
        first = records[0]
        values = {  # (prompts, cells, levels)
            name: np.stack([record.values[name] for record in records]) for name in first.values
        }
        by_prompt = {name: mean_of_known(array, 2) for name, array in values.items()}
        means = {name: mean_of_known(array, 0) for name, array in by_prompt.items()}
        intervals = {name: _interval(array) for name, array in by_prompt.items()}
        kinds = ranking.kinds(means["ratio"], first.places)
        gram = mean_of_known(np.stack([mean_of_known(record.gram, 2) for record in records]), 0)
        facts: dict[str, Any] = {name: getattr(first, name) for name in _SAME}
        facts |= {
            name: float(sum(getattr(record, name).sum() for record in records))
            for name in map_document.COST
        }
        counted = np.array([not kind for kind in kinds])
        return cls(
            prompts=len(records),
            levels=tuple(state.wanted for state in first.states),
            means=means,
            lows={name: low for name, (low, _) in intervals.items()},
            highs={name: high for name, (_, high) in intervals.items()},
            by_level={name: mean_of_known(array, 0) for name, array in values.items()},
            kinds=kinds,
            gram=gram,
            clusters=ranking.clusters(gram),
            **_ranked(by_prompt, means, first, counted),
            **facts,
        )

    @property
    def order(self) -> list[int]:
        """The cells by rank, the best first, and then those that are left out."""
        rank = np.where(np.isnan(self.rank), np.inf, self.rank)
        return [int(k) for k in np.argsort(rank, kind="stable")]

    def shortlist(self, n: int = FIRST) -> list[Cell]:
        """Return the first n cells that differ: of different clusters, few neighbours among them.

        Each cell has at most one neighbour in the list, which is a cell of the layer beside it with
        the same skip and axis. Where that leaves too few, the list is filled up by rank. Cells that
        are left out are never in it.
        """
        return [self.cells[k] for k in self._choose(n)[0]]

    def passed_over(self, n: int = FIRST) -> dict[str, str]:
        """Return why cells of a better rank than the last of a shortlist are not in it, by name."""
        return {self.cells[k].name: why for k, why in self._choose(n)[1].items()}

    def _choose(self, n: int) -> tuple[list[int], dict[int, str]]:
        """Return the cells of a shortlist by rank, and why those before its last are not in it."""
        chosen: list[int] = []
        passed: dict[int, str] = {}
        for k in (k for k in self.order if not self.kinds[k]):
            if len(chosen) == n:
                break
            if why := self._too_near(k, chosen):
                passed[k] = why
            else:
                chosen.append(k)
        for k in list(passed)[: n - len(chosen)]:
            chosen.append(k)
            del passed[k]
        return sorted(chosen, key=lambda k: self.rank[k]), passed

    def _too_near(self, k: int, chosen: Sequence[int]) -> str:
        """Return what a cell is too near to be chosen beside others; "" if it is not."""
        for other in chosen:
            if self.clusters[other] == self.clusters[k]:
                return f"pushes like {self.cells[other].name}"
        near = self._neighbours(k, chosen)
        crowded = near if len(near) > 1 else [
            other for m in near for other in (m, *self._neighbours(m, chosen))
        ]  # fmt: skip
        return f"next to {' and '.join(self.cells[m].name for m in near)}" if crowded[1:] else ""

    def _neighbours(self, k: int, chosen: Sequence[int]) -> list[int]:
        """Return which of the chosen cells are of the layers beside a cell, and skipped as it."""
        lane = (self.cells[k].skip, self.cells[k].axis)
        return [
            m
            for m in chosen
            if (self.cells[m].skip, self.cells[m].axis) == lane
            and abs(self.places[k] - self.places[m]) == 1
        ]

    def to_json(self) -> str:
        """Return the map as the text of `map.json` (docs/layer-map.md)."""
        return map_document.write(self)

    @classmethod
    def from_json(cls, text: str) -> LayerMap:
        """Read what `to_json` wrote.

        Raises:
            ValueError: for something else.
        """
        return cls(**map_document.read(text))

    def rows(self) -> list[PlainData]:
        """Return one row for each cell, in the order of the model, for map.csv."""
        return map_document.rows(self)


# --- building -------------------------------------------------------------------------------------


def _interval(by_prompt: Floats) -> tuple[Floats, Floats]:
    """Return the ends of the 95 % intervals of means over prompts, of values (prompts, cells)."""
    n = len(by_prompt)
    mean = mean_of_known(by_prompt, 0)
    if n < 2:
        return np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    finite = np.where(np.isinf(by_prompt), np.nan, by_prompt)  # of a broken cell
    half = quantiles.t_quantile(n - 1) * finite.std(0, ddof=1) / n**0.5
    return mean - half, mean + half


def _ranked(
    by_prompt: Mapping[str, Floats], means: Mapping[str, Floats], first: ScanRecord,
    counted: NDArray[np.bool_],
) -> dict[str, Any]:  # fmt: skip
    """Return the scores and ranks of the means, and of resamples of the prompts."""
    score = ranking.scores(means, first.places, first.num_places)
    draws = []
    for chosen in ranking.resamples(len(by_prompt["hf"])):
        drawn = {name: mean_of_known(by_prompt[name][list(chosen)], 0) for name in ("hf", "cos_c")}
        drawn_score = ranking.scores(drawn, first.places, first.num_places)
        draws.append(ranking.places_in_order(drawn_score, counted))
    found = np.array(draws) if draws else np.full((1, len(score)), np.nan)
    low, high = np.quantile(found, (0.025, 0.975), axis=0)
    among = np.where(np.isnan(found), np.nan, found <= FIRST).mean(0)
    rank = ranking.places_in_order(score, counted)
    ends = {"rank_low": np.minimum(low, rank), "rank_high": np.maximum(high, rank)}
    return {"score": score, "rank": rank, "first_three": among, **ends}
