"""VBench's metrics of one video, with its preparation and thresholds (Huang et al., CVPR 2024).

Every function takes `(model, frames, fps)`: the network of its row in the table, frames `(F, 3, H,
W)` uint8 RGB, and frames per second or None. It returns one number, in the units of VBench's own
result, and keeps no state. docs/vbench.md has the sources, and how far each function is from
VBench's code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.metrics.networks.flow import SMALLEST, pad_to_multiple

Tensor = torch.Tensor

SIDE = 224  # the shorter side of images for CLIP and DINO
MAX_SIDE = 512  # the longest side of images for MUSIQ
CLIP_NORM = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RATE = 8  # frames per second at which motion is measured
BATCH = 8  # frames that a network gets at a time; no result depends on it


def imaging_quality(model: nn.Module | None, frames: Tensor, fps: float | None) -> float:
    """Return the mean of MUSIQ's score over all frames, in [0, 1].

    Images are shrunk if a side exceeds 512 pixels.

    Raises:
        ValueError: If frames are not `(F, 3, H, W)` uint8.
    """
    return (
        _mean(_run_on_frames(_require_model(model), _check_frames(frames, 1), resize_for_musiq))
        / 100
    )


def aesthetic_quality(model: nn.Module | None, frames: Tensor, fps: float | None) -> float:
    """Return the mean aesthetic rating of the middles of all frames, divided by 10: about 0 to 1.

    Raises:
        ValueError: If frames are not `(F, 3, H, W)` uint8.
    """
    return _mean(
        _run_on_frames(_require_model(model), _check_frames(frames, 1), resize_for_clip) / 10
    )


def background_consistency(model: nn.Module | None, frames: Tensor, fps: float | None) -> float:
    """Return how similar frames look to CLIP, in [0, 1]: each to the previous and to the first.

    CLIP sees the middle of each frame.

    Raises:
        ValueError: If frames are not `(F, 3, H, W)` uint8 with F >= 2.
    """
    return _consistency(
        _run_on_frames(_require_model(model), _check_frames(frames, 2), resize_for_clip)
    )


def subject_consistency(model: nn.Module | None, frames: Tensor, fps: float | None) -> float:
    """Return how similar frames look to DINO, in [0, 1]: each to the previous and to the first.

    DINO sees the whole frame.

    Raises:
        ValueError: If frames are not `(F, 3, H, W)` uint8 with F >= 2.
    """
    return _consistency(
        _run_on_frames(_require_model(model), _check_frames(frames, 2), resize_for_dino)
    )


def temporal_flickering(model: nn.Module | None, frames: Tensor, fps: float | None) -> float:
    """Return 1 - the mean absolute difference of neighbouring frames, in [0, 1].

    A frozen video has 1. `model` is not used. VBench's leaderboard measures only videos that
    `is_static` lets through, because motion lowers the value too.

    Raises:
        ValueError: If frames are not `(F, 3, H, W)` uint8 with F >= 2.
    """
    return 1 - _difference(_check_frames(frames, 2)[1:], frames[:-1]) / 255


def motion_smoothness(model: nn.Module | None, frames: Tensor, fps: float | None) -> float:
    """Return 1 - the mean absolute difference of every other frame to AMT-S's guess, in [0, 1].

    AMT-S guesses a frame from its neighbours. Frames keep their size, as in VBench on a CPU; on a
    GPU with little memory VBench shrinks large ones.

    Raises:
        ValueError: If frames are not `(F, 3, H, W)` uint8 with F >= 3, or are too small for the
            network.
    """
    network, frames = _require_model(model), _check_min_size(_check_frames(frames, 3), 16)
    kept, inside = pad_to_multiple(frames[::2].float() / 255, 16)
    guesses = []
    for pair in itertools.pairwise(kept):
        guess = network(*(frame[None].to(_device(network)) for frame in pair))[0][inside]
        guesses.append((guess.cpu() * 255).to(torch.uint8))  # truncated, not rounded
    return 1 - _difference(torch.stack(guesses), frames[1::2][: len(guesses)]) / 255


def dynamic_degree(model: nn.Module | None, frames: Tensor, fps: float | None) -> float:
    """Return 1.0 if RAFT sees enough motion, else 0.0; the mean over many videos is a share.

    Of frames taken about 8 times a second, round(N / 4) pairs of neighbours must move by more than
    6 pixels per 256 of the shorter side (mean of the fastest 5 %). Without `fps`, as for folders of
    images, all frames are taken. As in VBench, 2 frames always move, because round(2 / 4) is 0.

    Raises:
        ValueError: If frames are not `(F, 3, H, W)` uint8 with two of them taken, or are too small
            for RAFT.
    """
    taken = _check_frames(frames, 1)[:: max(1, round(fps / RATE)) if fps else 1]
    if len(taken) < 2:
        raise ValueError(
            f"a video must have two frames at {RATE} fps, but got {len(frames)} frames at {fps}"
            " fps. Leave it out."
        )
    needed, threshold = round(4 * (len(taken) / 16)), 6.0 * (min(frames.shape[2:]) / 256)
    moving = 0
    for motion in motions(
        _require_model(model), itertools.pairwise(_check_min_size(taken, 8)), 0.05
    ):
        moving += motion > threshold
        if moving >= needed:
            return 1.0
    return 0.0


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
    return _normalize(resized[..., top : top + SIDE, left : left + SIDE], *CLIP_NORM)


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


def _run_on_frames(model: nn.Module, frames: Tensor, prepare: Callable[[Tensor], Tensor]) -> Tensor:
    """Run a network on each frame, prepared from images `(B, 3, H, W)` in [0, 255]."""
    return torch.cat(
        [model(prepare(part.to(_device(model)).float())) for part in frames.split(BATCH)]
    )


def _consistency(features: Tensor) -> float:
    """Return the mean similarity of frames to the previous and to the first, each at least 0."""
    units = F.normalize(features.cpu().double(), dim=1)  # mps has no float64
    before, first = (units[1:] * units[:-1]).sum(1), units[1:] @ units[0]
    return _mean((before.clamp(min=0) + first.clamp(min=0)) / 2)


def _difference(first: Tensor, second: Tensor) -> float:
    """Return the mean absolute difference of uint8 frames."""
    sums = [(a.int() - b.int()).abs().sum().item() for a, b in zip(first, second, strict=True)]
    return sum(sums) / first.numel()


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
