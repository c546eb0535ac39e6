"""95 % intervals by the jackknife: recompute a statistic without each group of videos in turn.

A bootstrap draws some videos twice, which adds no rank to a covariance and puts neighbours at
distance 0, so Frechet distances, coverage and the like come out biased. Leaving videos out does not
have this problem. The jackknife is exact for means. Its interval covers the expected value at this
number of videos; a bias that the statistic has there stays. Busing et al., Delete-m jackknife for
unequal m (1999).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch

from skipguide.stats.estimate import Estimate
from skipguide.stats.quantiles import t_quantile

Tensor = torch.Tensor
Labels = Sequence[Hashable]  # one per video; videos with the same label are left out together

GROUPS = 20
MIN_GROUPS = 8  # with fewer groups, the interval itself would be too uncertain


def half_widths(
    statistic: Callable[..., Tensor], sets: Sequence[Labels], groups: int = GROUPS
) -> Tensor | None:
    """Return half the width of a 95 % interval around each value `(V,)` of a statistic.

    The arguments are those of `replicates`.

    Returns:
        None if a set has too few labels for an interval.
    """
    without = replicates(statistic, sets, groups)
    return None if without is None else half_widths_of(without)


def half_widths_of(without: Sequence[Tensor]) -> Tensor:
    """Return half the width of a 95 % interval from the `replicates` of a statistic: `(V,)`.

    The variances that the sets contribute are added.
    """
    variance = torch.zeros(())
    for values in without:
        variance = variance + values.var(0, correction=0) * (len(values) - 1)
    return variance.sqrt() * t_quantile(min(map(len, without)) - 1)


def replicates(
    statistic: Callable[..., Tensor], sets: Sequence[Labels], groups: int = GROUPS
) -> list[Tensor] | None:
    """Return the values of a statistic without each group of videos: per set, `(groups, V)`.

    Args:
        statistic: takes, for each set, the indices `(n,)` of the videos to keep; returns `(V,)`,
            float64.
        sets: the labels of each set of videos, generated and reference.
        groups: how many groups of labels a set is divided into, if it has as many labels.

    Returns:
        None if a set has too few labels for an interval.
    """
    numbers = [_group_numbers(labels, groups) for labels in sets]
    counts = [int(number.max()) + 1 if len(number) else 0 for number in numbers]
    if min(counts) < MIN_GROUPS:
        return None
    everything = [torch.arange(len(number)) for number in numbers]
    return [
        torch.stack(
            [
                statistic(*_replace_at(everything, which, (number != group).nonzero()[:, 0]))
                for group in range(count)
            ]
        )
        for which, (number, count) in enumerate(zip(numbers, counts, strict=True))
    ]


def too_few(labels: int) -> str | None:
    """Return why so many labels have no interval; None if they have one."""
    if labels >= MIN_GROUPS:
        return None
    are = "there is 1" if labels == 1 else f"there are {labels}"
    return f"the interval of a measure of a set needs {MIN_GROUPS} prompts or more, but {are}"


def estimate(statistic: Callable[[Tensor], float], labels: Labels) -> Estimate:
    """Estimate one statistic of one set of videos.

    Args:
        statistic: takes the indices `(n,)` of the videos to keep.
        labels: as one of the `sets` of `replicates`.
    """

    def value(kept: Tensor) -> Tensor:
        return torch.tensor([statistic(kept)], dtype=torch.float64)

    found = value(torch.arange(len(labels))).item()
    half = half_widths(value, [labels])
    if half is None:
        return Estimate(found, None, None, len(labels), too_few(len(set(labels))))
    return Estimate(found, found - half.item(), found + half.item(), len(labels))


def _replace_at(kept: list[Tensor], which: int, indices: Tensor) -> list[Tensor]:
    return [indices if i == which else other for i, other in enumerate(kept)]


def _group_numbers(labels: Labels, groups: int) -> Tensor:
    """Deal the labels out to the groups like cards, in the order in which they come."""
    order = {label: i % groups for i, label in enumerate(dict.fromkeys(labels))}
    return torch.tensor([order[label] for label in labels])
