"""Fill in what a user left out, from the model's preset or the pipeline itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipguide.method import perturbations

if TYPE_CHECKING:
    from skipguide.families.presets import Preset
from skipguide.generate.settings import SCALES, Generation, checked, flag, names_layers, scales_given, stg_is_off

# The defaults of STG() and guide(), for models without a preset.
GUIDANCE = {"layers": (), "skip": "residual", "start": 0.0, "stop": 1.0, "rescale": 0.0}
_PLAIN = {"orthogonalize": False, "normalize": False, "every": 1, "rescale_space": "prediction"}  # of no preset
_ARGUMENTS = {  # our name -> those that diffusers' pipelines have for it, if they have another
    "steps": ("num_inference_steps",),
    "guidance_scale": ("guidance_scale", "max_guidance_scale"),
    "num_frames": ("num_frames", "video_length", "frames"),
    "fps": ("fps", "target_fps", "frame_rate"),
}
_FROM_MODEL = ("height", "width", "num_frames", "fps", "guidance_scale", "steps")
_NOT_EVERYWHERE = (
    "max_sequence_length", "min_guidance_scale", "motion_bucket_id", "noise_aug_strength", "decode_chunk_size",
)  # fmt: skip


def parameters_of(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """What a call of the pipeline takes."""
    return inspect.signature(pipe.__call__).parameters


def argument(name: str, pipe: Any) -> str:
    """What a call of the pipeline calls a setting."""
    names = _ARGUMENTS.get(name, (name,))
    return next((theirs for theirs in names if theirs in parameters_of(pipe)), names[0])


def resolve(settings: Generation, pipe: Any) -> Generation:
    """The settings with every None filled in: from the preset of the model, else from the pipeline itself.

    What the pipeline does not take stays None. Of the image's path the name of the file stays: the record of a video
    names no folder.

    Raises:
        ValueError: if STG is on, no layers are given, and no preset is known; for a size without default; for a
            setting that the pipeline does not take; without the prompt or the image that it needs.
    """
    preset = _preset(settings, pipe)
    if preset and preset.schedule and not names_layers(settings) and not stg_is_off(settings):
        settings = settings.model_copy(update={"schedule": preset.schedule})
    _check_inputs(settings, pipe)
    found = _guidance(settings, preset)
    empty = "negative_prompt" in parameters_of(pipe) and not hasattr(getattr(pipe, "transformer", None), "null_caption")
    found |= {"negative_prompt": "" if empty else None}  # Open-Sora has learned what stands for no text
    names = (*_FROM_MODEL, *(name for name in _NOT_EVERYWHERE if name in parameters_of(pipe)))
    found |= {name: _model_default(name, pipe, preset) for name in names if getattr(settings, name) is None}
    found |= {"dtype": str(pipe.dtype).removeprefix("torch."), "device": str(pipe.device)}
    given = settings.model_dump()
    given["image"] = settings.image and Path(settings.image).name
    return checked({**given, **{name: value for name, value in found.items() if given[name] is None}})


def _guidance(settings: Generation, preset: Preset | None) -> dict[str, Any]:
    """What is skipped, and how: from the preset, where that is not said otherwise."""
    found: dict[str, Any] = {name: getattr(preset, name) if preset else plain for name, plain in GUIDANCE.items()}
    found |= {**_scales(settings, preset), **_PLAIN}
    if settings.random_share is not None or settings.schedule is not None:
        found["layers"] = ()
    if settings.schedule is not None:
        found |= {**dict.fromkeys(SCALES, 0.0), "rescale": 0.0, "skip": "residual"}
    if stg_is_off(settings) and (settings.cfg_rule is None or settings.cfg_rule.get("name") == "interval"):
        found["rescale"] = 0.0  # there is nothing whose deviation it could pull back
    return {**found, "strength": perturbations.strength_of(settings.skip or found["skip"], settings.strength)}


def _check_inputs(settings: Generation, pipe: Any) -> None:
    """See that the pipeline takes what is given, and that it gets what it starts from."""
    parameters, model = parameters_of(pipe), type(pipe).__name__
    for name in ("prompt", "negative_prompt", "image", *_FROM_MODEL, *_NOT_EVERYWHERE):
        value = getattr(settings, name)
        if value is not None and not _takes(pipe, name):
            raise ValueError(
                f"{name} must be left out for a {model}, which does not take it, but got {value!r}. Leave out "
                f"{flag(name)}, or choose another --model."
            )
    needed = {"prompt": "prompt" in parameters, "image": starts_from_an_image(pipe)}
    for name in (name for name, needs in needed.items() if needs and getattr(settings, name) is None):
        raise ValueError(f"{name} must be given for a {model}, but got nothing. Set it with {flag(name)}.")


def starts_from_an_image(pipe: Any) -> bool:
    """Whether the pipeline cannot do without one. LTX's call has a default, None, and then fails without an image."""
    parameter = parameters_of(pipe).get("image")
    return parameter is not None and (
        parameter.default is inspect.Parameter.empty or "ImageToVideo" in type(pipe).__name__
    )


