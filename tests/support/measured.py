"""Videos to be measured, as tensors and as files, for the tests of the metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from skipguide.files import video
from skipguide.lab import world


def clips(count: int, seed: int) -> dict[str, torch.Tensor]:
    """(19, 3, 64, 64) uint8 by name: videos of the lab's world."""
    frames = world.render(world.sample_scenes(count, seed=seed))
    return {
        f"{i:03d}": clip
        for i, clip in enumerate(((frames + 1) * 127.5).round().byte().transpose(1, 2))
    }


def write(path: Path, clip: torch.Tensor, record: dict[str, Any] | None = None) -> Path:
    """A clip as an mp4."""
    video.write(path, clip.permute(0, 2, 3, 1).numpy(), 12, record or {})
    return path


def spoiled(folder: Path, clips: dict[str, torch.Tensor]) -> Path:
    """A folder of these videos, and one of everything that can be wrong with them."""
    for name, clip in clips.items():
        write(folder / f"{name}.mp4", clip)
    clip = next(iter(clips.values()))
    (folder / "broken.mp4").write_text("this is no video")
    write(folder / "one.mp4", clip[:1])
    write(folder / "small.mp4", clip[:, :, :48])
    return folder
