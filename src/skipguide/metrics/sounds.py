"""Metrics of one video that hear its sound.

Their meters are told the sound and the prompt before the first frame.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from skipguide.files.sound import Sound
from skipguide.metrics.sync import AvAlign
from skipguide.metrics.sync import av_align as av_align
from skipguide.metrics.vbench import Meter

Tensor = torch.Tensor


def clap_score(model: nn.Module | None, sound: Sound, prompt: str) -> float:
    """Return the cosine of CLAP's embeddings of a sound and its prompt, -1 to 1.

    Raises:
        ValueError: without a prompt.
    """
    meter = ClapScore(model)
    meter.hear(sound, prompt)
    return meter.value()


class ClapScore:
    """Holds a sound against its prompt; it needs no frames."""

    def __init__(self, model: nn.Module | None) -> None:
        self.model, self.score = model, 0.0

    def hear(self, sound: Sound, prompt: str) -> None:
        """Take the sound and the prompt of the video."""
        from skipguide.metrics.networks import clap

        assert self.model is not None
        if not prompt:
            raise ValueError("clap_score needs the prompt of a video, but nothing tells it")
        samples = torch.from_numpy(sound.mono(clap.RATE))
        self.score = clap.text_score(self.model, samples, prompt)

    def takes(self, index: int) -> bool:
        return False

    def add(self, frame: Tensor) -> None:
        raise AssertionError("no frame is taken")

    def value(self) -> float:
        return self.score


METERS: dict[str, Callable[[nn.Module | None, int, float | None], Meter]] = {
    "av_align": lambda model, count, fps: AvAlign(fps),
    "clap_score": lambda model, count, fps: ClapScore(model),
}
