"""The lab's judges as feature extractors: packaged, small, and only useful for the lab's clips.

The weights say which of the two it is: that of the world of lab-mochi, or of the open world.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.lab import readers, world
from skipguide.metrics.networks.clips import prepare_clips

Tensor = torch.Tensor
CLASSES = ("shape", "colour", "motion")  # the heads whose words make up a class together


def load(path: Path) -> nn.Module:
    """Load a judge from a file that `skipguide lab train` wrote."""
    return readers.load_weights(path).requires_grad_(False)


@torch.no_grad()
def features(model: nn.Module, frames: Tensor) -> Tensor:
    """Return features `(B, 128)` of clips `(B, F, 3, H, W)` uint8.

    Clips of other lengths than 19 are sampled at the nearest frames, other sizes are resized.
    """
    return embed(model, prepare_clips(prepare, model, frames[:, sample(frames.shape[1])]))


@torch.no_grad()
def probabilities(model: nn.Module, frames: Tensor) -> Tensor:
    """Return `(B, classes)`: the probability of every shape with every colour and every motion.

    Clips are `(B, F, 3, H, W)` uint8; the three words are read independently.
    """
    return classify(model, prepare_clips(prepare, model, frames[:, sample(frames.shape[1])]))


def sample(count: int) -> list[int]:
    """Return which of `count` frames the judge sees: for each of 19, the nearest in time."""
    numbers = torch.arange(count, dtype=torch.float64)[None, None]
    return F.interpolate(numbers, world.NUM_FRAMES, mode="nearest")[0, 0].long().tolist()


def prepare(model: nn.Module, frame: Tensor) -> Tensor:
    """Scale a frame `(3, H, W)` uint8 to [-1, 1] and resize it: `(3, 64, 64)`."""
    device, size = next(model.parameters()).device, (world.FRAME_SIZE, world.FRAME_SIZE)
    image = frame.to(device).contiguous()[None, :, None].float() / 127.5 - 1
    if image.shape[3:] != size:
        image = F.interpolate(image, (1, *size), mode="trilinear", align_corners=False)
    # Convolutions round otherwise in another memory layout, so that of the frame is kept.
    out = image[0, :, 0]
    return out if frame.is_contiguous() else out.permute(1, 2, 0).contiguous().permute(2, 0, 1)


@torch.no_grad()
def embed(model: nn.Module, clips: Tensor) -> Tensor:
    """Return features `(B, 128)` of prepared clips `(B, 19, 3, 64, 64)`."""
    return model(clips.transpose(1, 2))[1]


@torch.no_grad()
def classify(model: nn.Module, clips: Tensor) -> Tensor:
    """Return probabilities `(B, classes)` of prepared clips `(B, 19, 3, 64, 64)`."""
    logits = model(clips.transpose(1, 2))[0]
    shape, colour, motion = (logits[name].cpu().double().softmax(1) for name in CLASSES)
    return torch.einsum("bi,bj,bk->bijk", shape, colour, motion).flatten(1)
