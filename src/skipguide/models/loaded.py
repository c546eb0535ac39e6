"""Keep with a pipeline what was found out about its model when it was loaded."""

from __future__ import annotations

from typing import Any

from skipguide.method.protocols import Pipeline, PlainData

_NAME = "_skipguide_loaded"


def remember(pipe: Pipeline, **facts: Any) -> None:
    """Keep facts with a pipeline: `lora`, `quantize` (complete settings), `parts` (paths)."""
    pipe.__dict__[_NAME] = {**recall(pipe), **facts}


def recall(pipe: Pipeline) -> PlainData:
    """Return the facts that are kept with a pipeline; none for one that a caller made."""
    return getattr(pipe, "__dict__", {}).get(_NAME, {})
