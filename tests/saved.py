"""Tiny pipelines in folders, whole enough to be called with words and pictures, for the tests of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tiny import tiny
from tiny.base import quiet
from tiny.ltx import t5


def whole(name: str) -> Any:
    """One of tests/tiny, with a text encoder of the width that it wants where it has none."""
    pipe = tiny(name).pipe
    if "text_encoder" not in pipe.components:
        return pipe
    width = pipe.transformer.config.get("text_dim", 32)
    return quiet(type(pipe)(**{**pipe.components, **t5(width)}), torch.float32)


def saved(name: str, folder: Path) -> Path:
    """The same in diffusers layout."""
    whole(name).save_pretrained(folder / name)
    return folder / name
