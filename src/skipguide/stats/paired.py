"""Differences between two settings on the same prompts and noise: intervals, p values, Holm.

A p value and the interval beside it come from one statistic: p is below 0.05 where the interval
leaves out no difference, and only there. Both are of one comparison; `holm` corrects the p values
of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipguide.stats import intervals
from skipguide.stats.estimate import Estimate
from skipguide.stats.intervals import Clusters
from skipguide.stats.quantiles import beta_probability, normal_tails, t_quantile, t_tails

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A difference with its 95 % interval, and the chance of one as large where there is none.

    `p` is two-sided, and None where there is no interval.
    """

    estimate: Estimate
    p: float | None


def paired_difference(
    values: ArrayLike, others: ArrayLike, clusters: Clusters | None = None
) -> Difference:
    """Compare values `(N,)` with others of the same prompts and seeds, as they come in pairs.

    The arguments, the interval and the errors are those of `intervals.mean_difference`.
    """
    first, second = np.asarray(values, np.float64), np.asarray(others, np.float64)
    found = intervals.mean_difference(first, second, clusters)
    if found.low is None or found.high is None:
        return Difference(found, None)
    if intervals.are_shares(first, second):
        middle, deviation = intervals.difference_of_shares(first - second, clusters)
        # As the interval, the test never counts what was found against itself.
        return Difference(found, normal_tails(middle / deviation) if middle else 1.0)
    count = len(first if clusters is None else set(clusters))
    half = (found.high - found.low) / 2
    return Difference(found, t_tails(found.value / half * t_quantile(count - 1), count - 1))


def share_against_half(values: ArrayLike, clusters: Clusters | None = None) -> Difference:
    """Compare a share of votes `(N,)`, 1 for a win and 0.5 for a tie, with a half.

    The difference is the share less 0.5; p is that of the exact test of Clopper and Pearson's
    interval, at the effective number of votes.
    """
    found = intervals.share(values, clusters)
    low, high = found.low, found.high
    shifted = Estimate(
        found.value - 0.5,
        None if low is None else low - 0.5,
        None if high is None else high - 0.5,
        found.count,
        found.reason,
    )
    if low is None:
        return Difference(shifted, None)
    votes = intervals.effective_votes(values, clusters)
    won = found.value * votes
    # The chances of as many wins or more, and of as many or fewer, from fair coins.
    above = beta_probability(0.5, won, votes - won + 1) if won else 1.0
    below = beta_probability(0.5, votes - won, won + 1) if won < votes else 1.0
    return Difference(shifted, min(1.0, 2 * min(above, below)))


@dataclass(frozen=True)
class Replicates:
    """A statistic of sets of videos, and its values with a group of prompts left out.

    Args:
        value: of all videos.
        without: for each set, the values `(groups,)` without each of its groups
            (`jackknife.replicates`).
    """

    value: float
    without: tuple[Floats, ...]

    def difference(self, other: Replicates) -> Difference:
        """Compare with the statistic of another set of the same prompts in the same groups.

        What both have in common, the prompts and the reference, drops out of the interval.

        Raises:
            ValueError: if the groups are not the same number.
        """
        if [len(one) for one in self.without] != [len(one) for one in other.without]:
            raise ValueError(
                "two sets must be divided into the same groups, but have"
                f" {[len(one) for one in self.without]} and {[len(one) for one in other.without]}."
                " Compare sets of the same prompts."
            )
        value = self.value - other.value
        pairs = list(zip(self.without, other.without, strict=True))
        variance = sum(float(intervals.jackknife_variance(a - b)) for a, b in pairs)
        freedom = min(len(one) for one in self.without) - 1
        largest = max(abs(self.value), abs(other.value))
        if variance <= (1e-12 * largest) ** 2:
            reason = "nothing changes when prompts are left out"
            return Difference(Estimate(value, None, None, 0, reason), None)
        deviation = variance**0.5
        half = t_quantile(freedom) * deviation
        found = Estimate(value, value - half, value + half, 0)
        return Difference(found, t_tails(value / deviation, freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number: all that stay below 0.05 are right in 95 %.

    Holm, Scandinavian Journal of Statistics 6 (1979). It holds however the comparisons depend on
    each other.
    """
    order = np.argsort(p_values, kind="stable")
    count, found, largest = len(order), [0.0] * len(order), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (count - place) * p_values[index]))
        found[index] = largest
    return found
