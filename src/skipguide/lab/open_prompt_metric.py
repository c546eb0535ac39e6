"""Metrics of lab-mochi-2 for `skipguide tune`: the words of the prompt that the open judge reads.

    skipguide tune --model lab-mochi-2 --metric skipguide.lab.open_prompt_metric:probability ...

Only words that the prompt names count: shape, colour, size and motion of the first object, kind and
colour of the background, shape and colour of the second object or that there is none.
"""

from __future__ import annotations

import re

from skipguide.lab import open_captions, open_judge, open_world, prompt_metric, readers, world
from skipguide.lab.prompt_metric import Frames, any_of


def right(frames: Frames, prompt: str | None, fps: float | None = None) -> float:
    """Return 1 if the open judge reads every word that the prompt names, else 0.

    Args:
        frames: `(F, H, W, 3)` uint8; sizes other than 64x64 are resized, lengths other than 19
            resampled in time.
        prompt: a caption of the open world.
        fps: not used.

    Raises:
        ValueError: if the prompt names nothing that the judge reads.
    """
    return float(prompt_metric.are_read(readers.OPEN, frames, _asked(prompt)))


def likelihood(frames: Frames, prompt: str | None, fps: float | None = None) -> float:
    """Return the mean logarithm of the chance that the judge gives the words of the prompt.

    It is 0 at best; see `prompt_metric.likelihood`. Arguments and errors are those of `right`.
    """
    return float(prompt_metric.log_chances(readers.OPEN, frames, _asked(prompt)).mean())


def probability(frames: Frames, prompt: str | None, fps: float | None = None) -> float:
    """Return the chance that the judge gives all words of the prompt, in [0, 1].

    A prompt that names more has a lower one. Arguments and errors are those of `right`.
    """
    return float(prompt_metric.log_chances(readers.OPEN, frames, _asked(prompt)).sum().exp())


def _asked(prompt: str | None) -> dict[str, str]:
    found = named_words(prompt or "")
    if not found:
        raise ValueError(
            "a prompt must name something of the open world, so that it can be read in the video,"
            f" but got {prompt!r}. Name a shape, colour, size, motion, background or second object,"
            " as in 'a red star moving left'; clips of open prompts are compared with real ones,"
            " by --features open-judge."
        )
    return found


_COLOURS, _SHAPES = any_of(open_world.COLOURS), any_of(open_world.SHAPES)
_SIZES = {word: size for size, words in world.SIZE_WORDS.items() for word in words}
_BACKGROUND = re.compile(
    rf"(?:\b(?P<background_kind>{any_of(open_world.BACKGROUNDS)}) )?"
    rf"(?:\b(?P<background_colour>{any_of(open_world.BACKGROUND_COLOURS)}) )?\bbackground\b"
)
_ALONE = re.compile(rf"\b(?:{any_of(open_captions.ALONE)})\b")
_SECOND = re.compile(
    r"\b(?:next to|and|with(?=.* in the corner)) (?:an? )?"
    rf"(?:(?P<second_colour>{_COLOURS}) )?(?:(?P<second_shape>{_SHAPES})|thing|object)\b"
)
_FIRST = {
    "size": re.compile(rf"\b({any_of(_SIZES)})\b"),
    "colour": re.compile(rf"\b({_COLOURS})\b"),
    "shape": re.compile(rf"\b({_SHAPES})\b"),
}


def named_words(prompt: str) -> dict[str, str]:
    """Return the words that a caption names, by the heads of the judge that read them.

    What is found is taken out of the text, so that "a circle" in "moving in a circle" is no shape
    and the colours of the background and of the second object are not those of the first.
    """
    text, found = prompt.lower(), {}
    if phrase := prompt_metric.find_motion(text):
        found["motion"] = prompt_metric.MOTIONS[phrase]
        text = re.sub(rf"\b{phrase}\b", ",", text, count=1)
    for pattern in (_BACKGROUND, _SECOND):
        if match := pattern.search(text):
            found |= {name: word for name, word in match.groupdict().items() if word}
            text = f"{text[: match.start()]},{text[match.end() :]}"
    if _ALONE.search(text):
        found |= {"second_shape": open_judge.NOTHING, "second_colour": open_judge.NOTHING}
    for name, pattern in _FIRST.items():
        if match := pattern.search(text):
            found[name] = match[1]
    if "size" in found:
        found["size"] = _SIZES[found["size"]]
    return found
