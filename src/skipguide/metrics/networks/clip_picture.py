"""CLIP's embeddings of pictures, the features of CMMD (Jayasumana et al., arXiv:2401.09603)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.metrics.networks import clip
from skipguide.metrics.networks.clip import load as load
from skipguide.metrics.networks.clips import prepare_clips

Tensor = torch.Tensor


def prepare(model: nn.Module, frame: Tensor) -> Tensor:
    """Crop an image `(3, H, W)` uint8 to a square in its middle, and resize and normalise it."""
    assert isinstance(model, clip.ImageEncoder)
    height, width = frame.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frame[:, top : top + side, left : left + side].contiguous()
    pixels = square.to(next(model.parameters()).device)[None].float()
    resized = F.interpolate(pixels, (model.size, model.size), mode="bicubic", antialias=True)
    return clip.normalize(resized.round().clamp(0, 255))[0]  # to whole grey values, as Pillow does


def features(model: nn.Module, frames: Tensor) -> Tensor:
    """Return features `(B, D)` of pictures `(B, 1, 3, H, W)` uint8."""
    return embed(model, prepare_clips(prepare, model, frames))


def embed(model: nn.Module, clips: Tensor) -> Tensor:
    """Return features `(B, D)` of length 1 of prepared clips of one frame."""
    return F.normalize(model(clips[:, 0]), dim=1)
