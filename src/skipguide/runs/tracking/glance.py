"""A video or picture as a small GIF, for trackers that show pictures only."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from skipguide.files import clips

LARGEST, MOST_FRAMES = 256, 64  # pixels of the longer side; frames


@dataclass(frozen=True)
class Gif:
    """The file, and its size in pixels."""

    content: bytes
    width: int
    height: int


def make_gif(path: Path) -> Gif:
    """Return a video as a GIF that takes as long, with fewer frames and pixels where it has many.

    Raises:
        ValueError: if the video cannot be read.
    """
    frames, fps = clips.read(path)
    count = min(len(frames), MOST_FRAMES)
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    height, width = chosen.shape[1:3]
    scale = min(1.0, LARGEST / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pictures = [Image.fromarray(frame).resize(size, Image.Resampling.BOX) for frame in chosen]
    ends = np.linspace(0, 100 * len(frames) / float(fps or 1), count + 1).round()  # hundredths
    durations = [10 * max(2, int(delay)) for delay in np.diff(ends)]  # browsers slow down at 1
    out = io.BytesIO()
    pictures[0].save(
        out, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0
    )
    return Gif(out.getvalue(), *size)
