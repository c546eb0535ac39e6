"""Ranks of cells, their uncertainty, and clusters of pushes: plain numpy on small arrays."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

IDLE, BROKEN = 0.02, 0.7  # of |c - p| / |c|
EDGE = 2  # layers at the beginning that are left out where there are others
SAME_WAY = 0.5  # mean cosine from which on pushes are in one cluster: an angle of 60 degrees
_MOST_DRAWS, _SEED = 2000, 0


def ranks(values: ArrayLike) -> Floats:
    """Return the ranks `(N,)` of values, 1 for the smallest, ties at their mean; nan stays nan."""
    array = np.asarray(values, np.float64)
    found = np.full(array.shape, np.nan)
    known = ~np.isnan(array)
    _, place, counts = np.unique(array[known], return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    found[known] = (last - (counts - 1) / 2)[place]
    return found


def relative_ranks(values: ArrayLike) -> Floats:
    """Return ranks from 0 for the smallest to 1 for the largest; nan where all are alike."""
    found = ranks(values)
    count = int((~np.isnan(found)).sum())
    if count < 2 or np.nanmax(found) == np.nanmin(found):
        return np.full(found.shape, np.nan)
    return (found - 1) / (count - 1)


def middleness(places: ArrayLike, num_places: int) -> Floats:
    """Return the nearness of each place to the middle of the model: 0 there, negative beside it."""
    return -np.abs(np.asarray(places, np.float64) - (num_places - 1) / 2)


def scores(means: Mapping[str, Floats], places: Floats, num_places: int) -> Floats:
    """Return "hf - c + mid" of each cell `(cells,)`, from 0 to 1, larger is better.

    It is the mean of three ranks: of the share of high frequencies in the push, of minus its
    cosine with c, and of the nearness to the middle. A part of which nothing is known (no grid, no
    frequencies) is left out.

    Args:
        means: of "hf" and "cos_c".
        places, num_places: as in a ScanRecord.
    """
    measured = np.stack([relative_ranks(means["hf"]), relative_ranks(-means["cos_c"])])
    middle = relative_ranks(middleness(places, num_places))
    there = ~np.isnan(measured).all(0)
    return np.where(there, mean_of_known(np.vstack([measured, middle]), 0), np.nan)


def mean_of_known(array: Floats, axis: int) -> Floats:
    """Return the mean along an axis without what is nan; nan where all is."""
    known = ~np.isnan(array)
    counts = known.sum(axis)
    sums = np.where(known, array, 0).sum(axis)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def kinds(ratio: Floats, places: Floats) -> tuple[str, ...]:
    """Return "idle", "broken", "edge" or "" for each cell.

    Args:
        ratio: `(cells,)`: the mean of |c - p| / |c|.
        places: `(cells,)`: of the layers, from 0.
    """
    found = [_kind(float(value)) for value in ratio]
    inner = any(not kind and place >= EDGE for kind, place in zip(found, places, strict=True))
    return tuple(
        "edge" if inner and not kind and place < EDGE else kind
        for kind, place in zip(found, places, strict=True)
    )


def _kind(ratio: float) -> str:
    if not math.isfinite(ratio) or ratio > BROKEN:
        return "broken"
    return "idle" if ratio < IDLE else ""


def places_in_order(score: Floats, counted: NDArray[np.bool_]) -> Floats:
    """Return the rank of each cell by score, 1 for the best; nan for those that do not count.

    Of cells with one score the first in the model comes first; those without a score come last.
    """
    found = np.full(len(score), np.nan)
    at = np.flatnonzero(counted)
    order = at[np.argsort(np.where(np.isnan(score[at]), np.inf, -score[at]), kind="stable")]
    found[order] = np.arange(1, len(order) + 1)
    return found


def resamples(prompts: int) -> Iterator[tuple[int, ...]]:
    """Yield resamples of prompts: n - 1 of n with replacement, all of them where they are few.

    Draws of n - 1 have a mean whose variance is that of the mean of n, which draws of n put too
    low (Rao and Wu 1988). With one prompt there are none.
    """
    if prompts < 2:
        return
    size = prompts - 1
    if prompts**size <= _MOST_DRAWS:
        yield from itertools.product(range(prompts), repeat=size)
        return
    random = np.random.default_rng(_SEED)
    yield from map(tuple, random.integers(prompts, size=(_MOST_DRAWS, size)).tolist())


def clusters(similarity: ArrayLike, threshold: float = SAME_WAY) -> NDArray[np.int64]:
    """Return the number of each cell's cluster `(cells,)`, from 1 in the order of the cells.

    Average linkage: the two clusters whose members have the largest mean cosine are joined, as long
    as that is not below the threshold. A nan counts as 0.

    Args:
        similarity: `(cells, cells)`: cosines.
    """
    means = np.nan_to_num(np.array(similarity, np.float64))
    groups = {k: [k] for k in range(len(means))}
    np.fill_diagonal(means, -np.inf)
    while len(groups) > 1:
        a, b = sorted(map(int, np.unravel_index(means.argmax(), means.shape)))
        if means[a, b] < threshold:
            break
        _join(means, a, b, len(groups[a]), len(groups[b]))
        groups[a] += groups.pop(b)
    numbers = np.zeros(len(means), np.int64)
    for number, group in enumerate(sorted(groups.values(), key=min), 1):
        numbers[group] = number
    return numbers


def _join(means: Floats, a: int, b: int, size_a: int, size_b: int) -> None:
    """Make row and column a of mean cosines those of clusters a and b together, and remove b."""
    joined = (size_a * means[a] + size_b * means[b]) / (size_a + size_b)
    means[a], means[:, a] = joined, joined
    means[b], means[:, b], means[a, a] = -np.inf, -np.inf, -np.inf


def area_under_curve(score: ArrayLike, member: ArrayLike) -> float:
    """Return the area under the ROC curve: how often a member's score is above another's.

    Ties count half. nan where all or none are members.
    """
    inside = np.asarray(member, bool)
    n, m = int(inside.sum()), int((~inside).sum())
    if not n or not m:
        return math.nan
    return float((ranks(score)[inside].sum() - n * (n + 1) / 2) / (n * m))
