"""Pictures of the open world: a moment of a scene, with captions that say nothing of motion."""

from __future__ import annotations

from collections.abc import Collection

import torch

from skipguide.lab import open_captions, open_world

Tensor = torch.Tensor

SLOTS = tuple(slot for slot in open_world.SLOTS if slot != "motion")
WORDING = open_captions.Wording(
    SLOTS, ("", "", "", "a picture of ", "an image of "), ("a picture", "an image")
)


def render(scenes: open_world.OpenScenes, size: int = open_world.FRAME_SIZE) -> Tensor:
    """Draw a moment of each scene, which the scene itself decides.

    Returns:
        `(B, 3, 1, H, W)` float32 in [-1, 1]: clips of one frame.
    """
    return open_world.render(scenes, size=size, times=scenes.look[:, 6:7])


def captions(
    scenes: open_world.OpenScenes, seed: int, named: Collection[str] | None = None
) -> list[open_captions.Caption]:
    """Write a caption for the picture of each scene; arguments are those of clips.

    Raises:
        ValueError: for an unknown slot.
    """
    return open_captions.captions(scenes, seed, named, WORDING)


def vocabulary() -> list[str]:
    """Return every word that a caption can contain, sorted, in lower case."""
    return sorted({word.lower() for word in open_captions.vocabulary(WORDING)})
