"""AV-Align: whether sounds begin when the picture moves (Yariv et al., arXiv:2309.16429).

Onsets of the sound and peaks of the optical flow are events; those that fall on each other, to a
frame, are divided by all. It needs no network: the flow is Farneback's and the onsets are
librosa's, as in the authors' script, whose results it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from skipguide.files.sound import Sound
from skipguide.metrics import farneback, onsets
from skipguide.metrics.vbench import AllFrames, read_meter

Tensor = torch.Tensor


def av_align(frames: Tensor, fps: float | None, sound: Sound) -> float:
    """Return onsets that come with a peak of motion over all events; 1 if all fall together.

    An onset comes with a peak that is less than a frame away. Several onsets may come with one
    peak, as in the authors' script, so that it can exceed 1.

    Args:
        frames: `(F, 3, H, W)` uint8 RGB.
        fps: frames per second.

    Raises:
        ValueError: without a frame rate, or where there is neither an onset nor a peak.
    """
    meter = AvAlign(fps)
    meter.hear(sound)
    return read_meter(meter, frames)


def motion_peaks(motion: Sequence[float], fps: float) -> list[float]:
    """Return when the motion is larger than before and after, in seconds.

    Args:
        motion: of each frame, how far it is from the one before.
    """
    places = range(1, len(motion) - 1)
    return [i / fps for i in places if motion[i - 1] < motion[i] > motion[i + 1]]


def align(sounds: Sequence[float], peaks: Sequence[float], fps: float) -> float:
    """Return the intersection of two lists of times over their union.

    Raises:
        ValueError: if both are empty.
    """
    width = 1 / fps
    both = sum(any(peak - width < time < peak + width for peak in peaks) for time in sounds)
    union = len(sounds) + len(peaks) - both
    if not union:
        raise ValueError(
            "av_align needs an onset of the sound or a peak of motion, but there is neither"
        )
    return both / union


class AvAlign(AllFrames):
    """Measures the motion frame by frame, and holds it against the sound."""

    def __init__(self, fps: float | None) -> None:
        if not fps:
            raise ValueError("av_align needs the frame rate of a video, but it is unknown")
        self.fps = fps
        self.motion: list[float] = []
        self.before: farneback.Pyramid | None = None
        self.onsets: list[float] = []

    def hear(self, sound: Sound, prompt: str = "") -> None:
        """Take the sound of the video; the prompt says nothing of when it is heard."""
        self.onsets = onsets.onset_times(sound)

    def add(self, frame: Tensor) -> None:
        now = farneback.expand(farneback.to_grey(frame))
        if self.before is not None:
            self.motion.append(farneback.mean_motion(self.before, now))
        self.before = now

    def value(self) -> float:
        # The first frame has the motion of the second, as in the authors' script.
        motion = [*self.motion[:1], *self.motion]
        return align(self.onsets, motion_peaks(motion, self.fps), self.fps)
