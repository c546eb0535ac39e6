"""The lab's judge as a feature extractor: packaged, small, and only useful for the lab's clips."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from skipguide.lab import judge, world

Tensor = torch.Tensor


def load(path: Path) -> nn.Module:
    """Load the judge from a file that `skipguide lab train` wrote."""
    model = judge.Judge()
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def features(model: nn.Module, frames: Tensor) -> Tensor:
    """Return features `(B, 128)` of clips `(B, F, 3, H, W)` uint8.

    Clips of other lengths than 19 are sampled at the nearest frames, other sizes are resized.
    """
    return model(_prepare(frames, model))[1]


@torch.no_grad()
def probabilities(model: nn.Module, frames: Tensor) -> Tensor:
    """Return `(B, 384)`: the probability of every shape with every colour with every motion.

    Clips are `(B, F, 3, H, W)` uint8; the three words are read independently.
    """
    logits = model(_prepare(frames, model))[0]
    shape, colour, motion = (logits[name].cpu().double().softmax(1) for name in judge.HEADS)
    return torch.einsum("bi,bj,bk->bijk", shape, colour, motion).flatten(1)


def _prepare(frames: Tensor, model: nn.Module) -> Tensor:
    clips = frames.to(next(model.parameters()).device).transpose(1, 2).float() / 127.5 - 1
    size = (world.FRAME_SIZE, world.FRAME_SIZE)
    if clips.shape[2] != world.NUM_FRAMES:
        clips = F.interpolate(clips, (world.NUM_FRAMES, *clips.shape[3:]), mode="nearest")
    if clips.shape[3:] != size:
        clips = F.interpolate(
            clips, (world.NUM_FRAMES, *size), mode="trilinear", align_corners=False
        )
    return clips
