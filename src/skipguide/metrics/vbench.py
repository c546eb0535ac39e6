"""VBench's metrics of one video, with its preparation and thresholds (Huang et al., CVPR 2024).

Every function takes `(model, frames, fps)`: the network of its row in the table, frames `(F, 3, H,
W)` uint8 RGB, and frames per second or None. It returns one number, in the units of VBench's own
result, and keeps no state. docs/vbench.md has the sources, and how far each function is from
VBench's code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.metrics.networks import clip
from skipguide.metrics.networks.flow import SMALLEST, pad_to_multiple

Tensor = torch.Tensor

SIDE = 224  # the shorter side of images for CLIP and DINO
MAX_SIDE = 512  # the longest side of images for MUSIQ
IMAGENET_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RATE = 8  # frames per second at which motion is measured
BATCH = 8  # frames that a network gets at a time; no result depends on it


def imaging_quality(model: nn.Module | None, frames: Tensor, fps: float | None) -> float:
    """Return the mean of MUSIQ's score over all frames, in [0, 1].

    Images are shrunk if a side exceeds 512 pixels.

    Raises:
        ValueError: If frames are not `(F, 3, H, W)` uint8.
    """
    return _measure("imaging_quality", model, _check_frames(frames, 1), fps)


def aesthetic_quality(model: nn.Module | None, frames: Tensor, fps: float | None) -> float:
    """Return the mean aesthetic rating of the middles of all frames, divided by 10: about 0 to 1.

    Raises:
        ValueError: If frames are not `(F, 3, H, W)` uint8.
    """
    return _measure("aesthetic_quality", model, _check_frames(frames, 1), fps)


def background_consistency(model: nn.Module | None, frames: Tensor, fps: float | None) -> float:
    """Return how similar frames look to CLIP, in [0, 1]: each to the previous and to the first.

    CLIP sees the middle of each frame.

    Raises:
        ValueError: If frames are not `(F, 3, H, W)` uint8 with F >= 2.
    """
    return _measure("background_consistency", model, _check_frames(frames, 2), fps)


def subject_consistency(model: nn.Module | None, frames: Tensor, fps: float | None) -> float:
    """Return how similar frames look to DINO, in [0, 1]: each to the previous and to the first.

    DINO sees the whole frame.

    Raises:
        ValueError: If frames are not `(F, 3, H, W)` uint8 with F >= 2.
    """
    return _measure("subject_consistency", model, _check_frames(frames, 2), fps)


def temporal_flickering(model: nn.Module | None, frames: Tensor, fps: float | None) -> float:
    """Return 1 - the mean absolute difference of neighbouring frames, in [0, 1].

    A frozen video has 1. `model` is not used. VBench's leaderboard measures only videos that
    `is_static` lets through, because motion lowers the value too.

    Raises:
        ValueError: If frames are not `(F, 3, H, W)` uint8 with F >= 2.
    """
    return _measure("temporal_flickering", model, _check_frames(frames, 2), fps)


def motion_smoothness(model: nn.Module | None, frames: Tensor, fps: float | None) -> float:
    """Return 1 - the mean absolute difference of every other frame to AMT-S's guess, in [0, 1].

    AMT-S guesses a frame from its neighbours. Frames keep their size, as in VBench on a CPU; on a
    GPU with little memory VBench shrinks large ones.

    Raises:
        ValueError: If frames are not `(F, 3, H, W)` uint8 with F >= 3, or are too small for the
            network.
    """
    return _measure("motion_smoothness", model, _check_frames(frames, 3), fps)


def dynamic_degree(model: nn.Module | None, frames: Tensor, fps: float | None) -> float:
    """Return 1.0 if RAFT sees enough motion, else 0.0; the mean over many videos is a share.

    Of frames taken about 8 times a second, round(N / 4) pairs of neighbours must move by more than
    6 pixels per 256 of the shorter side (mean of the fastest 5 %). Without `fps`, as for folders of
    images, all frames are taken. As in VBench, 2 frames always move, because round(2 / 4) is 0.

    Raises:
        ValueError: If frames are not `(F, 3, H, W)` uint8 with two of them taken, or are too small
            for RAFT.
    """
    return _measure("dynamic_degree", model, _check_frames(frames, 1), fps)


def _measure(metric: str, model: nn.Module | None, frames: Tensor, fps: float | None) -> float:
    return read_meter(METERS[metric](model, len(frames), fps), frames)


def read_meter(meter: Meter, frames: Tensor) -> float:
    """Return what a meter measures of frames `(F, 3, H, W)`."""
    for index, frame in enumerate(frames):
        if meter.takes(index):
            meter.add(frame)
    return meter.value()


def is_static(model: nn.Module | None, frames: Tensor, fps: float | None) -> bool:
    """Tell whether VBench's static filter lets a video through to temporal flickering.

    Its leaderboard applies this filter.

    Raises:
        ValueError: If frames are not `(F, 3, H, W)` uint8 with F >= 2, or are too small for RAFT.
    """
    frames = _check_min_size(_check_frames(frames, 2), 8)
    needed, threshold = round(2 * (len(frames) / 16)), 3.0 * (min(frames.shape[2:]) / 256)
    ends = (frames[0], frames[-1])
    pairs = [*itertools.pairwise(frames), ends, ends[::-1]]
    *near, there, back = motions(_require_model(model), iter(pairs), 0.02)
    return (
        sum(motion > threshold for motion in near) <= needed
        and max(there, back) <= threshold * needed * 2
    )


def motions(
    model: nn.Module, pairs: Iterator[tuple[Tensor, Tensor]], share: float
) -> Iterator[float]:
    """Yield, for each pair of frames `(3, H, W)`, the mean length of the longest `share` of flows.

    Lengths are in pixels, flows are RAFT's.
    """
    for pair in pairs:
        both, _ = pad_to_multiple(torch.stack(pair).float().to(_device(model)), 8)
        lengths = model(both[:1], both[1:])[0].square().sum(0).sqrt().flatten()
        yield lengths.topk(int(len(lengths) * share)).values.mean().item()


def resize_for_musiq(images: Tensor) -> Tensor:
    """Shrink images whose longer side exceeds MAX_SIDE, and scale them to [0, 1]."""
    sides = images.shape[2:]
    scale = MAX_SIDE / max(sides)
    if scale < 1:
        images = F.interpolate(
            images, [int(scale * side) for side in sides], mode="bilinear", align_corners=False
        )
    return images / 255


def resize_for_clip(images: Tensor) -> Tensor:
    """Resize, crop and normalise images `(B, 3, H, W)` in [0, 255] for CLIP."""
    resized = _resize(images, "bicubic")
    top, left = (round((side - SIDE) / 2) for side in resized.shape[2:])
    return clip.normalize(resized[..., top : top + SIDE, left : left + SIDE])


def resize_for_dino(images: Tensor) -> Tensor:
    """Resize and normalise images `(B, 3, H, W)` in [0, 255] for DINO, without cropping."""
    return _normalize(_resize(images, "bilinear"), *IMAGENET_NORM)


def _resize(images: Tensor, mode: str) -> Tensor:
    """Resize the shorter side to SIDE, without antialiasing, and the longer one in proportion."""
    shorter = min(images.shape[2:])
    size = [int(SIDE * side / shorter) for side in images.shape[2:]]
    return F.interpolate(images, size, mode=mode, align_corners=False)


def _normalize(images: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    means, deviations = (
        torch.tensor(values, device=images.device)[:, None, None] for values in (mean, deviation)
    )
    return (images / 255 - means) / deviations


# --- frame by frame -------------------------------------------------------------------------------


class Meter(Protocol):
    """A metric of one video, which sees its frames one after the other and keeps few of them."""

    def takes(self, index: int) -> bool:
        """Tell whether it needs frame `index` of the video."""
        ...

    def add(self, frame: Tensor) -> None:
        """See the next frame that it takes, `(3, H, W)` uint8."""
        ...

    def value(self) -> float:
        """Return the value, once all frames have been seen."""
        ...


class AllFrames:
    """A meter that needs every frame."""

    def takes(self, index: int) -> bool:
        return True


class FrameScores(AllFrames):
    """Runs a network on every frame, prepared from an image `(1, 3, H, W)` in [0, 255]."""

    def __init__(
        self,
        model: nn.Module | None,
        prepare: Callable[[Tensor], Tensor],
        summarize: Callable[[Tensor], float],
    ) -> None:
        self.model, self.prepare, self.summarize = _require_model(model), prepare, summarize
        self.waiting: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def add(self, frame: Tensor) -> None:
        self.waiting.append(self.prepare(frame[None].to(_device(self.model)).float()))
        if len(self.waiting) == BATCH:
            self._run()

    def _run(self) -> None:
        if self.waiting:
            self.outputs.append(self.model(torch.cat(self.waiting)))
        self.waiting = []

    def value(self) -> float:
        self._run()
        return self.summarize(torch.cat(self.outputs))


class FrameChange:
    """Sums the differences of each frame that it takes to the one before."""

    def __init__(self) -> None:
        self.before: Tensor | None = None
        self.sum, self.pairs = 0, 0

    def add(self, frame: Tensor) -> None:
        if self.before is not None:
            self.sum += _difference(frame, self.before)
            self.pairs += 1
        self.before = frame

    def mean_change(self) -> float:
        """Return the mean absolute difference, in [0, 1]."""
        assert self.before is not None
        return self.sum / (self.pairs * self.before.numel()) / 255


class Flickering(FrameChange, AllFrames):
    """Compares neighbouring frames."""

    def value(self) -> float:
        return 1 - self.mean_change()


class Smoothness(AllFrames):
    """Compares every other frame with AMT-S's guess from its neighbours."""

    def __init__(self, model: nn.Module | None) -> None:
        self.model = _require_model(model)
        self.before: Tensor | None = None  # as AMT-S takes it
        self.between: Tensor | None = None
        self.sum, self.guesses = 0, 0

    def add(self, frame: Tensor) -> None:
        if self.before is not None and self.between is None:
            self.between = frame
            return
        kept, inside = pad_to_multiple(_check_min_size(frame[None], 16).float() / 255, 16)
        if self.before is not None and self.between is not None:
            pair = (one.to(_device(self.model)) for one in (self.before, kept))
            guess = (self.model(*pair)[0][inside].cpu() * 255).to(torch.uint8)  # truncated
            self.sum += _difference(guess, self.between)
            self.guesses += 1
        self.before, self.between = kept, None
        self.numel = frame.numel()

    def value(self) -> float:
        return 1 - self.sum / (self.guesses * self.numel) / 255


