"""Compare the scores of a map with the layers that somebody found best."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from skipguide.families.published_layers import BestLayers
from skipguide.method.protocols import PlainData
from skipguide.tuning.scan import ranking
from skipguide.tuning.scan.layer_map import LayerMap
from skipguide.tuning.scan.ranking import Floats

PERMUTATIONS, _SEED = 100_000, 0
_CHUNK = 10_000


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The agreement of a map's scores with published best layers.

    Args:
        best: the published layers.
        layers: how many layers were compared.
        members: how many of them are in the published list.
        area: under the ROC curve: the chance that a published layer has a higher score than
            another one; 0.5 is no agreement.
        p_value: of the area by permutation, that scores and list have nothing to do with each
            other (one-sided).
        first: how many of the first `members` layers by score are in the list.
        expected: how many would be by chance.
        areas: the same area for each part of the score, and for "take the middle".
    """

    best: BestLayers
    layers: int
    members: int
    area: float
    p_value: float
    first: int
    expected: float
    areas: dict[str, float]

    def to_dict(self) -> PlainData:
        """Return it as plain data."""
        return dataclasses.asdict(self)

    def sentences(self) -> list[str]:
        """Return in words what was found."""
        parts = ", ".join(f"{name} {area:.2f}" for name, area in self.areas.items())
        return [
            f"Published best layers ({self.best.source}): {self.best.layers}, {self.best.measure}.",
            f"Area under the ROC curve of the score for being one of them: {self.area:.3f}"
            f" (0.5 is chance; p = {self.p_value:.2g} by permutation). Its parts: {parts}.",
            f"Of the first {self.members} layers by score {self.first} are among them"
            f" ({self.expected:.1f} by chance).",
        ]


def compare(found: LayerMap, best: BestLayers, permutations: int = PERMUTATIONS) -> Agreement:
    """Compare a map with published best layers, by the cells of their kind of skip.

    All layers count, also those that the ranking leaves out.

    Raises:
        ValueError: if the map has no such cells, or only published ones, or none of them.
    """
    cells = [
        k
        for k, cell in enumerate(found.cells)
        if cell.skip == best.skip and cell.axis is None and not np.isnan(found.score[k])
    ]
    member = np.array([found.cells[k].layer in best.addresses for k in cells], bool)
    if not member.any() or member.all():
        raise ValueError(
            f"a comparison needs layers that are published best and others, all with skip="
            f'"{best.skip}", but the map has {len(cells)} of which {int(member.sum())} are. Scan'
            " all layers."
        )
    score, size = found.score[cells], int(member.sum())
    area = ranking.area_under_curve(score, member)
    order = np.argsort(-score, kind="stable")[:size]
    return Agreement(
        best=best,
        layers=len(cells),
        members=size,
        area=area,
        p_value=permutation_p_value(score, member, permutations),
        first=int(member[order].sum()),
        expected=size * size / len(cells),
        areas=_areas_of_parts(found, cells, member),
    )


def permutation_p_value(
    score: Floats, member: Sequence[bool] | np.ndarray, permutations: int = PERMUTATIONS
) -> float:
    """Return the share of random lists of members whose area is at least that of the real one.

    The real one counts among them (Phipson and Smyth 2010), so that it is never 0.
    """
    ranks, inside = ranking.ranks(score), np.asarray(member, bool)
    size, observed = int(inside.sum()), ranks[inside].sum()
    random, hits, done = np.random.default_rng(_SEED), 0, 0
    while done < permutations:
        count = min(_CHUNK, permutations - done)
        drawn = random.permuted(np.tile(ranks, (count, 1)), axis=1)[:, :size].sum(1)
        hits += int((drawn >= observed - 1e-9).sum())
        done += count
    return (hits + 1) / (permutations + 1)


def _areas_of_parts(found: LayerMap, cells: Sequence[int], member: np.ndarray) -> dict[str, float]:
    parts = {
        "hf": found.means["hf"],
        "-cos(d, c)": -found.means["cos_c"],
        "middle": ranking.middleness(found.places, found.num_places),
    }
    return {
        name: ranking.area_under_curve(values[cells], member)
        for name, values in parts.items()
        if not np.isnan(values[cells]).any()
    }
