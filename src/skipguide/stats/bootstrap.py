"""95 % percentile bootstrap intervals of means, and of differences between paired values.

`clustered_mean` resamples clusters of values that belong together, such as the votes on one prompt.
`mean`, `share_or_mean` and `mean_difference` resample single values with the same draws every time,
so that all rows of a table gain and lose the same prompts.

torch is imported only by the functions that take tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skipguide.stats.estimate import Estimate
from skipguide.stats.shares import wilson

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]

MIN_CLUSTERS = 5  # fewer clusters have no interval
_CLUSTER_RESAMPLES = 1000
_RESAMPLES = 2000
_TAILS = (0.025, 0.975)


# --- values in clusters ---------------------------------------------------------------------------


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """Estimate the mean of some values `(N,)`, each of which belongs to a cluster.

    Raises:
        ValueError: if there are no values, or not one cluster for each.
    """
    if not values or len(values) != len(clusters):
        raise ValueError(
            f"a mean needs values, and a cluster for each, but got {len(values)} values and"
            f" {len(clusters)} clusters. Pass one cluster per value."
        )
    array, number = np.asarray(values, np.float64), number_clusters(clusters)

    def weighted(weights: Floats) -> Floats:  # (B, clusters) -> (B,)
        each = weights[:, number]
        return (each @ array) / each.sum(1)

    value, low, high = cluster_interval(weighted, int(number.max()) + 1)
    if low is None or high is None:
        return Estimate(float(value), None, None, len(values))
    return Estimate(float(value), float(low), float(high), len(values))


def number_clusters(clusters: Sequence[Hashable]) -> NDArray[np.intp]:
    """Return the number of each cluster, counted from 0 in the order in which they first appear."""
    order = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    return np.asarray([order[cluster] for cluster in clusters])


def cluster_interval(
    statistic: Callable[[Floats], Floats], clusters: int
) -> tuple[Floats, Floats | None, Floats | None]:
    """Return a statistic and the ends of its interval; None for fewer than MIN_CLUSTERS clusters.

    Args:
        statistic: maps how often each cluster counts, `(B, clusters)`, to values `(B, ...)`.
    """
    value = statistic(np.ones((1, clusters)))[0]
    if clusters < MIN_CLUSTERS:
        return value, None, None
    drawn = np.random.default_rng(0).multinomial(
        clusters, np.full(clusters, 1 / clusters), _CLUSTER_RESAMPLES
    )
    ends = np.nanquantile(statistic(drawn.astype(np.float64)), _TAILS, axis=0)
    return value, ends[0], ends[1]


# --- single values --------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def _bootstrap_indices(count: int) -> Tensor:
    """Return `(_RESAMPLES, count)`: the positions of each resample, the same for equal counts."""
    import torch

    return torch.randint(count, (_RESAMPLES, count), generator=torch.Generator().manual_seed(0))


def mean(values: Tensor) -> Estimate:
    """Estimate the mean of values `(N,)`."""
    drawn = values[_bootstrap_indices(len(values))].mean(1)
    low, high = drawn.quantile(drawn.new_tensor(_TAILS)).tolist()
    return Estimate(values.mean().item(), low, high, len(values))


def share_or_mean(values: Tensor) -> Estimate:
    """Estimate a mean as `mean` does, but a share of exactly 0 or 1 with Wilson's interval.

    Nothing varies in such a share, so its bootstrap interval would have no width.
    """
    if values[0] in (0, 1) and (values == values[0]).all():
        low, high = wilson(int(values.sum()), len(values))
        return Estimate(values[0].item(), low, high, len(values))
    return mean(values)


def mean_difference(values: Tensor, others: Tensor) -> Estimate:
    """Estimate the mean of `values - others`, paired; `(N,)` each.

    Two shares that do not differ anywhere get Wilson's interval, for the reason given in
    `share_or_mean`.
    """
    found = values - others
    if not found.any() and bool(((values == 0) | (values == 1)).all()):
        most = wilson(0, len(values))[1]
        return Estimate(0.0, -most, most, len(values))
    return mean(found)
