"""Captions of the open world: each names some of what is in its scene, and leaves out the rest."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from skipguide.lab import world
from skipguide.lab.open_world import (
    BACKGROUND_COLOURS,
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SLOTS,
    OpenScenes,
)

NOTHING_NAMED = 0.1  # of captions
_NAMED = 0.5 / (1 - NOTHING_NAMED)  # chance of each thing in the others, so that half name it
ANYTHING = ("something", "an object", "a thing")
CLIPS = ("a clip", "a video")
ALONE = ("alone", "and nothing else")
SECOND_PHRASES = ("next to {}", "with {} in the corner", "and {}")


@dataclass(frozen=True)
class Wording:
    """Hold the words in which captions of clips and those of pictures differ.

    Args:
        slots: of a scene that a caption may name.
        openings: with which a caption may begin.
        nothing: whole captions that name no slot.
    """

    slots: tuple[str, ...]
    openings: tuple[str, ...]
    nothing: tuple[str, ...]


CLIP_WORDING = Wording(SLOTS, world.OPENINGS, CLIPS)


@dataclass(frozen=True)
class Caption:
    """A caption, and which slots of the scene it names."""

    text: str
    named: frozenset[str]


def captions(
    scenes: OpenScenes,
    seed: int,
    named: Collection[str] | None = None,
    wording: Wording = CLIP_WORDING,
) -> list[Caption]:
    """Write a caption for each scene.

    Args:
        seed: of the phrasing, and of what is left out.
        named: the slots that every caption names: `SLOTS` for closed prompts, nothing for open
            ones; None draws them, each in about half of the captions, none in a tenth.
        wording: of clips, or of pictures.

    Raises:
        ValueError: for an unknown slot.
    """
    if wrong := sorted(set(named or ()) - set(wording.slots)):
        raise ValueError(
            f"named must be of {', '.join(wording.slots)}, but got {', '.join(wrong)}. Leave it"
            " out."
        )
    rng = random.Random(seed)
    return [_caption(words, rng, named, wording) for words in _rows(scenes)]


def _rows(scenes: OpenScenes) -> Iterator[dict[str, str]]:
    words = scenes.words()
    for values in zip(*words.values(), strict=True):
        yield dict(zip(words, values, strict=True))


def _caption(
    words: dict[str, str], rng: random.Random, named: Collection[str] | None, wording: Wording
) -> Caption:
    chosen = draw_named(rng, wording.slots) if named is None else frozenset(named)
    text = _phrase(words, chosen, rng, wording) if chosen else rng.choice(("", *wording.nothing))
    if text and rng.random() < 0.25:
        text = f"{text[0].upper()}{text[1:]}."
    return Caption(text, chosen)


def draw_named(rng: random.Random, slots: Sequence[str] = SLOTS) -> frozenset[str]:
    """Draw the slots that a caption names."""
    if rng.random() < NOTHING_NAMED:
        return frozenset()
    return frozenset(slot for slot in slots if rng.random() < _NAMED)


def _phrase(
    words: dict[str, str], named: frozenset[str], rng: random.Random, wording: Wording
) -> str:
    moves = rng.choice(world.MOTION_PHRASES[words["motion"]]) if "motion" in named else ""
    where = _where(words, rng) if "background" in named else ""
    beside = _beside(words, rng) if "second" in named else ""
    opening = rng.choice(wording.openings)
    subject = _subject(words, named, rng)
    if where and rng.random() < 0.15:
        return " ".join(filter(None, (f"{where},", subject, moves, beside)))
    return " ".join(filter(None, (f"{opening}{subject}", moves, beside, where)))


def _subject(words: dict[str, str], named: frozenset[str], rng: random.Random) -> str:
    size = rng.choice(world.SIZE_WORDS[words["size"]]) if "size" in named else ""
    adjectives = [size, words["colour"] if "colour" in named else ""]
    if "shape" in named:
        return world.add_article(" ".join(filter(None, (*adjectives, words["shape"]))))
    if any(adjectives):
        noun = rng.choice(("thing", "object"))
        return world.add_article(" ".join(filter(None, (*adjectives, noun))))
    return rng.choice(ANYTHING)


def _where(words: dict[str, str], rng: random.Random) -> str:
    return f"{rng.choice(world.PREPOSITIONS)} {world.add_article(words['background'])} background"


def _beside(words: dict[str, str], rng: random.Random) -> str:
    if words["second"] == "nothing":
        return rng.choice(ALONE)
    return rng.choice(SECOND_PHRASES).format(world.add_article(words["second"]))


def vocabulary(wording: Wording = CLIP_WORDING) -> list[str]:
    """Return every word that a caption can contain, sorted: what the tokenizer has to know."""
    phrases = [
        *SHAPES, *COLOURS, *BACKGROUNDS, *BACKGROUND_COLOURS, *world.PREPOSITIONS, *ANYTHING,
        *wording.nothing, *ALONE, *SECOND_PHRASES, *wording.openings,
        "a an thing object background A An In On Over Something",
        *(word for group in (world.SIZE_WORDS, world.MOTION_PHRASES)
            for words in group.values() for word in words),
    ]  # fmt: skip
    return sorted({word for phrase in phrases for word in phrase.replace("{}", " ").split()})
