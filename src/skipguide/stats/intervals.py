"""95 % intervals of means, shares, ratings and differences: the one set for all of skipguide.

Values come in clusters. A cluster is a prompt: the videos, or the votes, of one prompt are alike,
whoever gave them and whatever the seed, so that the number of prompts is what counts. Without
clusters every value is its own.

- `mean`: the jackknife over clusters with Student's t. With clusters of one size this is the
  textbook's interval of the mean of the clusters' means.
- `share`: Clopper and Pearson's exact interval at an effective number of votes (Korn and Graubard,
  Survey Methodology 24, 1998). It has a width at 0 and at 1 too.
- `rating`: on a scale with two ends, what either of these two has in it.
- `mean_difference`: of paired values; of paired shares after Bonett and Price (2012), with one
  more cluster for either side.

`skipguide.stats.paired` has the p values that go with them.

All hold the truth in 91 % of the cases or more from MIN_CLUSTERS clusters on, means of very skewed
values (exponential ones) in 88 % (tests/stats/test_coverage.py; docs/decisions/074 has the
alternatives that do not). Percentile bootstraps do not: with 5 prompts theirs held a rate of 0.9 in
39 % of the cases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipguide.stats.estimate import Estimate
from skipguide.stats.quantiles import beta_probability, beta_quantile, t_quantile

Floats = NDArray[np.float64]
Clusters = Sequence[Hashable]

MIN_CLUSTERS = 5  # with fewer, the spread between clusters is not known well enough
_NORMAL_QUANTILE = 1.959963984540054  # 97.5 %
# How much a further cluster counts that is neither won nor lost, in clusters of the mean size. It
# stands for those that happen not to be among so few; chosen by coverage.
TIED_CLUSTER = 1.5
_ROUNDING = 1e-12  # of a number, relative to the largest that went into it


# --- means ----------------------------------------------------------------------------------------


def mean(
    values: ArrayLike,
    clusters: Clusters | None = None,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Estimate:
    """Estimate the mean of values `(N,)`.

    Args:
        clusters: the cluster of each value; None for values that are independent.
        bounds: where the interval ends at the latest.

    Returns:
        No interval for fewer than MIN_CLUSTERS clusters, or if all values are the same.

    Raises:
        ValueError: if there are no values, or not one cluster for each.
    """
    array, sums, sizes = _sum_clusters(values, clusters)
    value = float(array.mean())
    if reason := too_few(len(sums)):
        return Estimate(value, None, None, len(array), reason)
    variance = jackknife_variance(_leave_one_out(sums, sizes))
    if variance <= (_ROUNDING * np.abs(array).max()) ** 2:
        return Estimate(value, None, None, len(array), _no_spread(array))
    half = t_quantile(len(sums) - 1) * float(variance) ** 0.5
    return Estimate(value, *clip(value - half, value + half, bounds), len(array))


def mean_difference(
    values: ArrayLike, others: ArrayLike, clusters: Clusters | None = None
) -> Estimate:
    """Estimate the mean of `values - others`, `(N,)` each: pairs on the same prompts.

    If all values are 0 or 1 this is a difference of two shares. Its interval is then that of Bonett
    and Price (British Journal of Mathematical and Statistical Psychology 65, 2012), which counts
    one more pair, or cluster of the mean size, for either side and so has a width where no pair,
    or every pair, differs.

    Args:
        clusters: the cluster of each pair; None for pairs that are independent.
    """
    first, second = np.asarray(values, np.float64), np.asarray(others, np.float64)
    found = first - second
    if not are_shares(first, second):
        return mean(found, clusters)
    count = _count_clusters(found, clusters)
    if reason := too_few(count):
        return Estimate(float(found.mean()), None, None, len(found), reason)
    middle, deviation = difference_of_shares(found, clusters)
    half = _NORMAL_QUANTILE * deviation
    low, high = clip(middle - half, middle + half, (-1.0, 1.0))
    # The two clusters pull to 0, but what was found is never outside.
    value = float(found.mean())
    return Estimate(value, min(low, value), max(high, value), len(found))


def are_shares(*values: Floats) -> bool:
    """Tell whether all values are 0 or 1."""
    return all(bool(np.isin(array, (0.0, 1.0)).all()) for array in values)


def difference_of_shares(
    differences: Floats, clusters: Clusters | None = None
) -> tuple[float, float]:
    """Return the middle of Bonett and Price's interval of differences `(N,)`, and its deviation."""
    _, sums, sizes = _sum_clusters(differences, clusters)
    size = sizes.mean()
    sums, sizes = np.append(sums, (size, -size)), np.append(sizes, (size, size))
    count = len(sums)
    variance = jackknife_variance(_leave_one_out(sums, sizes)) * (count - 1) / count
    return float(sums.sum() / sizes.sum()), float(variance) ** 0.5


