"""Tiny pipelines in folders, whole enough to be called with words and pictures, for the tests of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny import tiny
from tiny.ltx import t5


def whole(name: str) -> Any:
    """One of tests/tiny, with a text encoder where it has none."""
    pipe = tiny(name).pipe
    return type(pipe)(**{**pipe.components, **t5()}) if "text_encoder" in pipe.components else pipe


def saved(name: str, folder: Path) -> Path:
    """The same in diffusers layout."""
    whole(name).save_pretrained(folder / name)
    return folder / name
