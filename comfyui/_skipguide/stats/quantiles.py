# Built by `make comfyui` from src/skipguide/stats/quantiles.py; do not edit.
"""Quantiles and tails of the beta distribution and of Student's t, of which every interval is made.

scipy has both, but nothing else of it is needed (docs/decisions/074). The incomplete beta function
is evaluated by its continued fraction (Abramowitz and Stegun, Handbook of Mathematical Functions,
26.5.8) and inverted by bisection; the results agree with scipy's to 1e-9.
"""

from __future__ import annotations

import functools
import math

_HALVINGS, _MOST_TERMS, _PRECISION, _TINY = 60, 10_000, 1e-15, 1e-300


@functools.lru_cache(maxsize=4096)
def beta_quantile(probability: float, a: float, b: float) -> float:
    """Return the x with P(X <= x) = `probability` for X from Beta(a, b); a, b > 0."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if beta_probability(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@functools.lru_cache(maxsize=1024)
def t_quantile(freedom: float, probability: float = 0.975) -> float:
    """Return the quantile of Student's t with `freedom` > 0 degrees of freedom.

    t^2 / (freedom + t^2) has the distribution Beta(1/2, freedom/2).
    """
    tail = 2 * min(probability, 1 - probability)
    # 1 - x, found directly, keeps its digits where x is nearly 1.
    rest = beta_quantile(tail, freedom / 2, 0.5)
    return math.copysign(math.sqrt(freedom * (1 - rest) / rest), probability - 0.5)


def t_tails(value: float, freedom: float) -> float:
    """Return the chance of a Student's t with `freedom` > 0 at least as far from 0 as `value`."""
    return beta_probability(freedom / (freedom + value * value), freedom / 2, 0.5)


def normal_tails(value: float) -> float:
    """Return the chance of a standard normal number at least as far from 0 as `value`."""
    return math.erfc(abs(value) / math.sqrt(2))


def beta_probability(x: float, a: float, b: float) -> float:
    """Return P(X <= x) for X from Beta(a, b); a, b > 0."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction of the other tail converges fast
        return 1 - beta_probability(1 - x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(logarithm + a * math.log(x) + b * math.log1p(-x))
    return front * _continued_fraction(x, a, b) / a


def _continued_fraction(x: float, a: float, b: float) -> float:
    """Evaluate the fraction from its front, after Lentz."""
    c, d = 1.0, _away_from_0(1 - (a + b) * x / (a + 1))
    value = d = 1 / d
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away_from_0(1 + term * d)
            c = _away_from_0(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return value


def _away_from_0(x: float) -> float:
    return x if abs(x) > _TINY else _TINY
