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
    """Sines that fade within a tenth of a second, in two channels; silence elsewhere."""
    samples = np.zeros(round(seconds * rate))
    for time, pitch in zip(times, pitches or [1000.0] * len(times), strict=True):
        begin = round(time * rate)
        passed = np.arange(round(BEEP * rate)) / rate
        own = np.sin(2 * np.pi * pitch * passed) * (1 - passed / BEEP) / 2
        samples[begin : begin + len(own)] = own[: len(samples) - begin]
    return Sound.from_floats(np.stack([samples, samples]), rate)


def sine(pitch: float, seconds: float, rate: int) -> Sound:
    """One sine from the first sample to the last, in two channels."""
    times = np.arange(round(seconds * rate)) / rate
    return Sound.from_floats(np.stack([np.sin(2 * np.pi * pitch * times) / 2] * 2), rate)


def flashes(times: Sequence[float], count: int, fps: Fraction | int, size: int = 32) -> Frames:
    """Black frames `(F, H, W, 3)`, white where a time falls on one."""
    frames = np.zeros((count, size, size, 3), np.uint8)
    for time in times:
        frames[round(time * fps)] = 255
    return frames
