"""What is measured of the clips of a kind of prompts."""

from __future__ import annotations

import functools

import torch

from skipguide.lab import open_judge
from skipguide.metrics.frechet import Moments
from skipguide.paper.analysis import MEASURES, Measure
from skipguide.paper.open import clips as making
from skipguide.paper.open import prompts
from skipguide.paper.records import Clips
from skipguide.stats import jackknife
from skipguide.stats.estimate import Estimate

Tensor = torch.Tensor


def read_words(logits: Tensor) -> Tensor:
    """Return what the judge reads, `(N, heads)` for prompts.HEADS."""
    sizes = [len(words) for words in open_judge.HEADS.values()]
    parts = dict(zip(open_judge.HEADS, logits.split(sizes, dim=1), strict=True))
    return torch.stack([parts[head].argmax(1) for head in prompts.HEADS], 1)


def _named_right(clips: Clips, kind: str) -> Tensor:
    """Tell of each clip whose prompt names anything whether all that is named is there."""
    asked = prompts.pool(kind).subset(clips.numbers.tolist())
    right = (read_words(clips.logits) == asked.truth) | ~asked.asked
    return right.all(1)[asked.asked.any(1)].double()


def _words_right(clips: Clips, kind: str) -> Tensor:
    """Return of each clip whose prompt names anything the share of that which is there."""
    asked = prompts.pool(kind).subset(clips.numbers.tolist())
    right = (read_words(clips.logits) == asked.truth) & asked.asked
    named = asked.asked.sum(1)
    return (right.sum(1) / named.clamp_min(1))[named > 0].double()


def _entropy(kind: str, clips: Clips) -> float:
    """Return the entropy of what is read where the prompt leaves it open, in bits.

    It is the mean over the heads; words that no prompt leaves open do not count.
    """
    asked, seen = prompts.pool(kind).asked[clips.numbers], read_words(clips.logits)
    found = [
        _bits(seen[~asked[:, column], column])
        for column in range(len(prompts.HEADS))
        if not asked[:, column].all()
    ]
    return sum(found) / len(found)


def _bits(words: Tensor) -> float:
    share = torch.bincount(words).double() / len(words)
    return float(-(share[share > 0] * share[share > 0].log2()).sum())


def _column(name: str) -> functools.partial[Tensor]:
    return functools.partial(_value, making.VALUES.index(name))


def _value(column: int, clips: Clips, kind: str) -> Tensor:
    return clips.values[:, column].double()


@functools.cache
def measures(kind: str) -> dict[str, Measure]:
    """Return the measures that a kind of prompts has: what is not asked for cannot be right."""
    named = {
        "right": Measure("all named read right", 1, 3, _named_right, share=True),
        "words": Measure("named words right", 1, 3, _words_right),
    }
    left_open = {
        "entropy": Measure("entropy of the open, bits", 1, 3,
            per_set=functools.partial(_entropy, kind)),
    }  # fmt: skip
    common = {
        **{name: MEASURES[name] for name in ("frechet", "excess", "vendi")},
        "constant": Measure("shape constant", 1, 3, _column("constant"), share=True),
        "motion": Measure("motion", 0, 4, _column("motion")),
        "sharpness": Measure("sharpness", 0, 3, _column("sharpness")),
    }
    pool = prompts.pool(kind)
    return {
        **(named if pool.asked.any() else {}),
        **common,
        **({} if pool.asked.all() else left_open),
    }


def excess_change(row: Clips, base: Clips, real: Clips, reference: Moments) -> Estimate:
    """Return by which part of it a row changes the excess of its base.

    The excess is the Frechet distance over that of real clips of the same prompts, so that -0.25 is
    a quarter less of what is wrong.
    """

    distance = MEASURES["frechet"].per_reference
    assert distance is not None

    def value(kept: Tensor) -> float:
        sets = (row, base, real)
        mine, theirs, floor = (distance(clips.take(kept), reference) for clips in sets)
        return (mine - theirs) / (theirs - floor)

    return jackknife.estimate(value, base.numbers.tolist())
