"""A preset of one's own in the settings of a video: what of it counts beside what else they say.

Flags win over it, as they do over the published preset of the model. Where they leave no STG, or
the preset's answer is to use CFG alone, the rest is filled in as without it, so that the video has
the key of the same settings written out.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skipguide.generate.flags import GuidanceFlags
from skipguide.method import parsing
from skipguide.method.protocols import Pipeline, PlainData, ReadOnlyData

if TYPE_CHECKING:
    from skipguide.families.preset_files import PresetFile
    from skipguide.families.presets import Preset
    from skipguide.generate.parsing import Guidance
    from skipguide.generate.settings import GenerationSettings


@dataclass(frozen=True)
class FilledFrom:
    """The sources from which settings are filled in.

    Args:
        guidance: as it was given, with what a preset of one's own decides in it.
        row: the preset that has the rest of the guidance; None where there is none.
        defaults: of a generation, by the names of a preset.
    """

    guidance: Guidance | None
    row: Preset | None
    defaults: ReadOnlyData = field(default_factory=dict)


def choose_preset(settings: GenerationSettings, pipe: Pipeline) -> FilledFrom:
    """Return the preset that fills in settings: the one that they name, else the published one.

    Raises:
        ValueError: if layers are left to a preset and none is known; for a preset of another model.
    """
    from skipguide.families import preset_files, presets

    file, guidance = settings.preset, settings.guidance
    if file is not None:
        preset_files.check_model(file, presets.facts_of(pipe), file.name and f"{file.name}.toml")
        guidance = _with_file(guidance, file)
    try:
        published = presets.preset_for(pipe)
    except ValueError as error:
        published = None
        if _needs_preset(guidance) and (file is None or _is_published(guidance, file)):
            raise ValueError(
                f"{error} On the command line: --layers, or --stg-scale 0 for no STG."
            ) from error
    defaults = published.defaults if published else {}
    if file is None:
        return FilledFrom(guidance, _beside(guidance, published), defaults)
    row = _beside(guidance, published) if _is_published(guidance, file) else file.row
    return FilledFrom(guidance, row, {**defaults, **file.row.defaults})


def _beside(guidance: Guidance | None, row: Preset | None) -> Preset | None:
    """Return the published preset as it fills in what was left out beside settings of one's own.

    Its normalization and its window belong to its layers and scale: nobody who writes both has
    asked for either. Other layers at its scale, or its layers at another scale, keep them.
    """
    if row is None or not isinstance(guidance, GuidanceFlags):
        return row
    if guidance.given_scales and guidance.sets_layers:
        return dataclasses.replace(row, normalize=False, start=0.0, stop=1.0)
    return row


def _needs_preset(guidance: Guidance | None) -> bool:
    if guidance is None or isinstance(guidance, GuidanceFlags):
        return (guidance or GuidanceFlags()).needs_preset
    return isinstance(guidance, dict)


def _is_published(guidance: Guidance | None, file: PresetFile) -> bool:
    """Return whether the rest is the published preset's, for the file has no STG to say."""
    if isinstance(guidance, dict):
        return False
    off = isinstance(guidance, GuidanceFlags) and guidance.is_off
    return off or file.is_cfg_alone or file.row.kind == "slg"


def _with_file(guidance: Guidance | None, file: PresetFile) -> Guidance | None:
    """Return guidance with what a preset's file decides where flags leave it open."""
    if isinstance(guidance, dict):
        if file.row.kind == "slg":
            raise ValueError(
                f"terms that leave something to a preset need one of STG, but {file.name}.toml is"
                " one of SLG. Write the layers of the terms."
            )
        return guidance
    if guidance is not None and not isinstance(guidance, GuidanceFlags):
        return guidance
    given = guidance or GuidanceFlags()
    if file.row.kind == "slg":
        return given if given.has_more_terms else _with_slg(given, file)
    if given.sets_layers or given.given_scales:
        return given
    if file.is_cfg_alone:
        return given.model_copy(update={"stg_scale": 0.0})
    if given.has_more_terms and file.row.layers:  # beside other terms, for it was asked for
        return given.model_copy(update={"layers": file.row.layers})
    return given


def _with_slg(given: GuidanceFlags, file: PresetFile) -> GuidanceFlags:
    row = file.row
    own: PlainData = {"skip": row.skip, "start": row.start, "stop": row.stop}
    said = given.said()
    term = {"kind": "slg", "layers": list(row.layers), **own}
    term |= {name: said[name] for name in (*own, "strength") if name in said}
    if row.axis:
        term["axis"] = row.axis
    return given.model_copy(update={"term": (term,)})


def in_flags(row: Preset) -> str:
    """Return a setting of STG as one writes it on the command line."""
    from skipguide.generate.flags import SCALE_AXES
    from skipguide.models.fields import flag_name

    names = {axis: name for name, axis in SCALE_AXES.items()}
    terms = row.terms or ({"axis": row.axis, "scale": row.scale},)
    words = [f"--layers {parsing.format_layers(row.layers)}"]
    words += [f"{flag_name(names[term['axis']])} {term['scale']:g}" for term in terms]
    words += [f"--skip {row.skip}"] if row.skip != "residual" else []
    plain = {"start": 0.0, "stop": 1.0, "rescale": 0.0}
    words += [
        f"--{name} {getattr(row, name):g}"
        for name, default in plain.items()
        if getattr(row, name) != default
    ]
    return " ".join([*words, *(["--normalize"] if row.normalize else [])])


def cfg_alone_note(settings: GenerationSettings) -> str | None:
    """Return a note for a video without STG because its preset's answer is to use none.

    Args:
        settings: complete.
    """
    file = settings.preset_file
    if file is None or not file.is_cfg_alone or settings.request.terms:
        return None
    return describe_cfg_alone(file)


def describe_cfg_alone(file: PresetFile) -> str:
    """Return the answer of a preset that says not to use STG, and what to write for STG anyway."""
    from skipguide.families.preset_files import answer_of
    from skipguide.models.fields import flag_name

    best, names = file.best_stg, {"num_inference_steps": "steps"}
    beside = [
        f"{flag_name(names.get(name, name))} {value:g}"
        for name, value in file.beside_best().items()
    ]
    advice = ""
    if best and best.layers:
        advice = f" For its best STG all the same: {' '.join([in_flags(best), *beside])}."
    return f"{answer_of(file, f'the preset {file.name}.toml')}{advice}"
