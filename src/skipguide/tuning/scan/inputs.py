"""Prompts and pictures of a scan for which a user names none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Different in what is seen, in how it moves, and in how much of it is texture.
USUAL_PROMPTS = (
    "a golden retriever running through shallow water on a beach at sunset, seen from the side",
    "the hands of a cook chopping herbs on a wooden board in a bright kitchen, close-up",
    "a slow aerial view over a village in snowy mountains in the evening, lights in the windows",
    "a red vintage car driving through a busy street in the rain at night, neon signs reflected on"
    " the asphalt",
)
# The worlds of the lab models have words of their own; by the name of the judge that knows them.
LAB_PROMPTS = {
    "judge": (
        "a small red star orbiting over a blue background",
        "a large yellow moon spinning over a purple background",
        "a green cross bouncing on a striped brown background",
        "an orange triangle moving left on a grey background",
    ),
    "open-judge": (
        "a small red star orbiting next to a white ring over a wavy blue background",
        "a large yellow moon spinning alone",
        "a green heart on a striped brown background",
        "something moving left",
    ),
}
# Colours at the corners: top left, top right, bottom left, bottom right.
_CORNERS = (
    ((40, 70, 130), (210, 160, 120), (25, 35, 50), (120, 90, 80)),
    ((235, 225, 200), (140, 180, 160), (180, 110, 70), (60, 80, 60)),
    ((20, 20, 40), (90, 40, 90), (200, 90, 60), (250, 200, 120)),
    ((120, 160, 200), (230, 235, 240), (50, 90, 60), (150, 170, 90)),
)
_SIZE = 832, 480  # width and height in pixels
GRADIENT_NOTE = (
    "this model starts from pictures, and without --images plain gradients are taken. Pictures of"
    " your own say more about it."
)


def usual_prompts(pipe: Any) -> tuple[str, ...]:
    """Return prompts for a pipeline: of the lab's world for a model that knows no other."""
    from skipguide.lab import readers

    reader = None if pipe is None else readers.reader_of(pipe)
    return USUAL_PROMPTS if reader is None else LAB_PROMPTS[reader.name]


def gradient(number: int) -> Image.Image:
    """Return a picture of colours that flow into each other, for want of a real one.

    Args:
        number: which of four; larger numbers begin again.
    """
    from PIL import Image

    corners = np.array(_CORNERS[number % len(_CORNERS)], np.float64)
    x = np.linspace(0, 1, _SIZE[0])[None, :, None]
    y = np.linspace(0, 1, _SIZE[1])[:, None, None]
    top = corners[0] * (1 - x) + corners[1] * x
    bottom = corners[2] * (1 - x) + corners[3] * x
    return Image.fromarray((top * (1 - y) + bottom * y).round().astype(np.uint8))
