"""Simulate what a study of pairs can see, before anybody is asked.

A setting wins each comparison with a chance that differs from prompt to prompt around the win rate
(a beta distribution); the votes on one prompt share that chance, so that they are alike. A study
sees the win rate if the interval that the studio prints of it (`intervals.share`, clustered by
prompt) lies on its side of a half. Raters are taken for alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skipguide.stats import intervals

MOST_RATERS = 1000  # that are looked at for the inverse
_SIMULATIONS = 1000
_SEED = 20_22  # the same studies for every design, so that more raters never seem to see less


@dataclass(frozen=True)
class Design:
    """A study of pairs.

    Args:
        raters, tasks: how many people judge how many pairs each.
        prompts: that the pairs are made of.
        settings: that are compared, each with each other; the win rate is of one over another.
        win_rate: the truth that is to be seen; a tie is half a win.
        ties: the share of the pairs on which raters see no difference.
        likeness: the correlation of two votes on one prompt, 0 to 1.
    """

    raters: int
    tasks: int
    prompts: int
    settings: int = 2
    win_rate: float = 0.6
    ties: float = 0.1
    likeness: float = 0.05

    def __post_init__(self) -> None:
        _check(self)

    @property
    def votes(self) -> int:
        """Return how many votes two of the settings get."""
        return self.raters * self.tasks // (self.settings * (self.settings - 1) // 2)

    @property
    def clusters(self) -> int:
        """Return how many prompts they are of."""
        return min(self.prompts, self.votes)


def power(design: Design, simulations: int = _SIMULATIONS) -> float:
    """Return the share of studies in which the win rate is seen, 0 to 1.

    Fewer than `intervals.MIN_CLUSTERS` prompts see nothing, because there is no interval.
    """
    if intervals.too_few(design.clusters):
        return 0.0
    sizes = _sizes(design.votes, design.clusters)
    counts = sizes.astype(np.float64)
    side = 1 if design.win_rate > 0.5 else -1
    seen = sum(
        intervals.side_of_share(sums, counts) == side
        for sums in _simulate(design, sizes, simulations)
    )
    return seen / simulations


def raters_needed(design: Design, wanted: float = 0.8, simulations: int = 500) -> int | None:
    """Return how many raters see the win rate in this share of studies, all else as it is.

    Returns:
        None if MOST_RATERS do not, because it takes more prompts.
    """

    def is_enough(raters: int) -> bool:
        return power(replace(design, raters=raters), simulations) >= wanted

    most = 1
    while not is_enough(most):
        if most >= MOST_RATERS:
            return None
        most = min(2 * most, MOST_RATERS)
    least = most // 2  # is not enough
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if is_enough(middle) else (middle, most)
    return most


def describe(design: Design, found: float) -> str:
    """Return the power of a design in a sentence."""
    return (
        f"At {design.raters} raters x {design.tasks} pairs a win rate of {design.win_rate:g} is"
        f" seen in {round(10 * found)} of 10 studies."
    )


def describe_needed(needed: int | None, wanted: float, prompts: int) -> str:
    """Return in a sentence how many raters are needed."""
    studies = f"{10 * wanted:g} of 10 studies"
    if needed is None:
        return (
            f"No number of raters up to {MOST_RATERS} sees it in {studies}: {prompts} prompts are"
            " too few."
        )
    return f"{studies[0].upper()}{studies[1:]} need {needed} rater{'s' * (needed != 1)}."


def _simulate(design: Design, sizes: NDArray[np.int64], simulations: int) -> NDArray[np.float64]:
    """Return the wins on each prompt of each study, `(simulations, clusters)`."""
    random = np.random.default_rng(_SEED)
    shape = (simulations, len(sizes))
    mean = (design.win_rate - design.ties / 2) / (1 - design.ties)
    chances = np.full(shape, mean)
    if 0 < design.likeness < 1 and 0 < mean < 1:
        spread = 1 / design.likeness - 1
        chances = random.beta(mean * spread, (1 - mean) * spread, shape)
    elif design.likeness == 1:
        chances = (random.random(shape) < mean).astype(np.float64)
    ties = random.binomial(sizes, design.ties, shape)
    return random.binomial(sizes - ties, chances) + ties / 2


def _sizes(votes: int, clusters: int) -> NDArray[np.int64]:
    """Return the votes on each prompt, as equal as can be."""
    return np.asarray([votes // clusters + (i < votes % clusters) for i in range(clusters)])


def _check(design: Design) -> None:
    for name, least in (("raters", 1), ("tasks", 1), ("prompts", 1), ("settings", 2)):
        if getattr(design, name) < least:
            raise ValueError(
                f"a study needs {least} or more {name}, but got {getattr(design, name)}. Raise it."
            )
    if not 0 <= design.ties < 1 or not 0 <= design.likeness <= 1:
        raise ValueError(
            "the share of ties must be from 0 to below 1 and the likeness from 0 to 1, but got"
            f" {design.ties:g} and {design.likeness:g}. Correct them."
        )
    half = design.ties / 2
    if design.win_rate == 0.5 or not half <= design.win_rate <= 1 - half:
        raise ValueError(
            f"a win rate must be from {half:g} to {1 - half:g}, the ends that {design.ties:g} of"
            f" ties leave, and not 0.5, which nothing can be seen of; but got"
            f" {design.win_rate:g}. Correct it."
        )
