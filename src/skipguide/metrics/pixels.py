"""Metrics of one video by its pixels alone: no network, no weights.

They say what a video is like, not how good it is, and are there for what must not get worse, or as
a part of a sum (`skipguide tune --floor motion=0.97`). An evaluation runs them where they are
named. Every function takes frames `(F, 3, H, W)` uint8 RGB and returns one number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from skipguide.metrics.vbench import RATE, AllFrames, FrameChange, Meter, read_meter

Tensor = torch.Tensor

ENDS = (0.001, 0.999)  # of the pixels' values: what lies outside does not count as contrast
FLATTEST = 2.0  # levels of 255; a frame with less contrast has no edges


def motion(frames: Tensor, fps: float | None = None) -> float:
    """Return the mean absolute difference of frames an eighth of a second apart, in [0, 1].

    0 is a frozen video. It is 1 - temporal flickering at 8 frames a second, whatever the rate of
    the video, and counts whatever changes, noise and flicker too. VBench's dynamic degree asks a
    network whether a video moves at all, and is 0 or 1.

    Args:
        fps: frames per second; None takes all frames as they are.

    Raises:
        ValueError: for fewer than 2 frames.
    """
    return read_meter(Motion(len(frames), fps), frames)


def sharpness(frames: Tensor) -> float:
    """Return how steep edges are, as a share of the contrast per pixel; from 0 to about 1.4.

    The slope of the colour, over all pixels of a frame weighted by itself, over the contrast: an
    edge that ramps over w pixels has 1 / w, a hard one 1 (1.4 along a diagonal), however long it
    is, and however bright, dark or faint the frame. The mean over frames; one without contrast has
    0. It depends on the size of the frames: compare videos of one size.
    """
    return read_meter(Sharpness(), frames)


def saturation(frames: Tensor) -> float:
    """Return how colourful pixels are: the largest less the smallest channel, in [0, 1].

    0 is grey, 1 is a pure colour. Guidance that is too strong raises it.
    """
    return read_meter(Saturation(), frames)


class Motion(FrameChange):
    """Compares frames an eighth of a second apart."""

    def __init__(self, count: int, fps: float | None) -> None:
        super().__init__()
        wanted = max(1, round(fps / RATE)) if fps else 1
        self.step = min(wanted, max(1, count - 1))  # of a very short video its first and last frame
        self.count = count

    def takes(self, index: int) -> bool:
        return index % self.step == 0

    def value(self) -> float:
        if not self.pairs:
            raise ValueError(
                f"motion needs at least 2 frames, but got {self.count}. Leave the video out."
            )
        return self.mean_change()


class _FrameMean(AllFrames):
    """The mean over all frames of what one frame has."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add(self, frame: Tensor) -> None:
        self.values.append(self.of_frame(frame))

    def of_frame(self, frame: Tensor) -> float:
        raise NotImplementedError

    def value(self) -> float:
        return sum(self.values) / len(self.values)


class Sharpness(_FrameMean):
    """Measures edges against the contrast of their frame."""

    def of_frame(self, frame: Tensor) -> float:
        contrast = _contrast(frame)
        if contrast < FLATTEST or min(frame.shape[1:]) < 2:
            return 0.0
        pixels = frame.float()
        across = pixels.diff(dim=2)[:, :-1].square().sum(0)
        down = pixels.diff(dim=1)[:, :, :-1].square().sum(0)
        slopes = (across + down).sqrt()
        total = float(slopes.sum())
        return float(slopes.square().sum()) / total / contrast if total else 0.0


def _contrast(frame: Tensor) -> float:
    """Return how far apart the darkest and the lightest pixels are, over the channels."""
    counts = torch.stack([channel.flatten().long().bincount(minlength=256) for channel in frame])
    shares = counts.cumsum(1) / counts.sum(1, keepdim=True)
    low, high = ((shares < end).sum(1) for end in ENDS)
    return float((high - low).double().square().sum().sqrt())


class Saturation(_FrameMean):
    """Measures the distance of pixels from grey."""

    def of_frame(self, frame: Tensor) -> float:
        return float((frame.amax(0).float() - frame.amin(0).float()).mean()) / 255


METERS: dict[str, Callable[[nn.Module | None, int, float | None], Meter]] = {
    "motion": lambda model, count, fps: Motion(count, fps),
    "sharpness": lambda model, count, fps: Sharpness(),
    "saturation": lambda model, count, fps: Saturation(),
}
