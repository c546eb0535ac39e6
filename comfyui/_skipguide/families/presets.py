# Built by `make comfyui` from src/skipguide/families/presets.py; do not edit.
"""Published settings with their sources: a preset is a row of `presets.toml`."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..families import blocks, lookup
from ..families.protocols import Config
from ..families.schema import Family
from ..method.protocols import ReadOnlyData
from ..method.terms import SLG, STG, Bin, Modality, Schedule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_log = logging.getLogger("skipguide")
Entry = dict[str, Any]  # a table of the file


@dataclass(frozen=True)
class Preset:
    """A setting that somebody measured or published for one model.

    Args:
        model: a hub id, or the name of a lab model.
        pipelines: the diffusers pipelines that it is for; none for models that have no row here.
        depth: how many blocks the model's first stack has; 0 where the source does not say.
        layers: the layers to skip; none beside a schedule, whose bins have their own.
        scale: s; 0 beside `terms`, which have their own.
        skip, axis, start, stop, rescale, normalize: as in STG.
        source: repository@commit and file:lines, or a paper.
        terms: the axis and the scale of each of several terms.
        schedule: the arguments of each Bin of a Schedule.
        defaults: the model's own settings of a generation: height, width, num_frames, ...; of a
            preset that was measured, those it was measured with, as guidance_scale.
        name: the name of the row.
        kind: "stg", a weak pass beside the others, or "slg", layers skipped in the unconditional
            pass, which has no scale.
        note: what is not the same at the source and here.
        width: num_attention_heads * attention_head_dim, where the depth alone does not tell
            checkpoints apart; 0 otherwise.
        config: other entries of the denoiser's config that must be the same.
        recommended: STG.preset() or SLG.preset() picks it; one row for each model and kind.
        modality_scale: of Modality, beside STG or without layers; 1 is off.
        rescale_space, audio_rescale: as in guide().
        replace_own: it stands for all guidance that the pipelines have of their own.
    """

    model: str
    pipelines: tuple[str, ...]
    depth: int
    layers: tuple[int | str, ...]
    scale: float
    skip: str
    source: str
    axis: str | None = None
    start: float = 0.0
    stop: float = 1.0
    rescale: float = 0.0
    terms: tuple[Entry, ...] = ()
    schedule: tuple[Entry, ...] = ()
    defaults: Entry = field(default_factory=dict)
    name: str = ""
    kind: str = "stg"
    note: str = ""
    width: int = 0
    config: Config = field(default_factory=dict)
    recommended: bool = False
    normalize: bool = False
    modality_scale: float = 1.0
    rescale_space: str = "prediction"
    audio_rescale: float | None = None
    replace_own: bool = False

    @property
    def is_cfg_alone(self) -> bool:
        """True if it has neither layers nor a schedule: the answer was to use no STG."""
        return not (self.layers or self.terms or self.schedule or self.modality_scale > 1)

    @property
    def options(self) -> Entry:
        """The arguments of guide() beside terms and `rescale` that were published with it."""
        usual = {"rescale_space": "prediction", "replace_own": False, "audio_rescale": None}
        found = {name: getattr(self, name) for name in usual}
        return {name: value for name, value in found.items() if value != usual[name]}


@functools.cache
def load_presets() -> tuple[Preset, ...]:
    """Return all rows, in the order of the file."""
    text = Path(__file__).with_name("presets.toml").read_text(encoding="utf-8")
    rows: list[Entry] = tomllib.loads(text)["preset"]
    return tuple(map(to_preset, rows))


def to_preset(entry: ReadOnlyData) -> Preset:
    """Return a table of a file as a preset."""
    lists = ("pipelines", "layers", "terms", "schedule")
    return Preset(**{**entry, **{name: tuple(entry.get(name, ())) for name in lists}})


def preset_for(pipe: object, kind: str = "stg") -> Preset:
    """Return the recommended row for the model that a pipeline holds, and log which one it is.

    Args:
        pipe: the pipeline.
        kind: "stg" or "slg".

    Raises:
        ValueError: if the pipeline's class is unknown, or no row is for a denoiser of this depth
            and width.
    """
    facts = facts_of(pipe)
    rows = recommended_presets(facts.names, kind)
    row = best_preset(rows, facts.depth, facts.width, facts.config)
    if row is not None:
        text = describe_preset(row)
        _log.info("preset %s for %s: %s. Source: %s", row.name, row.model, text, row.source)
        return row
    raise ValueError(_no_preset_message(facts, rows, kind))


@dataclass(frozen=True)
class ModelFacts:
    """The facts of a model by which presets are for it or not.

    Args:
        names: the class of the pipeline and those that it derives from, its own first.
        family: its row.
        depth: how many blocks the model's first stack has.
        width: of its hidden states; 0 where it is not known.
        config: the denoiser's.
    """

    names: tuple[str, ...]
    family: Family
    depth: int
    width: int
    config: Config


def facts_of(pipe: object) -> ModelFacts:
    """Return the facts by which presets are for the model of a pipeline or not.

    Raises:
        ValueError: if the pipeline's class is unknown.
    """
    family = lookup.family_of(pipe)
    denoiser = lookup.denoisers_of(pipe, family)[0]
    depth = blocks.depth(family, blocks.layer_sites(family, denoiser))
    names = tuple(cls.__name__ for cls in type(pipe).__mro__)
    return ModelFacts(names, family, depth, model_width(denoiser.config), denoiser.config)


def _no_preset_message(facts: ModelFacts, rows: Sequence[Preset], kind: str) -> str:
    by_width = any(row.width for row in rows)
    size = describe_size(facts.depth, facts.width if by_width else 0)
    known = ", ".join(_describe_model(row) for row in rows) or "none"
    return (
        f"a preset needs a published setting for the model, but none is known for a"
        f" {facts.names[0]} of {size} (known: {known}). Choose the layer yourself, as in"
        f" {example_term(facts, kind)}; `skipguide presets` lists all that is published."
    )


def example_term(facts: ModelFacts, kind: str = "stg") -> str:
    """Return a term as one may write it for a model of which nothing is published."""
    if facts.family.unet:
        return f'{kind.upper()}(layers=["up:0"])'
    if kind == "stg":
        return f"STG(layers=[{facts.depth * 7 // 10}], scale=1.0)"
    return f"SLG(layers=[{facts.depth // 4}])"


def recommended_presets(pipelines: Collection[str], kind: str) -> list[Preset]:
    """Return the recommended rows of a kind that name one of these pipelines."""
    return [
        row
        for row in load_presets()
        if row.recommended and row.kind == kind and set(pipelines) & set(row.pipelines)
    ]


def best_preset(rows: Sequence[Preset], depth: int, width: int, config: Config) -> Preset | None:
    """Return the row for a model of this size that asks for most, or None if no row is for it."""
    fitting = [row for row in rows if fits_size(row, depth, width, config)]
    return max(fitting, key=lambda row: len(row.config) + (row.width > 0), default=None)


def fits_size(row: Preset, depth: int, width: int, config: Config) -> bool:
    """Return whether a row is for a model of this size.

    Args:
        depth: how many blocks the model's first stack has.
        width: of its hidden states; 0 where it is not known, and then no row asks for it.
        config: the denoiser's, for rows that name other entries of it.
    """
    same = all(config.get(key) == value for key, value in row.config.items())
    return same and row.depth == depth and row.width in (0, width)


def model_width(config: Config) -> int:
    """Return the width of a denoiser's hidden states; 0 where its config has other names for it."""
    heads, size = config.get("num_attention_heads", 0), config.get("attention_head_dim", 0)
    return heads * size if isinstance(heads, int) and isinstance(size, int) else 0


