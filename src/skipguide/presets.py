"""Published settings with their sources: a preset is a row of `presets.toml`."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from skipguide import families

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Preset:
    """A setting that somebody measured or published for one model, and the model's own defaults of a generation."""

    model: str  # hub id, or the name of a lab model
    pipelines: tuple[str, ...]
    depth: int  # blocks in the model's first stack
    layers: tuple[int | str, ...]
    scale: float
    skip: str
    source: str
    axis: str | None = None
    start: float = 0.0
    stop: float = 1.0
    rescale: float = 0.0
    schedule: tuple[dict[str, Any], ...] = ()  # arguments of terms.Bin, for settings that change along the run
    defaults: dict[str, Any] = field(default_factory=dict)  # height, width, num_frames, fps, guidance_scale, ...


@functools.cache
def presets() -> tuple[Preset, ...]:
    """All rows, in the order of the file."""
    text = resources.files("skipguide").joinpath("presets.toml").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = tomllib.loads(text)["preset"]
    return tuple(Preset(**{**row, "layers": tuple(row["layers"])}) for row in rows)


def preset_for(pipe: Any) -> Preset:
    """The row for the model that a pipeline holds.

    Raises:
        ValueError: if the pipeline's class is unknown, or no row fits the depth of its denoiser.
    """
    family = families.family_of(pipe)
    stack = next(iter(family.stacks.values()))
    depth = len(getattr(pipe, family.denoiser).get_submodule(stack.path))
    name, names = type(pipe).__name__, {cls.__name__ for cls in type(pipe).__mro__}
    rows = [row for row in presets() if names & set(row.pipelines)]
    for row in rows:
        if row.depth == depth:
            return row
    known = ", ".join(f"{row.model} ({row.depth} blocks)" for row in rows) or "none"
    raise ValueError(
        f"a preset needs a published setting for the model, but none is known for a {name} of {depth} blocks "
        f"(known: {known}). Choose the layer yourself, as in STG(layers=[{depth * 7 // 10}], scale=1.0)."
    )
