"""Statistics of votes: win rates, Bradley-Terry strengths, and agreement between raters.

All functions are pure functions of numbers. Every interval is a 95 % one from the clusters, as in
`skipguide.stats.intervals`. A cluster is a prompt: the votes on one prompt are not independent,
whoever gave them and whatever the seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skipguide.stats import intervals
from skipguide.stats.estimate import Estimate
from skipguide.stats.paired import Difference
from skipguide.stats.quantiles import t_quantile, t_tails

Floats = NDArray[np.float64]
Level = Literal["nominal", "ordinal", "interval"]

_STEPS, _LONGEST_STEP, _TOLERANCE = 60, 1.0, 1e-10  # of Newton's method


@dataclass(frozen=True)
class Duel:
    """One comparison: which of two settings a rater preferred."""

    first: int  # a setting
    second: int
    score: float  # 1: first won, 0: second won, 0.5: a tie
    cluster: Hashable


# --- pairs ----------------------------------------------------------------------------------------


def win_rates(duels: Sequence[Duel]) -> dict[int, Estimate]:
    """Return the share of its duels that each setting won; a tie counts as half a win."""
    scores: dict[int, list[tuple[float, Hashable]]] = {}
    for duel in duels:
        scores.setdefault(duel.first, []).append((duel.score, duel.cluster))
        scores.setdefault(duel.second, []).append((1 - duel.score, duel.cluster))
    return {
        setting: intervals.share([score for score, _ in found], [cluster for _, cluster in found])
        for setting, found in sorted(scores.items())
    }


def bradley_terry(duels: Sequence[Duel], prior: float = 1.0) -> dict[int, Estimate]:
    """Fit strengths b with P(i beats j) = 1 / (1 + exp(b_j - b_i)) by maximum likelihood; mean 0.

    Bradley and Terry, Biometrika 39 (1952); a tie is half a win for each.

    Args:
        prior: this many ties between each setting and one of strength 0 are added. 0 is plain
            maximum likelihood, which has no finite answer where a setting won or lost all its
            duels.
    """
    names = _setting_names(duels)
    # The strengths are known up to a shift, which does not count as uncertainty.
    contrasts = np.eye(len(names)) - 1 / max(len(names), 1)
    return {name: found.estimate for name, found in _fit(duels, names, contrasts, prior).items()}


def strength_differences(
    duels: Sequence[Duel], base: int, prior: float = 1.0
) -> dict[int, Difference]:
    """Return how much stronger than `base` each setting is, from the duels of all settings.

    A difference of 1 is a chance of 73 % to win. The arguments are those of `bradley_terry`; empty
    if `base` fought no duel.
    """
    names = _setting_names(duels)
    if base not in names:
        return {}
    contrasts = np.eye(len(names)) - np.eye(len(names))[names.index(base)]
    found = _fit(duels, names, contrasts, prior)
    return {name: difference for name, difference in found.items() if name != base}


def _setting_names(duels: Sequence[Duel]) -> list[int]:
    return sorted({setting for duel in duels for setting in (duel.first, duel.second)})


def _fit(
    duels: Sequence[Duel], names: Sequence[int], contrasts: Floats, prior: float
) -> dict[int, Difference]:
    """Estimate the contrasts `(K, K)` of strengths, a row each, and test them against 0."""
    if not names:
        return {}
    wins = count_wins(duels, names)
    strengths = _strengths(wins.sum(0)[None], prior)[0]
    value = contrasts @ strengths
    fought = (wins + wins.transpose(0, 2, 1)).sum((0, 2))
    freedom, reason = len(wins) - 1, intervals.too_few(len(wins))
    half = None
    if reason is None:
        half = t_quantile(freedom) * _variance(wins, strengths, contrasts, prior) ** 0.5
    estimates = {
        name: Estimate(
            float(value[i]),
            None if half is None else float(value[i] - half[i]),
            None if half is None else float(value[i] + half[i]),
            int(fought[i]),
            reason,
        )
        for i, name in enumerate(names)
    }
    return {
        name: Difference(
            found,
            None
            if half is None or not half[i]
            else t_tails(float(found.value / half[i]) * t_quantile(freedom), freedom),
        )
        for i, (name, found) in enumerate(estimates.items())
    }


def _variance(wins: Floats, strengths: Floats, contrasts: Floats, prior: float) -> Floats:
    """Return the variances `(K,)` of contrasts, from the wins in each cluster `(clusters, K, K)`.

    The jackknife over clusters knows that the votes of one are alike; the likelihood, that a
    setting which won everywhere may still lose; and a further cluster of ties, that a kind of
    prompt may be missing. The largest of the three holds where each alone does not.
    """

    def over_clusters(tables: Floats) -> Floats:
        return intervals.jackknife(
            lambda weights: _strengths(np.tensordot(weights, tables, 1), prior) @ contrasts.T,
            len(tables),
        )

    mean = wins.mean(0)
    ties = intervals.TIED_CLUSTER * (mean + mean.T) / 2
    total = wins.sum(0)[None]
    curve = _curvature(total + total.transpose(0, 2, 1), strengths[None], prior)[0]
    return np.maximum.reduce(
        [
            over_clusters(wins),
            over_clusters(np.concatenate([wins, ties[None]])),
            np.diagonal(contrasts @ np.linalg.inv(curve) @ contrasts.T),
        ]
    )


def count_wins(duels: Sequence[Duel], names: Sequence[int]) -> Floats:
    """Count wins of row over column in each cluster: `(clusters, K, K)`."""
    place = {name: i for i, name in enumerate(names)}
    number = intervals.number_clusters([duel.cluster for duel in duels])
    wins = np.zeros((int(number.max(initial=-1)) + 1, len(names), len(names)))
    for duel, cluster in zip(duels, number, strict=True):
        i, j = place[duel.first], place[duel.second]
        wins[cluster, i, j] += duel.score
        wins[cluster, j, i] += 1 - duel.score
    return wins


def _strengths(wins: Floats, prior: float) -> Floats:
    """Run Newton's method on many tables at once: wins `(B, K, K)` -> strengths `(B, K)`.

    A step is at most 1, so that it cannot run away where the likelihood is flat.
    """
    batch, count, _ = wins.shape
    fought = wins + wins.transpose(0, 2, 1)
    strengths = np.zeros((batch, count))
    for _ in range(_STEPS):
        chance = logistic(strengths[:, :, None] - strengths[:, None, :])
        slope = (wins - fought * chance).sum(2) - prior * (logistic(strengths) - 0.5)
        curve = _curvature(fought, strengths, prior)
        step = np.clip(
            np.linalg.solve(curve, slope[:, :, None])[:, :, 0], -_LONGEST_STEP, _LONGEST_STEP
        )
        strengths += step
        if np.abs(step).max() < _TOLERANCE:
            break
    return strengths - strengths.mean(1, keepdims=True)


def _curvature(fought: Floats, strengths: Floats, prior: float) -> Floats:
    """Return minus the second derivatives of the log likelihood, `(B, K, K)`.

    A constant is added along the shift of all strengths, which the likelihood does not know.
    """
    count = strengths.shape[1]
    chance = logistic(strengths[:, :, None] - strengths[:, None, :])
    alone = logistic(strengths)
    spread = fought * chance * (1 - chance)
    own = spread.sum(2) + prior * alone * (1 - alone)
    return np.eye(count) * own[:, :, None] - spread + np.full((count, count), 1 / count)


def logistic(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)) without an overflow."""
    return 0.5 * (1 + np.tanh(x / 2))


