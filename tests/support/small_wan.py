"""Saved Wans whose layers are wide enough for GGUF's blocks of 32 weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from support.original import WEIGHTS
from support.saved import whole
from support.tiny.base import denoiser, matter


def save_wan(folder: Path, name: str = "WanPipeline") -> Path:
    """Save a Wan with one denoiser, or as "WanPipeline 2.2" with two."""
    torch.manual_seed(0)
    pipe = whole(name)
    parts = {**pipe.components, "boundary_ratio": pipe.config.boundary_ratio}
    for part in ("transformer", "transformer_2"):
        if parts.get(part) is not None:
            parts[part] = matter(denoiser("wan", attention_head_dim=16))
    if parts.get("transformer_2") is not None:
        parts["boundary_ratio"] = 0.875
    type(pipe)(**parts).save_pretrained(folder)
    return folder


def without_weights(folder: Path, to: Path, *components: str) -> Path:
    """Copy a saved pipeline with no more than the config.json of some components."""
    shutil.copytree(folder, to)
    for component in components:
        (to / component / WEIGHTS).unlink()
    return to


def state(model: Any) -> dict[str, torch.Tensor]:
    """All weights and buffers of a model by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def differing(model: Any, other: Any) -> list[str]:
    """The names of weights that are not the same, bit for bit, in the same dtype."""
    own, theirs = state(model), state(other)
    return [
        name
        for name in {**own, **theirs}
        if name not in own
        or name not in theirs
        or own[name].dtype != theirs[name].dtype
        or not torch.equal(own[name].data, theirs[name].data)
    ]
