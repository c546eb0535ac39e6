"""Know before a run whether it has CFG, and tell who leaves CFG on where a model has learned to do
without it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from skipguide.families import lookup
from skipguide.generate.resolve import call_parameters, guider_sets_scale
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import Pipeline
from skipguide.models import telling
from skipguide.pipeline import compat

if TYPE_CHECKING:
    from skipguide import Guide

# What files and models are called whose makers have distilled CFG, and most of the steps, away.
_DISTILLED = re.compile(
    r"lightx2v|causvid|accvid|fusionx|self[-_ ]?forcing|distill|turbo|animatelcm"
    r"|hyper[-_ ]?sd|fast(?:wan|hunyuan|video)|(?<![a-z])(?:lcm|dmd|rcm)(?![a-z])"
    r"|(?<!\d)(?:[1-9]|1[0-6])[-_ ]?steps?(?![a-z0-9])",
    re.IGNORECASE,
)


def expects_cfg(pipe: Pipeline, settings: GenerationSettings) -> bool | None:
    """Return whether a run is going to have CFG, as far as its pipeline tells before it.

    Args:
        pipe: the pipeline.
        settings: complete.

    Returns:
        None for a pipeline without a row, and where no guidance scale is known.
    """
    try:
        calls = lookup.call_convention_of(pipe)
    except ValueError:
        return None
    if calls.cfg_mode == "none":
        return False
    if calls.cfg_mode == "guider":
        return _expects_cfg_of_guider(pipe, settings)
    name = calls.scale_names[0].removeprefix("current_")
    parameter = call_parameters(pipe).get(name)
    if name != "guidance_scale" and parameter is not None:  # beside an embedded guidance scale
        return parameter.default > 1
    return None if settings.guidance_scale is None else settings.guidance_scale > 1


def _expects_cfg_of_guider(pipe: Pipeline, settings: GenerationSettings) -> bool:
    if pipe.guider is None:  # HunyuanImage, distilled
        return False
    if not guider_sets_scale(pipe):
        return compat.count_conditions(pipe.guider) == 2
    none = 0 if getattr(pipe.guider, "use_original_formulation", False) else 1
    return bool(getattr(pipe.guider, "_enabled", True)) and settings.guidance_scale != none


def has_embedded_scale(pipe: Pipeline, settings: GenerationSettings) -> bool:
    """Return whether guidance_scale is an input of the model, and no CFG: HunyuanVideo's."""
    known = {"guidance_scale", "true_cfg_scale"} <= set(call_parameters(pipe))
    return known and expects_cfg(pipe, settings) is False


def tell_price(pipe: Pipeline, settings: GenerationSettings, handle: Guide) -> None:
    """Say before a run without CFG what it takes; its record says what it took.

    Args:
        pipe, settings: as for `expects_cfg`.
        handle: of guide() on the pipeline.
    """
    if settings.steps is None or expects_cfg(pipe, settings) is not False:
        return
    said = handle.describe_price(settings.steps)
    if said is not None:
        telling.tell(said)


def distilled_note(pipe: Pipeline, settings: GenerationSettings) -> str | None:
    """Return a note for a run with CFG of a model, or a LoRA, that was made to run without it.

    Args:
        pipe, settings: as for `expects_cfg`.
    """
    name = next(filter(_DISTILLED.search, _names(settings)), None)
    if name is None or not expects_cfg(pipe, settings):
        return None
    return (
        f"{name} is made to run without CFG, as its name says, but guidance_scale is"
        f" {settings.guidance_scale:g}, which doubles the passes of its {settings.steps} steps and"
        " burns colours. Set --guidance-scale 1, and --steps as its page says (most: 4 to 8)."
    )


def _names(settings: GenerationSettings) -> Iterator[str]:
    """Yield the names of LoRAs that are on, of single files, and of the model."""
    yield from (Path(lora.path).name for lora in settings.lora or () if lora.scale)
    yield from (Path(component).name for component in settings.component or ())
    yield Path(settings.model).name
