"""The picture: no guidance, CFG, and CFG with STG, for open and for closed prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from skipguide.lab import training_loop, world
from skipguide.paper.open import prompts, study
from skipguide.paper.open.clips import Generator
from skipguide.paper.open.study import Setting

NUMBERS = range(6)  # the first prompts of each pool: a rule, so that nobody chose them
SHOWN = ("none", "cfg", "cfg+stg")
TITLES = {"none": "no guidance", "cfg": "CFG", "cfg+stg": "CFG + STG"}
HEADINGS = {"open": "prompt that leaves all open", "closed": "prompt that names all"}
SCALE, GAP, HEAD = 2, 6, 34  # pixels
SECONDS = 1 / world.FPS


def make(generators: dict[str, Generator], path: Path) -> Path:
    """Make the clips and write them as one moving picture (WebP), six columns wide.

    Args:
        generators: by kind of prompts, those of HEADINGS.
    """
    columns = [
        (kind, name, generators[kind].clips(study.named_rows(Setting(kind))[name], NUMBERS))
        for kind in HEADINGS
        for name in SHOWN
    ]
    frames = [_compose(columns, number) for number in range(world.NUM_FRAMES)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with training_loop.atomic_path(path) as part:
        frames[0].save(
            part, format="WEBP", save_all=True, append_images=frames[1:], loop=0, quality=80,
            duration=round(1000 * SECONDS),
        )  # fmt: skip
    return path


def _compose(columns: list[tuple[str, str, torch.Tensor]], number: int) -> Image.Image:
    """Return one frame of the picture."""
    cell = SCALE * world.FRAME_SIZE
    width = len(columns) * (cell + GAP) + GAP
    image = Image.new("RGB", (width, HEAD + len(NUMBERS) * (cell + GAP)), "white")
    draw: Any = ImageDraw.Draw(image)
    for place, (kind, name, clips) in enumerate(columns):
        left = GAP // 2 + place * (cell + GAP) + (place >= len(SHOWN)) * GAP
        if name == SHOWN[0]:
            draw.text((left, 3), HEADINGS[kind], fill="black")
        draw.text((left, 18), TITLES[name], fill="black")
        for row, clip in enumerate(clips[:, :, number]):
            pixels = ((clip + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0)
            tile = Image.fromarray(pixels.numpy()).resize((cell, cell), Image.Resampling.BICUBIC)
            image.paste(tile, (left, HEAD + row * (cell + GAP)))
    return image


def captions(kind: str) -> list[str]:
    """Return the prompts that the picture shows."""
    return prompts.pool(kind).captions[NUMBERS.start : NUMBERS.stop]
