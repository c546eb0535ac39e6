"""The worlds of the lab as rows: how scenes are drawn, captioned, rendered and read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from skipguide.lab import judge, open_captions, open_judge, open_world, readers, stills, world
from skipguide.lab.open_captions import Caption

Tensor = torch.Tensor
Named = Collection[str] | None  # the slots that captions name; None: as the world's captions do


@dataclass(frozen=True)
class World:
    """A world, with functions of its scenes.

    Args:
        reader: of its clips.
        slots: what captions can name, and the heads of the judge that read it.
        prompts: kinds of prompts, by what they name.
        draw: number, seed -> scenes, of all that there are.
        draw_prompted: the same for scenes that prompts are written of.
        caption: scenes, seed, slots to name -> captions.
        describe: scenes -> the words of each, by what they are of.
        columns: those of these words that a table of clips has.
        truth: scenes -> the right answer `(B,)` of heads.
        render: scenes, number of frames, pixels a side -> clips `(B, 3, F, H, W)` in [-1, 1].
        accuracy: judge -> share of unseen real clips that each head reads right.
    """

    reader: readers.Reader
    slots: Mapping[str, tuple[str, ...]]
    prompts: Mapping[str, Named]
    draw: Callable[[int, int], Any]
    draw_prompted: Callable[[int, int], Any]
    caption: Callable[[Any, int, Named], list[Caption]]
    describe: Callable[[Any], Sequence[Mapping[str, str | None]]]
    columns: tuple[str, ...]
    truth: Callable[[Any], dict[str, Tensor]]
    render: Callable[..., Tensor]
    accuracy: Callable[[Any], dict[str, float]]


# --- the world of lab-mochi, lab-svd and lab-opensora: a caption says all that can be read ------


def _draw(num: int, seed: int) -> world.Scenes:
    return world.sample_scenes(num, seed, "all")


def _draw_single(num: int, seed: int) -> world.Scenes:
    """Draw scenes with one object, of all combinations, including held-out ones."""
    return world.sample_scenes(num, seed, "all", second_share=0.0)


def _caption(scenes: world.Scenes, seed: int, named: Named) -> list[Caption]:
    return [Caption(text, frozenset(judge.HEADS)) for text in world.captions(scenes, seed)]


CLOSED = World(
    reader=readers.CLOSED,
    slots={name: (name,) for name in judge.HEADS},
    prompts={"all": None},
    draw=_draw,
    draw_prompted=_draw_single,
    caption=_caption,
    describe=lambda scenes: list(scenes.attributes()),
    columns=("shape", "colour", "size", "motion", "background", "background_colour"),
    truth=lambda scenes: {name: getattr(scenes, name) for name in judge.HEADS},
    render=world.render,
    accuracy=judge.accuracy,
)

# --- the open world, of lab-mochi-2 ---------------------------------------------------------------


def _describe_open(scenes: open_world.OpenScenes) -> list[dict[str, str]]:
    words = scenes.words()
    return [dict(zip(words, row, strict=True)) for row in zip(*words.values(), strict=True)]


OPEN = World(
    reader=readers.OPEN,
    slots={
        **{slot: (slot,) for slot in ("shape", "colour", "size", "motion")},
        "background": ("background_kind", "background_colour"),
        "second": ("second_shape", "second_colour"),
    },
    prompts={"closed": open_world.SLOTS, "half": None, "open": ()},
    draw=open_world.sample_scenes,
    draw_prompted=open_world.sample_scenes,
    caption=open_captions.captions,
    describe=_describe_open,
    columns=open_world.SLOTS,
    truth=open_judge.truth,
    render=open_world.render,
    accuracy=open_judge.accuracy,
)

# --- pictures of the open world, of lab-sd3: clips of one frame, of which nothing moves -----------


def _truth_of_stills(scenes: open_world.OpenScenes) -> dict[str, Tensor]:
    truth = open_judge.truth(scenes)
    return {name: truth[name] for name in STILL_HEADS}


_STILL_SLOTS = {slot: heads for slot, heads in OPEN.slots.items() if slot in stills.SLOTS}
STILL_HEADS = tuple(head for heads in _STILL_SLOTS.values() for head in heads)
STILLS = dataclasses.replace(
    OPEN,
    slots=_STILL_SLOTS,
    prompts={"closed": stills.SLOTS, "half": None, "open": ()},
    caption=stills.captions,
    columns=stills.SLOTS,
    truth=_truth_of_stills,
    render=lambda scenes, num_frames=1, size=open_world.FRAME_SIZE: stills.render(scenes, size),
)
