"""The pair of settings that a rater should see next: its answer tells most of the best one.

The model is that of Bradley and Terry (Biometrika 39, 1952) with a deviation of each setting on
each prompt, because the votes on one prompt are not independent: setting i is preferred to j on
prompt c with the chance 1 / (1 + exp(f_j - f_i)), f_i = strength of i + its deviation on c. Both
have Gaussian priors. The posterior of the strengths is Laplace's approximation, a Gaussian around
the mode, in which the deviations are integrated out. A tie is half a win for each, as elsewhere.

The information of a vote is that of Lindley (Annals of Mathematical Statistics 27, 1956): the
entropy that it is expected to take away, here that of which setting is the strongest, of which a
vote between the two weakest tells nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from skipguide.stats.preference import Duel, count_wins, logistic

Floats = NDArray[np.float64]
Pair = tuple[int, int]

SPREAD = 1.0  # of the prior of a strength, in log odds: two settings differ by 1.4 of them
PROMPT_SPREADS = (0.25, 0.5, 1.0)  # of a setting from prompt to prompt; the likeliest is taken
NEAR = 0.9  # pairs that tell at least this part of what the best one tells count as equal to it
_SAMPLES, _SEED = 4096, 1
_STEPS, _LONGEST_STEP, _TOLERANCE = 60, 1.0, 1e-9  # of Newton's method


@dataclass(frozen=True, eq=False)
class Posterior:
    """The strengths of settings by their votes: a Gaussian.

    Args:
        names: the settings, in the order of what follows.
        mean: of each strength `(K,)`, in log odds.
        covariance: of the strengths `(K, K)`.
        prompt_spread: the standard deviation of a setting from prompt to prompt, in log odds.
        evidence: the logarithm of the probability of the votes, by Laplace's method.
    """

    names: tuple[int, ...]
    mean: Floats
    covariance: Floats
    prompt_spread: float
    evidence: float

    @cached_property
    def samples(self) -> Floats:
        """Strengths drawn from it, `(4096, K)`: the same ones at every call."""
        drawn = np.random.default_rng(_SEED).standard_normal((_SAMPLES, len(self.names)))
        return self.mean + drawn @ np.linalg.cholesky(self.covariance).T

    @cached_property
    def chances(self) -> Floats:
        """Return the probability that each setting is the strongest of all, `(K,)`."""
        best = self.samples.argmax(1)
        return np.bincount(best, minlength=len(self.names)) / len(best)

    def difference(self, first: int, second: int) -> tuple[float, float]:
        """Return how much stronger a setting is than another: the mean, and the deviation."""
        i, j = self.names.index(first), self.names.index(second)
        variance = self.covariance[i, i] + self.covariance[j, j] - 2 * self.covariance[i, j]
        return float(self.mean[i] - self.mean[j]), float(variance) ** 0.5

    def chance_beyond(self, name: int, margin: float) -> float:
        """Return the probability that another setting is stronger by more than a margin."""
        place = self.names.index(name)
        lead = self.samples.max(1) - self.samples[:, place]
        return float((lead > margin).mean())

    def win_rate(self, difference: Floats | float) -> Floats:
        """Return the chance to win, on a prompt that is drawn anew, at a difference of strengths.

        The deviations on the prompt are integrated out (MacKay, Neural Computation 4, 1992).
        """
        variance = 2 * self.prompt_spread**2
        return logistic(np.asarray(difference) / math.sqrt(1 + math.pi * variance / 8))


# --- the posterior --------------------------------------------------------------------------------


def posterior(
    duels: Sequence[Duel],
    names: Sequence[int],
    spread: float = SPREAD,
    prompt_spreads: Sequence[float] = PROMPT_SPREADS,
) -> Posterior:
    """Fit the strengths of settings to votes.

    Args:
        duels: the votes; those with a setting that is not named are left out.
        names: the settings, also those without a vote.
        spread: the standard deviation of a strength before any vote, in log odds.
        prompt_spreads: the standard deviations of a setting from prompt to prompt that are tried,
            larger than 0; that which makes the votes the most probable is taken.

    Raises:
        ValueError: for fewer than two settings, one that is named twice, or spreads that are not
            larger than 0.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(
            f"strengths need two or more different settings, but got {list(names)}. Name each once."
        )
    if not prompt_spreads or min(spread, *prompt_spreads) <= 0:
        raise ValueError(
            "the spreads of strengths must be larger than 0, but got"
            f" {spread:g} and {[*prompt_spreads]}. Raise them."
        )
    known = [duel for duel in duels if {duel.first, duel.second} <= set(names)]
    wins = count_wins(known, names)
    fits = [_fit(wins, tuple(names), spread, own) for own in prompt_spreads]
    return max(fits, key=lambda found: found.evidence)


def _fit(wins: Floats, names: tuple[int, ...], spread: float, prompt_spread: float) -> Posterior:
    strengths, deviations = _find_mode(wins, spread, prompt_spread)
    count, free = len(names), prompt_spread**-2
    _, curve = _derivatives(wins, strengths + deviations)
    own = curve + free * np.eye(count)
    whole = np.eye(count) / spread**2 + free * (curve @ np.linalg.inv(own)).sum(0)
    evidence = (
        _log_likelihood(wins, strengths + deviations)
        - (strengths @ strengths) / (2 * spread**2)
        - free * (deviations**2).sum() / 2
        - count * math.log(spread)
        - deviations.size * math.log(prompt_spread)
        - (np.linalg.slogdet(whole)[1] + np.linalg.slogdet(own)[1].sum()) / 2
    )
    covariance = np.linalg.inv(whole)
    symmetric = (covariance + covariance.T) / 2
    return Posterior(names, strengths, symmetric, prompt_spread, float(evidence))