def _preset(settings: Generation, pipe: Any) -> Preset | None:
    from skipguide.families import presets

    try:
        return presets.preset_for(pipe)
    except ValueError as error:
        if not names_layers(settings) and not stg_is_off(settings):
            raise ValueError(f"{error} On the command line: --layers, or --stg-scale 0 for no STG.") from error
        return None


def _scales(settings: Generation, preset: Preset | None) -> dict[str, float]:
    """The scales of STG that were left out: off beside one that was given, else the preset's."""
    if scales_given(settings):
        return dict.fromkeys(SCALES, 0.0)
    plain = {"axis": preset.axis, "scale": preset.scale} if preset else {"axis": None, "scale": 1.0}
    terms = preset.terms if preset and preset.terms else (plain,)
    scales = {term["axis"]: term["scale"] for term in terms}
    return {name: scales.get(axis, 0.0) for name, axis in SCALES.items()}


def scales_by_guider(pipe: Any) -> bool:
    """Whether g is not its call's, but its guider's: HunyuanVideo 1.5, Motif."""
    return hasattr(getattr(pipe, "guider", None), "guidance_scale") and "guidance_scale" not in parameters_of(pipe)


def _takes(pipe: Any, name: str) -> bool:
    """Whether a setting means something to a pipeline; how fast to play its video does for all."""
    return (
        name == "fps"
        or argument(name, pipe) in parameters_of(pipe)
        or (name == "guidance_scale" and scales_by_guider(pipe))
    )


def _model_default(name: str, pipe: Any, preset: Preset | None) -> Any:
    """None for what the call does not take, or finds out by itself."""
    theirs = argument(name, pipe)
    if not _takes(pipe, name):
        return None
    published = preset.defaults if preset else {}
    parameter = parameters_of(pipe).get(theirs)
    candidates = (
        published.get(name),
        published.get(theirs),
        parameter.default if parameter and parameter.default is not inspect.Parameter.empty else None,
        getattr(pipe, f"default_{theirs}", None),  # diffusers keeps some defaults there
        _config_default(name, pipe),
    )
    value = next((value for value in candidates if value is not None), None)
    if value is None and name in _FROM_MODEL and parameter and parameter.default is inspect.Parameter.empty:
        raise ValueError(
            f"{name} must be given for a {type(pipe).__name__}, which has no default for it, but got nothing. "
            f"Set it with {flag(name)}."
        )
    return value


def _config_default(name: str, pipe: Any) -> Any:
    """What pipelines fall back on that have it from their parts."""
    if name == "guidance_scale" and scales_by_guider(pipe):
        return pipe.guider.guidance_scale
    if name == "fps":
        return _fps_of_family(pipe)
    config = pipe.unet.config if getattr(pipe, "unet", None) is not None else {}
    if name in ("height", "width") and isinstance(config.get("sample_size"), int):
        return config["sample_size"] * pipe.vae_scale_factor
    samples = getattr(getattr(pipe, "transformer", None), "config", {}).get(f"sample_{name}")  # CogVideoX, Allegro
    if samples is not None and hasattr(pipe, "vae_scale_factor_spatial"):
        return samples * pipe.vae_scale_factor_spatial
    return config.get("num_frames") if name == "num_frames" else None


def _fps_of_family(pipe: Any) -> int:
    from skipguide.families import lookup
    from skipguide.families.schema import USUAL_FPS

    try:
        return lookup.family_of(pipe).fps
    except ValueError:  # no row for this pipeline, which plain CFG does not need
        return USUAL_FPS
