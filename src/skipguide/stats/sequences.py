"""Always-valid intervals of a mean of paired differences: one may look at them after every pair.

A 95 % interval holds the truth in 95 % of the cases if it is looked at once. Whoever looks after
every round, and stops when it leaves out 0, finds a difference that is not there far more often. A
confidence sequence is a row of intervals that hold the truth all together, at all times, in 95 %.

Here it is what a Bayes factor does not reject: of differences x_i from N(mu, sigma^2), for each
mean m, with the right Haar prior 1 / sigma and the effect size (mu - m) / sigma from N(0, g),

    B_n(m) = (1 + n g)^(-1/2) ((1 + t^2 / v) / (1 + t^2 / (v (1 + n g))))^(n / 2)

with t = sqrt(n) (mean - m) / s and v = n - 1. It does not depend on the unit of x and, where
mu = m, is a martingale of mean 1, so that it ever reaches 1 / alpha in at most a share alpha of the
cases (Ville). Perez-Ortiz, Lardy, de Heide and Grunwald, E-statistics, group invariance and
anytime-valid testing, arXiv:2208.07610; Wang and Ramdas, Anytime-valid t-tests and confidence
sequences for Gaussian means with unknown variance, arXiv:2310.03722.

Differences of clips are not normal. Two things were added, and chosen by simulated coverage at all
times up to 200 pairs (docs/decisions/086, tests/stats/test_sequences.py):

- The sum of squares that an end is computed from counts FURTHER more pairs, as far away on its side
  as the farthest one, for a kind of prompt that is rare and pulls the mean may not have come yet.
- Differences of values that are 0 or 1 count a further pair for either side, as in
  `intervals.mean_difference`. Pairs that are all the same have no interval otherwise: they do not
  say how far others may be.

It assumes that pairs are independent and alike, i.e. that prompts race in an order that does not
depend on what they show.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipguide.stats.estimate import Estimate

Floats = NDArray[np.float64]

EFFECT_VARIANCE = 0.3  # g: effects of half a deviation are where it is narrowest
FURTHER = 4.0
MOST_STEPS = 8  # of a share: values k / n of up to so many seeds or words are taken for shares
_ROUNDING = 1e-12


def paired_sequence(values: ArrayLike, others: ArrayLike, alpha: float = 0.05) -> Estimate:
    """Return the mean of `values - others`, `(N,)` each, with its always-valid interval.

    Args:
        alpha: the chance that the interval ever, at whichever N, leaves out the truth.

    Returns:
        No interval where there are too few pairs for this `alpha`, or all are the same.

    Raises:
        ValueError: if there are no pairs, not as many values as others, or `alpha` is no chance.
    """
    first, second = np.asarray(values, np.float64), np.asarray(others, np.float64)
    if first.shape != second.shape:
        raise ValueError(
            f"paired values must be as many as the others, but got {first.shape} and"
            f" {second.shape}. Pass those of the same prompts."
        )
    return mean_sequence(first - second, alpha, shares=are_coarse_shares(first, second))


def mean_sequence(differences: ArrayLike, alpha: float = 0.05, shares: bool = False) -> Estimate:
    """Return the mean of differences `(N,)` with its always-valid interval.

    Args:
        alpha: as in `paired_sequence`.
        shares: whether they are differences of values from 0 to 1 that have few steps.
    """
    found = np.asarray(differences, np.float64)
    if found.ndim != 1 or len(found) == 0:
        raise ValueError(
            f"a mean needs differences (N,), but got {found.shape}. Pass one for each pair."
        )
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, but got {alpha:g}. Pass 0.05.")
    value, count = float(found.mean()), len(found)
    counted = np.append(found, (1.0, -1.0)) if shares else found
    factor = half_width_factor(len(counted), alpha)
    if not math.isfinite(factor):
        return Estimate(value, None, None, count, _too_few(count))
    middle = float(counted.mean())
    deviations = counted - middle
    squares = float(deviations @ deviations)
    if squares <= len(counted) * (_ROUNDING * np.abs(counted).max()) ** 2:
        return Estimate(value, None, None, count, _no_spread(count, value))
    further = 0.0 if shares else FURTHER
    below, above = (
        squares + further * float(end) ** 2 for end in (deviations.min(), deviations.max())
    )
    low, high = middle - factor * below**0.5, middle + factor * above**0.5
    if shares:
        low, high = max(low, -1.0), min(high, 1.0)
    # The two further pairs pull to 0, but what was found is never outside.
    return Estimate(value, min(low, value), max(high, value), count)


def are_coarse_shares(*values: Floats) -> bool:
    """Tell whether values are from 0 to 1 and of few steps: 0 and 1, or means of a few of them."""
    every = np.concatenate([np.ravel(array) for array in values])
    if not ((every >= 0) & (every <= 1)).all():
        return False
    return any(
        bool((np.abs(every * steps - np.round(every * steps)) < 1e-9).all())
        for steps in range(1, MOST_STEPS + 1)
    )


def half_width_factor(count: int, alpha: float) -> float:
    """Return half the width of the interval over the root of the sum of squares about the mean.

    B_n(m) = 1 / alpha, solved for m. It is infinite for counts that can never reach 1 / alpha.
    """
    rest = 1 + count * EFFECT_VARIANCE
    reached = (rest / alpha**2) ** (1 / count)
    if reached >= rest:
        return math.inf
    return math.sqrt(rest * (reached - 1) / (rest - reached) / count)


def _too_few(count: int) -> str:
    prompts = "1 prompt is" if count == 1 else f"{count} prompts are"
    return f"{prompts} too few for an interval that may be looked at at any time"


def _no_spread(count: int, value: float) -> str:
    return f"all {count} differences are {value:g}, which does not say how far others may be"
