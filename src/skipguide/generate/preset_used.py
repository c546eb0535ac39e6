"""Say of complete settings what of their guidance is the preset's of the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from skipguide.generate.resolve import resolve_guidance
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import Pipeline, PlainData, ReadOnlyData

if TYPE_CHECKING:
    from skipguide.families.preset_files import PresetFile
    from skipguide.families.presets import Preset
    from skipguide.method.request import GuidanceRequest
    from skipguide.method.terms import SLG, STG


def find_preset_used(settings: GenerationSettings, pipe: Pipeline) -> PlainData | None:
    """Return the preset of a video, and what of it the settings have; None where there is none.

    Args:
        settings: complete.

    Returns:
        `name`, `model`, `source`, `layers` of the preset; `used` is "guidance" where the terms are
        the preset's, "layers" where only their layers are, "nothing" otherwise. Of one in a file
        also `file`: its `sha256`, and in `answer` what was measured and said.
    """
    from skipguide.families import presets

    if settings.preset_file is not None:
        return _describe_file(settings.request, settings.preset_file)
    try:
        preset = presets.preset_for(pipe)
    except ValueError:
        return None
    return {
        "name": preset.name, "model": preset.model, "source": preset.source,
        "layers": _layers_of(preset), "used": _what_is_used(settings.request, preset),
    }  # fmt: skip


def _layers_of(preset: Preset) -> str:
    from skipguide.families import presets

    return "by noise level" if preset.schedule else presets.describe_layers(preset.layers)


def _describe_file(request: GuidanceRequest, file: PresetFile) -> PlainData:
    """Return the facts of a preset of one's own, without a place of the machine."""
    from skipguide.families import preset_files

    made = file.provenance
    answer = {"verdict": made.verdict, "measured": file.describe_answer(),
              "sentence": made.sentence, "prompts": made.prompts}  # fmt: skip
    return {
        "name": file.name, "model": file.model_name, "source": preset_files.source_of(file),
        "layers": _layers_of(file.row), "used": _what_of_file_is_used(request, file),
        "file": {"sha256": file.sha256,
                 "answer": {name: value for name, value in answer.items() if value}},
    }  # fmt: skip


def _what_of_file_is_used(request: GuidanceRequest, file: PresetFile) -> str:
    if file.row.kind != "slg":
        return _what_is_used(request, file.row)
    from skipguide.families import presets

    return "guidance" if presets.to_terms(file.row) in request.terms else "nothing"


def _what_is_used(request: GuidanceRequest, preset: Preset) -> str:
    if not request.terms and request.schedule is None:
        return "nothing"
    whole = resolve_guidance(None, preset)
    if (request.terms, request.schedule) == (whole.terms, whole.schedule):
        return "guidance"
    return "layers" if request.terms and _sites(request.terms) <= _sites(whole.terms) else "nothing"


def _sites(terms: Iterable[STG | SLG]) -> set[str]:
    return {f"{term.layers} {term.skip}" for term in terms}


def describe_preset_used(found: ReadOnlyData | None, has_terms: bool) -> str:
    """Return the origin of the layers in a phrase.

    Args:
        found: of a record: what `find_preset_used` returned.
        has_terms: whether any layers are skipped.
    """
    if not has_terms:
        from skipguide.families.preset_schema import CFG_ALONE

        alone = found is not None and found.get("file", {}).get("answer", {}).get("verdict")
        if found is not None and alone == CFG_ALONE:
            return f"no layer is skipped, as preset {found['name']} says ({found['source']})"
        return "no layer is skipped"
    if found is None:
        return "no preset for this model: you gave the layers"
    if found["used"] == "nothing":
        return f"no preset: you gave the layers ({found['name']} has {found['layers']})"
    part = "" if found["used"] == "guidance" else "layers of "
    measured = found.get("file", {}).get("answer", {}).get("measured")
    return f"{part}preset {found['name']} ({found['source']}{f': {measured}' if measured else ''})"
