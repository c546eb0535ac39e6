"""95 % intervals by the jackknife: the statistic again without each group of videos in turn.

A bootstrap draws videos twice, which adds no rank to a covariance and puts neighbours at distance
0, so that Frechet distances, coverage and their like come out biased. Leaving out does not. The
jackknife is exact for means. Its interval is about the expected value at this number of videos: a
bias that the statistic has there stays. Busing et al., Delete-m jackknife for unequal m (1999)."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import torch

Tensor = torch.Tensor
Labels = Sequence[Hashable]  # one for each video; videos of one label are left out together

GROUPS = 20
MIN_GROUPS = 8  # of groups; below, the interval itself would be too uncertain
_NORMAL_QUANTILE = 1.959963984540054  # 97.5 % quantile of the normal distribution


def half_widths(
    statistic: Callable[..., Tensor], sets: Sequence[Labels], groups: int = GROUPS
) -> Tensor | None:
    """Half the width of a 95 % interval around each of the values `(V,)` that `statistic` returns.

    Args:
        statistic: gets, for each set, the indices `(n,)` of the videos to keep; returns `(V,)`,
            float64.
        sets: the labels of each set of videos, generated and reference. What they add to the
            variance adds up.
        groups: into how many groups of labels a set is divided, if it has as many labels.

    Returns:
        None if a set has too few labels for an interval.
    """
    numbers = [_group_numbers(labels, groups) for labels in sets]
    counts = [int(number.max()) + 1 if len(number) else 0 for number in numbers]
    if min(counts) < MIN_GROUPS:
        return None
    everything = [torch.arange(len(number)) for number in numbers]
    variance = torch.zeros(())
    for which, (number, count) in enumerate(zip(numbers, counts, strict=True)):
        without = [
            _replace_at(everything, which, (number != group).nonzero()[:, 0])
            for group in range(count)
        ]
        values = torch.stack([statistic(*kept) for kept in without])
        variance = variance + values.var(0, correction=0) * (count - 1)
    return variance.sqrt() * t_quantile(min(counts) - 1)


def _replace_at(kept: list[Tensor], which: int, indices: Tensor) -> list[Tensor]:
    return [indices if i == which else other for i, other in enumerate(kept)]


def _group_numbers(labels: Labels, groups: int) -> Tensor:
    """Labels in the order in which they come, dealt out to the groups like cards."""
    order = {label: i % groups for i, label in enumerate(dict.fromkeys(labels))}
    return torch.tensor([order[label] for label in labels])


def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t, by its expansion around the normal one; right to 1e-3 from 7
    degrees on.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    z = _NORMAL_QUANTILE
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / freedom ** (i + 1) for i, term in enumerate(terms))


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share. It has a width at 0 and at 1 too, where nothing varies.

    Wilson, Probable inference, the law of succession, and statistical inference (1927).

    Raises:
        ValueError: unless 0 <= successes <= count and count >= 1.
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(
            f"a share needs 0 <= successes <= count and count >= 1, but got {successes} of {count}."
            " Count them again."
        )
    square, share = _NORMAL_QUANTILE**2, successes / count
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = (
        _NORMAL_QUANTILE
        / (1 + square / count)
        * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    )
    # At the ends the formula gives 0 and 1 exactly, which rounding misses.
    return (0.0 if successes == 0 else middle - half), (
        1.0 if successes == count else middle + half
    )