def clip(low: float, high: float, bounds: tuple[float | None, float | None]) -> tuple[float, float]:
    """Return an interval cut off at the bounds of what is measured."""
    lowest, highest = bounds
    return (
        float(low if lowest is None else max(low, lowest)),
        float(high if highest is None else min(high, highest)),
    )


# --- shares ---------------------------------------------------------------------------------------


def share(values: ArrayLike, clusters: Clusters | None = None) -> Estimate:
    """Estimate the share that values `(N,)` of 0, 1, and 0.5 for a tie, are the sum of.

    Returns:
        No interval for fewer than MIN_CLUSTERS clusters.

    Raises:
        ValueError: for other values, or as `mean`.
    """
    array, sums, sizes = _sum_clusters(values, clusters)
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(
            f"a share needs values from 0 to 1, but got {array.min():g} to {array.max():g}. Pass 1"
            " for each that has the property, and 0 for each that has not."
        )
    value = float(array.mean())
    if reason := too_few(len(sums)):
        return Estimate(value, None, None, len(array), reason)
    votes = _capped_votes(sums, sizes)
    return Estimate(value, *clopper_pearson(value * votes, votes), len(array))


def effective_votes(values: ArrayLike, clusters: Clusters | None = None) -> float:
    """Return how many independent votes say as much of a share as values `(N,)` in clusters do.

    Raises:
        ValueError: as `mean`.
    """
    _, sums, sizes = _sum_clusters(values, clusters)
    return _capped_votes(sums, sizes)


def _capped_votes(sums: Floats, sizes: Floats) -> float:
    # Clusters that happen to differ less than coins would say no more than coins do.
    return min(_effective_votes(sums, sizes), float(sizes.sum()))


def side_of_share(sums: Floats, sizes: Floats, middle: float = 0.5) -> int:
    """Return on which side of `middle` the whole interval of a share lies: 1, -1, or 0 for none.

    The interval is that of `share`. Its ends need not be found to know on which side they are,
    which makes it a hundred times as fast, for simulations.

    Args:
        sums, sizes: of the values of each cluster `(n,)`, and how many they are.

    Returns:
        0 for fewer than MIN_CLUSTERS clusters.
    """
    if too_few(len(sums)):
        return 0
    total = float(sizes.sum())
    votes = _capped_votes(sums, sizes)
    won = float(sums.sum()) / total * votes
    lost = votes - won
    # The lower end is above the middle where less than 2.5 % of its distribution is below.
    if won > _ROUNDING * votes and beta_probability(middle, won, lost + 1) < 0.025:
        return 1
    above = lost > _ROUNDING * votes and beta_probability(middle, won + 1, lost) > 0.975
    return -1 if above else 0


def rating(values: ArrayLike, clusters: Clusters | None, scale: tuple[float, float]) -> Estimate:
    """Estimate the mean of ratings `(N,)` on a scale with two ends.

    A mean near an end has a longer way to go to the other side than Student's t knows, and ratings
    that are all the same leave nothing to it; in the middle a share knows too little. The interval
    is the smallest that holds both.

    Raises:
        ValueError: for values outside of the scale, or as `mean`.
    """
    low, high = scale
    array = np.asarray(values, np.float64)
    if not ((array >= low) & (array <= high)).all():
        raise ValueError(
            f"ratings must be from {low:g} to {high:g}, but got {array.min():g} to"
            f" {array.max():g}. Correct them."
        )
    found = mean(array, clusters, scale)
    if too_few(_count_clusters(array, clusters)):
        return found
    _, sums, sizes = _sum_clusters((array - low) / (high - low), clusters)
    votes = _effective_votes(sums, sizes)
    ends = clopper_pearson(float(sums.sum() / sizes.sum()) * votes, votes)
    first, last = (low + (high - low) * end for end in ends)
    if found.low is None or found.high is None:  # all the same
        return dataclasses.replace(found, low=first, high=last, reason=None)
    return dataclasses.replace(found, low=min(found.low, first), high=max(found.high, last))


