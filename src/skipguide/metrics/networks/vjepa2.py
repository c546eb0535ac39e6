"""V-JEPA 2 as a feature extractor (Assran et al., arXiv:2506.09985), from transformers.

Its VJEPA2VideoProcessor needs torchvision, so this file prepares the frames itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import VJEPA2Model

from skipguide.metrics.networks.clips import prepare_clips

Tensor = torch.Tensor

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


def load(path: Path) -> nn.Module:
    """Load the network from a folder such as facebook/vjepa2-vitl-fpc64-256.

    Raises:
        ValueError: if it holds something else.
    """
    try:
        loaded: Any = VJEPA2Model.from_pretrained(
            path, local_files_only=True, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise _unfit_error(path, str(error)) from error
    model, report = loaded
    if report["missing_keys"]:
        raise _unfit_error(path, f"it lacks {len(report['missing_keys'])} of its tensors")
    return model.eval().requires_grad_(False)


def _unfit_error(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"weights must be a V-JEPA 2 folder, but {path} does not fit ({reason}). Use all files of"
        " facebook/vjepa2-vitl-fpc64-256."
    )


@torch.no_grad()
def features(model: nn.Module, frames: Tensor) -> Tensor:
    """Return features `(B, D)` of clips `(B, F, 3, H, W)` uint8: the mean of the encoder's tokens.

    D is 1024 for ViT-L.
    """
    return embed(model, prepare_clips(prepare, model, frames))


def prepare(model: nn.Module, frame: Tensor) -> Tensor:
    """Prepare a frame `(3, H, W)` uint8, see `prepare_frames`."""
    assert isinstance(model, VJEPA2Model)
    return prepare_frames(frame.contiguous()[None], model.config.crop_size)[0]


@torch.no_grad()
def embed(model: nn.Module, clips: Tensor) -> Tensor:
    """Return features `(B, D)` of prepared clips `(B, F, 3, size, size)`."""
    assert isinstance(model, VJEPA2Model)
    return model(clips.to(model.device), skip_predictor=True).last_hidden_state.mean(1)


def prepare_frames(frames: Tensor, size: int) -> Tensor:
    """Resize, crop and normalise frames `(N, 3, H, W)` uint8 on the CPU: `(N, 3, size, size)`.

    The short side is resized to 8/7 of `size`, then the middle is cropped and scaled with
    ImageNet's mean and deviation.
    """
    height, width = frames.shape[2:]
    short = int(size * 256 / 224)
    if height <= width:
        height, width = short, int(short * width / height)
    else:
        height, width = int(short * height / width), short
    # On a CPU, torchvision resizes uint8 directly, in fixed point, with this function of torch.
    resized = F.interpolate(
        frames, (height, width), mode="bilinear", align_corners=False, antialias=True
    )
    top, left = (height - size) // 2, (width - size) // 2
    cropped = resized[..., top : top + size, left : left + size]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
    return (cropped / 255 - mean) / std
