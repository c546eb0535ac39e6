"""Figure 3: one prompt over a range of scales, as one strip of frames per scale."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from skipguide.lab import training_loop
from skipguide.paper.models import ClipGenerator
from skipguide.paper.records import RecordFolder
from skipguide.paper.rows import Row

Tensor = torch.Tensor
PROMPT = 0  # the first one of the pool: not chosen
NUM_FRAMES = 6  # frames


def strip_path(place: RecordFolder, row: Row) -> Path:
    """Return the file of the strip of a row."""
    return place.folder / "figure-3" / f"{row.name}.png"


def make_strip(place: RecordFolder, generator: ClipGenerator, row: Row) -> None:
    """Write a strip unless it exists."""
    target = strip_path(place, row)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    clip = generator.clips(row, [PROMPT])[0].cpu()
    with training_loop.atomic_path(target) as part:
        draw_strip(clip).save(part, format="PNG")


def draw_strip(clip: Tensor) -> Image.Image:
    """Draw frames of a clip `(3, F, H, W)` in [-1, 1] side by side, from the first to the last."""
    chosen = torch.linspace(0, clip.shape[1] - 1, NUM_FRAMES).round().long()
    pixels = ((clip[:, chosen] + 1) * 127.5).round().clamp(0, 255).byte()  # (3, SHOWN, H, W)
    return Image.fromarray(pixels.permute(2, 1, 3, 0).flatten(1, 2).contiguous().numpy())
