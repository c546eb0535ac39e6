"""Painted videos with a sound: white flashes, and beeps at times that are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from skipguide.files.sound import Sound
from skipguide.files.video import Frames

BEEP = 0.1  # seconds


def beeps(
    times: Sequence[float], seconds: float, rate: int, pitches: Sequence[float] = ()
) -> Sound:
    """Sines of half the loudness, each a tenth of a second, in two channels; silence elsewhere."""
    samples = np.zeros(round(seconds * rate))
    for time, pitch in zip(times, pitches or [1000.0] * len(times), strict=True):
        begin = round(time * rate)
        own = np.sin(2 * np.pi * pitch * np.arange(round(BEEP * rate)) / rate) / 2
        samples[begin : begin + len(own)] = own[: len(samples) - begin]
    return Sound.from_floats(np.stack([samples, samples]), rate)


def flashes(times: Sequence[float], count: int, fps: Fraction | int, size: int = 32) -> Frames:
    """Black frames `(F, H, W, 3)`, white where a time falls on one."""
    frames = np.zeros((count, size, size, 3), np.uint8)
    for time in times:
        frames[round(time * fps)] = 255
    return frames
