"""The prompts of the open world, by how much they leave open, and what each of them asks for."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from skipguide.lab import open_captions, open_judge, open_world, worlds

Tensor = torch.Tensor
KINDS = worlds.OPEN.prompts  # what prompts of a kind name; None is each slot at random
POOL = 2048  # prompts of a kind; they do not depend on how many of them are used
SEED = 13 * 10**6
OTHER_SEED = SEED + 1  # of the real clips that sets are compared with
HEADS = tuple(open_judge.NAMED_HEADS)


@dataclass(frozen=True)
class Prompts:
    """Prompts, and the scenes that they describe.

    Args:
        asked: `(N, heads)` bool: which of HEADS a prompt says something about.
        truth: `(N, heads)`: the right answer of each of them.
    """

    scenes: open_world.OpenScenes
    captions: list[str]
    asked: Tensor
    truth: Tensor

    def subset(self, numbers: Sequence[int]) -> Prompts:
        """Keep the prompts with some numbers."""
        which = torch.as_tensor(numbers)
        words = [self.captions[number] for number in which.tolist()]
        return Prompts(self.scenes[which], words, self.asked[which], self.truth[which])


@functools.cache
def pool(kind: str, seed: int = SEED) -> Prompts:
    """Return the prompts of a kind: all kinds describe the same scenes."""
    scenes = open_world.sample_scenes(POOL, seed)
    found = open_captions.captions(scenes, seed, KINDS[kind])
    heads = [{head for slot in one.named for head in worlds.OPEN.slots[slot]} for one in found]
    asked = torch.tensor([[head in named for head in HEADS] for named in heads])
    answers = open_judge.truth(scenes)
    truth = torch.stack([answers[head] for head in HEADS], 1)
    return Prompts(scenes, [one.text for one in found], asked, truth)