def clopper_pearson(successes: float, count: float) -> tuple[float, float]:
    """Return the exact 95 % interval of a share; both numbers may be fractions.

    Clopper and Pearson, Biometrika 26 (1934).

    Raises:
        ValueError: unless 0 <= successes <= count and count > 0.
    """
    if not 0 <= successes <= count or count <= 0:
        raise ValueError(
            f"a share needs 0 <= successes <= count and count > 0, but got {successes:g} of"
            f" {count:g}. Check both counts."
        )
    failures = count - successes
    none, every = successes <= _ROUNDING * count, failures <= _ROUNDING * count
    low = 0.0 if none else beta_quantile(0.025, successes, failures + 1)
    return low, 1.0 if every else beta_quantile(0.975, successes + 1, failures)


def _effective_votes(sums: Floats, sizes: Floats) -> float:
    """Return how many independent votes say as much of a share as these clusters.

    The variance is the jackknife's, or that with one more cluster, a tied one, if that is larger:
    where all clusters look alike, a kind that is missing among them would go unseen.
    """
    count, votes = len(sums), float(sizes.sum())
    if jackknife_variance(_leave_one_out(sums, sizes)) <= _ROUNDING**2:
        return float(count)
    further = TIED_CLUSTER * sizes.mean()
    effect = max(
        _design_effect(sums, sizes),
        _design_effect(np.append(sums, further / 2), np.append(sizes, further)),
    )
    # The variance of few clusters is itself uncertain, as for Student's t.
    known = t_quantile(votes - 1) / t_quantile(count - 1) if votes > count else 1.0
    return votes / effect * known**2


def _design_effect(sums: Floats, sizes: Floats) -> float:
    """Return the variance of a share of clusters over that of as many independent votes."""
    votes = sizes.sum()
    value = sums.sum() / votes
    free = value * (1 - value) / (votes - 1)
    return float(jackknife_variance(_leave_one_out(sums, sizes)) / free) if free > 0 else 0.0


# --- clusters -------------------------------------------------------------------------------------


def too_few(clusters: int) -> str | None:
    """Return why so many clusters have no interval; None if they have one."""
    if clusters >= MIN_CLUSTERS:
        return None
    are = "there is 1" if clusters == 1 else f"there are {clusters}"
    return f"an interval needs {MIN_CLUSTERS} different prompts or more, but {are}"


def _no_spread(values: Floats) -> str:
    middle = f"{values.mean():g}"
    are_same = np.ptp(values) == 0
    what = f"all {len(values)} values are" if are_same else "all prompts have the mean"
    return f"{what} {middle}, which does not say how far others may be"


def number_clusters(clusters: Clusters) -> NDArray[np.intp]:
    """Return the number of each cluster, counted from 0 in the order in which they first appear."""
    order = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    return np.asarray([order[cluster] for cluster in clusters])


def jackknife_variance(values: Floats) -> Floats:
    """Return the variance of a statistic from its values `(n, ...)` without each cluster."""
    return values.var(0) * (len(values) - 1)


def jackknife(statistic: Callable[[Floats], Floats], clusters: int) -> Floats:
    """Return the jackknife's variance of a statistic.

    Args:
        statistic: maps how often each cluster counts, `(B, clusters)`, to values `(B, ...)`.
    """
    return jackknife_variance(statistic(1.0 - np.eye(clusters)))


def _leave_one_out(sums: Floats, sizes: Floats) -> Floats:
    return (sums.sum() - sums) / (sizes.sum() - sizes)


def _count_clusters(values: Floats, clusters: Clusters | None) -> int:
    return len(values) if clusters is None else len(set(clusters))


def _sum_clusters(values: ArrayLike, clusters: Clusters | None) -> tuple[Floats, Floats, Floats]:
    """Return the values `(N,)`, and the sum and the number of those of each cluster `(n,)`.

    Raises:
        ValueError: if there are no values, or not one cluster for each.
    """
    array = np.asarray(values, np.float64)
    given = range(len(array)) if clusters is None else clusters
    if not len(array) or len(array) != len(given):
        raise ValueError(
            f"a mean needs values, and a cluster for each, but got {len(array)} values and"
            f" {len(given)} clusters. Pass one cluster per value."
        )
    number = number_clusters(given)
    sizes = np.bincount(number).astype(np.float64)
    return array, np.bincount(number, array).astype(np.float64), sizes
