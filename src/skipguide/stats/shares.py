"""Intervals of shares: how many of `count` things have a property."""

from __future__ import annotations

import math

NORMAL_QUANTILE = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share; unlike others it has a width at 0 and 1 too.

    Wilson, Probable inference, the law of succession, and statistical inference (1927).

    Raises:
        ValueError: unless 0 <= successes <= count and count >= 1.
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(
            f"a share needs 0 <= successes <= count and count >= 1, but got {successes} of {count}."
            " Check both counts."
        )
    square, share = NORMAL_QUANTILE**2, successes / count
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = (
        NORMAL_QUANTILE
        / (1 + square / count)
        * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    )
    # At the ends the formula gives 0 and 1 exactly, which rounding misses.
    return (0.0 if successes == 0 else middle - half), (
        1.0 if successes == count else middle + half
    )