def describe_size(depth: int, width: int) -> str:
    """Return the size of a model in words; a width of 0 is left out."""
    return f"{depth} blocks" + (f" and width {width}" if width else "")


def _describe_model(row: Preset) -> str:
    return f"{row.model} ({row.depth} blocks{f', width {row.width}' if row.width else ''})"


# --- as terms -------------------------------------------------------------------------------------


def to_terms(row: Preset, source: str = "") -> STG | SLG | Schedule | tuple[STG, ...]:
    """Return what a row stands for, as guide() takes it.

    Args:
        source: in the place of the row's own.

    Raises:
        ValueError: for layers, scales or windows that no term can have.
    """
    source = source or row.source
    if row.schedule:
        return Schedule([Bin(**entry) for entry in row.schedule], source=source)
    if row.kind == "slg":
        return SLG(list(row.layers), row.skip, row.axis, row.start, row.stop, source=source)
    found = [
        STG(
            list(row.layers), term["scale"], row.skip, term["axis"], row.start, row.stop,
            normalize=row.normalize, source=source, preset_rescale=row.rescale,
            preset_options=row.options,
        )
        for term in row.terms or ({"axis": row.axis, "scale": row.scale},)
        if row.layers or row.modality_scale == 1  # which is an error without layers
    ]  # fmt: skip
    if row.modality_scale > 1:
        published = {"preset_rescale": row.rescale, "preset_options": row.options}
        found.append(Modality(row.modality_scale, source=source, **published))
    return tuple(found) if row.terms or len(found) > 1 else found[0]


# --- in words -------------------------------------------------------------------------------------


def describe_preset(row: Preset) -> str:
    """Describe a row in one phrase, as in "layer 19, attention, scale 1, rescale 0.7, CFG 3"."""
    if row.schedule:
        bins = len(row.schedule)
        return f"a schedule of {bins} range{'s' if bins > 1 else ''} of sigma"
    cfg = [f"CFG {row.defaults['guidance_scale']:g}"] if "guidance_scale" in row.defaults else []
    if row.is_cfg_alone:
        return f"{cfg[0] if cfg else 'CFG'} alone"
    parts = _describe_skip(row) if row.layers else []
    parts += [f"modality {row.modality_scale:g}"] if row.modality_scale > 1 else []
    parts += [f"steps {describe_window(row)}"] if (row.start, row.stop) != (0, 1) else []
    parts += [f"rescale {row.rescale:g}"] if row.rescale else []
    parts += [f"audio rescale {row.audio_rescale:g}"] if row.audio_rescale is not None else []
    parts += ["normalized"] if row.normalize else []
    return ", ".join([*parts, *cfg])


def _describe_skip(row: Preset) -> list[str]:
    """Return which layers are skipped, how and by which scales, as phrases."""
    parts = [f"layer{'s' if len(row.layers) > 1 else ''} {describe_layers(row.layers)}", row.skip]
    parts += [f"{row.axis} only"] if row.axis else []
    scales = [f"{term['axis']} scale {term['scale']:g}" for term in row.terms] or [
        f"scale {row.scale:g}"
    ]
    return [*parts, *(["in the unconditional pass"] if row.kind == "slg" else scales)]


def describe_layers(layers: Iterable[int | str]) -> str:
    """List layers, as in "dual:2, single:7"; of many the first two and the last."""
    words = [str(layer) for layer in layers]
    return ", ".join(words if len(words) < 6 else [*words[:2], "...", words[-1]]) or "none"


def describe_window(row: Preset) -> str:
    """Describe the part of a run that is guided, in percent."""
    return f"{row.start:.0%} to {row.stop:.0%}"
