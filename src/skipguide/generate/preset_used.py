"""Say of complete settings what of their guidance is the preset's of the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from skipguide.generate.resolve import resolve_guidance
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import Pipeline, PlainData, ReadOnlyData

if TYPE_CHECKING:
    from skipguide.families.presets import Preset
    from skipguide.method.request import GuidanceRequest
    from skipguide.method.terms import SLG, STG


def find_preset_used(settings: GenerationSettings, pipe: Pipeline) -> PlainData | None:
    """Return the preset of a model, and what of it the settings have; None where there is none.

    Args:
        settings: complete.

    Returns:
        `name`, `model`, `source`, `layers` of the preset; `used` is "guidance" where the terms are
        the preset's, "layers" where only their layers are, "nothing" otherwise.
    """
    from skipguide.families import presets

    try:
        preset = presets.preset_for(pipe)
    except ValueError:
        return None
    used = _what_is_used(settings.request, preset)
    layers = presets.describe_layers(preset.layers) if preset.layers else "by noise level"
    return {
        "name": preset.name, "model": preset.model, "source": preset.source, "layers": layers,
        "used": used,
    }  # fmt: skip


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
        return "no layer is skipped"
    if found is None:
        return "no preset for this model: you gave the layers"
    if found["used"] == "nothing":
        return f"no preset: you gave the layers ({found['name']} has {found['layers']})"
    part = "" if found["used"] == "guidance" else "layers of "
    return f"{part}preset {found['name']} ({found['source']})"
