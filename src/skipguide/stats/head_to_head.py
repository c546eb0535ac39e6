"""Count how often each setting won against each other one: the matrix of pairwise wins."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from skipguide.stats import intervals
from skipguide.stats.estimate import Estimate
from skipguide.stats.preference import Duel


@dataclass(frozen=True)
class Meeting:
    """The result of all comparisons of one setting with another one."""

    wins: int
    ties: int
    losses: int
    share: Estimate  # of the comparisons that it won; a tie is half a win


def meetings(duels: Sequence[Duel]) -> dict[tuple[int, int], Meeting]:
    """Return what came of the comparisons of every two settings that met, for either side.

    Returns:
        (setting, other) -> Meeting, from the side of the first. That of (other, setting) is its
        mirror image. The intervals are those of `intervals.share`, over prompts.
    """
    scores: dict[tuple[int, int], list[tuple[float, Hashable]]] = {}
    for duel in duels:
        scores.setdefault((duel.first, duel.second), []).append((duel.score, duel.cluster))
        scores.setdefault((duel.second, duel.first), []).append((1 - duel.score, duel.cluster))
    return {pair: _meeting(found) for pair, found in sorted(scores.items())}


def _meeting(found: Sequence[tuple[float, Hashable]]) -> Meeting:
    scores = [score for score, _ in found]
    return Meeting(
        sum(score == 1 for score in scores),
        sum(score == 0.5 for score in scores),
        sum(score == 0 for score in scores),
        intervals.share(scores, [cluster for _, cluster in found]),
    )
