"""Fill in what a user left out, from the model's preset or the pipeline itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipguide.method import perturbations

if TYPE_CHECKING:
    from skipguide.families.presets import Preset
from skipguide.generate.settings import (
    SCALE_AXES,
    GenerationSettings,
    flag_name,
    given_scales,
    is_stg_off,
    sets_layers,
    validate_settings,
)

# The defaults of STG() and guide(), for models without a preset.
GUIDANCE_DEFAULTS = {"layers": (), "skip": "residual", "start": 0.0, "stop": 1.0, "rescale": 0.0}
_NEUTRAL_DEFAULTS = {
    "orthogonalize": False,
    "normalize": False,
    "every": 1,
    "rescale_space": "prediction",
}  # of no preset
_PIPELINE_ARGUMENTS = {  # our name -> those that diffusers' pipelines have for it, if they have another
    "steps": ("num_inference_steps",),
    "guidance_scale": ("guidance_scale", "max_guidance_scale"),
    "num_frames": ("num_frames", "video_length", "frames"),
    "fps": ("fps", "target_fps", "frame_rate"),
}
_MODEL_DEFAULT_FIELDS = ("height", "width", "num_frames", "fps", "guidance_scale", "steps")
_OPTIONAL_ARGUMENTS = (
    "max_sequence_length", "min_guidance_scale", "motion_bucket_id", "noise_aug_strength",
    "decode_chunk_size",
)  # fmt: skip


def call_parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """What a call of the pipeline takes."""
    return inspect.signature(pipe.__call__).parameters


def pipeline_argument(name: str, pipe: Any) -> str:
    """What a call of the pipeline calls a setting."""
    names = _PIPELINE_ARGUMENTS.get(name, (name,))
    return next((theirs for theirs in names if theirs in call_parameters(pipe)), names[0])


def resolve_settings(settings: GenerationSettings, pipe: Any) -> GenerationSettings:
    """The settings with every None filled in: from the preset of the model, else from the pipeline
    itself.

    What the pipeline does not take stays None. Of the image's path the name of the file stays: the
    record of a video names no folder.

    Raises:
        ValueError: if STG is on, no layers are given, and no preset is known; for a size without
            default; for a setting that the pipeline does not take; without the prompt or the image
            that it needs.
    """
    preset = _find_preset(settings, pipe)
    if preset and preset.schedule and not sets_layers(settings) and not is_stg_off(settings):
        settings = settings.model_copy(update={"schedule": preset.schedule})
    _check_inputs(settings, pipe)
    found = _resolve_guidance(settings, preset)
    empty = "negative_prompt" in call_parameters(pipe) and not hasattr(
        getattr(pipe, "transformer", None), "null_caption"
    )
    found |= {
        "negative_prompt": "" if empty else None
    }  # Open-Sora has learned what stands for no text
    names = (
        *_MODEL_DEFAULT_FIELDS,
        *(name for name in _OPTIONAL_ARGUMENTS if name in call_parameters(pipe)),
    )
    found |= {
        name: _model_default(name, pipe, preset)
        for name in names
        if getattr(settings, name) is None
    }
    found |= {"dtype": str(pipe.dtype).removeprefix("torch."), "device": str(pipe.device)}
    given = settings.model_dump()
    given["image"] = settings.image and Path(settings.image).name
    return validate_settings(
        {**given, **{name: value for name, value in found.items() if given[name] is None}}
    )


def _resolve_guidance(settings: GenerationSettings, preset: Preset | None) -> dict[str, Any]:
    """What is skipped, and how: from the preset, where that is not said otherwise."""
    found: dict[str, Any] = {
        name: getattr(preset, name) if preset else plain
        for name, plain in GUIDANCE_DEFAULTS.items()
    }
    found |= {**_resolve_scales(settings, preset), **_NEUTRAL_DEFAULTS}
    if settings.random_share is not None or settings.schedule is not None:
        found["layers"] = ()
    if settings.schedule is not None:
        found |= {**dict.fromkeys(SCALE_AXES, 0.0), "rescale": 0.0, "skip": "residual"}
    if is_stg_off(settings) and (
        settings.cfg_rule is None or settings.cfg_rule.get("name") == "interval"
    ):
        found["rescale"] = 0.0  # there is nothing whose deviation it could pull back
    return {
        **found,
        "strength": perturbations.resolve_strength(
            settings.skip or found["skip"], settings.strength
        ),
    }


def _check_inputs(settings: GenerationSettings, pipe: Any) -> None:
    """See that the pipeline takes what is given, and that it gets what it starts from."""
    parameters, model = call_parameters(pipe), type(pipe).__name__
    for name in (
        "prompt",
        "negative_prompt",
        "image",
        *_MODEL_DEFAULT_FIELDS,
        *_OPTIONAL_ARGUMENTS,
    ):
        value = getattr(settings, name)
        if value is not None and not _accepts_setting(pipe, name):
            raise ValueError(
                f"{name} must be left out for a {model}, which does not take it, but got {value!r}."
                f" Leave out {flag_name(name)}, or choose another --model."
            )
    needed = {"prompt": "prompt" in parameters, "image": requires_image(pipe)}
    for name in (
        name for name, needs in needed.items() if needs and getattr(settings, name) is None
    ):
        raise ValueError(
            f"{name} must be given for a {model}, but got nothing. Set it with {flag_name(name)}."
        )


def requires_image(pipe: Any) -> bool:
    """Whether the pipeline cannot do without one. LTX's call has a default, None, and then fails
    without an image."""
    parameter = call_parameters(pipe).get("image")
    return parameter is not None and (
        parameter.default is inspect.Parameter.empty or "ImageToVideo" in type(pipe).__name__
    )


def _find_preset(settings: GenerationSettings, pipe: Any) -> Preset | None:
    from skipguide.families import presets

    try:
        return presets.preset_for(pipe)
    except ValueError as error:
        if not sets_layers(settings) and not is_stg_off(settings):
            raise ValueError(
                f"{error} On the command line: --layers, or --stg-scale 0 for no STG."
            ) from error
        return None


def _resolve_scales(settings: GenerationSettings, preset: Preset | None) -> dict[str, float]:
    """The scales of STG that were left out: off beside one that was given, else the preset's."""
    if given_scales(settings):
        return dict.fromkeys(SCALE_AXES, 0.0)
    plain = {"axis": preset.axis, "scale": preset.scale} if preset else {"axis": None, "scale": 1.0}
    terms = preset.terms if preset and preset.terms else (plain,)
    scales = {term["axis"]: term["scale"] for term in terms}
    return {name: scales.get(axis, 0.0) for name, axis in SCALE_AXES.items()}


