"""Measure every clip: the judge's words and features, amount of motion, flicker and sharpness."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from skipguide.lab import judge, world

Tensor = torch.Tensor
BORDER = 6  # pixels around the frame, where the object is most of the time not
# an object's outline lies within these shares of its colour: stripes of a background are below
EDGE_RANGE = (0.3, 0.7)
VALUES = ("motion_amount", "flicker", "sharpness")


@dataclass(frozen=True)
class Reading:
    """The measurements of N clips, on the CPU."""

    features: Tensor  # (N, 128)
    logits: Tensor  # (N, 22): of shape, colour and motion, one after the other
    values: Tensor  # (N, 3): VALUES


@torch.no_grad()
def read_clips(reader: judge.Judge, scenes: world.Scenes, frames: Tensor) -> Reading:
    """Measure clips `(N, 3, F, H, W)` in [-1, 1] of scenes with single objects."""
    logits, features = [], []
    for part in stretch_for_judge(frames).split(64):
        found, vectors = reader(part)
        logits.append(torch.cat([found[name] for name in judge.HEADS], 1))
        features.append(vectors)
    return Reading(
        torch.cat(features).cpu(), torch.cat(logits).cpu(), measure_clips(scenes, frames).cpu()
    )


def stretch_for_judge(frames: Tensor) -> Tensor:
    """Repeat some frames of clips that have fewer than the 19 that the judge expects."""
    if frames.shape[2] == world.NUM_FRAMES:
        return frames
    return F.interpolate(frames, (world.NUM_FRAMES, *frames.shape[3:]), mode="nearest")


def measure_clips(scenes: world.Scenes, frames: Tensor) -> Tensor:
    """Return motion amount, flicker and sharpness `(N, 3)` of clips as for `read_clips`.

    Motion amount is defined by `world.amount_of_motion`: how far the outline moves, in half frames.
    Flicker is the mean change from frame to frame where the object is not, relative to the range of
    pixels; it should be 0. Sharpness is how fast the object's colour changes across its outline,
    per pixel; real clips have about 0.4.
    """
    alpha = coverage(scenes, frames)
    low, high = EDGE_RANGE
    masks = ((alpha - low) / (high - low)).clamp(0, 1)
    return torch.stack(
        [world.amount_of_motion(masks), _flicker(frames, masks), _sharpness(alpha.clamp(0, 1))], 1
    )


def coverage(scenes: world.Scenes, frames: Tensor) -> Tensor:
    """Return how much of its object's colour each pixel has, `(N, F, H, W)`: 0 backdrop, 1 object.

    The prompt does not say where stripes lie or how a colour is shaded, so the backdrop is the
    median of the border.
    """
    edge = torch.ones(frames.shape[3:], dtype=torch.bool, device=frames.device)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    backdrop = frames[..., edge].flatten(2).median(2).values
    named = torch.tensor(list(world.COLOURS.values()))[scenes.colour].to(frames) * 2 - 1
    apart = named - backdrop
    weights = apart / apart.square().sum(1, keepdim=True).clamp_min(1e-6)
    return torch.einsum("ncfhw,nc->nfhw", frames - backdrop[..., None, None, None], weights)


def _flicker(frames: Tensor, masks: Tensor) -> Tensor:
    """Measure change at pixels that the object, in both frames, is not near to."""
    free = 1 - F.max_pool2d((masks > 0).to(frames), 5, stride=1, padding=2)
    free = free[:, 1:] * free[:, :-1]
    change = frames.diff(dim=2).abs().mean(1) / 2
    return (change * free).sum((1, 2, 3)) / free.sum((1, 2, 3)).clamp_min(1)


def _sharpness(alpha: Tensor) -> Tensor:
    """Return the mean slope, weighted by itself.

    For a ramp over w pixels it is 1 / w, however long the outline.
    """
    slope = torch.stack(torch.gradient(alpha, dim=(2, 3))).square().sum(0).sqrt()
    return slope.square().sum((1, 2, 3)) / slope.sum((1, 2, 3)).clamp_min(1e-6)