# --- agreement ------------------------------------------------------------------------------------


def krippendorff_alpha(units: Sequence[Sequence[float]], level: Level) -> float | None:
    """Return the agreement of any number of raters, each of whom may have skipped units.

    1 is full agreement, 0 is chance. Krippendorff, Computing Krippendorff's Alpha-Reliability
    (2011).

    Args:
        units: the values that each unit got, one per rater who judged it.
        level: the scale of the values, which decides how far apart two of them are.

    Returns:
        None if no unit has two raters, or all values are the same.
    """
    pairable = [list(values) for values in units if len(values) > 1]
    levels = sorted({value for values in pairable for value in values})
    if len(levels) < 2:
        return None
    place = {value: i for i, value in enumerate(levels)}
    met = np.zeros((len(levels), len(levels)))
    for values in pairable:
        for a, b in itertools.permutations(values, 2):
            met[place[a], place[b]] += 1 / (len(values) - 1)
    totals = met.sum(1)
    distance = _distances(np.asarray(levels, np.float64), totals, level)
    expected = (np.outer(totals, totals) * distance).sum()
    return float(1 - (totals.sum() - 1) * (met * distance).sum() / expected)


def _distances(values: Floats, totals: Floats, level: Level) -> Floats:
    if level == "nominal":
        return 1 - np.eye(len(values))
    if level == "interval":
        return (values[:, None] - values[None, :]) ** 2
    middle = np.cumsum(totals) - totals / 2  # ranks
    return (middle[:, None] - middle[None, :]) ** 2


def cohen_kappa(
    first: Sequence[float], second: Sequence[float], weights: Literal["none", "quadratic"] = "none"
) -> float | None:
    """Return the agreement of two raters on the same units; 1 is full agreement, 0 is chance.

    Cohen, Educational and Psychological Measurement 20 (1960); with weights, Psychological Bulletin
    70 (1968).

    Returns:
        None if both always gave one and the same answer, or gave none.

    Raises:
        ValueError: if the two gave different numbers of answers.
    """
    if len(first) != len(second):
        raise ValueError(
            f"two raters must have judged the same units, but gave {len(first)} and {len(second)}"
            " answers. Pass one answer of each rater per unit."
        )
    levels = sorted({*first, *second})
    if len(levels) < 2:
        return None
    place = {value: i for i, value in enumerate(levels)}
    seen = np.zeros((len(levels), len(levels)))
    for a, b in zip(first, second, strict=True):
        seen[place[a], place[b]] += 1 / len(first)
    distance = _distances(
        np.asarray(levels, np.float64), seen.sum(1), "nominal" if weights == "none" else "interval"
    )
    expected = (np.outer(seen.sum(1), seen.sum(0)) * distance).sum()
    return float(1 - (seen * distance).sum() / expected)
