# Built by `make comfyui` from src/skipguide/families/presets.py; do not edit.
"""Published settings with their sources: a preset is a row of `presets.toml`."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..families import blocks, lookup

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_log = logging.getLogger("skipguide")


@dataclass(frozen=True)
class Preset:
    """A setting that somebody measured or published for one model, and the model's own defaults of
    a generation."""

    model: str  # hub id, or the name of a lab model
    pipelines: tuple[str, ...]  # none for models that are no diffusers video pipeline here
    depth: int  # blocks in the model's first stack; 0 where the source does not say
    layers: tuple[int | str, ...]
    scale: float
    skip: str
    source: str  # repository@commit, file:lines
    axis: str | None = None
    start: float = 0.0
    stop: float = 1.0
    rescale: float = 0.0
    terms: tuple[
        dict[str, Any], ...
    ] = ()  # several at once: axis and scale of each; `scale` is then 0
    schedule: tuple[
        dict[str, Any], ...
    ] = ()  # arguments of terms.Bin; layers are empty, so to overlook it fails
    defaults: dict[str, Any] = field(
        default_factory=dict
    )  # height, width, num_frames, fps, guidance_scale, ...
    name: str = ""
    kind: str = (  # "stg": a weak pass beside the others; "slg": layers skipped in the unconditional pass, no scale
        "stg"
    )
    note: str = ""  # what is not the same thing at the source and here
    width: int = 0  # num_attention_heads * attention_head_dim, where the depth alone does not tell checkpoints apart
    config: Mapping[str, Any] = field(
        default_factory=dict
    )  # other entries of the denoiser's config that must be these
    recommended: bool = False  # one row per model and kind: what STG.preset() and SLG.preset() pick


@functools.cache
def load_presets() -> tuple[Preset, ...]:
    """All rows, in the order of the file."""
    text = Path(__file__).with_name("presets.toml").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = tomllib.loads(text)["preset"]
    lists = ("pipelines", "layers", "terms", "schedule")
    return tuple(
        Preset(**{**row, **{name: tuple(row.get(name, ())) for name in lists}}) for row in rows
    )


def preset_for(pipe: Any, kind: str = "stg") -> Preset:
    """The recommended row for the model that a pipeline holds; the log says which one, and what it
    holds.

    Args:
        kind: "stg" or "slg".

    Raises:
        ValueError: if the pipeline's class is unknown, or no row fits the depth and width of its
            denoiser.
    """
    family = lookup.family_of(pipe)
    denoiser = lookup.denoisers_of(pipe, family)[0]
    depth = blocks.depth(family, blocks.layer_sites(family, denoiser))
    width, names = model_width(denoiser.config), {cls.__name__ for cls in type(pipe).__mro__}
    rows = recommended_presets(names, kind)
    row = best_preset(rows, depth, width, denoiser.config)
    if row is not None:
        _log.info(
            "preset %s for %s: %s. Source: %s",
            row.name,
            row.model,
            describe_preset(row),
            row.source,
        )
        return row
    size = f"{depth} blocks" + (
        f" and width {width}" if width and any(row.width for row in rows) else ""
    )
    known = ", ".join(_describe_size(row) for row in rows) or "none"
    example = (
        f"STG(layers=[{depth * 7 // 10}], scale=1.0)"
        if kind == "stg"
        else f"SLG(layers=[{depth // 4}])"
    )
    if family.unet:
        example = f'{kind.upper()}(layers=["up:0"])'
    raise ValueError(
        "a preset needs a published setting for the model, but none is known for a"
        f" {type(pipe).__name__} of {size} (known: {known}). Choose the layer yourself, as in {example}; `skipguide presets`"
        " lists all that is published."
    )


def recommended_presets(pipelines: Collection[str], kind: str) -> list[Preset]:
    """Return the recommended rows of a kind that name one of these pipelines."""
    return [
        row
        for row in load_presets()
        if row.recommended and row.kind == kind and set(pipelines) & set(row.pipelines)
    ]


def best_preset(
    rows: Sequence[Preset], depth: int, width: int, config: Mapping[str, Any]
) -> Preset | None:
    """Return the row for a model of this size that asks for most, or None if no row is for it."""
    fitting = [row for row in rows if fits_size(row, depth, width, config)]
    return max(fitting, key=lambda row: len(row.config) + (row.width > 0), default=None)


def fits_size(row: Preset, depth: int, width: int, config: Mapping[str, Any]) -> bool:
    """Return whether a row is for a model of this size.

    Args:
        depth: how many blocks the model's first stack has.
        width: of its hidden states; 0 where it is not known, and then no row asks for it.
        config: the denoiser's, for rows that name other entries of it.
    """
    same = all(config.get(key) == value for key, value in row.config.items())
    return same and row.depth == depth and row.width in (0, width)


def model_width(config: Mapping[str, Any]) -> int:
    """Return the width of a denoiser's hidden states; 0 where its config has other names for it."""
    heads, size = config.get("num_attention_heads", 0), config.get("attention_head_dim", 0)
    return heads * size if isinstance(heads, int) and isinstance(size, int) else 0


def _describe_size(row: Preset) -> str:
    return f"{row.model} ({row.depth} blocks{f', width {row.width}' if row.width else ''})"


# --- in words -------------------------------------------------------------------------------------


def describe_preset(row: Preset) -> str:
    """A row in one phrase: layer 19, attention, scale 1, rescale 0.7, CFG 3."""
    if row.schedule:
        bins = len(row.schedule)
        return f"a schedule of {bins} range{'s' if bins > 1 else ''} of sigma"
    parts = [f"layer{'s' if len(row.layers) > 1 else ''} {describe_layers(row.layers)}", row.skip]
    parts += [f"{row.axis} only"] if row.axis else []
    scales = [f"{term['axis']} scale {term['scale']:g}" for term in row.terms] or [
        f"scale {row.scale:g}"
    ]
    parts += ["in the unconditional pass"] if row.kind == "slg" else scales
    parts += [f"steps {describe_window(row)}"] if (row.start, row.stop) != (0, 1) else []
    parts += [f"rescale {row.rescale:g}"] if row.rescale else []
    parts += [f"CFG {row.defaults['guidance_scale']:g}"] if "guidance_scale" in row.defaults else []
    return ", ".join(parts)


def describe_layers(layers: Any) -> str:
    """34; or dual:2, single:7; "mid:0, mid:1, ..., mid:9" where there are many."""
    words = [str(layer) for layer in layers]
    return ", ".join(words if len(words) < 6 else [*words[:2], "...", words[-1]]) or "none"


def describe_window(row: Preset) -> str:
    """The part of the run, in percent."""
    return f"{row.start:.0%} to {row.stop:.0%}"