class Motion:
    """Counts the pairs of frames that move, until they are enough."""

    def __init__(self, model: nn.Module | None, count: int, fps: float | None) -> None:
        self.model, self.count, self.fps = _require_model(model), count, fps
        self.step = max(1, round(fps / RATE)) if fps else 1
        self.needed = round(4 * (-(-count // self.step) / 16))
        self.before: Tensor | None = None
        self.moving, self.pairs = 0, 0

    def takes(self, index: int) -> bool:
        return index % self.step == 0 and not self._is_enough()

    def _is_enough(self) -> bool:
        return self.pairs > 0 and self.moving >= self.needed

    def add(self, frame: Tensor) -> None:
        if self.before is not None:
            _check_min_size(frame[None], 8)
            (motion,) = motions(self.model, iter([(self.before, frame)]), 0.05)
            self.moving += motion > 6.0 * (min(frame.shape[1:]) / 256)
            self.pairs += 1
        self.before = frame

    def value(self) -> float:
        if not self.pairs:
            raise ValueError(
                f"a video must have two frames at {RATE} fps, but got {self.count} frames at"
                f" {self.fps} fps. Leave it out."
            )
        return float(self._is_enough())


# metric -> what measures a video, from the network, the number of frames and their rate
METERS: dict[str, Callable[[nn.Module | None, int, float | None], Meter]] = {
    "imaging_quality": lambda model, count, fps: FrameScores(
        model, resize_for_musiq, lambda scores: _mean(scores) / 100
    ),
    "aesthetic_quality": lambda model, count, fps: FrameScores(
        model, resize_for_clip, lambda scores: _mean(scores / 10)
    ),
    "background_consistency": lambda model, count, fps: FrameScores(
        model, resize_for_clip, _consistency
    ),
    "subject_consistency": lambda model, count, fps: FrameScores(
        model, resize_for_dino, _consistency
    ),
    "temporal_flickering": lambda model, count, fps: Flickering(),
    "motion_smoothness": lambda model, count, fps: Smoothness(model),
    "dynamic_degree": Motion,
}


def _consistency(features: Tensor) -> float:
    """Return the mean similarity of frames to the previous and to the first, each at least 0."""
    units = F.normalize(features.cpu().double(), dim=1)  # mps has no float64
    before, first = (units[1:] * units[:-1]).sum(1), units[1:] @ units[0]
    return _mean((before.clamp(min=0) + first.clamp(min=0)) / 2)


def _difference(first: Tensor, second: Tensor) -> int:
    """Return the sum of the absolute differences of two uint8 frames."""
    return int((first.int() - second.int()).abs().sum())


def _mean(values: Tensor) -> float:
    return values.cpu().double().mean().item()


def _require_model(model: nn.Module | None) -> nn.Module:
    if model is None:
        raise ValueError("model must be the network of this metric, but got None. Load it first.")
    return model


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _check_frames(frames: Tensor, fewest: int) -> Tensor:
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(
            f"frames must be (F, 3, H, W) uint8, but got {tuple(frames.shape)} {frames.dtype}."
            " Convert them."
        )
    if len(frames) < fewest:
        raise ValueError(
            f"this metric needs at least {fewest} frames, but got {len(frames)}. Leave the video"
            " out."
        )
    return frames


def _check_min_size(frames: Tensor, divisor: int) -> Tensor:
    """Reject frames too small for a correlation pyramid after padding to multiples of `divisor`."""
    height, width = frames.shape[2:]
    if min(height, width) <= SMALLEST - divisor:
        raise ValueError(
            f"this metric needs more than {SMALLEST - divisor} pixels a side, but got {height} x"
            f" {width}. Leave the video out."
        )
    return frames
