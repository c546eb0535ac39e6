"""How well a picture, or each frame of a video, shows its text."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.metrics.networks import clip
from skipguide.metrics.networks.clip_text import TextAndImages
from skipguide.metrics.vbench import FrameScores, Meter, read_meter

Tensor = torch.Tensor


def clip_score(model: nn.Module, frames: Tensor, text: str) -> float:
    """Return 100 times the cosine of the embeddings of a text and of frames `(F, 3, H, W)` uint8.

    It is 0 where they point apart; the mean over the frames (Hessel et al., arXiv:2104.08718).
    """
    return read_meter(METERS["clip_score"](model, text), frames)


def _clip_meter(model: nn.Module | None, text: str) -> Meter:
    assert isinstance(model, TextAndImages)
    wanted = model.embed_text(text)
    return FrameScores(
        model, functools.partial(_prepare, model.size), functools.partial(_score, wanted)
    )


def _score(wanted: Tensor, found: Tensor) -> float:
    return float((100 * found @ wanted).clamp(min=0).double().mean())


def _prepare(size: int, images: Tensor) -> Tensor:
    """Resize the shorter side of images `(B, 3, H, W)` in [0, 255] to `size`, as CLIP's processor
    does, and crop and normalise them."""
    height, width = images.shape[2:]
    shorter = min(height, width)
    scaled = [size if side == shorter else int(size * side / shorter) for side in (height, width)]
    pixels = F.interpolate(images, scaled, mode="bicubic", antialias=True).round().clamp(0, 255)
    top, left = ((side - size) // 2 for side in scaled)
    return clip.normalize(pixels[..., top : top + size, left : left + size])


# metric -> what measures a clip, from the network and the text
METERS: dict[str, Callable[[nn.Module | None, str], Meter]] = {"clip_score": _clip_meter}
