"""Metrics of lab models for `skipguide tune`: the words of the prompt that the judge reads.

    skipguide tune --model lab-mochi --metric skipguide.lab.prompt_metric:probability ...

Only words that the prompt names count: shape, colour and motion of the object that moves. Of two
objects it is the one that is named first. For the world of lab-mochi-2 there is
`open_prompt_metric`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from skipguide.lab import judge, readers, world

Frames = NDArray[np.uint8]


def right(frames: Frames, prompt: str | None, fps: float | None = None) -> float:
    """Return 1 if the judge reads every word that the prompt names, else 0.

    Args:
        frames: `(F, H, W, 3)` uint8; sizes other than 64x64 are resized, lengths other than 19
            resampled in time.
        prompt: a caption of the lab's world.
        fps: not used.

    Raises:
        ValueError: if the prompt names no shape, colour or motion.
    """
    return float(are_read(readers.CLOSED, frames, _asked(prompt)))


def likelihood(frames: Frames, prompt: str | None, fps: float | None = None) -> float:
    """Return the mean logarithm of the chance that the judge gives the words of the prompt.

    It is 0 at best, -2 for guesses among eight, and -10 for a word that is surely wrong, so that a
    few clips carry its mean. Arguments and errors are those of `right`.
    """
    return float(log_chances(readers.CLOSED, frames, _asked(prompt)).mean())


def probability(frames: Frames, prompt: str | None, fps: float | None = None) -> float:
    """Return the chance that the judge gives all words of the prompt, in [0, 1].

    It says more of a clip than `right`, and one that is surely wrong does not weigh more than the
    others, as it does in `likelihood`. Arguments and errors are those of `right`.
    """
    return float(log_chances(readers.CLOSED, frames, _asked(prompt)).sum().exp())


def are_read(reader: readers.Reader, frames: Frames, words: Mapping[str, str]) -> bool:
    """Tell whether a judge reads all of these words, by heads, in a clip."""
    seen = reader.read(frames)
    return all(seen[name] == word for name, word in words.items())


def log_chances(reader: readers.Reader, frames: Frames, words: Mapping[str, str]) -> torch.Tensor:
    """Return the logarithm of the chance that a judge gives each of these words, by heads."""
    logits = reader.logits(frames)
    return torch.stack(
        [
            logits[name].double().log_softmax(1)[0, reader.heads[name].index(word)]
            for name, word in words.items()
        ]
    )


def _asked(prompt: str | None) -> dict[str, str]:
    found = named_words(prompt or "")
    if not found:
        raise ValueError(
            "a prompt must name a shape, a colour or a motion of the lab's world, so that it can be"
            f" read in the video, but got {prompt!r}. Write one as 'a red star moving left'."
        )
    return found


def named_words(prompt: str) -> dict[str, str]:
    """Return the words that a caption names of the object that moves: shape, colour, motion.

    The colour is the one before the shape, for backgrounds have colours too; without a shape it is
    one that no background follows.
    """
    text = prompt.lower()
    found: dict[str, str] = {}
    if shape := re.search(
        rf"(?:\b({any_of(judge.HEADS['colour'])}) )?\b({any_of(world.SHAPES)})\b", text
    ):
        found["shape"] = shape[2]
        if shape[1]:
            found["colour"] = shape[1]
    elif colour := re.search(rf"\b({any_of(judge.HEADS['colour'])})\b(?! background)", text):
        found["colour"] = colour[1]
    if phrase := find_motion(text):
        found["motion"] = MOTIONS[phrase]
    return found


def any_of(words: Iterable[str]) -> str:
    """Return a regular expression that matches any of these words."""
    return "|".join(words)


MOTIONS = {phrase: name for name, known in world.MOTION_PHRASES.items() for phrase in known}


def find_motion(text: str) -> str | None:
    """Return the longest phrase of a motion in a text: all of "spinning on the spot"."""
    phrases = sorted(MOTIONS, key=len, reverse=True)
    return next((phrase for phrase in phrases if re.search(rf"\b{phrase}\b", text)), None)
