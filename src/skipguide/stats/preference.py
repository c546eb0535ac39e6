"""What votes say: means, win rates, Bradley-Terry strengths, and whether the raters agree. Pure
functions on numbers.

Every interval here is a 95 % percentile bootstrap over clusters. A cluster is a prompt: the votes
on one prompt are not independent, whoever gave them and whatever the seed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Level = Literal["nominal", "ordinal", "interval"]

MIN_CLUSTERS = 5  # clusters for an interval
_RESAMPLES = 1000
_STEPS, _LONGEST_STEP, _TOLERANCE = 60, 1.0, 1e-10  # of Newton's method


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; without one where there are too few clusters."""

    value: float
    low: float | None
    high: float | None
    count: int  # of what it was taken from


@dataclass(frozen=True)
class Duel:
    """One comparison: which of two settings a rater preferred."""

    first: int  # a setting
    second: int
    score: float  # 1: first won, 0: second won, 0.5: a tie
    cluster: Hashable


# --- intervals ------------------------------------------------------------------------------------


def mean(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """The mean of some values `(N,)`, each of which belongs to a cluster.

    Raises:
        ValueError: without values, or for another number of clusters.
    """
    if not values or len(values) != len(clusters):
        raise ValueError(
            f"a mean needs values, and a cluster for each, but got {len(values)} and"
            f" {len(clusters)}."
        )
    array, number = np.asarray(values, np.float64), _number_clusters(clusters)

    def weighted(weights: Floats) -> Floats:  # (B, clusters) -> (B,)
        each = weights[:, number]
        return (each @ array) / each.sum(1)

    value, low, high = _bootstrap(weighted, int(number.max()) + 1)
    return Estimate(float(value), _to_float(low), _to_float(high), len(values))


def _number_clusters(clusters: Sequence[Hashable]) -> NDArray[np.intp]:
    order = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    return np.asarray([order[cluster] for cluster in clusters])


def _bootstrap(
    statistic: Callable[[Floats], Floats], clusters: int
) -> tuple[Floats, Floats | None, Floats | None]:
    """The statistic and the ends of its interval.

    Args:
        statistic: from how often each cluster counts, `(B, clusters)`, to values `(B, ...)`.
    """
    value = statistic(np.ones((1, clusters)))[0]
    if clusters < MIN_CLUSTERS:
        return value, None, None
    drawn = np.random.default_rng(0).multinomial(
        clusters, np.full(clusters, 1 / clusters), _RESAMPLES
    )
    ends = np.nanquantile(statistic(drawn.astype(np.float64)), (0.025, 0.975), axis=0)
    return value, ends[0], ends[1]


def _to_float(value: Floats | None) -> float | None:
    return None if value is None else float(value)


# --- pairs ----------------------------------------------------------------------------------------


def win_rates(duels: Sequence[Duel]) -> dict[int, Estimate]:
    """Share of its duels that each setting won; a tie is half a win."""
    scores: dict[int, list[tuple[float, Hashable]]] = {}
    for duel in duels:
        scores.setdefault(duel.first, []).append((duel.score, duel.cluster))
        scores.setdefault(duel.second, []).append((1 - duel.score, duel.cluster))
    return {
        setting: mean([score for score, _ in found], [cluster for _, cluster in found])
        for setting, found in sorted(scores.items())
    }


def bradley_terry(duels: Sequence[Duel], prior: float = 1.0) -> dict[int, Estimate]:
    """Strengths b with P(i beats j) = 1 / (1 + exp(b_j - b_i)), their mean 0: the most likely ones.

    Bradley and Terry, Biometrika 39 (1952); a tie is half a win for each.

    Args:
        prior: so many ties of each setting with one of strength 0 are added. 0 is plain maximum
            likelihood, which has no finite answer where a setting won or lost all its duels.
    """
    names = sorted({setting for duel in duels for setting in (duel.first, duel.second)})
    if not names:
        return {}
    place = {name: i for i, name in enumerate(names)}
    number = _number_clusters([duel.cluster for duel in duels])
    # of row over column, by cluster
    wins = np.zeros((int(number.max()) + 1, len(names), len(names)))
    for duel, cluster in zip(duels, number, strict=True):
        i, j = place[duel.first], place[duel.second]
        wins[cluster, i, j] += duel.score
        wins[cluster, j, i] += 1 - duel.score
    value, low, high = _bootstrap(
        lambda weights: _strengths(np.tensordot(weights, wins, 1), prior), len(wins)
    )
    fought = (wins + wins.transpose(0, 2, 1)).sum((0, 2))
    ends = (
        [(None, None)] * len(names)
        if low is None or high is None
        else list(zip(low, high, strict=True))
    )
    return {
        name: Estimate(
            float(value[i]), _to_float(ends[i][0]), _to_float(ends[i][1]), int(fought[i])
        )
        for name, i in place.items()
    }


def _strengths(wins: Floats, prior: float) -> Floats:
    """Newton's method for many tables at once: wins `(B, K, K)` -> strengths `(B, K)`.

    A step is at most 1, so that it cannot run away where the likelihood is flat.
    """
    batch, count, _ = wins.shape
    fought = wins + wins.transpose(0, 2, 1)
    # strengths are known up to a shift
    eye, level = (np.eye(count), np.full((count, count), 1 / count))
    strengths = np.zeros((batch, count))
    for _ in range(_STEPS):
        chance = _logistic(strengths[:, :, None] - strengths[:, None, :])
        alone = _logistic(strengths)
        slope = (wins - fought * chance).sum(2) - prior * (alone - 0.5)
        spread = fought * chance * (1 - chance)
        curve = eye * (spread.sum(2) + prior * alone * (1 - alone))[:, :, None] - spread + level
        step = np.clip(
            np.linalg.solve(curve, slope[:, :, None])[:, :, 0], -_LONGEST_STEP, _LONGEST_STEP
        )
        strengths += step
        if np.abs(step).max() < _TOLERANCE:
            break
    return strengths - strengths.mean(1, keepdims=True)


def _logistic(x: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(x / 2))


# --- agreement ------------------------------------------------------------------------------------


def krippendorff_alpha(units: Sequence[Sequence[float]], level: Level) -> float | None:
    """Agreement of any number of raters of whom each may have left out any unit; 1 is full, 0 is
    chance.

    Krippendorff, Computing Krippendorff's Alpha-Reliability (2011).

    Args:
        units: the values that each thing got, one per rater who judged it.
        level: what makes two values differ, and how much.

    Returns:
        None where fewer than two raters judged the same unit, or all values are the same.
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
    """Agreement of two raters on the same things; 1 is full, 0 is chance.

    Cohen, Educational and Psychological Measurement 20 (1960); Psychological Bulletin 70 (1968)
    with weights.

    Returns:
        None if both always gave one and the same answer, or nothing.

    Raises:
        ValueError: for another number of answers.
    """
    if len(first) != len(second):
        raise ValueError(
            f"two raters must have judged the same things, but got {len(first)} and {len(second)}."
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