def _find_mode(wins: Floats, spread: float, prompt_spread: float) -> tuple[Floats, Floats]:
    """Return the likeliest strengths `(K,)`, and the deviations `(C, K)` there, by Newton's method.

    The deviations on different prompts meet in the strengths only, so that each prompt is
    eliminated by itself (Schur's complement).
    """
    count, free = wins.shape[1], prompt_spread**-2
    strengths, deviations = np.zeros(count), np.zeros((len(wins), count))
    for _ in range(_STEPS):
        at = strengths + deviations
        slope, curve = _derivatives(wins, at)
        own = curve + free * np.eye(count)
        # The covariance of the deviations at these strengths, (C, K, K).
        around = np.asarray(np.linalg.inv(own), np.float64)
        whole = np.eye(count) / spread**2 + free * (curve @ around).sum(0)
        left = slope - free * deviations
        pull = slope.sum(0) - strengths / spread**2
        pull -= np.einsum("cij,cjk,ck->i", curve, around, left)
        pull -= free * np.einsum("cij,cj->i", around, _bend(wins, at, around))
        step = _shorten(np.linalg.solve(whole, pull))
        own_step = _shorten(np.einsum("cij,cj->ci", around, left - curve @ step))
        strengths, deviations = strengths + step, deviations + own_step
        if max(np.abs(step).max(), np.abs(own_step).max(initial=0)) < _TOLERANCE:
            break
    return strengths, deviations


def _shorten(step: Floats) -> Floats:
    """Return a step that cannot run away where the likelihood is flat."""
    return np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)


def _derivatives(wins: Floats, at: Floats) -> tuple[Floats, Floats]:
    """Return the slope `(C, K)` of the log likelihood, and minus its curvature `(C, K, K)`."""
    fought = wins + wins.transpose(0, 2, 1)
    chance = logistic(at[:, :, None] - at[:, None, :])
    slope = (wins - fought * chance).sum(2)
    spread = fought * chance * (1 - chance)
    return slope, np.eye(at.shape[1]) * spread.sum(2)[:, :, None] - spread


def _bend(wins: Floats, at: Floats, around: Floats) -> Floats:
    """Return the slope `(C, K)` of half the log determinant of what the deviations are known by.

    Without it the mode of strengths and deviations together is taken for that of the strengths,
    which is nearer to 0.

    Args:
        around: the covariance of the deviations `(C, K, K)`.
    """
    fought = wins + wins.transpose(0, 2, 1)
    chance = logistic(at[:, :, None] - at[:, None, :])
    own = np.diagonal(around, axis1=1, axis2=2)
    apart = own[:, :, None] + own[:, None, :] - 2 * around  # the variance of a difference
    return (fought * chance * (1 - chance) * (1 - 2 * chance) * apart).sum(2) / 2


def _log_likelihood(wins: Floats, at: Floats) -> float:
    return float(-(wins * np.logaddexp(0, at[:, None, :] - at[:, :, None])).sum())


# --- what a vote tells ----------------------------------------------------------------------------


def information_about_best(found: Posterior, pairs: Sequence[Pair]) -> Floats:
    """Return how much a vote on each pair, on a new prompt, tells of which setting is the best.

    Returns:
        `(pairs,)` in nats: the entropy of the best setting that is expected to go.
    """
    best = np.eye(len(found.names))[found.samples.argmax(1)]  # (S, K)
    wins = _sampled_win_rates(found, pairs)  # (pairs, S)
    both = np.stack([wins @ best, (1 - wins) @ best], 1) / len(best)  # (pairs, 2, K)
    outcome = both.sum(2)
    # Where an answer is certain nothing is told; 0 log 0 is 0.
    return _entropy(outcome) + _entropy(both.sum(1)) - _entropy(both.reshape(len(both), -1))


def _sampled_win_rates(found: Posterior, pairs: Sequence[Pair]) -> Floats:
    """Return the chance of the first of each pair, for strengths from the posterior: `(P, S)`."""
    place = {name: i for i, name in enumerate(found.names)}
    first = found.samples[:, [place[one] for one, _ in pairs]]
    second = found.samples[:, [place[other] for _, other in pairs]]
    return found.win_rate(first - second).T


def _entropy(chances: Floats) -> Floats:
    """Return the entropy of distributions `(..., n)`, in nats."""
    logs = np.log(chances, out=np.zeros_like(chances), where=chances > 0)
    return -(chances * logs).sum(-1)


# --- the choice -----------------------------------------------------------------------------------


def rank_pairs(found: Posterior, pairs: Sequence[Pair], shown: Mapping[Pair, int]) -> list[Pair]:
    """Return pairs, the one to show next first.

    Of those that tell nearly as much as the best one, which was shown least often goes first. So
    the first votes, when all settings are alike, go round all pairs.

    Args:
        pairs: (first, second) settings that can be shown.
        shown: how often each pair was shown or judged.
    """
    if not pairs:
        return []
    told = information_about_best(found, pairs)
    near = NEAR * told.max()
    places = range(len(pairs))
    order = sorted(
        places,
        key=lambda i: (
            (0, shown.get(pairs[i], 0), -told[i]) if told[i] >= near else (1, -told[i], 0),
            pairs[i],
        ),
    )
    return [pairs[i] for i in order]