def guider_sets_scale(pipe: Any) -> bool:
    """Whether g is not its call's, but its guider's: HunyuanVideo 1.5, Motif."""
    return hasattr(
        getattr(pipe, "guider", None), "guidance_scale"
    ) and "guidance_scale" not in call_parameters(pipe)


def _accepts_setting(pipe: Any, name: str) -> bool:
    """Whether a setting means something to a pipeline; how fast to play its video does for all."""
    return (
        name == "fps"
        or pipeline_argument(name, pipe) in call_parameters(pipe)
        or (name == "guidance_scale" and guider_sets_scale(pipe))
    )


def _model_default(name: str, pipe: Any, preset: Preset | None) -> Any:
    """None for what the call does not take, or finds out by itself."""
    theirs = pipeline_argument(name, pipe)
    if not _accepts_setting(pipe, name):
        return None
    published = preset.defaults if preset else {}
    parameter = call_parameters(pipe).get(theirs)
    candidates = (
        published.get(name),
        published.get(theirs),
        (
            parameter.default
            if parameter and parameter.default is not inspect.Parameter.empty
            else None
        ),
        getattr(pipe, f"default_{theirs}", None),  # diffusers keeps some defaults there
        _config_default(name, pipe),
    )
    value = next((value for value in candidates if value is not None), None)
    if (
        value is None
        and name in _MODEL_DEFAULT_FIELDS
        and parameter
        and parameter.default is inspect.Parameter.empty
    ):
        raise ValueError(
            f"{name} must be given for a {type(pipe).__name__}, which has no default for it, but"
            f" got nothing. Set it with {flag_name(name)}."
        )
    return value


def _config_default(name: str, pipe: Any) -> Any:
    """What pipelines fall back on that have it from their parts."""
    if name == "guidance_scale" and guider_sets_scale(pipe):
        return pipe.guider.guidance_scale
    if name == "fps":
        return _family_fps(pipe)
    config = pipe.unet.config if getattr(pipe, "unet", None) is not None else {}
    if name in ("height", "width") and isinstance(config.get("sample_size"), int):
        return config["sample_size"] * pipe.vae_scale_factor
    samples = getattr(getattr(pipe, "transformer", None), "config", {}).get(
        f"sample_{name}"
    )  # CogVideoX, Allegro
    if samples is not None and hasattr(pipe, "vae_scale_factor_spatial"):
        return samples * pipe.vae_scale_factor_spatial
    return config.get("num_frames") if name == "num_frames" else None


def _family_fps(pipe: Any) -> int:
    from skipguide.families import lookup
    from skipguide.families.schema import DEFAULT_FPS

    try:
        return lookup.family_of(pipe).fps
    except ValueError:  # no row for this pipeline, which plain CFG does not need
        return DEFAULT_FPS
