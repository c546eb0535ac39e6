"""Tiny pipelines in folders, whole enough to be called with words and pictures, for the tests of
the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from support.tiny import tiny
from support.tiny.base import quiet
from support.tiny.ltx import t5


def whole(name: str) -> Any:
    """Return one of tests/support/tiny, with a text encoder of the right width if it has none."""
    pipe = tiny(name).pipe
    if "text_encoder" not in pipe.components:
        return pipe
    width = (
        pipe.unet.config.cross_attention_dim
        if hasattr(pipe, "unet")
        else pipe.transformer.config.get("text_dim", 32)
    )
    parts = t5(width)
    parts["tokenizer"].model_max_length = 16  # some pipelines fill up to it
    return quiet(type(pipe)(**{**pipe.components, **parts}), torch.float32)


def saved(name: str, folder: Path) -> Path:
    """The same in diffusers layout."""
    whole(name).save_pretrained(folder / name)
    return folder / name
