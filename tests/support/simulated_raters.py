"""Raters of known taste, and how many votes it takes to know the best of some settings from them.

    python tests/support/simulated_raters.py REPEATS

prints how many votes it takes when the pair is chosen that tells most, and when it is drawn.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from skipguide.stats import active_pairs, intervals
from skipguide.stats.active_pairs import Pair, Posterior
from skipguide.stats.preference import Duel

Choice = Callable[[Posterior, Sequence[Pair], Counter[Pair], np.random.Generator], Pair]


@dataclass(frozen=True)
class Ended:
    """How a test ended: after how many votes, and what was chosen."""

    votes: int
    chosen: int
    loss: float  # strength of the best minus that of the chosen one


def most_telling(
    found: Posterior, pairs: Sequence[Pair], shown: Counter[Pair], _: np.random.Generator
) -> Pair:
    """The pair that tells most of the best setting."""
    return active_pairs.rank_pairs(found, pairs, shown)[0]


def drawn(
    _: Posterior, pairs: Sequence[Pair], __: Counter[Pair], random: np.random.Generator
) -> Pair:
    """Any pair."""
    return pairs[int(random.integers(len(pairs)))]


def ask(
    strengths: Sequence[float],
    choose: Choice,
    random: np.random.Generator,
    prompts: int = 12,
    most: int = 200,
    ties: float = 0.1,
    at_once: int = 1,
    sure: float = 0.95,
) -> Ended:
    """Ask until the best setting is known with a probability, or `most` votes are given.

    Args:
        at_once: votes between two looks at the posterior.
    """
    names = range(len(strengths))
    pairs = list(itertools.combinations(names, 2))
    own = random.normal(0, 0.3, (prompts, len(strengths)))
    duels: list[Duel] = []
    shown = Counter[Pair]()
    while True:
        found = active_pairs.posterior(duels, names, prompt_spreads=(0.3,))
        if found.chances.max() >= sure or len(duels) >= most:
            chosen = int(found.mean.argmax())
            return Ended(len(duels), chosen, max(strengths) - strengths[chosen])
        for _ in range(at_once):
            first, second = pair = choose(found, pairs, shown, random)
            prompt = shown[pair] % prompts
            shown[pair] += 1
            felt = own[prompt] + strengths
            wins = random.random() < 1 / (1 + np.exp(felt[second] - felt[first]))
            score = 0.5 if random.random() < ties else float(wins)
            duels.append(Duel(first, second, score, prompt))


def compare(repeats: int, settings: int = 6, **how: int) -> tuple[list[Ended], list[Ended]]:
    """Ask raters of `repeats` tastes in both ways: the pair that tells most, and any pair."""
    both: tuple[list[Ended], list[Ended]] = ([], [])
    for seed in range(repeats):
        strengths = np.random.default_rng(seed).normal(0, 1, settings).tolist()
        for ended, choose in zip(both, (most_telling, drawn), strict=True):
            ended.append(ask(strengths, choose, np.random.default_rng(seed + 10_000), **how))
    return both


def main(repeats: int) -> None:
    """Print what the two ways take."""
    for settings in (4, 6, 8):
        told, random = compare(repeats, settings, most=600)
        logs = np.log([a.votes / b.votes for a, b in zip(told, random, strict=True)])
        ratio = intervals.mean(logs)
        assert ratio.low is not None
        assert ratio.high is not None
        ends = ", ".join(f"{np.exp(end):.2f}" for end in (ratio.low, ratio.high))
        print(f"{settings} settings: {np.exp(ratio.value):.2f} of the votes ({ends})", end="; ")
        for name, found in (("most telling", told), ("random", random)):
            votes, losses = [one.votes for one in found], [one.loss for one in found]
            right = np.mean([loss == 0 for loss in losses])
            said = f"{name}: mean {np.mean(votes):.0f}, median {np.median(votes):.0f} votes"
            print(f"{said}, best found {right:.2f}, loss {np.mean(losses):.3f}", end="; ")
        print()


if __name__ == "__main__":
    main(int(sys.argv[1]))
